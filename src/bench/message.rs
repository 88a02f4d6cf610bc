//! Encodes and decodes the messages of the load without allocating a `String` per field.
//!
//! The client runs on the same CPUs as the service, so CPU time that the client uses is not available to the service. A test checks
//! that the bytes are the same as those of the generated types.

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

use super::{
    generator::{Generator, Step},
    stats::Outcomes,
};
use crate::proto::TransactionPhase;

/// The type of the request and of its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MessageType {
    /// `ProcessTransactionRequest` and its response.
    One,
    /// `ProcessTransactionsRequest` and its response.
    Batch,
    /// `StreamTransactionsRequest` and its response.
    Streamed,
}

/// Encodes transactions, which it identifies by their numbers, and decodes the answers.
#[derive(Debug, Clone)]
pub(super) struct LoadCodec {
    generator: Generator,
    message_type: MessageType,
}

/// Encodes the transactions of a message.
#[derive(Debug)]
pub(super) struct LoadEncoder {
    codec: LoadCodec,
    transaction: Vec<u8>,
}

/// Decodes the answer to a message.
#[derive(Debug)]
pub(super) struct LoadDecoder(MessageType);

/// The answer to a message.
#[derive(Debug, Default)]
pub(super) struct Reply {
    pub(super) committed: Outcomes,
    /// The errors of the other transactions.
    pub(super) errors: Vec<RpcStatus>,
}

/// Longest field and longest transaction, in bytes. A length up to this bound is encoded in one byte.
const LENGTH_MAX: usize = 127;

/// Field numbers of the proto files.
mod field {
    pub(super) const TRANSACTION_ID: u32 = 1;
    pub(super) const PHASE: u32 = 2;
    pub(super) const TRANSFERS: u32 = 3;
    pub(super) const PENDING_TRANSACTION_ID: u32 = 4;
    pub(super) const DEBIT_ACCOUNT_ID: u32 = 1;
    pub(super) const CREDIT_ACCOUNT_ID: u32 = 2;
    pub(super) const MINOR_UNITS: u32 = 3;
    pub(super) const CODE: u32 = 5;
    /// The transactions of a request, and the results of a response.
    pub(super) const ITEMS: u32 = 1;
    pub(super) const COMMITTED: u32 = 2;
    pub(super) const ERROR: u32 = 3;
    pub(super) const REPLAYED: u32 = 4;
}

// ===== impl LoadCodec =====

impl LoadCodec {
    pub(super) const fn new(generator: Generator, message_type: MessageType) -> Self {
        LoadCodec {
            generator,
            message_type,
        }
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
        LoadDecoder(self.message_type)
    }
}

// ===== impl LoadEncoder =====

