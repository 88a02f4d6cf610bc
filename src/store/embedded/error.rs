//! Errors of the embedded store.

use thiserror::Error;

use tally_journal::{BlockStamp, JournalError, Position};
use tally_ledger::{Malformed, ReplayError};

/// Why a record could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The record is in a block that is not durable yet. Retry when the block is durable.
    #[error("the block at {0} is not durable yet")]
    NotYetDurable(Position),
    /// The read was ended early, because nobody waits for it any more.
    #[error("nobody waits for the read any more")]
    Cancelled,
    /// The journal could not be read.
    #[error(transparent)]
    Store(#[from] JournalError),
    /// The bytes at the position are not a record, or not the record that was expected.
    #[error("the record at {position}: {source}")]
    Malformed {
        /// The position of the record.
        position: Position,
        /// Names the value that was expected.
        source: Malformed,
    },
}

// ===== impl RecordError =====

impl RecordError {
    /// Returns the position of the damage if the journal is damaged. Returns `None` if the error has another cause,
    /// such as a failing disk.
    #[must_use]
    pub const fn damage(&self) -> Option<Position> {
        match self {
            RecordError::Malformed { position, .. }
            | RecordError::Store(JournalError::ReadPastEnd { position, .. }) => Some(*position),
            RecordError::Store(JournalError::Corrupt(corruption)) => Some(corruption.position),
            RecordError::Store(_) | RecordError::NotYetDurable(_) | RecordError::Cancelled => None,
        }
    }
}

/// Why a data directory could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A file of the directory could not be read or written, is damaged, or has another format version.
    #[error(transparent)]
    Store(#[from] JournalError),
    /// The maximum size of a block, which was set when the directory was made, is too small for the largest request.
    #[error("the data directory has blocks of at most {found} bytes, at least {minimum} are needed")]
    BlockTooSmall {
        /// The maximum size of the directory's blocks, in bytes.
        found: u32,
        /// The maximum size that is needed, in bytes.
        minimum: u32,
    },
    /// The checkpoint contains a change by a record that the journal does not contain.
    #[error(
        "the checkpoint contains changes of the record at {found}, but the journal ends at {end}: the checkpoint and the \
         journal are from different backups"
    )]
    CheckpointAhead {
        /// The position of the last record that changed an account of the checkpoint.
        found: Position,
        /// The end of the journal.
        end: Position,
    },
    /// A record can't be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A block contradicts the blocks before it, or a record contradicts the records before it.
    #[error(transparent)]
    Block(FollowError),
}

/// Why a block can't follow the blocks that were applied before it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FollowError {
    /// A record can't be decoded.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The block was written by another writer or in another term than the blocks before it, without a claim.
    #[error("block {block_sequence} is {found}, which can't follow {last}")]
    Stamp {
        /// The number of the block.
        block_sequence: u64,
        /// Who wrote the block.
        found: BlockStamp,
        /// Who wrote the block before it.
        last: BlockStamp,
    },
    /// A record contradicts the records before it. For example, it posts to an account that does not exist.
    #[error("block {block_sequence}, entry {entry}: {source}")]
    Replay {
        /// The number of the block.
        block_sequence: u64,
        /// The number of the record.
        entry: u64,
        /// The contradiction.
        source: ReplayError,
    },
    /// A number in the header of a block contradicts the blocks before it or the records in the block.
    #[error("block {block_sequence}: {field} is {found}, but must be {expected}")]
    Order {
        /// The number of the block.
        block_sequence: u64,
        /// The name of the field.
        field: &'static str,
        /// The value of the field.
        found: u64,
        /// The value that the field must have.
        expected: u64,
    },
}

// ===== impl OpenError =====

impl From<FollowError> for OpenError {
    fn from(error: FollowError) -> Self {
        match error {
            FollowError::Record(error) => OpenError::Record(error),
            error @ (FollowError::Stamp { .. } | FollowError::Replay { .. } | FollowError::Order { .. }) => {
                OpenError::Block(error)
            }
        }
    }
}
