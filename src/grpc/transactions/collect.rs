//! Collects the transactions of a request, or of a part of a stream, into one batch, and notes the invalid
//! transactions.

use tally_ledger::Outcome;
use tonic::Status;

use super::{
    answer_memory::{self, AnswerMemory},
    decode,
    split::{Found, Splitter},
    wire::{self, ReadTransaction, WireTransaction},
};
use crate::{
    engine::{BalancesAfter, Processed, TRANSACTIONS_MAX, TransactionBatch},
    grpc::{
        limits::TRANSACTION_BYTES_MAX,
        protobuf::WireError,
        status,
        transport::{budget::Reservation, frame::Piece},
    },
    security::Scope,
};

/// Longest result of an executed transaction, in bytes. The longest result is a rejection by the ledger.
pub(crate) const RESULT_BYTES_MAX: usize = 960;

/// The position of a transaction with invalid fields. Its bytes begin where the bytes of the previous entry end.
#[derive(Debug, Clone, Copy)]
struct RefusedEntry {
    /// The position among all transactions that the client sent.
    place: u32,
    /// The end of the bytes in [`Places::refused_bytes`].
    end: u32,
    /// The length of the transaction if it was too long to read, otherwise 0. The bytes of a transaction that was too
    /// long are not kept.
    too_long: u32,
}

/// A transaction with invalid fields, and its error.
#[derive(Debug)]
pub(crate) struct Refused<'a> {
    /// The id as the client sent it. Empty if the transaction was too long to read.
    pub(crate) id: &'a str,
    pub(crate) status: Status,
}

/// The transactions of a client, in their order: the valid transactions in a batch, and the positions of the invalid
/// transactions.
#[derive(Debug)]
pub(crate) struct Transactions {
    pub(crate) batch: TransactionBatch,
    pub(crate) places: Places,
    /// The memory for the amounts and balances in the answer, in bytes.
    detail_bytes: usize,
}

/// The transactions with invalid fields, and their positions. These transactions are not in the batch.
///
/// The bytes of each such transaction are kept, and are checked again when the answer is written. The errors are not
/// kept, because their text can be a hundred times as long as the transaction.
#[derive(Debug)]
pub(crate) struct Places {
    /// The number of transactions that the client sent.
    pub(crate) count: usize,
    read: ReadTransaction,
    /// What the client may touch.
    pub(crate) scope: Scope,
    refused: Vec<RefusedEntry>,
    refused_bytes: Vec<u8>,
    /// Maximum number of bytes that the results of the invalid transactions take in the answer.
    answer_bytes: usize,
}

/// Reads a `ProcessTransactionsRequest` while the message arrives. Copies a transaction only if the transaction is
/// spread over several parts of the message.
#[derive(Debug)]
pub(crate) struct BulkReader {
    transactions: Transactions,
    splitter: Splitter,
}

// ===== impl Places =====

impl Places {
    /// Returns the error of the transaction at `place`, or `None` if the transaction is valid. `before` is the number
    /// of invalid transactions before `place`. The inner value is `None` if the second check finds no error, which is a
    /// bug.
    pub(crate) fn refused_at(&self, place: usize, before: usize) -> Option<Option<Refused<'_>>> {
        let entry = self.refused.get(before)?;
        (entry.place as usize == place).then(|| self.check_again(entry, before))
    }

    fn check_again(&self, entry: &RefusedEntry, before: usize) -> Option<Refused<'_>> {
        if entry.too_long > 0 {
            let status = status::transaction_too_long(entry.too_long as usize);
            return Some(Refused { id: "", status });
        }
        let previous = before.checked_sub(1).and_then(|before| self.refused.get(before));
        let from = previous.map_or(0, |previous| previous.end as usize);
        let bytes = self.refused_bytes.get(from..entry.end as usize)?;
        let transaction = wire::read_with(self.read, bytes).ok()?;
        let refusal = decode::check(&transaction, &self.scope, |_, _| ()).err()?;
        Some(Refused {
            id: transaction.id.as_str(),
            status: refusal.into(),
        })
    }

    /// Adds a transaction with invalid fields as the next transaction of the client.
    fn refuse(&mut self, bytes: &[u8], too_long: usize, answer_bytes: usize) {
        self.answer_bytes += answer_bytes;
        self.refused_bytes.extend_from_slice(bytes);
        // A message has at most 16 MiB and 8192 transactions, so these numbers fit.
        let number = |number| u32::try_from(number).unwrap_or(u32::MAX);
        self.refused.push(RefusedEntry {
            place: number(self.count),
            end: number(self.refused_bytes.len()),
            too_long: number(too_long),
        });
        self.count += 1;
    }
}