impl LoadEncoder {
    fn write(&mut self, numbers: Range<u64>, out: &mut impl BufMut) {
        for number in numbers {
            self.transaction.clear();
            match self.codec.message_type {
                MessageType::One => put_transaction(&mut self.transaction, &self.codec.generator, number),
                MessageType::Batch | MessageType::Streamed => {
                    delimited(&mut self.transaction, field::ITEMS, |out| {
                        put_transaction(out, &self.codec.generator, number);
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

fn put_transaction(out: &mut Vec<u8>, generator: &Generator, number: u64) {
    delimited(out, field::TRANSACTION_ID, |out| generator.put_id(out, number));
    match generator.step(number) {
        Step::Post => {}
        Step::Hold => phase(out, TransactionPhase::Pending),
        Step::PostHold(held) => {
            phase(out, TransactionPhase::PostPending);
            return delimited(out, field::PENDING_TRANSACTION_ID, |out| {
                generator.put_id(out, held)
            });
        }
    }
    let payment = generator.payment(number);
    delimited(out, field::TRANSFERS, |out| {
        delimited(out, field::DEBIT_ACCOUNT_ID, |out| payment.debit.put(out));
        delimited(out, field::CREDIT_ACCOUNT_ID, |out| payment.credit.put(out));
        key(out, field::MINOR_UNITS, WireType::Varint);
        encode_varint(payment.minor_units, out);
        key(out, field::CODE, WireType::Varint);
        encode_varint(payment.code, out);
    });
}

fn phase(out: &mut Vec<u8>, phase: TransactionPhase) {
    key(out, field::PHASE, WireType::Varint);
    encode_varint(u64::from(phase as u8), out);
}

fn delimited(out: &mut Vec<u8>, tag: u32, write: impl FnOnce(&mut Vec<u8>)) {
    key(out, tag, WireType::LengthDelimited);
    let length_at = out.len();
    out.push(0);
    write(out);
    let length = out.len() - length_at - 1;
    debug_assert!(length <= LENGTH_MAX, "a field of {length} bytes");
    if let (Some(byte), Ok(length)) = (out.get_mut(length_at), u8::try_from(length)) {
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
            MessageType::One => reply.add_committed(message)?,
            MessageType::Batch | MessageType::Streamed => {
                fields(&mut message, |tag, value| match (tag, value) {
                    (field::ITEMS, Value::Bytes(result)) => reply.add_result(result),
                    _ => Ok(()),
                })?
            }
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
    /// Adds a `ProcessTransactionResponse`.
    fn add_committed(&mut self, mut message: &[u8]) -> Result<(), Status> {
        let mut replayed = false;
        fields(&mut message, |tag, value| {
            if let (field::REPLAYED, Value::Number(number)) = (tag, value) {
                replayed = number != 0;
            }
            Ok(())
        })?;
        self.committed = self.committed.plus(Outcomes::committed(replayed));
        Ok(())
    }

    /// Adds a `TransactionResult`.
    fn add_result(&mut self, mut message: &[u8]) -> Result<(), Status> {
        let mut outcomes = 0;
        fields(&mut message, |tag, value| match (tag, value) {
            (field::COMMITTED, Value::Bytes(response)) => {
                outcomes += 1;
                self.add_committed(response)
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
                message: format!("the transaction has {outcomes} outcomes, expected 1"),
                ..RpcStatus::default()
            });
        }
        Ok(())
    }
}

fn malformed(error: impl Display) -> Status {
    Status::internal(format!("can't decode the answer: {error}"))
}

/// The value of a field that this client reads.
#[derive(Debug, Clone, Copy)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Calls `visit` for every field of a message with a value that this client reads.
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
                let (bytes, rest) = split.ok_or_else(|| malformed("a field is truncated"))?;
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
        bench::generator::tests::all_generators,
        proto::{
            ProcessTransactionResponse, ProcessTransactionsRequest, ProcessTransactionsResponse,
            StreamTransactionsRequest, TransactionResult, transaction_result::Outcome,
        },
    };

    fn encoded(generator: &Generator, message_type: MessageType, numbers: Range<u64>) -> Vec<u8> {
        let mut out = Vec::new();
        LoadCodec::new(generator.clone(), message_type)
            .encoder()
            .write(numbers, &mut out);
        out
    }

    #[test]
    fn messages_equal_those_of_the_generated_types() {
        for generator in all_generators() {
            for number in [0, 1, 9, 12_345_678, 99_999_999, 100_000_000, u64::MAX - 3] {
                let numbers = number..number + 3;
                let transactions: Vec<_> = numbers
                    .clone()
                    .map(|number| generator.transaction(number))
                    .collect();
                assert_eq!(
                    encoded(&generator, MessageType::One, number..number + 1),
                    transactions[0].encode_to_vec()
                );
                let streamed = StreamTransactionsRequest {
                    transaction: Some(transactions[0].clone()),
                };
                assert_eq!(
                    encoded(&generator, MessageType::Streamed, number..number + 1),
                    streamed.encode_to_vec()
                );
                assert_eq!(
                    encoded(&generator, MessageType::Batch, numbers),
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
            ..ProcessTransactionResponse::default()
        }
    }

    #[test]
    fn answers_are_decoded() {
        let one = LoadDecoder(MessageType::One);
        let reply = one.read(&response(true).encode_to_vec()).unwrap();
        assert_eq!(reply.committed, Outcomes::committed(true));

        let rejected = RpcStatus {
            code: 9,
            message: "no funds".to_owned(),
            details: Vec::new(),
        };
        let outcomes = [
            Some(Outcome::Committed(response(false))),
            None,
            Some(Outcome::Error(rejected.clone())),
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
        let batch = LoadDecoder(MessageType::Batch);
        let reply = batch.read(&message).unwrap();
        assert_eq!(
            reply.committed,
            Outcomes::committed(false).plus(Outcomes::committed(true))
        );
        assert_eq!(reply.errors.len(), 2);
        assert_eq!(
            reply.errors[0].message,
            "the transaction has 0 outcomes, expected 1"
        );
        assert_eq!(reply.errors[1], rejected);

        let cut = batch.read(&message[..message.len() - 1]).unwrap_err();
        assert!(cut.message().contains("truncated"), "{cut}");
    }
}
