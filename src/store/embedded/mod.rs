//! The embedded store: the ledger in memory, its history in the journal.
//!
//! - [`Book`] is EXEC's half: it processes transactions, fills the open block, and finds earlier transactions by id.
//! - [`open`] makes a book from the newest checkpoint and the blocks after it.
//! - [`checkpoint`] and [`id_files`] are what AUX writes, so that opening takes seconds and not hours.
//!
//! The journal is the truth; everything else here can be made from it again.

mod book;
pub mod checkpoint;
mod error;
pub mod id_files;
mod open;
mod recall;
mod verify;

pub use book::{Book, Candidates, SealedBlock};
pub use error::{BookError, OpenError};
pub use open::{BLOCK_BYTES_MIN, OpenStore, RecoveryReport, StoreConfig, open};
pub use recall::{FoundTransaction, RecordReader};
pub use verify::{DIFFERENCES_MAX, VerifyReport, verify};

use crate::{
    ledger::Timestamp,
    store::journal::{AppendReceipt, ChainPoint},
};

/// Where the global order stands: what the next entry, transaction and block are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderPoint {
    /// The number of the next journal entry, from 1.
    pub next_entry: u64,
    /// The sequence of the next committed transaction, from 1.
    pub next_sequence: u64,
    /// The last time that was given out. Every later one is later, whatever the clock says.
    pub last_time: Timestamp,
}

impl OrderPoint {
    /// Before the first entry.
    pub const START: OrderPoint = OrderPoint {
        next_entry: 1,
        next_sequence: 1,
        last_time: Timestamp::from_nanos(0),
    };
}

/// A boundary between two blocks, up to which everything is durable. Only what made it so makes one: opening the store, or
/// the receipt of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DurablePoint {
    /// Where the journal goes on.
    chain: ChainPoint,
    /// Where the order goes on.
    order: OrderPoint,
}

// ===== impl DurablePoint =====

impl DurablePoint {
    /// Behind `block`, which was appended.
    ///
    /// # Panics
    /// When the journal gave the block another number than [`Book`] did: answers would be given that wait for another block.
    #[must_use]
    pub fn after(receipt: &AppendReceipt, block: &SealedBlock) -> Self {
        assert_eq!(
            receipt.block_sequence, block.sequence,
            "the journal and the book number blocks differently"
        );
        DurablePoint {
            chain: receipt.end,
            order: block.end,
        }
    }

    /// Where the journal goes on.
    #[must_use]
    pub const fn chain(&self) -> ChainPoint {
        self.chain
    }

    /// Whether a block is durable, and with it all before it. Number 0, before the first block, always is.
    #[must_use]
    pub const fn covers(&self, block: u64) -> bool {
        block < self.chain.block_sequence
    }
}
