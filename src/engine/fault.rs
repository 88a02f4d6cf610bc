//! Faults of the engine: technical reasons why a command has no result. The rejection of a transaction is an outcome
//! and not a fault.

use tally_batch::BatchError;
use tally_breaker::Rejection;
use tally_journal::Position;
use tally_ledger::Outcome;
use thiserror::Error;
use tokio::time::Instant;

use super::counters::{EngineCounters, FoundBy};
use crate::{mutation::planted, store::embedded::RecordError};

/// Why a command has no result.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The circuit breaker did not admit the command. It was not executed.
    #[error("the circuit is open")]
    CircuitOpen(Rejection),
    /// The queue was full, the deadline passed, the service stops, or an earlier request of the sequence was not
    /// executed.
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
    /// A write or a sync of the journal failed after the command, or a part of the command, was executed. Whether the
    /// effects are durable is unknown.
    #[error(
        "the journal could not be written; whether the transaction is durable is unknown until the next start"
    )]
    WriteFailed,
    /// The journal had failed before the command was executed. Nothing is executed until the next start.
    #[error("the journal has failed; nothing is executed until the next start of the service")]
    Failed,
    /// The disk has no space for the next segment of the journal. Nothing has failed: commands are executed again when
    /// there is space.
    #[error("the disk has no space for more of the journal; {}", disk_full_part(*.executed_part))]
    DiskFull {
        /// Whether a part of the command was executed: some transactions of a batch.
        executed_part: bool,
    },
    /// Another replica leads, or no replica leads. The command was not executed.
    #[error("this replica does not lead")]
    NotLeader,
    /// A record of the journal could not be read: the disk reported an error.
    #[error("a record of the journal could not be read")]
    ReadFailed,
    /// A record of the journal, or the block that contains the record, is damaged or missing. The content is unknown.
    #[error(
        "the journal is damaged at segment {segment}, offset {offset}; the record there is unknown until the data is \
         restored from a backup"
    )]
    Damaged {
        /// The number of the segment.
        segment: u32,
        /// The offset in the file of the segment, in bytes.
        offset: u32,
    },
}

// ===== impl StoreFault =====

impl StoreFault {
    /// Returns the fault for an `error` that occurred while a record was read from the journal. Counts the damage if
    /// there is any. Logs the error at most every 10 s, because a client can read a damaged record again and again.
    pub(super) fn from_read_error(error: &RecordError, counters: &EngineCounters) -> Self {
        if let Some(omitted) = counters.read_errors.admit(Instant::now()) {
            tracing::error!(%error, omitted, "a record of the journal could not be read for a call");
        }
        match error.damage() {
            Some(position) => {
                counters.damage(FoundBy::Call);
                StoreFault::damaged_at(position)
            }
            None => StoreFault::ReadFailed,
        }
    }

    /// Returns the fault for a damaged record at `position`.
    #[must_use]
    pub const fn damaged_at(position: Position) -> Self {
        StoreFault::Damaged {
            segment: position.segment(),
            offset: position.offset(),
        }
    }

    /// Returns the fault of a command whose earlier transactions have these `outcomes`. A transaction whose id was known
    /// was not executed by this command.
    pub(super) fn after(self, outcomes: &[Outcome]) -> Self {
        let is_executed = |outcome: &Outcome| {
            matches!(
                outcome,
                Outcome::Committed { replayed: false, .. } | Outcome::Rejected { replayed: false, .. }
            )
        };
        if outcomes.iter().any(is_executed) {
            self.after_partial_execution()
        } else {
            self
        }
    }

    /// Returns the fault for a command of which a part was already executed. [`StoreFault::Failed`] and [`StoreFault::NotLeader`] mean that
    /// nothing was executed, so this method turns them into [`StoreFault::WriteFailed`]; [`StoreFault::DiskFull`] says itself
    /// whether a part was executed.
    #[must_use]
    pub const fn after_partial_execution(self) -> Self {
        match self {
            StoreFault::Failed | StoreFault::WriteFailed | StoreFault::NotLeader => StoreFault::WriteFailed,
            StoreFault::DiskFull { .. } => StoreFault::DiskFull { executed_part: true },
            StoreFault::ReadFailed | StoreFault::Damaged { .. } => self,
        }
    }
}

const fn disk_full_part(executed_part: bool) -> &'static str {
    if executed_part {
        "some of the transactions were executed: repeat the call to learn which"
    } else {
        "nothing was executed"
    }
}

// ===== impl EngineError =====

impl EngineError {
    /// Returns whether it is certain that no part of the command was executed.
    #[must_use]
    pub fn is_not_executed(&self) -> bool {
        match self {
            EngineError::CircuitOpen(_) => true,
            EngineError::Batch(error) => error.is_not_executed(),
            EngineError::Store(fault) => match fault {
                // `ReadFailed` and `Damaged` mean that one transaction of the request needed a record that could not be
                // read. The earlier transactions of the request may be committed.
                StoreFault::ReadFailed | StoreFault::Damaged { .. } => false,
                StoreFault::WriteFailed => planted("failed_write_not_executed"),
                StoreFault::Failed | StoreFault::NotLeader => true,
                StoreFault::DiskFull { executed_part } => !executed_part,
            },
        }
    }
}
