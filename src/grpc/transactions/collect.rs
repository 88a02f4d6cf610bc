//! Collects the transactions of a request, or of a part of a stream, into one batch.

use tally_ledger::Outcome;
use tonic::Status;

use super::{
    decode,
    split::{Found, Splitter},
    wire::{self, WireTransaction},
};
use crate::{
    engine::{TRANSACTIONS_MAX, TransactionBatch},
    grpc::{limits::TRANSACTION_BYTES_MAX, protobuf::WireError, status, transport::framing::Piece},
};

/// Longest result of an executed transaction, in bytes: the result of a transaction that the ledger rejected.
pub(crate) const RESULT_BYTES_MAX: usize = 800;
/// The message that contains a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// A `ProcessTransactionRequest` in a `ProcessTransactionsRequest`.
    Nested,
    /// A `StreamTransactionsRequest`.
    Message,
}

/// The transactions with invalid fields, in their order. They are not executed.
///
/// For each of them the bytes of the transaction are kept, and checked again when the answer is written: the text of
/// the errors can be a hundred times as long as the transaction.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    bytes: Vec<u8>,
    entries: Vec<RefusedEntry>,
    /// Most bytes of their results in the answer.
    answer_bytes: usize,
}

/// A transaction with invalid fields. Its bytes begin where the bytes of the previous entry end.
#[derive(Debug, Clone, Copy)]
struct RefusedEntry {
    place: u32,
    end: u32,
    /// The length of a transaction that was too long to read. Such a transaction has no bytes here. 0 for others.
    too_long: u32,
}

/// A transaction with invalid fields, and its error.
#[derive(Debug)]
pub(crate) struct Refused<'a> {
    /// The id as the client sent it; empty if it was not read.
    pub(crate) id: &'a str,
    /// The error.
    pub(crate) status: Status,
}

/// Transactions in the order of the client: the valid ones in a batch, and the invalid ones.
#[derive(Debug)]
pub(crate) struct Transactions {
    pub(crate) batch: TransactionBatch,
    pub(crate) places: Places,
}

/// The positions of the transactions that are not in the batch.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) refused: Refusals,
    /// The number of transactions that the client sent.
    pub(crate) count: usize,
    form: Form,
}

/// Reads a `ProcessTransactionsRequest` while it arrives. It copies only the transactions that are spread over several
/// parts of the message.
#[derive(Debug)]
pub(crate) struct BulkReader {
    transactions: Transactions,
    splitter: Splitter,
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
        // The same bytes were read and found invalid before, so this finds the same error.
        let transaction = read(bytes, form).ok()?;
        let refusal = decode::check(&transaction, |_, _| ()).err()?;
        Some(Refused {
            id: transaction.id.as_str(),
            status: refusal.into(),
        })
    }

    fn held_bytes(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<RefusedEntry>()
    }

    fn push(&mut self, place: usize, bytes: &[u8], too_long: usize, answer_bytes: usize) {
        self.answer_bytes += answer_bytes;
        // A message has at most 16 MiB and 8192 transactions, so these numbers fit.
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
    /// Returns the error of the transaction at `place` if it is invalid; `before` is the number of invalid transactions
    /// before it. The inner value is `None` if the error is not found again, which is a bug.
    pub(crate) fn refused_at(&self, place: usize, before: usize) -> Option<Option<Refused<'_>>> {
        let entry = self.refused.entries.get(before)?;
        (entry.place as usize == place).then(|| self.refused.get(before, self.form))
    }
}

// ===== impl Transactions =====

impl Transactions {
    /// No transactions yet.
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

    /// Reads and checks a transaction, and adds it.
    ///
    /// # Errors
    /// [`WireError`] if the bytes are not a transaction. Then nothing is added.
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

    /// Adds a transaction that is too long to read.
    fn skip(&mut self, length: usize) {
        let place = self.places.count;
        self.places.count += 1;
        self.places.refused.push(place, &[], length, RESULT_BYTES_MAX);
    }

    /// The number of transactions that the client sent.
    pub(crate) const fn count(&self) -> usize {
        self.places.count
    }

    /// Returns the bytes of memory that they hold, including their outcomes and their answer. These are reserved before
    /// the execution, as an executed transaction must be answered.
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
    /// Begins a request whose valid transactions go into `batch`.
    pub(crate) fn new(batch: TransactionBatch) -> Self {
        BulkReader {
            transactions: Transactions::new(batch, Form::Nested),
            splitter: Splitter::new(TRANSACTION_BYTES_MAX),
        }
    }

    /// Reads the next part of the message.
    ///
    /// # Errors
    /// INTERNAL if the message is malformed, INVALID_ARGUMENT as soon as it has too many transactions.
    pub(crate) fn read(&mut self, piece: &Piece) -> Result<(), Status> {
        let transactions = &mut self.transactions;
        self.splitter.read(&piece.bytes, piece.to_come, |found| {
            if transactions.count() >= TRANSACTIONS_MAX {
                return Err(transaction_count(&format!("at least {}", TRANSACTIONS_MAX + 1)));
            }
            match found {
                Found::Transaction(bytes) => transactions.push(bytes)?,
                Found::TooLong(length) => transactions.skip(length),
            }
            Ok(())
        })
    }

    /// Returns the bytes of memory that it holds.
    pub(crate) fn held_bytes(&self) -> usize {
        self.transactions.held_bytes() + self.splitter.held_bytes()
    }

    /// Returns the transactions when the message is complete.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if the message has no transactions.
    pub(crate) fn finish(self) -> Result<Transactions, Status> {
        if self.transactions.count() == 0 {
            return Err(transaction_count("0"));
        }
        Ok(self.transactions)
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
