//! The interface between the commit pipeline and the log in which blocks become durable.
//!
//! [`EmbeddedLog`] writes and syncs a block before it returns. A replicated log returns [`Submitted::Pending`], takes up to
//! [`BlockLog::depth`] blocks, and reports later, in order, how far they are durable.

use std::{
    fmt::Debug,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tally_journal::{DataDirectory, JournalError, JournalWriter};
use thiserror::Error;

use crate::store::embedded::{DurablePoint, SealedBlock};

/// A log of blocks. Its blocks become durable in the order in which they were submitted.
pub trait BlockLog: Debug + Send {
    /// The number of blocks that may be in flight at a time, at least 1. It does not change.
    fn depth(&self) -> usize;

    /// Appends `block`, which follows the block that was submitted before. The log copies what it needs after it returns.
    ///
    /// # Errors
    /// [`LogFault`]. The caller submits nothing more: what is durable beyond the last reported point is unknown.
    fn submit(&mut self, block: &mut SealedBlock) -> Result<Submitted, LogFault>;

    /// Reports that more blocks are durable. The caller polls after a block was [pending](Submitted::Pending) and whenever
    /// the waker of `context` was called.
    ///
    /// # Errors
    /// [`LogFault`], as for [`BlockLog::submit`].
    fn poll_durable(&mut self, context: &mut Context<'_>) -> Poll<Result<Commit, LogFault>>;

    /// Marks that the log ends here, after an orderly stop. No block is submitted afterwards.
    ///
    /// # Errors
    /// [`LogFault`] if the mark could not be written. The next start is then the same as after a crash.
    fn finish(&mut self) -> Result<(), LogFault>;
}

/// The result of submitting a block.
#[derive(Debug, Clone, Copy)]
pub enum Submitted {
    /// The block is durable.
    Durable(Commit),
    /// [`BlockLog::poll_durable`] will report the block.
    Pending,
}

/// How far the log is durable, and how long that took.
#[derive(Debug, Clone, Copy)]
pub struct Commit {
    /// Every block before this point is durable.
    pub durable: DurablePoint,
    /// The time from the submission of the last of these blocks until it was durable.
    pub latency: Duration,
}

/// Why a log takes no more blocks.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LogFault {
    /// A write or a sync failed.
    #[error(transparent)]
    Failed(#[from] JournalError),
}

/// The journal of the data directory. One block is in flight at a time: [`EmbeddedLog::submit`] returns when it is durable.
#[derive(Debug)]
pub struct EmbeddedLog {
    writer: JournalWriter,
    /// Holds the directory's lock until the last block is written.
    _directory: Arc<DataDirectory>,
}

// ===== impl EmbeddedLog =====

impl EmbeddedLog {
    /// A log that appends with `writer` to the journal in `directory`.
    #[must_use]
    pub const fn new(writer: JournalWriter, directory: Arc<DataDirectory>) -> Self {
        EmbeddedLog {
            writer,
            _directory: directory,
        }
    }
}

impl BlockLog for EmbeddedLog {
    fn depth(&self) -> usize {
        1
    }

    fn submit(&mut self, block: &mut SealedBlock) -> Result<Submitted, LogFault> {
        let receipt = self.writer.append(&block.meta, &mut block.buffer)?;
        Ok(Submitted::Durable(Commit {
            durable: DurablePoint::after(&receipt, block),
            latency: receipt.write_duration + receipt.sync_duration,
        }))
    }

    fn poll_durable(&mut self, _: &mut Context<'_>) -> Poll<Result<Commit, LogFault>> {
        Poll::Pending
    }

    fn finish(&mut self) -> Result<(), LogFault> {
        Ok(self.writer.finish()?)
    }
}
