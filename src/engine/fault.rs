//! Faults of the engine, as opposed to outcomes of transactions.

use thiserror::Error;

use super::counters::{EngineCounters, FoundBy};
use crate::{
    batch::BatchError,
    breaker::Rejection,
    store::{embedded::RecordError, journal::Position},
};

/// Why a command was not answered. Business refusals are not here: they are outcomes.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The circuit breaker did not let it through. Not executed.
    #[error("the circuit is open")]
    CircuitOpen(Rejection),
    /// The queue, the deadline, or the shutdown.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreFault),
}

/// What the store did to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StoreFault {
    /// A write or a sync of the journal failed while the command was being executed: it, or a part of it, may or may not be
    /// durable.
    #[error(
        "the journal could not be written; whether the transaction is durable is unknown until the next start"
    )]
    WriteFailed,
    /// The journal had failed before the command was looked at, and nothing is executed any more until the next start.
    #[error("the journal has failed; nothing is executed until the service is started again")]
    Failed,
    /// A record of the journal could not be read: the disk reported an error.
    #[error("a record of the journal could not be read")]
    ReadFailed,
    /// A record of the journal, or its block, is damaged or missing. What was recorded there is unknown.
    #[error(
        "the journal is damaged at segment {segment}, offset {offset}; what was recorded there can't be told until the data \
         is restored from a backup"
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
    /// The fault that a record could not be read back. It is logged, and damage is counted.
    pub(super) fn of_reading(error: &RecordError, counters: &EngineCounters) -> Self {
        tracing::error!(%error, "a record could not be read back");
        match error.damage() {
            Some(position) => {
                counters.damage(FoundBy::Call);
                StoreFault::at(position)
            }
            None => StoreFault::ReadFailed,
        }
    }

    /// The fault that the record at `position` is damaged.
    #[must_use]
    pub const fn at(position: Position) -> Self {
        StoreFault::Damaged {
            segment: position.segment(),
            offset: position.offset(),
        }
    }

    /// The same of a command of which a part has been executed.
    #[must_use]
    pub const fn of_a_part(self) -> Self {
        match self {
            StoreFault::Failed | StoreFault::WriteFailed => StoreFault::WriteFailed,
            StoreFault::ReadFailed | StoreFault::Damaged { .. } => self,
        }
    }
}

// ===== impl EngineError =====

impl EngineError {
    /// Whether the command was certainly not executed.
    #[must_use]
    pub const fn is_not_executed(&self) -> bool {
        match self {
            EngineError::CircuitOpen(_) => true,
            EngineError::Batch(error) => error.is_not_executed(),
            EngineError::Store(fault) => match fault {
                // Of a request for many, those before the one that could not be read are committed.
                StoreFault::WriteFailed | StoreFault::ReadFailed | StoreFault::Damaged { .. } => false,
                StoreFault::Failed => true,
            },
        }
    }
}