// ===== impl Transactions =====

impl Transactions {
    /// Returns an empty collection. `batch` receives the valid transactions, and `read` reads each transaction. A transaction that
    /// names an id outside of `scope` is refused.
    pub(crate) fn new(batch: TransactionBatch, read: ReadTransaction, scope: Scope) -> Self {
        Transactions {
            batch,
            places: Places {
                count: 0,
                read,
                scope,
                refused: Vec::new(),
                refused_bytes: Vec::new(),
                answer_bytes: 0,
            },
            detail_bytes: 0,
        }
    }

    /// Reads and checks a transaction, and adds it.
    ///
    /// # Errors
    /// [`WireError`] if the bytes are not a transaction. In this case, nothing is added.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        let mut transaction = WireTransaction::default();
        (self.places.read)(bytes, &mut transaction)?;
        match decode::push_transaction(&mut self.batch, &transaction, &self.places.scope) {
            Ok(()) => {
                self.places.count += 1;
                self.detail_bytes += answer_memory::detail_bytes(&transaction);
            }
            Err(refusal) => {
                let answer_bytes = RESULT_BYTES_MAX + transaction.id.as_str().len() + refusal.bytes();
                self.places.refuse(bytes, 0, answer_bytes);
            }
        }
        Ok(())
    }

    /// Charges the batch with the reservation for [`Transactions::held_bytes`].
    pub(crate) fn hold(&mut self, reservation: Reservation) {
        self.batch.hold_charge(AnswerMemory::charge(reservation));
    }

    /// Returns the memory of the transactions, of their outcomes and of their answer, in bytes. This memory is reserved
    /// before the execution, because the service must be able to answer every executed transaction.
    pub(crate) fn held_bytes(&self) -> usize {
        let each = size_of::<Outcome>() + RESULT_BYTES_MAX;
        self.batch.memory_bytes()
            + self.batch.len() * each
            + self.detail_bytes
            + self.places.refused_bytes.capacity()
            + self.places.refused.capacity() * size_of::<RefusedEntry>()
            + self.places.answer_bytes
    }
}

// ===== impl BulkReader =====

impl BulkReader {
    /// Begins a request. `batch` receives the valid transactions. `scope` is what the client may touch.
    pub(crate) fn new(batch: TransactionBatch, scope: Scope) -> Self {
        BulkReader {
            transactions: Transactions::new(batch, wire::nested_transaction, scope),
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
            if transactions.places.count >= TRANSACTIONS_MAX {
                return Err(transaction_count(&format!("at least {}", TRANSACTIONS_MAX + 1)));
            }
            match found {
                Found::Transaction(bytes) => transactions.push(bytes)?,
                Found::TooLong(length) => transactions.places.refuse(&[], length, RESULT_BYTES_MAX),
            }
            Ok(())
        })
    }

    /// Returns the memory that the reader holds, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.transactions.held_bytes() + self.splitter.held_bytes()
    }

    /// Returns the transactions. Call this function when the message is complete.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if the message has no transactions.
    pub(crate) fn finish(self) -> Result<Transactions, Status> {
        if self.transactions.places.count == 0 {
            return Err(transaction_count("0"));
        }
        Ok(self.transactions)
    }
}

/// Removes the balances of accounts outside of `scope`. A caller whose token has a prefix can change such an account only by posting a
/// hold or reversing a transaction that an unrestricted caller has made.
pub(crate) fn leave_out_foreign(processed: &mut Processed, scope: &Scope) {
    if scope.prefix().is_some() {
        for detail in &mut processed.details {
            detail.balances.retain(|id| scope.contains(id.as_bytes()));
        }
    }
}

/// Whether the balances after a repeated transaction must be read from the journal.
pub(crate) fn has_past_balances(processed: &Processed) -> bool {
    let mut details = processed.details.iter();
    details.any(|detail| matches!(detail.balances, BalancesAfter::Past(_)))
}

fn transaction_count(count: &str) -> Status {
    let description = format!("has {count} transactions, 1 to {TRANSACTIONS_MAX} are allowed");
    status::invalid_field("transactions", description)
}
