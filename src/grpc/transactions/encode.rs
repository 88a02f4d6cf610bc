//! Writes the results of transactions directly from the executed batch.
//!
//! The results of committed transactions are written with prost's encoding functions, and without the generated types.
//! The generated types would need two `String`s for each result. Errors are written with the generated types. A
//! `TransactionResult` is field 1 in both messages that contain it, so its bytes are the same in
//! `ProcessTransactionsResponse` and in `StreamTransactionsResponse`.

use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint},
};
use tally_ledger::{Committed, Outcome, Rejection, Side, TransactionView, money::Amount};
use tonic::Status;

use super::collect::{Places, Refused};
use crate::{
    engine::TransactionBatch,
    grpc::{
        fields::{from_time, to_wide},
        status,
        transport::frame::{begin_frame, end_frame, put_frame},
    },
    proto::{self, StreamTransactionsResponse, TransactionResult, transaction_result, transfer},
};

/// Approximate bytes of a result, without the id of its transaction. The result contains the id twice.
const RESULT_BYTES: usize = 32;
/// After this many bytes of results, the encoder lets the other tasks of the thread run.
const TURN_BYTES: usize = 64 << 10;

/// A `ProcessTransactionResponse`. Unlike the generated type, this type borrows the id.
#[derive(Debug, Clone, Copy)]
struct CommittedAnswer<'a> {
    id: &'a [u8],
    sequence: u64,
    seconds: u64,
    nanos: u32,
    replayed: bool,
}

// ===== impl CommittedAnswer =====

impl<'a> CommittedAnswer<'a> {
    fn new(id: &'a [u8], committed: Committed, replayed: bool) -> Self {
        let (seconds, nanos) = committed.time.seconds_and_nanos();
        CommittedAnswer {
            id,
            sequence: committed.sequence,
            seconds,
            nanos,
            replayed,
        }
    }

    fn time_bytes(&self) -> usize {
        number_bytes(self.seconds) + number_bytes(self.nanos.into())
    }

    fn bytes(&self) -> usize {
        text_bytes(self.id)
            + number_bytes(self.sequence)
            + message_bytes(self.time_bytes())
            + number_bytes(self.replayed.into())
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_text(out, 1, self.id);
        put_number(out, 2, self.sequence);
        put_head(out, 3, self.time_bytes());
        put_number(out, 1, self.seconds);
        put_number(out, 2, self.nanos.into());
        put_number(out, 4, self.replayed.into());
    }
}

/// Returns the bytes of a number with its key. The number 0 takes no bytes, because it is not written. A key takes one
/// byte, because the field numbers here are below 16.
fn number_bytes(value: u64) -> usize {
    if value == 0 {
        0
    } else {
        1 + encoded_len_varint(value)
    }
}

fn text_bytes(text: &[u8]) -> usize {
    message_bytes(text.len())
}

/// Returns the bytes of a text or message of `length` bytes, with its key and its length.
fn message_bytes(length: usize) -> usize {
    1 + encoded_len_varint(length as u64) + length
}

fn put_number(out: &mut Vec<u8>, field: u32, value: u64) {
    if value != 0 {
        encode_key(field, WireType::Varint, out);
        encode_varint(value, out);
    }
}

/// Appends the key and the length of a text or message.
fn put_head(out: &mut Vec<u8>, field: u32, length: usize) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
}

fn put_text(out: &mut Vec<u8>, field: u32, text: &[u8]) {
    put_head(out, field, text.len());
    out.extend_from_slice(text);
}

/// Returns the framed answer to `ProcessTransaction`.
///
/// # Errors
/// The error of the transaction if it was not committed.
pub(crate) fn single(batch: &TransactionBatch, outcome: Option<Outcome>) -> Result<Vec<u8>, Status> {
    let (Some(transaction), Some(outcome)) = (batch.get(0), outcome) else {
        return Err(status::outcome_missing());
    };
    let answer = committed_or_error(&transaction, outcome)?;
    let mut out = Vec::with_capacity(transaction.id_bytes().len() + RESULT_BYTES);
    put_frame(&mut out, |out| answer.put(out));
    Ok(out)
}

