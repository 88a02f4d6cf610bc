//! What can go wrong with the embedded store.

use thiserror::Error;

use crate::{
    ledger::{Malformed, ReplayError},
    store::journal::{JournalError, Position},
};

/// Why a transaction could not be processed, or a record not read back.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BookError {
    /// The answer is in a block that is on its way to the disk. Ask again when it is durable.
    #[error("the block at {0} is not durable yet")]
    NotYetDurable(Position),
    /// The journal could not be read.
    #[error(transparent)]
    Store(#[from] JournalError),
    /// What stands there is not the record that was written there.
    #[error("the record at {position}: {source}")]
    Malformed {
        /// Where.
        position: Position,
        /// What was expected.
        source: Malformed,
    },
}

// ===== impl BookError =====

impl BookError {
    /// Where the journal is damaged, if that is what the error is about, and not a disk that could not be asked.
    #[must_use]
    pub const fn damage(&self) -> Option<Position> {
        match self {
            BookError::Malformed { position, .. }
            | BookError::Store(JournalError::ReadPastEnd { position, .. }) => Some(*position),
            BookError::Store(JournalError::Corrupt(corruption)) => Some(corruption.position),
            BookError::Store(_) | BookError::NotYetDurable(_) => None,
        }
    }
}

/// Why a data directory could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The directory, the journal or a checkpoint.
    #[error(transparent)]
    Store(#[from] JournalError),
    /// The directory was made for smaller blocks than the largest request needs.
    #[error("the data directory has blocks of at most {found} bytes, at least {minimum} are needed")]
    BlockTooSmall {
        /// What it was made with.
        found: u32,
        /// What is needed.
        minimum: u32,
    },
    /// A record can't be read.
    #[error(transparent)]
    Book(#[from] BookError),
    /// A record does not follow from those before it.
    #[error("block {block_sequence}, entry {entry}: {source}")]
    Replay {
        /// The block.
        block_sequence: u64,
        /// The entry.
        entry: u64,
        /// What is wrong.
        source: ReplayError,
    },
    /// A block does not go on where the one before it ended.
    #[error("block {block_sequence}: {field} is {found}, the block before it calls for {expected}")]
    Order {
        /// The block.
        block_sequence: u64,
        /// Which number.
        field: &'static str,
        /// What the block says.
        found: u64,
        /// What it should say.
        expected: u64,
    },
}
