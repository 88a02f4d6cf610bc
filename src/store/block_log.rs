//! The interface between the commit pipeline and the log in which blocks become durable.
//!
//! There are two kinds of log. [`EmbeddedLog`] writes and syncs a block before [`BlockLog::submit`] returns. A
//! replicated log can return [`Submitted::Pending`], accept up to [`BlockLog::depth`] blocks that are not durable yet,
//! and report later up to which point the blocks are durable.

use std::{
    fmt::Debug,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tally_journal::{BlockStamp, DataDirectory, JournalError, JournalWriter};
use thiserror::Error;

use crate::store::{
    embedded::{DurablePoint, SealedBlock},
    replicated::fault::ReplicaFault,
};

/// A log of blocks. Its blocks become durable in the order in which they were submitted.
pub trait BlockLog: Debug + Send {
    /// Returns the maximum number of blocks in flight, at least 1. The number never changes.
    fn depth(&self) -> usize;

    /// Appends `block`, the successor of the block that was submitted last. The log must not refer to `block` after
    /// `submit` has returned; a log that needs the bytes later copies them.
    ///
    /// # Errors
    /// [`LogFault`] if the append failed. The caller must submit no more blocks, because it is unknown which blocks
    /// after the last reported point are durable.
    fn submit(&mut self, block: &mut SealedBlock) -> Result<Submitted, LogFault>;

    /// Reports that more blocks are durable, or returns [`Poll::Pending`]. The caller polls after `submit` has returned
    /// [`Submitted::Pending`], and each time the waker of `context` is called.
    ///
    /// # Errors
    /// [`LogFault`], as for [`BlockLog::submit`].
    fn poll_durable(&mut self, context: &mut Context<'_>) -> Poll<Result<Commit, LogFault>>;

    /// Marks a clean stop at the end of the log. The caller submits no block afterwards.
    ///
    /// # Errors
    /// [`LogFault`] if the marker could not be written. In this case, the next start recovers the log as after a crash.
    fn finish(&mut self) -> Result<(), LogFault>;
}

/// The result of submitting a block.
#[derive(Debug, Clone, Copy)]
pub enum Submitted {
    /// The block is durable.
    Durable(Commit),
    /// The block is not durable yet. [`BlockLog::poll_durable`] will report when it is durable.
    Pending,
}

/// The report of a log that more blocks are durable.
#[derive(Debug, Clone, Copy)]
pub struct Commit {
    /// Every block before this point is durable.
    pub durable: DurablePoint,
    /// The time from the submission of the last of these blocks until it was durable.
    pub latency: Duration,
}

/// Why a log accepts no more blocks.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LogFault {
    /// A write or a sync failed.
    #[error(transparent)]
    Failed(#[from] JournalError),
    /// The replicated log will not accept the blocks in flight.
    #[error(transparent)]
    Replica(#[from] ReplicaFault),
}

/// A log that appends blocks to the journal of the data directory. One block is in flight at a time:
/// [`EmbeddedLog::submit`] returns when the block is durable.
#[derive(Debug)]
pub struct EmbeddedLog {
    writer: JournalWriter,
    /// Holds the directory's lock until the last block is written.
    directory: Arc<DataDirectory>,
}

// ===== impl EmbeddedLog =====

impl EmbeddedLog {
    /// Makes a log that uses `writer` to append to the journal in `directory`.
    #[must_use]
    pub const fn new(writer: JournalWriter, directory: Arc<DataDirectory>) -> Self {
        EmbeddedLog { writer, directory }
    }

    /// Returns the writer of the journal, and the directory of the journal.
    #[must_use]
    pub fn into_parts(self) -> (JournalWriter, Arc<DataDirectory>) {
        (self.writer, self.directory)
    }
}

impl BlockLog for EmbeddedLog {
    fn depth(&self) -> usize {
        1
    }

    fn submit(&mut self, block: &mut SealedBlock) -> Result<Submitted, LogFault> {
        assert_eq!(
            block.stamp,
            BlockStamp::default(),
            "an embedded store appends only blocks of its own"
        );
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