/// The results of many transactions.
#[derive(Debug)]
pub(crate) struct Results<'a> {
    pub(crate) places: &'a Places,
    pub(crate) batch: &'a TransactionBatch,
    /// The outcome of each transaction in the batch, or one error that applies to all of them.
    pub(crate) outcomes: Result<&'a [Outcome], &'a Status>,
}

/// The result of one of many transactions. An error comes with the id of its transaction.
type OneResult<'a> = Result<CommittedAnswer<'a>, (&'a str, Status)>;

// ===== impl Results =====

impl<'a> Results<'a> {
    /// Returns one framed `ProcessTransactionsResponse` with all results.
    pub(crate) async fn bulk(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.room());
        let header_at = begin_frame(&mut out);
        self.write(&mut out, put_result).await;
        end_frame(&mut out, header_at);
        out
    }

    /// Returns a framed `StreamTransactionsResponse` for each result.
    pub(crate) async fn stream(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.room());
        let put = |out: &mut Vec<u8>, result: OneResult<'_>| put_frame(out, |out| put_result(out, result));
        self.write(&mut out, put).await;
        out
    }

    /// Appends every result with `put`. Lets other tasks of the thread run after every [`TURN_BYTES`].
    async fn write(&self, out: &mut Vec<u8>, put: impl Fn(&mut Vec<u8>, OneResult<'_>)) {
        let mut refused = 0;
        let mut turn = TURN_BYTES;
        for place in 0..self.places.count {
            put(out, self.result(place, &mut refused));
            if out.len() > turn {
                turn = out.len() + TURN_BYTES;
                tokio::task::yield_now().await;
            }
        }
        // The client may read the answer late, so most of the unused capacity is freed.
        if out.capacity() - out.len() > out.len() / 4 {
            out.shrink_to_fit();
        }
    }

    /// Returns the result of the transaction at `place`. `refused` is the number of invalid transactions before
    /// `place`, and grows by one if this transaction is invalid.
    fn result(&self, place: usize, refused: &mut usize) -> OneResult<'a> {
        let missing = || ("", status::outcome_missing());
        if let Some(found) = self.places.refused_at(place, *refused) {
            *refused += 1;
            let Refused { id, status } = found.ok_or_else(missing)?;
            return Err((id, self.outcomes.err().cloned().unwrap_or(status)));
        }
        let executed = place - *refused;
        let transaction = self.batch.get(executed).ok_or_else(missing)?;
        let failed = |status| (transaction.id(), status);
        let outcomes = self.outcomes.map_err(|status| failed(status.clone()))?;
        let outcome = outcomes.get(executed).ok_or_else(missing)?;
        committed_or_error(&transaction, *outcome).map_err(failed)
    }

    /// Returns the approximate length of the results if all transactions are committed.
    fn room(&self) -> usize {
        let id_bytes = self.batch.get(0).map_or(0, |first| first.id_bytes().len());
        self.places.count.saturating_mul(2 * id_bytes + RESULT_BYTES)
    }
}

/// Appends a `TransactionResult` as field 1.
fn put_result(out: &mut Vec<u8>, result: OneResult<'_>) {
    match result {
        Ok(answer) => {
            let bytes = answer.bytes();
            put_head(out, 1, text_bytes(answer.id) + message_bytes(bytes));
            put_text(out, 1, answer.id);
            put_head(out, 2, bytes);
            answer.put(out);
        }
        Err((id, status)) => {
            let error = StreamTransactionsResponse {
                result: Some(TransactionResult {
                    transaction_id: id.to_owned(),
                    outcome: Some(transaction_result::Outcome::Error(status::to_value(&status))),
                }),
            };
            // Encoding fails only if the buffer has too little room. A vector grows, so encoding cannot fail.
            let _infallible = error.encode(out);
        }
    }
}

fn committed_or_error<'a>(
    transaction: &TransactionView<'a, &'a [u8]>,
    outcome: Outcome,
) -> Result<CommittedAnswer<'a>, Status> {
    match outcome {
        Outcome::Committed { committed, replayed } => {
            Ok(CommittedAnswer::new(transaction.id_bytes(), committed, replayed))
        }
        Outcome::Rejected { rejection, replayed } => {
            let (account_id, amount) = subject_of(transaction, rejection);
            Err(status::rejection(rejection, account_id, amount, replayed))
        }
        Outcome::Reused { field } => Err(status::transaction_id_reused(transaction.id(), field)),
    }
}

