//! The work of AUX: the next segment, the id files, the checkpoints, the scrub. No transaction waits for it. If it fails, only
//! the next start takes longer.

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

/// How often AUX checks whether there is something to do.
const INTERVAL: Duration = Duration::from_millis(20);
/// Maximum number of a checkpoint's chunks in flight. Each waits for the block that it depends on. With one chunk at a time,
/// a checkpoint would take as many blocks as it has chunks. With millions of accounts, that is minutes.
const CHUNKS_IN_FLIGHT_MAX: usize = 32;
/// The journal grows by at least this multiple of a checkpoint's size before the next checkpoint, because the journal's syncs
/// sometimes wait for the checkpoint's writes. Without this, checkpoints took a fifth of the throughput with 10 million accounts.
const CHECKPOINT_INTERVAL_FACTOR: u64 = 4;
/// The number of chunks in flight is the time of the last answer divided by this interval. So chunks take less than a tenth
/// of EXEC's time, and they do not slow down fast blocks.
const CHUNK_INTERVAL: Duration = Duration::from_millis(1);

/// Stops the thread.
#[derive(Debug, Clone)]
pub(super) struct Stop {
    stopped: Arc<AtomicBool>,
    unparker: Unparker,
}

/// The state of the thread.
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
    /// A checkpoint is made after this many bytes of journal, or after [`CHECKPOINT_INTERVAL_FACTOR`] times the bytes of the last
    /// checkpoint if that is more.
    pub(super) checkpoint_bytes: u64,
    pub(super) last_checkpoint_bytes: u64,
    /// The position from which a start with the newest checkpoint replays.
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
    #[error("EXEC gave the reply of another command")]
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
    /// Works until it is stopped.
    pub(super) fn run(mut self) {
        while !self.stop.is_stopped() {
            let durable = self.keep_up();
            self.checkpoint_if_due(&durable);
            self.scrubber.work(&durable.chain());
            self.parker.park_timeout(INTERVAL);
        }
    }

    /// Does what can't wait for the end of a long checkpoint. Returns how far the journal is durable.
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
            // After a restore many id files may be missing; commits must not wait for a segment meanwhile.
            self.prepare_segment();
            match self.write_id_file(durable) {
                Ok(0) => {}
                Ok(ids) => tracing::debug!(segment = self.next_id_file, ids, "wrote an id file"),
                Err(error) if error.damage().is_some() => {
                    // A retry would read the same bytes. The scrub counts the damage.
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
                // The service stops, is overloaded, or has failed. A later checkpoint will do.
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
            // The chunks after the last one are dropped. They could hold an account that was created meanwhile. By its
            // index, the account belongs to this chunk, which does not hold it.
            if next.is_none() {
                break;
            }
        }
        // The last answer waited for every block whose effects the accounts show.
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

    /// Asks EXEC for a chunk.
    fn ask(&self, from: AccountIndex) -> ResponseFuture<EngineReply> {
        self.batch
            .submit(Submission::new(Command::CheckpointChunk(from), None))
    }

    /// Waits for the answer. Returns it with its time in the queue and in the commit. While the queue is full, it asks again:
    /// otherwise a constant overload would prevent every checkpoint.
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

    /// Waits after a failure, before the next try.
    fn pause(&self) {
        if !self.stop.is_stopped() {
            self.parker.park_timeout(INTERVAL * 50);
        }
    }
}

/// Returns how many chunks may be in flight after one that took `elapsed`.
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
