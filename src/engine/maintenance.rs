//! The maintenance thread, which has the role AUX. It prepares the next segment of the journal, writes id files and
//! checkpoints, and scrubs the journal. No transaction waits for this work. If the thread can't write id files or
//! checkpoints, the next start takes longer.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crossbeam_utils::sync::{Parker, Unparker};
use futures_executor::block_on;
use tally_batch::{Answer, BatchError, BatchProcessor, ResponseFuture, Submission};
use tally_journal::{ChainPoint, ChunkedFiles, DataDirectory, JournalError, Position, SegmentPreparer};
use tally_ledger::AccountIndex;
use thiserror::Error;

use super::{
    command::{Command, CommandReply},
    fault::{EngineError, StoreFault},
    health::{Condition, Health},
    pending::EngineReply,
    pipeline::CommitPipeline,
    scrubbing::Scrubber,
};
use crate::store::embedded::{
    DurablePoint, RecordError,
    checkpoint::{CHUNK_ACCOUNTS, CheckpointWriter, KEEP},
    id_files::BlockWalk,
};

/// Pause between two rounds of maintenance work.
const INTERVAL: Duration = Duration::from_millis(20);
/// Maximum number of chunks of a checkpoint in flight. A chunk contains a range of accounts, and its answer waits until
/// a block is durable. With one chunk at a time, a checkpoint would have to wait for one block per chunk. With millions
/// of accounts, that would take minutes.
const CHUNKS_IN_FLIGHT_MAX: usize = 32;
/// Before the next checkpoint, the journal grows by at least this multiple of the size of the last checkpoint. The
/// reason is that syncs of the journal sometimes wait for the writes of a checkpoint. Without this rule, checkpoints
/// reduced the throughput by a fifth in a measurement with 10 million accounts.
const CHECKPOINT_INTERVAL_FACTOR: u64 = 4;
/// The maintenance thread requests about one chunk per interval of this length: the number of chunks in flight is the
/// time that the last answer took, divided by this interval. At this rate, EXEC spends less than a tenth of its time on
/// chunks.
const CHUNK_INTERVAL: Duration = Duration::from_millis(1);

/// Stops the maintenance thread.
#[derive(Debug, Clone)]
pub(super) struct Stop {
    stopped: Arc<AtomicBool>,
    unparker: Unparker,
}

/// The state of the maintenance thread.
#[derive(Debug)]
pub(super) struct Maintenance {
    pub(super) batch: BatchProcessor<Command, EngineReply>,
    pub(super) pipeline: Arc<CommitPipeline>,
    pub(super) health: Arc<Health>,
    pub(super) preparer: SegmentPreparer,
    pub(super) walk: BlockWalk,
    pub(super) checkpoints: ChunkedFiles,
    pub(super) id_files: ChunkedFiles,
    pub(super) directory: Arc<DataDirectory>,
    /// A checkpoint is made when the journal has grown by this many bytes, or by [`CHECKPOINT_INTERVAL_FACTOR`] times
    /// the bytes of the last checkpoint if that is more.
    pub(super) checkpoint_bytes: u64,
    /// The size of the last checkpoint that this process wrote, in bytes; 0 before the first.
    pub(super) last_checkpoint_bytes: u64,
    /// The position in the journal from which a start with the newest checkpoint replays blocks.
    pub(super) last_checkpoint: Position,
    /// The number of the first segment that may have no id file yet.
    pub(super) next_id_file: u32,
    pub(super) scrubber: Scrubber,
    pub(super) parker: Parker,
    pub(super) stop: Stop,
}

/// Why a checkpoint was not made.
#[derive(Debug, Error)]
enum CheckpointError {
    #[error(transparent)]
    Store(#[from] JournalError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("EXEC returned a reply that does not belong to the command")]
    UnexpectedReply,
}

// ===== impl Stop =====

impl Stop {
    pub(super) fn new(parker: &Parker) -> Self {
        Stop {
            stopped: Arc::new(AtomicBool::new(false)),
            unparker: parker.unparker().clone(),
        }
    }

    /// Makes [`Maintenance::run`] return soon.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.unparker.unpark();
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

// ===== impl Maintenance =====

impl Maintenance {
    /// Does maintenance work until the thread is stopped.
    pub(super) fn run(mut self) {
        while !self.stop.is_stopped() {
            let durable = self.keep_up();
            self.checkpoint_if_due(&durable);
            self.scrubber.work(&durable.chain());
            self.parker.park_timeout(INTERVAL);
        }
    }

    /// Does the work that can't wait for the end of a long checkpoint. Returns how far the journal is durable.
    fn keep_up(&mut self) -> DurablePoint {
        self.prepare_segment();
        let durable = self.pipeline.progress().durable;
        self.write_id_files(&durable.chain());
        durable
    }

    fn prepare_segment(&mut self) {
        if !self.preparer.is_needed() {
            return;
        }
        if let Err(error) = self.preparer.prepare_next() {
            tracing::warn!(%error, "the next segment could not be prepared; it will be made when the journal reaches it");
            self.pause();
        }
    }

    fn write_id_files(&mut self, durable: &ChainPoint) {
        while self.next_id_file < durable.position.segment() && !self.stop.is_stopped() {
            // After a restore from a backup, many id files may be missing. Commits must not wait for the next segment
            // while this loop writes the files.
            self.prepare_segment();
            match self.write_id_file(durable) {
                Ok(0) => {}
                Ok(ids) => tracing::debug!(segment = self.next_id_file, ids, "wrote an id file"),
                Err(error) if error.damage().is_some() => {
                    // A retry would read the same bytes, so continue with the next segment. The scrub counts the
                    // damage.
                    tracing::error!(%error, segment = self.next_id_file, "the segment is damaged and gets no id file");
                }
                Err(error) => {
                    tracing::warn!(%error, segment = self.next_id_file, "the id file could not be written");
                    self.pause();
                    return;
                }
            }
            self.next_id_file += 1;
        }
    }

