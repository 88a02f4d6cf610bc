//! Many transactions of a request or of a stream, on their way into one batch.

use tonic::Status;

use super::{
    decode::{self, Refusal},
    split::{Found, Splitter},
    wire::{self, WireTransaction},
};
use crate::{
    engine::{TRANSACTIONS_MAX, TransactionBatch},
    grpc::{limits::TRANSACTION_BYTES_MAX, protobuf::WireError, status, transport::framing::Piece},
    ledger::Outcome,
};

/// What the result of an executed transaction takes at most: that of one which the ledger refused.
pub(crate) const RESULT_BYTES_MAX: usize = 640;
/// A message that holds a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// A `ProcessTransactionRequest` in a `ProcessTransactionsRequest`.
    Nested,
    /// A `StreamTransactionsRequest`.
    Message,
}

/// Transactions that were refused before they were queued, in the order of their places.
///
/// Of each, its own bytes are kept. What is wrong with it is found again when the answer is written: written out, it can
/// take a hundred times as many bytes as the transaction itself.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    bytes: Vec<u8>,
    entries: Vec<RefusedEntry>,
    /// What their results take in the answer, at most.
    answer_bytes: usize,
}

/// Its bytes begin where those of the one before end.
#[derive(Debug, Clone, Copy)]
struct RefusedEntry {
    place: u32,
    end: u32,
    /// If it was too long to be read, its length; it has no bytes here then.
    too_long: u32,
}

/// A transaction that was refused, with what is wrong with it.
#[derive(Debug)]
pub(crate) struct Refused<'a> {
    /// Its id, as sent; empty if it could not be read.
    pub(crate) id: &'a str,
    /// Why.
    pub(crate) status: Status,
}

/// Transactions in the order in which they were sent: those that are well-formed, and those that are not.
#[derive(Debug)]
pub(crate) struct Transactions {
    pub(crate) batch: TransactionBatch,
    pub(crate) places: Places,
}

/// Which of the transactions that were sent are not in the batch.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) refused: Refusals,
    /// How many were sent.
    pub(crate) count: usize,
    form: Form,
}

/// Reads a `ProcessTransactionsRequest` while it arrives. Transactions are read where they are; only those that are spread
/// over several pieces are copied together.
#[derive(Debug)]
pub(crate) struct BulkReader {
    transactions: Transactions,
    splitter: Splitter,
}

/// Why reading a bulk ended early.
enum Unread {
    Malformed(WireError),
    TooMany,
}

// ===== impl Refusals =====

impl Refusals {
    fn get(&self, index: usize, form: Form) -> Option<Refused<'_>> {
        let entry = self.entries.get(index)?;
        if entry.too_long > 0 {
            return Some(Refused {
                id: "",
                status: status::transaction_too_long(entry.too_long as usize),
            });
        }
        let before = index.checked_sub(1).and_then(|before| self.entries.get(before));
        let from = before.map_or(0, |before| before.end);
        let bytes = self.bytes.get(from as usize..entry.end as usize)?;
        // It was read before, and refused: the same bytes are read and refused again.
        let transaction = read(bytes, form).ok()?;
        let refusal = decode::check(&transaction, |_, _| ()).err()?;
        Some(Refused {
            id: transaction.id.as_str(),
            status: refused(refusal),
        })
    }

    fn held_bytes(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<RefusedEntry>()
    }

    fn push(&mut self, place: usize, bytes: &[u8], too_long: usize, answer_bytes: usize) {
        self.answer_bytes += answer_bytes;
        // A message has at most 16 MiB, and 8192 places.
        let number = |number| u32::try_from(number).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(bytes);
        self.entries.push(RefusedEntry {
            place: number(place),
            end: number(self.bytes.len()),
            too_long: number(too_long),
        });
    }
}

// ===== impl Places =====

impl Places {
    /// What is wrong with the transaction at `place`, if it is the one that was refused behind `before` others.
    pub(crate) fn refused_at(&self, place: usize, before: usize) -> Option<Option<Refused<'_>>> {
        let entry = self.refused.entries.get(before)?;
        (entry.place as usize == place).then(|| self.refused.get(before, self.form))
    }
}

