//! Writes the results of transactions directly from the executed batch.
//!
//! The results of committed transactions are written with prost's encoding functions, and without the generated types.
//! The generated types would need two `String`s for each result. Errors are written with the generated types. A
//! `TransactionResult` is field 1 in both messages that contain it, so its bytes are the same in
//! `ProcessTransactionsResponse` and in `StreamTransactionsResponse`.

use prost::{
    Message,
    encoding::{WireType, encode_varint, encoded_len_varint},
};
use tally_ledger::{Balances, Committed, Outcome, Rejection, Side, TransactionView, money::Amount};
use tonic::Status;

use super::collect::{Places, Refused};
use crate::{
    engine::{Detail, Processed, TransactionBatch},
    grpc::{
        fields::to_wide,
        rejection::Rejected,
        status,
        transport::frame::{begin_frame, end_frame, put_frame},
    },
    proto::{self, StreamTransactionsResponse, TransactionResult, transaction_result},
    security::Scope,
};

/// Approximate bytes of a result, without the id of its transaction. The result contains the id twice.
const RESULT_BYTES: usize = 32;
/// After this number of bytes of results, the encoder lets the other tasks of the thread run.
const TURN_BYTES: usize = 64 << 10;

/// A `ProcessTransactionResponse`. Unlike the generated type, this type borrows the id.
#[derive(Debug, Clone, Copy)]
struct CommittedAnswer<'a> {
    id: &'a [u8],
    sequence: u64,
    seconds: u64,
    nanos: u32,
    replayed: bool,
    detail: Option<&'a Detail>,
}

// ===== impl CommittedAnswer =====

