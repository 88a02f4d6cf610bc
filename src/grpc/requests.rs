//! Many transactions of a request or of a stream, on their way into one batch.

use tonic::Status;

use super::{
    convert::{self, Refusal},
    framing::{Piece, malformed},
    status,
    wire::{self, TopLevel, WireError, WireTransaction},
};
use crate::engine::{TRANSACTIONS_MAX, TransactionBatch};

/// A transaction that was refused before it was queued.
#[derive(Debug)]
pub(super) struct Refused {
    /// Its place among those it was sent with.
    pub(super) place: usize,
    /// Its id, as sent.
    pub(super) id: String,
    /// Why.
    pub(super) status: Status,
}

/// Transactions in the order in which they were sent: those that are well-formed, and what was wrong with the others.
#[derive(Debug)]
pub(super) struct Transactions {
    pub(super) batch: TransactionBatch,
    /// In the order of their places.
    pub(super) refused: Vec<Refused>,
    /// How many were sent. Those beyond [`TRANSACTIONS_MAX`] are counted and not kept.
    pub(super) count: usize,
}

/// Reads a `ProcessTransactionsRequest` while it arrives. Transactions are read where they are; only those that are spread
/// over several pieces are copied together.
#[derive(Debug)]
pub(super) struct BulkReader {
    transactions: Transactions,
    /// The start of a field that has not arrived as a whole.
    carry: Vec<u8>,
    /// It makes no sense to look at `carry` before it has so many bytes.
    needed: usize,
}

// ===== impl Transactions =====

impl Transactions {
    /// None yet.
    pub(super) const fn new(batch: TransactionBatch) -> Self {
        Transactions {
            batch,
            refused: Vec::new(),
            count: 0,
        }
    }

    /// Checks a transaction and adds it.
    pub(super) fn push(&mut self, transaction: &WireTransaction<'_>) {
        let place = self.count;
        self.count += 1;
        if place >= TRANSACTIONS_MAX {
            return;
        }
        if let Err(refusal) = convert::push_transaction(&mut self.batch, transaction) {
            self.refused.push(Refused {
                place,
                id: transaction.id.as_str().to_owned(),
                status: refused(refusal),
            });
        }
    }

    /// Adds the transaction of a stream's message.
    ///
    /// # Errors
    /// INTERNAL if the message is malformed.
    pub(super) fn push_message(&mut self, message: &[u8]) -> Result<(), Status> {
        self.push(&wire::stream_message(message).map_err(malformed)?);
        Ok(())
    }
}

// ===== impl BulkReader =====

impl BulkReader {
    /// Fills `batch`.
    pub(super) const fn new(batch: TransactionBatch) -> Self {
        BulkReader {
            transactions: Transactions::new(batch),
            carry: Vec::new(),
            needed: 0,
        }
    }

    /// Reads what has arrived.
    ///
    /// # Errors
    /// INTERNAL if the message is malformed.
    pub(super) fn read(&mut self, piece: &Piece) -> Result<(), Status> {
        self.read_bytes(&piece.bytes, piece.to_come).map_err(malformed)
    }

    /// All of them, once the message is whole.
    pub(super) fn finish(self) -> Transactions {
        self.transactions
    }

    fn read_bytes(&mut self, piece: &[u8], to_come: usize) -> Result<(), WireError> {
        let mut piece = self.read_carried(piece, to_come)?;
        while !piece.is_empty() {
            let read = match wire::top_level(piece, piece.len() + to_come)? {
                TopLevel::Transaction(bytes, read) => {
                    self.transactions.push(&wire::nested_transaction(bytes)?);
                    read
                }
                TopLevel::Skipped(read) => read,
                TopLevel::Needs(needed) => {
                    self.needed = needed;
                    self.carry.extend_from_slice(piece);
                    return Ok(());
                }
            };
            piece = piece.get(read..).unwrap_or_default();
        }
        Ok(())
    }

    /// Completes the field that an earlier piece began, and returns what is behind it.
    fn read_carried<'a>(&mut self, piece: &'a [u8], to_come: usize) -> Result<&'a [u8], WireError> {
        let mut piece = piece;
        while !self.carry.is_empty() {
            let missing = self.needed.saturating_sub(self.carry.len()).min(piece.len());
            let (part, rest) = piece.split_at(missing);
            self.carry.extend_from_slice(part);
            piece = rest;
            if self.carry.len() < self.needed {
                break;
            }
            let left = self.carry.len() + piece.len() + to_come;
            let read = match wire::top_level(&self.carry, left)? {
                TopLevel::Transaction(bytes, read) => {
                    self.transactions.push(&wire::nested_transaction(bytes)?);
                    read
                }
                TopLevel::Skipped(read) => read,
                TopLevel::Needs(needed) => {
                    self.needed = needed;
                    continue;
                }
            };
            self.carry.drain(..read.min(self.carry.len()));
            self.needed = 0;
        }
        Ok(piece)
    }
}

/// The status of a refusal.
pub(super) fn refused(refusal: Refusal) -> Status {
    match refusal {
        Refusal::Invalid(violations) => status::invalid(violations),
        Refusal::PhaseNotSupported(phase) => status::phase_not_supported(phase),
    }
}