// ===== impl Transactions =====

impl Transactions {
    /// None yet.
    pub(crate) fn new(batch: TransactionBatch, form: Form) -> Self {
        Transactions {
            batch,
            places: Places {
                refused: Refusals::default(),
                count: 0,
                form,
            },
        }
    }

    /// Reads and checks a transaction from its bytes, and adds it.
    ///
    /// # Errors
    /// [`WireError`] if it is none. Nothing is added then.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        let transaction = read(bytes, self.places.form)?;
        let place = self.places.count;
        self.places.count += 1;
        if let Err(refusal) = decode::push_transaction(&mut self.batch, &transaction) {
            let answer_bytes = RESULT_BYTES_MAX + transaction.id.as_str().len() + refusal.bytes();
            self.places.refused.push(place, bytes, 0, answer_bytes);
        }
        Ok(())
    }

    /// A transaction was sent that is too long to be read.
    fn skip(&mut self, length: usize) {
        let place = self.places.count;
        self.places.count += 1;
        self.places.refused.push(place, &[], length, RESULT_BYTES_MAX);
    }

    /// How many were sent.
    pub(crate) const fn count(&self) -> usize {
        self.places.count
    }

    /// Bytes of memory that they hold, with the outcomes and the answer that they will have: nothing of these can be refused
    /// any more once they are executed.
    pub(crate) fn held_bytes(&self) -> usize {
        let each = size_of::<Outcome>() + RESULT_BYTES_MAX;
        self.batch.memory_bytes()
            + self.batch.len() * each
            + self.places.refused.held_bytes()
            + self.places.refused.answer_bytes
    }
}

// ===== impl BulkReader =====

impl BulkReader {
    /// Fills `batch`.
    pub(crate) fn new(batch: TransactionBatch) -> Self {
        BulkReader {
            transactions: Transactions::new(batch, Form::Nested),
            splitter: Splitter::new(TRANSACTION_BYTES_MAX),
        }
    }

    /// Reads what has arrived.
    ///
    /// # Errors
    /// INTERNAL if the message is malformed, INVALID_FIELD as soon as there are too many transactions.
    pub(crate) fn read(&mut self, piece: &Piece) -> Result<(), Status> {
        let transactions = &mut self.transactions;
        let read = self.splitter.read(&piece.bytes, piece.to_come, |found| {
            if transactions.count() >= TRANSACTIONS_MAX {
                return Err(Unread::TooMany);
            }
            match found {
                Found::Transaction(bytes) => transactions.push(bytes)?,
                Found::TooLong(length) => transactions.skip(length),
            }
            Ok(())
        });
        read.map_err(|unread| match unread {
            Unread::Malformed(error) => status::malformed_message(error),
            Unread::TooMany => transaction_count(&format!("at least {}", TRANSACTIONS_MAX + 1)),
        })
    }

    /// Bytes of memory that it holds.
    pub(crate) fn held_bytes(&self) -> usize {
        self.transactions.held_bytes() + self.splitter.held_bytes()
    }

    /// All of them, once the message is whole.
    ///
    /// # Errors
    /// INVALID_FIELD if there are none.
    pub(crate) fn finish(self) -> Result<Transactions, Status> {
        if self.transactions.count() == 0 {
            return Err(transaction_count("0"));
        }
        Ok(self.transactions)
    }
}

impl From<WireError> for Unread {
    fn from(error: WireError) -> Self {
        Unread::Malformed(error)
    }
}

fn read(bytes: &[u8], form: Form) -> Result<WireTransaction<'_>, WireError> {
    match form {
        Form::Nested => wire::nested_transaction(bytes),
        Form::Message => wire::stream_message(bytes),
    }
}

fn transaction_count(count: &str) -> Status {
    let description = format!("has {count} transactions, 1 to {TRANSACTIONS_MAX} are allowed");
    status::invalid_field("transactions", description)
}

/// The status of a refusal.
pub(crate) fn refused(refusal: Refusal) -> Status {
    match refusal {
        Refusal::Invalid(violations) => status::invalid(violations),
        Refusal::PhaseNotSupported(phase) => status::phase_not_supported(phase),
    }
}
