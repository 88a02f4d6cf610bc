//! The messages of the load, written and read without a `String` for every name in them.
//!
//! The client runs on the same CPUs as the service, so what it takes for itself is missing there. It sends the same bytes as
//! a generated type would, which a test makes sure of.

use std::{fmt::Display, ops::Range};

use bytes::{Buf, BufMut};
use prost::{
    Message,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_varint, skip_field},
};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};
use tonic_types::Status as RpcStatus;

use super::{round::Answer, source::Source};

/// What is sent in one message, and what it is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// `ProcessTransactionRequest` and its response.
    One,
    /// `ProcessTransactionsRequest` and its response.
    Batch,
    /// `StreamTransactionsRequest` and its response.
    Streamed,
}

/// Sends transactions by their numbers.
#[derive(Debug, Clone)]
pub(super) struct LoadCodec {
    source: Source,
    shape: Shape,
}

/// Writes the transactions of a message.
#[derive(Debug)]
pub(super) struct LoadEncoder {
    codec: LoadCodec,
    transaction: Vec<u8>,
}

/// Reads what became of them.
#[derive(Debug)]
pub(super) struct LoadDecoder(Shape);

/// What became of the transactions of a message.
#[derive(Debug, Default)]
pub(super) struct Reply {
    pub(super) committed: Answer,
    /// Why the others were refused.
    pub(super) errors: Vec<RpcStatus>,
}

/// No field of a transaction, nor it itself, is longer, so that its length is one byte.
const LENGTH_MAX: usize = 127;

/// Numbers of the fields, as in the proto files.
mod field {
    pub(super) const TRANSACTION_ID: u32 = 1;
    pub(super) const TRANSFERS: u32 = 3;
    pub(super) const DEBIT_ACCOUNT_ID: u32 = 1;
    pub(super) const CREDIT_ACCOUNT_ID: u32 = 2;
    pub(super) const MINOR_UNITS: u32 = 3;
    pub(super) const CODE: u32 = 5;
    /// Of the requests with transactions, of the responses with results.
    pub(super) const WRAPPED: u32 = 1;
    pub(super) const COMMITTED: u32 = 2;
    pub(super) const ERROR: u32 = 3;
    pub(super) const REPLAYED: u32 = 4;
}

// ===== impl LoadCodec =====

impl LoadCodec {
    pub(super) const fn new(source: Source, shape: Shape) -> Self {
        LoadCodec { source, shape }
    }
}

impl Codec for LoadCodec {
    type Encode = Range<u64>;
    type Decode = Reply;
    type Encoder = LoadEncoder;
    type Decoder = LoadDecoder;

    fn encoder(&mut self) -> LoadEncoder {
        LoadEncoder {
            codec: self.clone(),
            transaction: Vec::with_capacity(LENGTH_MAX + 2),
        }
    }

    fn decoder(&mut self) -> LoadDecoder {
        LoadDecoder(self.shape)
    }
}

// ===== impl LoadEncoder =====

impl LoadEncoder {
    fn write(&mut self, numbers: Range<u64>, out: &mut impl BufMut) {
        for number in numbers {
            self.transaction.clear();
            match self.codec.shape {
                Shape::One => put_transaction(&mut self.transaction, &self.codec.source, number),
                Shape::Batch | Shape::Streamed => {
                    delimited(&mut self.transaction, field::WRAPPED, |out| {
                        put_transaction(out, &self.codec.source, number);
                    });
                }
            }
            out.put_slice(&self.transaction);
        }
    }
}

impl Encoder for LoadEncoder {
    type Item = Range<u64>;
    type Error = Status;

    fn encode(&mut self, numbers: Range<u64>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        self.write(numbers, out);
        Ok(())
    }
}

fn put_transaction(out: &mut Vec<u8>, source: &Source, number: u64) {
    let payment = source.payment(number);
    delimited(out, field::TRANSACTION_ID, |out| source.put_id(out, number));
    delimited(out, field::TRANSFERS, |out| {
        delimited(out, field::DEBIT_ACCOUNT_ID, |out| payment.debit.put(out));
        delimited(out, field::CREDIT_ACCOUNT_ID, |out| payment.credit.put(out));
        key(out, field::MINOR_UNITS, WireType::Varint);
        encode_varint(payment.minor_units, out);
        key(out, field::CODE, WireType::Varint);
        encode_varint(payment.code, out);
    });
}

fn delimited(out: &mut Vec<u8>, tag: u32, write: impl FnOnce(&mut Vec<u8>)) {
    key(out, tag, WireType::LengthDelimited);
    let place = out.len();
    out.push(0);
    write(out);
    let length = out.len() - place - 1;
    debug_assert!(length <= LENGTH_MAX, "a field of {length} bytes");
    if let (Some(byte), Ok(length)) = (out.get_mut(place), u8::try_from(length)) {
        *byte = length;
    }
}

fn key(out: &mut Vec<u8>, tag: u32, wire_type: WireType) {
    prost::encoding::encode_key(tag, wire_type, out);
}

// ===== impl LoadDecoder =====

impl LoadDecoder {
    fn read(&self, mut message: &[u8]) -> Result<Reply, Status> {
        let mut reply = Reply::default();
        match self.0 {
            Shape::One => reply.commit(message)?,
            Shape::Batch | Shape::Streamed => fields(&mut message, |tag, value| match (tag, value) {
                (field::WRAPPED, Value::Bytes(result)) => reply.result(result),
                _ => Ok(()),
            })?,
        }
        Ok(reply)
    }
}