/// Returns the id of the account that caused a rejection, and the amount of the rejected transfer.
fn subject_of<'a>(transaction: &TransactionView<'a, &'a [u8]>, rejection: Rejection) -> (&'a str, Amount) {
    let transfer = transaction
        .transfers()
        .nth(rejection.transfer.into())
        .and_then(Result::ok);
    let Some(transfer) = transfer else {
        panic!(
            "a transaction was rejected for transfer {}, which it does not have",
            rejection.transfer
        );
    };
    let name = match rejection.side {
        Side::Debit => transfer.debit,
        Side::Credit => transfer.credit,
    };
    // Ids are ASCII, so the conversion cannot fail.
    (std::str::from_utf8(name).unwrap_or_default(), transfer.amount)
}

/// Converts a transfer for the API. `debit` and `credit` are the ids of the accounts.
#[must_use]
pub(crate) fn from_transfer(debit: String, credit: String, amount: Amount, code: u32) -> proto::Transfer {
    let amount = match i64::try_from(amount.minor_units()) {
        Ok(units) => transfer::Amount::MinorUnits(units),
        Err(_) => transfer::Amount::WideMinorUnits(to_wide(amount)),
    };
    proto::Transfer {
        debit_account_id: debit,
        credit_account_id: credit,
        code: i32::try_from(code).unwrap_or(i32::MAX),
        amount: Some(amount),
    }
}

/// Converts a committed transaction for the API.
#[must_use]
pub(crate) fn from_committed(
    transaction_id: String,
    committed: Committed,
    replayed: bool,
) -> proto::ProcessTransactionResponse {
    proto::ProcessTransactionResponse {
        transaction_id,
        sequence: i64::try_from(committed.sequence).unwrap_or(i64::MAX),
        commit_time: Some(from_time(committed.time)),
        replayed,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{grpc::transactions::collect::RESULT_BYTES_MAX, proto::ProcessTransactionResponse};
    use tally_ledger::{ContentField, Reason, Timestamp};

    #[test]
    fn the_longest_result_of_a_rejection_is_within_its_bound() {
        let id = "i".repeat(64);
        for reason in [
            Reason::InsufficientFunds,
            Reason::AssetMismatch,
            Reason::BalanceOverflow,
        ] {
            let most = Amount::new(u128::MAX);
            let rejection = Rejection::new(reason, 255, Side::Credit).with_available(most);
            let mut result = Vec::new();
            put_result(
                &mut result,
                Err((&id, status::rejection(rejection, &id, most, false))),
            );
            assert!(
                result.len() <= RESULT_BYTES_MAX,
                "{reason}: {} bytes",
                result.len()
            );
        }
        let mut result = Vec::new();
        let reused = status::transaction_id_reused(&id, ContentField::CreditAccount(255));
        put_result(&mut result, Err((&id, reused)));
        assert!(result.len() <= RESULT_BYTES_MAX, "{} bytes", result.len());
    }

    proptest! {
        #[test]
        fn a_committed_answer_has_the_bytes_that_prost_writes(
            id in "[a-z]{1,64}",
            sequence in prop_oneof![any::<u64>().prop_map(|sequence| sequence >> 1), 0..300_u64],
            nanos in prop_oneof![any::<u64>(), 0..3_u64, Just(5_000_000_000)],
            replayed: bool,
        ) {
            let committed = Committed { sequence, time: Timestamp::from_nanos(nanos) };
            let answer = CommittedAnswer::new(id.as_bytes(), committed, replayed);
            let expected = ProcessTransactionResponse {
                transaction_id: id.clone(),
                sequence: i64::try_from(sequence).unwrap(),
                commit_time: Some(prost_types::Timestamp {
                    seconds: i64::try_from(nanos / 1_000_000_000).unwrap(),
                    nanos: i32::try_from(nanos % 1_000_000_000).unwrap(),
                }),
                replayed,
            };
            let mut bytes = Vec::new();
            answer.put(&mut bytes);
            prop_assert_eq!(bytes.len(), answer.bytes());
            prop_assert_eq!(bytes, expected.encode_to_vec());
        }
    }
}
