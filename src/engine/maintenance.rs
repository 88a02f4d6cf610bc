//! The maintenance thread, which has the role AUX. It prepares the next segment of the journal, writes id files and
//! checkpoints, scrubs the journal, and watches the clock. No transaction waits for this work. If the thread can't write id files or
//! checkpoints, the next start takes longer.
//!
//! A step does one piece of each kind of work and never waits, so that the simulation can drive it from a single
//! thread. The thread rests between two steps.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
    time::Duration,
};

use crossbeam_utils::sync::{Parker, Unparker};
use tally_batch::BatchProcessor;
use tally_journal::{ChainPoint, ChunkedFiles, DataDirectory, Position, SegmentPreparer, SegmentSpace};
use tokio::time::Instant;

use super::{
    checkpointing::{CheckpointError, CheckpointStep, Checkpointing},
    clock_watch::ClockWatch,
    command::Command,
    fault::{EngineError, StoreFault},
    health::{Condition, Health},
    pending::EngineReply,
    pipeline::CommitPipeline,
    resume_writer::ResumeWriter,
    scrubbing::Scrubber,
};
use crate::{
    store::embedded::{DurablePoint, RecordError, checkpoint::KEEP, id_files::BlockWalk},
    telemetry::LogLimit,
};

/// The rest between two steps if there is no more work.
const INTERVAL: Duration = Duration::from_millis(20);
/// The rest after a failure.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
/// The longest rest after a checkpoint that found the disk full. The first rest is [`FAILURE_PAUSE`], and each further rest is twice
/// as long as the last one. A checkpoint may be large, and each attempt takes space from the journal for a while.
const CHECKPOINT_PAUSE_MAX: Duration = Duration::from_secs(300);
/// Before the next checkpoint, the journal grows by at least this multiple of the size of the last checkpoint. The
/// reason is that syncs of the journal sometimes wait for the writes of a checkpoint. Without this rule, checkpoints
/// reduced the throughput by a fifth in a measurement with 10 million accounts.
const CHECKPOINT_INTERVAL_FACTOR: u64 = 4;

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
    pub(super) clock: ClockWatch,
    pub(super) preparer: SegmentPreparer,
    pub(super) space: SegmentSpace,
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
    /// The unfinished checkpoint.
    pub(super) checkpoint: Option<Checkpointing>,
    /// No segment is prepared before this time, because the last attempt failed. Other failed work does not delay the next
    /// segment, because transactions wait for it.
    pub(super) segment_paused_until: Option<Instant>,
    /// No other work is done before this time, because work failed.
    pub(super) paused_until: Option<Instant>,
    pub(super) checkpoint_rest: CheckpointRest,
    /// Limits the log lines about failed work, which is tried again and again.
    pub(super) failure_lines: LogLimit,
    /// The resume points of a replica; `None` for an embedded store.
    pub(super) resume: Option<ResumeWriter>,
}

/// The rest between checkpoints that found the disk full.
#[derive(Debug)]
pub(super) struct CheckpointRest {
    /// No checkpoint is begun before this time.
    until: Option<Instant>,
    /// The next rest.
    next: Duration,
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

impl Wake for Stop {
    /// Called when a chunk of a checkpoint has arrived. Ends the rest of the thread.
    fn wake(self: Arc<Self>) {
        self.unparker.unpark();
    }
}

// ===== impl CheckpointRest =====

impl Default for CheckpointRest {
    fn default() -> Self {
        CheckpointRest {
            until: None,
            next: FAILURE_PAUSE,
        }
    }
}

impl CheckpointRest {
    fn begin(&mut self, now: Instant) {
        self.until = Some(now + self.next);
        self.next = self.next.saturating_mul(2).min(CHECKPOINT_PAUSE_MAX);
    }
}

// ===== impl Maintenance =====

impl Maintenance {
    /// Does maintenance work until the thread is stopped.
    pub(super) fn run(mut self, stop: &Stop, parker: &Parker) {
        let waker = Waker::from(Arc::new(stop.clone()));
        while !stop.is_stopped() {
            parker.park_timeout(self.step(&waker));
        }
    }