impl Decoder for LoadDecoder {
    type Item = Reply;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<Reply>, Status> {
        let message = source.copy_to_bytes(source.remaining());
        self.read(&message).map(Some)
    }
}

// ===== impl Reply =====

impl Reply {
    /// A `ProcessTransactionResponse`.
    fn commit(&mut self, mut message: &[u8]) -> Result<(), Status> {
        let mut replayed = false;
        fields(&mut message, |tag, value| {
            if let (field::REPLAYED, Value::Number(number)) = (tag, value) {
                replayed = number != 0;
            }
            Ok(())
        })?;
        self.committed = self.committed.plus(Answer::committed(replayed));
        Ok(())
    }

    /// A `TransactionResult`.
    fn result(&mut self, mut message: &[u8]) -> Result<(), Status> {
        let mut outcomes = 0;
        fields(&mut message, |tag, value| match (tag, value) {
            (field::COMMITTED, Value::Bytes(response)) => {
                outcomes += 1;
                self.commit(response)
            }
            (field::ERROR, Value::Bytes(status)) => {
                outcomes += 1;
                self.errors.push(RpcStatus::decode(status).map_err(malformed)?);
                Ok(())
            }
            _ => Ok(()),
        })?;
        if outcomes != 1 {
            self.errors.push(RpcStatus {
                message: format!("{outcomes} outcomes of one transaction"),
                ..RpcStatus::default()
            });
        }
        Ok(())
    }
}

fn malformed(error: impl Display) -> Status {
    Status::internal(format!("the answer can't be read: {error}"))
}

/// A field's value, if it is one of those that matter here.
#[derive(Debug, Clone, Copy)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Calls `visit` for every field of a message.
fn fields<'a>(
    message: &mut &'a [u8],
    mut visit: impl FnMut(u32, Value<'a>) -> Result<(), Status>,
) -> Result<(), Status> {
    while !message.is_empty() {
        let (tag, wire_type) = decode_key(message).map_err(malformed)?;
        match wire_type {
            WireType::Varint => visit(tag, Value::Number(decode_varint(message).map_err(malformed)?))?,
            WireType::LengthDelimited => {
                let length = decode_varint(message).map_err(malformed)?;
                let split = usize::try_from(length)
                    .ok()
                    .and_then(|length| message.split_at_checked(length));
                let (bytes, rest) = split.ok_or_else(|| malformed("a field is cut short"))?;
                *message = rest;
                visit(tag, Value::Bytes(bytes))?;
            }
            WireType::StartGroup | WireType::EndGroup | WireType::ThirtyTwoBit | WireType::SixtyFourBit => {
                skip_field(wire_type, tag, message, DecodeContext::default()).map_err(malformed)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;
    use crate::{
        cli::bench::source::tests::every_source,
        proto::{
            ProcessTransactionResponse, ProcessTransactionsRequest, ProcessTransactionsResponse,
            StreamTransactionsRequest, TransactionResult, transaction_result::Outcome,
        },
    };

    fn written(source: &Source, shape: Shape, numbers: Range<u64>) -> Vec<u8> {
        let mut out = Vec::new();
        LoadCodec::new(source.clone(), shape)
            .encoder()
            .write(numbers, &mut out);
        out
    }

    #[test]
    fn messages_are_those_of_the_generated_types() {
        for source in every_source() {
            for number in [0, 1, 9, 12_345_678, 99_999_999, 100_000_000, u64::MAX - 3] {
                let numbers = number..number + 3;
                let transactions: Vec<_> = numbers.clone().map(|number| source.make(number)).collect();
                assert_eq!(
                    written(&source, Shape::One, number..number + 1),
                    transactions[0].encode_to_vec()
                );
                let streamed = StreamTransactionsRequest {
                    transaction: Some(transactions[0].clone()),
                };
                assert_eq!(
                    written(&source, Shape::Streamed, number..number + 1),
                    streamed.encode_to_vec()
                );
                assert_eq!(
                    written(&source, Shape::Batch, numbers),
                    ProcessTransactionsRequest { transactions }.encode_to_vec()
                );
            }
        }
    }

    fn response(replayed: bool) -> ProcessTransactionResponse {
        ProcessTransactionResponse {
            transaction_id: "t".to_owned(),
            sequence: 7,
            commit_time: Some(Timestamp { seconds: 1, nanos: 2 }),
            replayed,
        }
    }

    #[test]
    fn answers_are_read_as_they_were_meant() {
        let one = LoadDecoder(Shape::One);
        let reply = one.read(&response(true).encode_to_vec()).unwrap();
        assert_eq!(reply.committed, Answer::committed(true));

        let refused = RpcStatus {
            code: 9,
            message: "no funds".to_owned(),
            details: Vec::new(),
        };
        let outcomes = [
            Some(Outcome::Committed(response(false))),
            None,
            Some(Outcome::Error(refused.clone())),
            Some(Outcome::Committed(response(true))),
        ];
        let results = outcomes.map(|outcome| TransactionResult {
            transaction_id: "t".to_owned(),
            outcome,
        });
        let message = ProcessTransactionsResponse {
            results: results.to_vec(),
        }
        .encode_to_vec();
        let batch = LoadDecoder(Shape::Batch);
        let reply = batch.read(&message).unwrap();
        assert_eq!(
            reply.committed,
            Answer::committed(false).plus(Answer::committed(true))
        );
        assert_eq!(reply.errors.len(), 2);
        assert_eq!(reply.errors[0].message, "0 outcomes of one transaction");
        assert_eq!(reply.errors[1], refused);

        let cut = batch.read(&message[..message.len() - 1]).unwrap_err();
        assert!(cut.message().contains("cut short"), "{cut}");
    }
}