    fn write_id_file(&self, durable: &ChainPoint) -> Result<usize, RecordError> {
        let segment = self.walk.full_segment(self.next_id_file, durable)?;
        self.walk.write(&self.id_files, &segment)
    }

    fn checkpoint_if_due(&mut self, durable: &DurablePoint) {
        let segment_bytes = u64::from(self.directory.geometry().segment_bytes());
        let bytes =
            |position: Position| u64::from(position.segment()) * segment_bytes + u64::from(position.offset());
        let grown = bytes(durable.chain().position).saturating_sub(bytes(self.last_checkpoint));
        if grown
            < self.checkpoint_bytes.max(
                self.last_checkpoint_bytes
                    .saturating_mul(CHECKPOINT_INTERVAL_FACTOR),
            )
        {
            return;
        }
        match self.checkpoint(durable) {
            Ok(bytes) => {
                tracing::info!(
                    block = durable.chain().block_sequence,
                    bytes,
                    "wrote a checkpoint"
                );
                self.last_checkpoint = durable.chain().position;
                self.last_checkpoint_bytes = bytes;
            }
            Err(CheckpointError::Engine(EngineError::Batch(_) | EngineError::Store(StoreFault::Failed))) => {
                // The service stops, is overloaded, or has failed. The thread tries again after a pause, if the service
                // still runs.
                self.pause();
            }
            Err(error) => {
                tracing::warn!(%error, "the checkpoint could not be written");
                self.pause();
            }
        }
    }

    fn checkpoint(&mut self, start: &DurablePoint) -> Result<u64, CheckpointError> {
        let mut writer = CheckpointWriter::begin(&self.checkpoints, start)?;
        let mut chunks = (0..=u32::MAX).step_by(CHUNK_ACCOUNTS).map(AccountIndex);
        let mut in_flight = VecDeque::with_capacity(CHUNKS_IN_FLIGHT_MAX);
        let mut wanted = 1_usize;
        loop {
            for from in chunks.by_ref().take(wanted.saturating_sub(in_flight.len())) {
                in_flight.push_back((from, self.ask(from)));
            }
            self.keep_up();
            let Some((from, answer)) = in_flight.pop_front() else {
                break;
            };
            let (reply, elapsed) = self.wait_for(from, answer)?;
            let CommandReply::CheckpointChunk { bytes, next } = reply else {
                return Err(CheckpointError::UnexpectedReply);
            };
            wanted = chunks_for(elapsed);
            if !bytes.is_empty() {
                writer.accounts(&bytes)?;
            }
            // No account came after this chunk when EXEC encoded it. The chunks after it that are in flight are
            // dropped, because EXEC encoded them later. If accounts were created in the meantime, these chunks could
            // contain some of them while this chunk lacks earlier ones.
            if next.is_none() {
                break;
            }
        }
        // Answers come in order, so every block whose effects the accounts show is durable now, unless the log has
        // failed.
        if self.pipeline.progress().failed {
            return Err(EngineError::Store(StoreFault::Failed).into());
        }
        let durable_through = self
            .pipeline
            .progress()
            .durable
            .chain()
            .block_sequence
            .saturating_sub(1);
        let bytes = writer.finish(durable_through)?;
        self.checkpoints.prune(KEEP)?;
        Ok(bytes)
    }

    /// Requests a chunk from EXEC, with the accounts from `from` on.
    fn ask(&self, from: AccountIndex) -> ResponseFuture<EngineReply> {
        self.batch
            .submit(Submission::new(Command::CheckpointChunk(from), None))
    }

    /// Waits for the answer to the request of a chunk. Returns the reply and the time that the request spent in the
    /// queue and in the commit. If the request was rejected because the queue is full, requests the chunk again,
    /// because otherwise a constant overload would prevent every checkpoint.
    fn wait_for(
        &self,
        from: AccountIndex,
        mut answer: ResponseFuture<EngineReply>,
    ) -> Result<(CommandReply, Duration), EngineError> {
        loop {
            match block_on(answer) {
                Ok(Answer { value, timing }) => {
                    return Ok((value.into_result()?, timing.queue_wait + timing.commit));
                }
                Err(BatchError::Full { .. }) if !self.stop.is_stopped() => {
                    self.parker.park_timeout(INTERVAL);
                    answer = self.ask(from);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits 1 s after a failure, or until the thread is stopped.
    fn pause(&self) {
        if !self.stop.is_stopped() {
            self.parker.park_timeout(INTERVAL * 50);
        }
    }
}

/// Returns how many chunks may be in flight if the last answer took `elapsed`.
fn chunks_for(elapsed: Duration) -> usize {
    let chunks = elapsed.as_nanos() / CHUNK_INTERVAL.as_nanos();
    usize::try_from(chunks)
        .unwrap_or(CHUNKS_IN_FLIGHT_MAX)
        .clamp(1, CHUNKS_IN_FLIGHT_MAX)
}

impl Drop for Maintenance {
    /// Reports a panic. Otherwise the service would continue without checkpoints, and starts would take longer and longer.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.health.fail(Condition::Panicked);
        }
    }
}