    /// Does one piece of each kind of work. Returns the time until the next step is due; the next step is due earlier
    /// if `waker` is called.
    pub(super) fn step(&mut self, waker: &Waker) -> Duration {
        self.clock.look();
        let now = Instant::now();
        self.prepare_segment(now);
        if let Some(left) = time_left(self.paused_until, now) {
            return left.min(INTERVAL);
        }
        self.paused_until = None;
        let durable = self.pipeline.progress().durable;
        let more = self.write_next_id_file(&durable.chain(), now);
        self.write_resume_point(&durable, now);
        self.checkpoint(&durable, waker, now);
        self.scrubber.work(&durable.chain());
        if more && self.paused_until.is_none() {
            Duration::ZERO
        } else {
            INTERVAL
        }
    }

    /// Writes the newest resume point of a replica, if it is due.
    fn write_resume_point(&mut self, durable: &DurablePoint, now: Instant) {
        let Some(writer) = &mut self.resume else {
            return;
        };
        if let Err(error) = writer.write_due(durable, now) {
            if let Some(omitted) = self.failure_lines.admit(now) {
                tracing::warn!(%error, omitted, "the resume point could not be written; the next start reads more of the log");
            }
            self.pause(now);
        }
    }

    fn prepare_segment(&mut self, now: Instant) {
        if !self.preparer.is_needed() || time_left(self.segment_paused_until, now).is_some() {
            return;
        }
        let was_full = self.space.is_full();
        let mut prepared = self.preparer.prepare_next();
        if prepared.is_err() && self.space.is_full() && self.give_up_checkpoint(now) {
            prepared = self.preparer.prepare_next();
        }
        match prepared {
            Ok(_) if was_full => tracing::info!("the disk has space for the next segment again"),
            Ok(_) => {}
            Err(error) if self.space.is_full() => {
                if !was_full {
                    tracing::error!(%error, "the disk has no space for the next segment; writes are refused when the journal reaches it");
                }
                self.segment_paused_until = Some(now + FAILURE_PAUSE);
            }
            Err(error) => {
                if let Some(omitted) = self.failure_lines.admit(now) {
                    tracing::warn!(%error, omitted, "the next segment could not be prepared; it will be made when the journal reaches it");
                }
                self.segment_paused_until = Some(now + FAILURE_PAUSE);
            }
        }
    }

    /// Removes the unfinished checkpoint, so that the next segment gets its space. Returns whether there was an unfinished
    /// checkpoint.
    fn give_up_checkpoint(&mut self, now: Instant) -> bool {
        if self.checkpoint.take().is_none() {
            return false;
        }
        tracing::warn!(
            "the checkpoint was given up, because the disk has too little space for it and the next segment"
        );
        self.checkpoint_rest.begin(now);
        true
    }

    /// Writes the id file of the next full segment. Returns whether there may be another full segment without an id file. After a
    /// restore from a backup, many id files may be missing, and the journal must not wait for its next segment meanwhile. So a step
    /// writes only one file.
    fn write_next_id_file(&mut self, durable: &ChainPoint, now: Instant) -> bool {
        if self.next_id_file >= durable.position.segment() {
            return false;
        }
        match self.write_id_file(durable) {
            Ok(0) => {}
            Ok(ids) => tracing::debug!(segment = self.next_id_file, ids, "wrote an id file"),
            Err(error) if error.damage().is_some() => {
                // A retry would read the same bytes, so continue with the next segment. The scrub counts the
                // damage.
                tracing::error!(%error, segment = self.next_id_file, "the segment is damaged and gets no id file");
            }
            Err(error) => {
                if let Some(omitted) = self.failure_lines.admit(now) {
                    tracing::warn!(%error, omitted, segment = self.next_id_file, "the id file could not be written");
                }
                self.pause(now);
                return false;
            }
        }
        self.next_id_file += 1;
        true
    }

