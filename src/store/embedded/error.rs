//! Errors of the embedded store.

use thiserror::Error;

use tally_journal::{JournalError, Position};
use tally_ledger::{Malformed, ReplayError};

/// Why a record could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The record is in a block that is not durable yet. Retry when the block is durable.
    #[error("the block at {0} is not durable yet")]
    NotYetDurable(Position),
    /// The journal could not be read.
    #[error(transparent)]
    Store(#[from] JournalError),
    /// The bytes at the position are not the record that was written there.
    #[error("the record at {position}: {source}")]
    Malformed {
        /// The position of the record.
        position: Position,
        /// The value that was expected.
        source: Malformed,
    },
}

// ===== impl RecordError =====

impl RecordError {
    /// The position of the damage, if the journal is damaged. `None` if the error has another cause, such as a failing disk.
    #[must_use]
    pub const fn damage(&self) -> Option<Position> {
        match self {
            RecordError::Malformed { position, .. }
            | RecordError::Store(JournalError::ReadPastEnd { position, .. }) => Some(*position),
            RecordError::Store(JournalError::Corrupt(corruption)) => Some(corruption.position),
            RecordError::Store(_) | RecordError::NotYetDurable(_) => None,
        }
    }
}

/// Why a data directory could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The directory, the journal, a checkpoint or an id file.
    #[error(transparent)]
    Store(#[from] JournalError),
    /// The directory was made for blocks that are too small for the largest request.
    #[error("the data directory has blocks of at most {found} bytes, at least {minimum} are needed")]
    BlockTooSmall {
        /// The maximum size of the directory's blocks, in bytes.
        found: u32,
        /// The size that is needed, in bytes.
        minimum: u32,
    },
    /// An account of the checkpoint was changed by a record that the journal does not contain.
    #[error(
        "the checkpoint contains changes of record {found}, but the next record of the journal has number {next}: they are \
         from different backups"
    )]
    CheckpointAhead {
        /// The number of the last record that changed an account of the checkpoint.
        found: u64,
        /// The number of the next record.
        next: u64,
    },
    /// A record can't be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A record does not follow from the records before it.
    #[error("block {block_sequence}, entry {entry}: {source}")]
    Replay {
        /// The number of the block.
        block_sequence: u64,
        /// The number of the record.
        entry: u64,
        /// Why the record does not follow.
        source: ReplayError,
    },
    /// A block does not continue where the block before it ends.
    #[error("block {block_sequence}: {field} is {found}, but {expected} follows from the block before it")]
    Order {
        /// The number of the block.
        block_sequence: u64,
        /// The field of the block's header.
        field: &'static str,
        /// The value in the header.
        found: u64,
        /// The value that follows from the block before.
        expected: u64,
    },
}