impl<'a> CommittedAnswer<'a> {
    fn new(id: &'a [u8], committed: Committed, replayed: bool, detail: Option<&'a Detail>) -> Self {
        let (seconds, nanos) = committed.time.seconds_and_nanos();
        CommittedAnswer {
            id,
            sequence: committed.sequence,
            seconds,
            nanos,
            replayed,
            detail,
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
            + self.detail.map_or(0, detail_bytes)
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_text(out, 1, self.id);
        put_number(out, 2, self.sequence);
        put_head(out, 3, self.time_bytes());
        put_number(out, 1, self.seconds);
        put_number(out, 2, self.nanos.into());
        put_number(out, 4, self.replayed.into());
        if let Some(detail) = self.detail {
            put_detail(out, detail);
        }
    }
}

/// Returns the bytes of the balances and of the moved amounts in a `ProcessTransactionResponse`.
fn detail_bytes(detail: &Detail) -> usize {
    let mut bytes = 0;
    for (id, balances) in detail.balances.known() {
        bytes += message_bytes(account_balances_bytes(id, balances));
    }
    for amount in &detail.moved {
        bytes += message_bytes(amount_bytes(*amount));
    }
    bytes
}

fn put_detail(out: &mut Vec<u8>, detail: &Detail) {
    for (id, balances) in detail.balances.known() {
        put_head(out, 5, account_balances_bytes(id, balances));
        put_text(out, 1, id.as_bytes());
        put_head(out, 2, balances_bytes(balances));
        for (field, amount) in (1..).zip(columns(balances)) {
            put_amount(out, field, amount);
        }
    }
    for amount in &detail.moved {
        put_amount(out, 6, *amount);
    }
}

fn account_balances_bytes(id: &str, balances: &Balances) -> usize {
    text_bytes(id.as_bytes()) + message_bytes(balances_bytes(balances))
}

fn balances_bytes(balances: &Balances) -> usize {
    let columns = columns(balances).into_iter();
    columns.map(|amount| message_bytes(amount_bytes(amount))).sum()
}

/// Returns the columns in the order of their fields.
const fn columns(balances: &Balances) -> [Amount; 4] {
    [
        balances.debits_pending,
        balances.debits_posted,
        balances.credits_pending,
        balances.credits_posted,
    ]
}

/// Returns the bytes of an `Amount`.
fn amount_bytes(amount: Amount) -> usize {
    match i64::try_from(amount.minor_units()) {
        // A field of a `oneof` is written even if it is 0.
        Ok(units) => 1 + encoded_len_varint(units.cast_unsigned()),
        Err(_) => message_bytes(wide_bytes(amount)),
    }
}

/// Returns the bytes of a `Uint128`.
fn wide_bytes(amount: Amount) -> usize {
    let proto::Uint128 { high, low } = to_wide(amount);
    9 * (usize::from(high > 0) + usize::from(low > 0))
}

fn put_amount(out: &mut Vec<u8>, field: u8, amount: Amount) {
    put_head(out, field, amount_bytes(amount));
    if let Ok(units) = i64::try_from(amount.minor_units()) {
        put_field(out, key(1, WireType::Varint), units.cast_unsigned());
        return;
    }
    put_head(out, 2, wide_bytes(amount));
    let proto::Uint128 { high, low } = to_wide(amount);
    for (field, half) in [(1, high), (2, low)] {
        if half > 0 {
            out.push(key(field, WireType::SixtyFourBit));
            out.extend_from_slice(&half.to_le_bytes());
        }
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

#[inline]
fn put_number(out: &mut Vec<u8>, field: u8, value: u64) {
    if value != 0 {
        put_field(out, key(field, WireType::Varint), value);
    }
}

/// Appends the key and the length of a text or message.
#[inline]
fn put_head(out: &mut Vec<u8>, field: u8, length: usize) {
    put_field(out, key(field, WireType::LengthDelimited), length as u64);
}

/// Returns the key of a field whose number is below 16.
const fn key(field: u8, kind: WireType) -> u8 {
    field << 3 | kind as u8
}

/// Appends the key of a field, and the number that follows the key: a value or a length.
#[inline]
fn put_field(out: &mut Vec<u8>, key: u8, number: u64) {
    out.push(key);
    match u8::try_from(number) {
        // Nearly all lengths have one byte.
        Ok(number @ 0..=0x7f) => out.push(number),
        Ok(_) | Err(_) => encode_varint(number, out),
    }
}

fn put_text(out: &mut Vec<u8>, field: u8, text: &[u8]) {
    put_head(out, field, text.len());
    out.extend_from_slice(text);
}

/// Returns the framed answer to `ProcessTransaction`. The caller may see the accounts of `scope`.
///
/// # Errors
/// The error of the transaction if it was not committed.
pub(crate) fn single(
    batch: &TransactionBatch,
    processed: &Processed,
    scope: &Scope,
) -> Result<Vec<u8>, Status> {
    let (Some(transaction), Some(outcome)) = (batch.get(0), processed.outcomes.first()) else {
        return Err(status::outcome_missing());
    };
    let detail = shown(processed.details.first())?;
    let answer = committed_or_error(&transaction, *outcome, detail, scope)?;
    let room = transaction.id_bytes().len() + RESULT_BYTES + detail.map_or(0, detail_bytes);
    let mut out = Vec::with_capacity(room);
    put_frame(&mut out, |out| answer.put(out));
    Ok(out)
}

/// The results of many transactions.
#[derive(Debug)]
pub(crate) struct Results<'a> {
    pub(crate) places: &'a Places,
    pub(crate) batch: &'a TransactionBatch,
    /// The outcome of each transaction in the batch, or one error that applies to all of them.
    pub(crate) processed: Result<&'a Processed, &'a Status>,
}

/// The progress of writing the results.
#[derive(Debug)]
struct Cursor<'a> {
    /// The number of invalid transactions so far.
    refused: usize,
    /// The details of the transactions that follow, in the order of their places.
    details: &'a [Detail],
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
        let details = self.processed.map_or(&[][..], |processed| &processed.details);
        let mut cursor = Cursor { refused: 0, details };
        let mut turn = TURN_BYTES;
        for place in 0..self.places.count {
            put(out, self.result(place, &mut cursor));
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

    /// Returns the result of the transaction at `place`, and moves the cursor, which is at this place, to the next one.
    fn result(&self, place: usize, cursor: &mut Cursor<'a>) -> OneResult<'a> {
        let missing = || ("", status::outcome_missing());
        if let Some(found) = self.places.refused_at(place, cursor.refused) {
            cursor.refused += 1;
            let Refused { id, status } = found.ok_or_else(missing)?;
            return Err((id, self.processed.err().cloned().unwrap_or(status)));
        }
        let executed = place - cursor.refused;
        let outcome = self.processed.map(|processed| processed.outcomes.get(executed));
        // A committed transaction need not be decoded: the answer contains only its id.
        if let Ok(Some(&Outcome::Committed { committed, replayed })) = outcome {
            let id = self.batch.id_bytes(executed).ok_or_else(missing)?;
            let detail = shown(cursor.detail(executed)).map_err(|status| {
                let transaction = self.batch.get(executed);
                (transaction.map_or("", |transaction| transaction.id()), status)
            })?;
            return Ok(CommittedAnswer::new(id, committed, replayed, detail));
        }
        let transaction = self.batch.get(executed).ok_or_else(missing)?;
        let failed = |status| (transaction.id(), status);
        let outcome = outcome.map_err(|status| failed(status.clone()))?;
        let outcome = outcome.ok_or_else(missing)?;
        committed_or_error(&transaction, *outcome, None, &self.places.scope).map_err(failed)
    }

    /// Returns the approximate length of the results if all transactions are committed.
    fn room(&self) -> usize {
        let id_bytes = self.batch.get(0).map_or(0, |first| first.id_bytes().len());
        let details = self.processed.map_or(&[][..], |processed| &processed.details);
        let detail_bytes: usize = details.iter().map(detail_bytes).sum();
        self.places.count.saturating_mul(2 * id_bytes + RESULT_BYTES) + detail_bytes
    }
}

// ===== impl Cursor =====

impl<'a> Cursor<'a> {
    /// Returns the detail of the transaction at `executed` in the batch, if it has one. The details before it were taken.
    #[inline]
    fn detail(&mut self, executed: usize) -> Option<&'a Detail> {
        let (first, rest) = self.details.split_first()?;
        if first.place != executed {
            return None;
        }
        self.details = rest;
        Some(first)
    }
}

/// Returns the detail if it can be shown.
///
/// # Errors
/// An error of the engine if the balances of a transaction of the past could not be read.
fn shown(detail: Option<&Detail>) -> Result<Option<&Detail>, Status> {
    match detail.and_then(|detail| detail.balances.fault()) {
        Some(fault) => Err(status::engine(&fault.into())),
        None => Ok(detail),
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
    detail: Option<&'a Detail>,
    scope: &Scope,
) -> Result<CommittedAnswer<'a>, Status> {
    match outcome {
        Outcome::Committed { committed, replayed } => {
            let id = transaction.id_bytes();
            Ok(CommittedAnswer::new(id, committed, replayed, detail))
        }
        Outcome::Rejected { rejection, replayed } => {
            let about = rejected_part(transaction, rejection, scope);
            Err(status::rejection(rejection, &about, replayed))
        }
        Outcome::Reused { field } => Err(status::transaction_id_reused(transaction.id(), field)),
    }
}

/// Returns the part of a transaction that the error of its rejection names.
fn rejected_part<'a>(
    transaction: &TransactionView<'a, &'a [u8]>,
    rejection: Rejection,
    scope: &Scope,
) -> Rejected<'a> {
    let mut transfers = transaction.transfers();
    // A transaction that posts a hold or reverses a transaction can be rejected for a transfer that was not sent.
    let transfer = transfers.nth(rejection.transfer.into()).and_then(Result::ok);
    let account = transfer.map(|transfer| match rejection.side {
        Side::Debit => transfer.debit,
        Side::Credit => transfer.credit,
    });
    Rejected {
        // Ids are ASCII, so the conversion cannot fail.
        account_id: account.and_then(|id| std::str::from_utf8(id).ok()),
        amount: transfer.map(|transfer| transfer.amount),
        names: transaction.names(),
        // An unrestricted caller may have made the hold or the reversed transaction, with accounts outside of the scope.
        hides_accounts: account.is_none() && scope.prefix().is_some(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        engine::{BalancesAfter, LEGS_CHARGED},
        grpc::{
            fields::{from_amount, from_balances},
            transactions::{
                answer_memory,
                collect::RESULT_BYTES_MAX,
                wire::{Text, WireTransaction},
            },
        },
        proto::ProcessTransactionResponse,
    };
    use tally_ledger::{
        ContentField, History, Names, Reason, TRANSFERS_MAX, Timestamp,
        velocity::{Exceeded, Maximum},
    };

    /// Returns the length of the result of a rejection.
    fn rejected_bytes(id: &str, rejection: Rejection, about: &Rejected<'_>) -> usize {
        let mut result = Vec::new();
        let status = status::rejection(rejection, about, false);
        put_result(&mut result, Err((id, status)));
        result.len()
    }

    #[test]
    fn the_longest_result_of_a_rejection_is_within_its_bound() {
        let id = "i".repeat(64);
        let most = Amount::new(u128::MAX);
        let exceeded = Exceeded {
            limit: 3,
            maximum: Maximum::Single,
            used: u128::MAX,
            room_at: Some(Timestamp::from_nanos(4_000_000_000_000_000_000)),
        };
        for reason in Reason::ALL {
            let mut rejections = vec![Rejection::new(reason, 255, Side::Credit).with_available(most)];
            rejections.push(Rejection::new(reason, 0, Side::Debit));
            if reason == Reason::VelocityLimit {
                rejections.push(Rejection::velocity(255, Side::Credit, &exceeded));
            }
            for names in [
                Names::Nothing,
                Names::Hold(id.as_bytes()),
                Names::Reversed(id.as_bytes()),
            ] {
                for account_id in [None, Some(id.as_str())] {
                    let about = Rejected {
                        account_id,
                        amount: account_id.map(|_| most),
                        names,
                        hides_accounts: false,
                    };
                    for rejection in &rejections {
                        let bytes = rejected_bytes(&id, *rejection, &about);
                        assert!(bytes <= RESULT_BYTES_MAX, "{reason}: {bytes} bytes");
                    }
                }
            }
        }
        let mut result = Vec::new();
        let reused = status::transaction_id_reused(&id, ContentField::CreditAccount(255));
        put_result(&mut result, Err((&id, reused)));
        assert!(result.len() <= RESULT_BYTES_MAX, "{} bytes", result.len());
    }

    #[test]
    fn the_longest_detail_is_within_its_bound() {
        let most = Amount::new(u128::MAX);
        let balances = Balances {
            debits_pending: most,
            debits_posted: most,
            credits_pending: most,
            credits_posted: most,
        };
        for (transfers, legs) in [(1, 1), (TRANSFERS_MAX, TRANSFERS_MAX), (0, 1), (0, LEGS_CHARGED)] {
            let known = vec![("i".repeat(64).into_boxed_str(), balances); 2 * legs];
            // The allocator adds at most 16 bytes to each heap block.
            let of_balances = size_of_val(known.as_slice()) + 2 * legs * (64 + 16);
            // While balances of the past are read, the answer has the histories too: each can have 16 waypoints.
            let of_histories = 2 * legs * (size_of::<(Box<str>, History)>() + 16 * 8 + 16);
            let detail = Detail {
                place: 0,
                moved: vec![most; legs].into(),
                balances: BalancesAfter::Known(known),
            };
            let held = size_of::<Detail>() + size_of_val(detail.moved.as_slice()) + of_balances;
            let request = WireTransaction {
                pending_transaction_id: Text::Id(b"h"),
                transfer_count: transfers,
                return_balances: true,
                ..WireTransaction::default()
            };
            let bound = answer_memory::detail_bytes(&request);
            let bytes = held + of_histories.max(detail_bytes(&detail));
            assert!(
                bytes <= bound,
                "{transfers} transfers, {legs} legs: {bytes} bytes, {bound} are reserved"
            );
        }
        assert_eq!(answer_memory::detail_bytes(&WireTransaction::default()), 0);
    }

    fn amounts() -> impl Strategy<Value = u128> {
        prop_oneof![
            0..3_u128,
            any::<u64>().prop_map(u128::from),
            any::<u128>(),
            any::<u64>().prop_map(|high| u128::from(high) << 64),
        ]
    }

    fn details() -> impl Strategy<Value = Detail> {
        let balances = prop::array::uniform4(amounts()).prop_map(|columns| {
            let [debits_pending, debits_posted, credits_pending, credits_posted] = columns.map(Amount::new);
            Balances {
                debits_pending,
                debits_posted,
                credits_pending,
                credits_posted,
            }
        });
        let balances =
            prop::collection::vec(("[a-z]{1,64}".prop_map(String::into_boxed_str), balances), 0..4);
        let moved = prop::collection::vec(amounts().prop_map(Amount::new), 0..4);
        (balances, moved).prop_map(|(balances, moved)| Detail {
            place: 0,
            moved: moved.into(),
            balances: BalancesAfter::Known(balances),
        })
    }

    proptest! {
        #[test]
        fn a_committed_answer_has_the_bytes_that_prost_writes(
            id in "[a-z]{1,64}",
            sequence in prop_oneof![any::<u64>().prop_map(|sequence| sequence >> 1), 0..300_u64],
            nanos in prop_oneof![any::<u64>(), 0..3_u64, Just(5_000_000_000)],
            replayed: bool,
            detail in prop::option::of(details()),
        ) {
            let committed = Committed { sequence, time: Timestamp::from_nanos(nanos) };
            let answer = CommittedAnswer::new(id.as_bytes(), committed, replayed, detail.as_ref());
            let shown = |detail: &Detail| {
                let moved = detail.moved.iter().map(|amount| from_amount(*amount)).collect::<Vec<_>>();
                let balances = detail.balances.known().iter().map(|(id, balances)| proto::AccountBalances {
                    account_id: id.to_string(),
                    balances: Some(from_balances(balances)),
                });
                (moved, balances.collect::<Vec<_>>())
            };
            let (moved_amounts, balances) = detail.as_ref().map(shown).unwrap_or_default();
            let expected = ProcessTransactionResponse {
                transaction_id: id.clone(),
                sequence: i64::try_from(sequence).unwrap(),
                commit_time: Some(prost_types::Timestamp {
                    seconds: i64::try_from(nanos / 1_000_000_000).unwrap(),
                    nanos: i32::try_from(nanos % 1_000_000_000).unwrap(),
                }),
                replayed,
                balances,
                moved_amounts,
            };
            let mut bytes = Vec::new();
            answer.put(&mut bytes);
            prop_assert_eq!(bytes.len(), answer.bytes());
            prop_assert_eq!(bytes, expected.encode_to_vec());
        }
    }
}