    fn write_id_file(&self, durable: &ChainPoint) -> Result<usize, RecordError> {
        let segment = self.walk.full_segment(self.next_id_file, durable)?;
        self.walk.write(&self.id_files, &segment)
    }

    /// Continues the unfinished checkpoint, or begins one if it is due.
    fn checkpoint(&mut self, durable: &DurablePoint, waker: &Waker, now: Instant) {
        // Without space for the next segment, there is none for a checkpoint.
        let is_delayed = || self.space.is_full() || time_left(self.checkpoint_rest.until, now).is_some();
        if self.checkpoint.is_none() && (is_delayed() || !self.checkpoint_is_due(durable)) {
            return;
        }
        match self.continue_checkpoint(durable, waker) {
            Ok(()) => {}
            // The service stops, is overloaded, or has failed. The thread tries again after a pause, if the service
            // still runs.
            Err(CheckpointError::Engine(
                EngineError::Batch(_)
                | EngineError::Store(StoreFault::Failed | StoreFault::NotLeader | StoreFault::LeaderLost),
            )) => {
                self.pause(now);
            }
            Err(error) => {
                if let Some(omitted) = self.failure_lines.admit(now) {
                    tracing::warn!(%error, omitted, "the checkpoint could not be written");
                }
                if error.is_storage_full() {
                    self.checkpoint_rest.begin(now);
                } else {
                    self.pause(now);
                }
            }
        }
    }

    fn checkpoint_is_due(&self, durable: &DurablePoint) -> bool {
        let segment_bytes = u64::from(self.directory.geometry().segment_bytes());
        let bytes =
            |position: Position| u64::from(position.segment()) * segment_bytes + u64::from(position.offset());
        let grown = bytes(durable.chain().position).saturating_sub(bytes(self.last_checkpoint));
        let factor = self
            .last_checkpoint_bytes
            .saturating_mul(CHECKPOINT_INTERVAL_FACTOR);
        grown >= self.checkpoint_bytes.max(factor)
    }

    fn continue_checkpoint(&mut self, durable: &DurablePoint, waker: &Waker) -> Result<(), CheckpointError> {
        let mut checkpoint = match self.checkpoint.take() {
            Some(checkpoint) => checkpoint,
            None => Checkpointing::begin(&self.checkpoints, durable)?,
        };
        match checkpoint.step(&self.batch, waker)? {
            CheckpointStep::Waiting | CheckpointStep::QueueFull => {
                self.checkpoint = Some(checkpoint);
                return Ok(());
            }
            CheckpointStep::Copied => {}
        }
        let start = checkpoint.start().chain();
        let bytes = checkpoint.finish(&self.pipeline)?;
        self.checkpoints.prune(KEEP)?;
        tracing::info!(block = start.block_sequence, bytes, "wrote a checkpoint");
        self.last_checkpoint = start.position;
        self.last_checkpoint_bytes = bytes;
        self.checkpoint_rest = CheckpointRest::default();
        Ok(())
    }

    fn pause(&mut self, now: Instant) {
        self.paused_until = Some(now + FAILURE_PAUSE);
    }
}

/// Returns the time until `until`, if it is after `now`.
fn time_left(until: Option<Instant>, now: Instant) -> Option<Duration> {
    let left = until?.saturating_duration_since(now);
    (!left.is_zero()).then_some(left)
}

impl Drop for Maintenance {
    /// Reports a panic. Otherwise the service would continue without checkpoints, and starts would take longer and longer.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.health.fail(Condition::Panicked);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_between_checkpoints_that_find_the_disk_full_doubles_up_to_its_bound() {
        let now = Instant::now();
        let mut rest = CheckpointRest::default();
        let mut rests = Vec::new();
        for _ in 0..12 {
            rest.begin(now);
            rests.push(time_left(rest.until, now).unwrap().as_secs());
        }
        assert_eq!(rests, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
    }
}
