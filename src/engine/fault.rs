//! Faults of the engine. The rejection of a transaction is not a fault, but an outcome.

use tally_batch::BatchError;
use tally_breaker::Rejection;
use tally_journal::Position;
use thiserror::Error;

use super::counters::{EngineCounters, FoundBy};
use crate::store::embedded::RecordError;

/// Why a command has no result.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The circuit breaker did not admit the command. It was not executed.
    #[error("the circuit is open")]
    CircuitOpen(Rejection),
    /// The queue was full, the deadline passed, or the service stops.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The store has a fault.
    #[error(transparent)]
    Store(#[from] StoreFault),
}

/// A fault of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StoreFault {
    /// A write or a sync of the journal failed after the command, or a part of it, was executed. Whether it is durable is
    /// unknown.
    #[error(
        "the journal could not be written; whether the transaction is durable is unknown until the next start"
    )]
    WriteFailed,
    /// The journal had failed before the command was executed. Nothing is executed until the next start.
    #[error("the journal has failed; nothing is executed until the next start of the service")]
    Failed,
    /// A record of the journal could not be read: the disk reported an error.
    #[error("a record of the journal could not be read")]
    ReadFailed,
    /// A record of the journal, or its block, is damaged or missing. Its content is unknown.
    #[error(
        "the journal is damaged at segment {segment}, offset {offset}; the record there is unknown until the data is \
         restored from a backup"
    )]
    Damaged {
        /// The number of the segment.
        segment: u32,
        /// The offset in its file, in bytes.
        offset: u32,
    },
}

// ===== impl StoreFault =====

impl StoreFault {
    /// Returns the fault of an `error` while a record was read back. Logs the error, and counts damage.
    pub(super) fn from_read_error(error: &RecordError, counters: &EngineCounters) -> Self {
        tracing::error!(%error, "a record could not be read back");
        match error.damage() {
            Some(position) => {
                counters.damage(FoundBy::Call);
                StoreFault::damaged_at(position)
            }
            None => StoreFault::ReadFailed,
        }
    }

    /// Returns the fault of a damaged record at `position`.
    #[must_use]
    pub const fn damaged_at(position: Position) -> Self {
        StoreFault::Damaged {
            segment: position.segment(),
            offset: position.offset(),
        }
    }

    /// Returns the fault of a command of which a part was executed. Its error must not say that nothing was executed.
    #[must_use]
    pub const fn after_partial_execution(self) -> Self {
        match self {
            StoreFault::Failed | StoreFault::WriteFailed => StoreFault::WriteFailed,
            StoreFault::ReadFailed | StoreFault::Damaged { .. } => self,
        }
    }
}

// ===== impl EngineError =====

impl EngineError {
    /// Whether it is certain that the command was not executed.
    #[must_use]
    pub const fn is_not_executed(&self) -> bool {
        match self {
            EngineError::CircuitOpen(_) => true,
            EngineError::Batch(error) => error.is_not_executed(),
            EngineError::Store(fault) => match fault {
                // The transactions of a request before the one whose record could not be read may be committed.
                StoreFault::WriteFailed | StoreFault::ReadFailed | StoreFault::Damaged { .. } => false,
                StoreFault::Failed => true,
            },
        }
    }
}
