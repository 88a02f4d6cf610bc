//! The commit pipeline makes batches durable and then releases their answers. It is the only owner of the log, of the
//! durable point, and of the answers in flight. The durable point says how far the log is on the disk.
//!
//! EXEC hands over sealed batches: a block and the answers that wait for it. At most [`WAITING_MAX`] batches wait in
//! the pipeline. Their blocks are then submitted to the [`BlockLog`], at most [`BlockLog::depth`] blocks at a time.
//! When the log reports that blocks are durable, the pipeline releases their answers in order.
//!
//! One lock guards the state. A thread that uses the log first takes the [`Committer`] out of the state, and then
//! releases the lock. WAL is usually the thread that uses the log. EXEC uses the log itself for a small block when
//! nothing is in flight. WAL calls [`CommitPipeline::step`] in a loop. A step does one piece of work and never waits
//! for another thread, so that a single-threaded scheduler can drive the pipeline.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use parking_lot::{Condvar, Mutex};
use smallvec::SmallVec;
use tally_batch::{Answerer, distribution::Distribution};
use tally_journal::BlockBuffer;
use tokio::sync::Notify;

use super::{
    counters::EngineCounters,
    health::{Condition, Health},
    open_batch::{SealedBatch, Spare},
    pending::PendingAnswer,
};
use crate::{
    store::{
        block_log::{BlockLog, Commit, LogFault, Submitted},
        embedded::{DurablePoint, SealedBlock},
        replicated::ReplicaFault,
    },
    telemetry::{TraceLink, commit_span},
};

/// Maximum number of batches that wait while other batches are in flight. With one waiting batch, WAL need not wait for
/// EXEC under load. With more waiting batches, a new command would wait for the commits of several blocks instead of
/// one.
const WAITING_MAX: usize = 1;
/// Buffers larger than this, in bytes, are not kept for the next block.
const SPARE_BYTES_MAX: usize = 8 << 20;
/// When nothing is in flight, EXEC commits a block of at most this many records itself. The log takes no other block
/// until this block is durable, so EXEC loses little time if it waits too. This saves a lone caller the thread switches
/// from EXEC to WAL and back.
const OWN_BLOCK_RECORDS_MAX: u32 = 64;

/// Makes blocks durable and then releases their answers. Shared by EXEC, WAL, and the code that reports statistics.
#[derive(Debug)]
pub(super) struct CommitPipeline {
    state: Mutex<State>,
    /// Signalled when [`CommitPipeline::step`] may have work.
    work: Condvar,
    /// Signalled when a batch has left the pipeline, another batch can wait, or the log has failed.
    progress: Condvar,
    /// Signalled when the durable point has moved, or the log has failed. Nearly always, no task waits for it. A signal then costs a
    /// lock and an atomic addition for each block, and needs no runtime.
    durable_moved: Notify,
    /// How many blocks the log takes at a time: [`BlockLog::depth`].
    depth: usize,
    health: Arc<Health>,
    counters: Arc<EngineCounters>,
    sync_times: Arc<Distribution>,
}

#[derive(Debug)]
struct State {
    /// Batches that were not submitted yet.
    waiting: VecDeque<SealedBatch>,
    /// Batches that were submitted and are not durable yet.
    in_flight: VecDeque<InFlight>,
    /// `None` while a thread uses the log.
    committer: Option<Box<Committer>>,
    /// Whether [`BlockLog::poll_durable`] may have something to report.
    poll_due: bool,
    /// Whether the pipeline takes no more batches: EXEC sends no more, or no thread is left to commit them.
    closed: bool,
    /// Whether the log has failed. A failed log takes no more blocks.
    failed: bool,
    /// The last block that EXEC has handed over.
    last_block: u64,
    /// Batches that have left the pipeline since the start.
    finished: u64,
    durable: DurablePoint,
    spare_buffers: Vec<BlockBuffer>,
    spare_answers: Vec<Vec<PendingAnswer>>,
}

/// The answers of a batch that was submitted to the log.
#[derive(Debug)]
struct InFlight {
    /// The last block that the answers depend on.
    block: u64,
    answers: Vec<PendingAnswer>,
}

/// The log and the answerer. Only the thread that has taken the committer uses them.
#[derive(Debug)]
struct Committer {
    log: Box<dyn BlockLog>,
    answerer: Answerer,
}

/// One use of the log.
#[derive(Debug)]
enum Job {
    Submit(Submission),
    Poll,
}

/// The part of a batch that the log needs. The answers of the batch are in [`State::in_flight`].
#[derive(Debug)]
struct Submission {
    /// `None` if there is nothing to write, or the log takes no more blocks.
    block: Option<SealedBlock>,
    links: Vec<TraceLink>,
}

/// What a call of [`Cores::step_wal`](super::Cores::step_wal) did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PipelineStep {
    /// It did one piece of work. There may be more work.
    Worked,
    /// It did nothing, because there is no work now.
    Idle,
    /// It did nothing, because the pipeline is closed and empty.
    Ended,
}

/// A snapshot of the pipeline's state.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    /// Whether the pipeline is empty: no batch waits, and no batch is in flight.
    pub(super) idle: bool,
    /// Whether one more batch can wait.
    pub(super) has_room: bool,
    /// Whether the log has failed. A failed log takes no more blocks.
    pub(super) failed: bool,
    /// Batches that have left the pipeline since the start.
    pub(super) finished: u64,
    /// How far the log is durable.
    pub(super) durable: DurablePoint,
}

/// Abandons the pipeline when the thread that uses the log panics.
struct AbandonOnPanic<'a>(&'a CommitPipeline);

// ===== impl CommitPipeline =====

impl CommitPipeline {
    /// Makes an empty pipeline that writes to `log`. The log is durable up to `durable`.
    pub(super) fn new(
        log: Box<dyn BlockLog>,
        durable: DurablePoint,
        answerer: Answerer,
        health: Arc<Health>,
        counters: Arc<EngineCounters>,
        sync_times: Arc<Distribution>,
    ) -> Self {
        let depth = log.depth();
        assert!(depth >= 1, "a log of depth {depth} takes no block");
        CommitPipeline {
            state: Mutex::new(State {
                waiting: VecDeque::with_capacity(WAITING_MAX),
                in_flight: VecDeque::with_capacity(depth),
                committer: Some(Box::new(Committer { log, answerer })),
                poll_due: false,
                closed: false,
                failed: false,
                last_block: durable.chain().last_block_sequence(),
                finished: 0,
                durable,
                spare_buffers: Vec::with_capacity(WAITING_MAX + 1),
                spare_answers: Vec::with_capacity(WAITING_MAX + 1),
            }),
            work: Condvar::new(),
            progress: Condvar::new(),
            durable_moved: Notify::new(),
            depth,
            health,
            counters,
            sync_times,
        }
    }

    pub(super) fn progress(&self) -> Progress {
        let state = self.state.lock();
        Progress {
            idle: state.is_idle(),
            has_room: state.has_room(),
            failed: state.failed,
            finished: state.finished,
            durable: state.durable,
        }
    }

    /// Waits until the record with this sequence is durable, or the log has failed.
    pub(super) async fn durable_from(&self, sequence: u64) -> Progress {
        loop {
            // This future gets every signal from here on, so no signal is lost between the check and the wait.
            let moved = self.durable_moved.notified();
            let progress = self.progress();
            if progress.failed || progress.durable.order().next_sequence > sequence {
                return progress;
            }
            moved.await;
        }
    }

    /// Adds a batch, and waits while the pipeline has no room for the batch. If the block is small and nothing is in
    /// flight, the calling thread commits the block itself. Returns memory for the next batch.
    ///
    /// # Panics
    /// If the number of the block is not the number of the previous block plus 1.
    pub(super) fn commit(&self, batch: SealedBatch) -> Spare {
        let mut state = self.state.lock();
        let records = state.expect_next(&batch);
        // A log with a depth above 1 reports only later that a block is durable. EXEC would gain nothing if it
        // submitted the block itself.
        let own = self.depth == 1 && (1..=OWN_BLOCK_RECORDS_MAX).contains(&records);
        if own
            && state.is_idle()
            && !state.closed
            && let Some(committer) = state.committer.take()
        {
            let submission = state.begin(batch);
            drop(state);
            self.submit(committer, submission, || ());
            return self.state.lock().spare();
        }
        while !state.closed && !state.has_room() {
            self.progress.wait(&mut state);
        }
        if state.closed {
            // Nobody will commit the batch. Its answers are dropped, and their callers learn that the outcome is
            // unknown.
            return Spare::default();
        }
        state.waiting.push_back(batch);
        self.work.notify_one();
        state.spare()
    }

    /// Waits until one more batch can wait, or the pipeline is closed.
    pub(super) fn wait_for_room(&self) {
        let mut state = self.state.lock();
        while !state.closed && !state.has_room() {
            self.progress.wait(&mut state);
        }
    }

    /// Waits until no batch waits or is in flight.
    pub(super) fn wait_idle(&self) {
        let mut state = self.state.lock();
        while !state.is_idle() {
            self.progress.wait(&mut state);
        }
    }

    /// Does one piece of work, if there is any. The log calls `waker` when it has something to report. The step calls
    /// `notify` after it has used the log, and before it releases the answers of the batches that have left the
    /// pipeline.
    pub(super) fn step(&self, waker: &Waker, notify: impl FnOnce()) -> PipelineStep {
        let mut state = self.state.lock();
        let Some((job, committer)) = state.next_job(self.depth) else {
            return if state.is_ended() {
                PipelineStep::Ended
            } else {
                PipelineStep::Idle
            };
        };
        // If the job is the submission of a waiting batch, another batch can wait now.
        self.progress.notify_all();
        drop(state);
        match job {
            Job::Submit(submission) => self.submit(committer, submission, notify),
            Job::Poll => self.poll(committer, waker, notify),
        }
        PipelineStep::Worked
    }

    /// Waits until [`CommitPipeline::step`] has something to do or the pipeline has ended.
    pub(super) fn wait_for_work(&self) {
        let mut state = self.state.lock();
        while !state.has_job(self.depth) && !state.is_ended() {
            self.work.wait(&mut state);
        }
    }

    /// Makes the pipeline take no more batches. The batches in the pipeline are still committed.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.work.notify_all();
    }

    /// Closes the pipeline without committing the batches in it. This is for a panic of WAL, or of EXEC while EXEC used
    /// the log. The answers in the pipeline are dropped, and their callers learn that the outcome is unknown.
    pub(super) fn abandon(&self) {
        let mut state = self.state.lock();
        state.failed = true;
        state.closed = true;
        let dropped = (
            std::mem::take(&mut state.waiting),
            std::mem::take(&mut state.in_flight),
        );
        self.progress.notify_all();
        self.work.notify_all();
        drop(state);
        self.durable_moved.notify_waiters();
        drop(dropped);
    }

    /// Closes the pipeline. If the log has not failed and every batch is durable, marks a clean stop at the end of the
    /// log. If the mark cannot be written, the error is only logged: without the mark, the next start recovers the
    /// journal as after a crash.
    pub(super) fn finish(&self) {
        let committer = {
            let mut state = self.state.lock();
            let clean = !state.failed && state.is_idle();
            state.closed = true;
            state.committer.take().filter(|_| clean)
        };
        if let Some(mut committer) = committer
            && let Err(error) = committer.log.finish()
        {
            tracing::warn!(
                %error,
                "the clean stop could not be marked; the next start recovers the journal as after a crash"
            );
        }
    }

    fn submit(&self, mut committer: Box<Committer>, submission: Submission, notify: impl FnOnce()) {
        let _abandon = AbandonOnPanic(self);
        let Submission { mut block, links } = submission;
        let records = block.as_ref().map_or(0, |block| block.meta.record_count);
        let _span = commit_span(&links, records);
        let submitted = block.as_mut().map(|block| committer.log.submit(block));
        let commit = match submitted {
            Some(Ok(Submitted::Durable(commit))) => Some(Ok(commit)),
            Some(Ok(Submitted::Pending)) => {
                self.state.lock().poll_due = true;
                None
            }
            Some(Err(fault)) => Some(Err(fault)),
            None => None,
        };
        self.settle(committer, commit, block.and_then(spare_buffer), notify);
    }

    fn poll(&self, mut committer: Box<Committer>, waker: &Waker, notify: impl FnOnce()) {
        let _abandon = AbandonOnPanic(self);
        let commit = match committer.log.poll_durable(&mut Context::from_waker(waker)) {
            Poll::Ready(commit) => {
                // The log may have more to report. It keeps the waker only when it has nothing to report, so the next
                // step must poll again.
                self.state.lock().poll_due = true;
                Some(commit)
            }
            Poll::Pending => None,
        };
        self.settle(committer, commit, None, notify);
    }

    /// Processes a report of the log: releases the answers that waited for the report, and puts the committer back.
    fn settle(
        &self,
        mut committer: Box<Committer>,
        commit: Option<Result<Commit, LogFault>>,
        buffer: Option<BlockBuffer>,
        notify: impl FnOnce(),
    ) {
        let advance = match commit {
            Some(Ok(commit)) => {
                self.sync_times.record_duration(commit.latency);
                Some(Ok(commit.durable))
            }
            Some(Err(LogFault::Replica(fault @ ReplicaFault::Fenced { .. }))) => {
                tracing::warn!(%fault, "this replica leads no longer, and starts again as a replica that follows");
                self.health.fail(Condition::SteppedDown);
                Some(Err(()))
            }
            // The driver has reported why it has ended.
            Some(Err(LogFault::Replica(fault @ ReplicaFault::Ended))) => {
                tracing::warn!(%fault, "the leader has stopped with blocks in flight");
                Some(Err(()))
            }
            Some(Err(error)) => {
                tracing::error!(%error, "the journal could not be written; nothing is executed until the next start");
                self.health.fail(Condition::StoreFailed);
                Some(Err(()))
            }
            None => None,
        };
        let is_moved = advance.is_some();
        let mut state = self.state.lock();
        match advance {
            Some(Ok(durable)) => state.advance(durable),
            // From now on, no block is submitted and no sync is retried. After a failed sync, the kernel may have
            // dropped the pages that it could not write, and a later sync could succeed without them.
            Some(Err(_)) => state.failed = true,
            None => {}
        }
        let settled = state.take_settled();
        let (durable, failed) = (state.durable, state.failed);
        self.progress.notify_all();
        drop(state);
        // Notifies EXEC before the answers are released, so that EXEC seals the next block at the same time.
        notify();
        let mut spares: SmallVec<[Vec<PendingAnswer>; 1]> = SmallVec::new();
        for InFlight { mut answers, .. } in settled {
            let released = answers
                .drain(..)
                .map(|answer| answer.release(&durable, failed, &self.counters));
            committer.answerer.answer_all(released);
            spares.push(answers);
        }
        // The tasks that wait for the durable point are woken only after the callers have their answers.
        if is_moved {
            self.durable_moved.notify_waiters();
        }
        let mut state = self.state.lock();
        state.put_back(committer, buffer, spares);
        if state.has_job(self.depth) {
            self.work.notify_one();
        }
    }
}

impl Wake for CommitPipeline {
    /// Called by the log when it has something to report. Makes a thread poll the log.
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.state.lock().poll_due = true;
        self.work.notify_one();
    }
}

// ===== impl State =====

impl State {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_empty()
    }

    fn has_room(&self) -> bool {
        self.waiting.len() < WAITING_MAX
    }

    fn is_ended(&self) -> bool {
        self.closed && self.is_idle()
    }

    /// Whether the first waiting batch can be submitted: the log takes one more block, or the log has failed. After a
    /// failure, the batch is submitted without its block, only to release its answers.
    fn can_submit(&self, depth: usize) -> bool {
        !self.waiting.is_empty() && (self.failed || self.in_flight.len() < depth)
    }

    fn has_job(&self, depth: usize) -> bool {
        let can_poll = self.poll_due && !self.in_flight.is_empty();
        self.committer.is_some() && (self.can_submit(depth) || can_poll)
    }

    fn next_job(&mut self, depth: usize) -> Option<(Job, Box<Committer>)> {
        if !self.has_job(depth) {
            return None;
        }
        let job = if self.can_submit(depth) {
            Job::Submit(self.waiting.pop_front().map(|batch| self.begin(batch))?)
        } else {
            self.poll_due = false;
            Job::Poll
        };
        Some((job, self.committer.take()?))
    }

    /// Checks that the block of a batch follows the previous block. Returns the number of records in the block; 0 if
    /// the batch has no block.
    fn expect_next(&mut self, batch: &SealedBatch) -> u32 {
        let Some(block) = &batch.block else {
            return 0;
        };
        assert_eq!(
            block.sequence,
            self.last_block + 1,
            "EXEC handed over a block that does not follow the previous block"
        );
        self.last_block = block.sequence;
        block.meta.record_count
    }

    /// Moves the answers of the batch to [`State::in_flight`]. Returns the part that the log needs, without the block
    /// if the log has failed.
    fn begin(&mut self, batch: SealedBatch) -> Submission {
        let block = batch.last_block();
        let SealedBatch {
            block: written,
            answers,
            links,
        } = batch;
        self.in_flight.push_back(InFlight { block, answers });
        Submission {
            block: written.filter(|_| !self.failed),
            links,
        }
    }

    /// Moves the durable point forward, after the log has reported more durable blocks.
    fn advance(&mut self, durable: DurablePoint) {
        let (before, now) = (self.durable.chain(), durable.chain());
        let (before, now) = (before.last_block_sequence(), now.last_block_sequence());
        assert!(
            now > before,
            "the log reports block {now} as durable, but it was durable up to block {before} already"
        );
        let submitted = self.in_flight.back().map_or(before, |last| last.block);
        assert!(
            now <= submitted,
            "the log reports block {now} as durable, but the last block that was submitted is {submitted}"
        );
        self.durable = durable;
    }

    /// Removes and returns the batches that need not wait any longer, in order: their blocks are durable, or the log
    /// has failed.
    fn take_settled(&mut self) -> SmallVec<[InFlight; 1]> {
        let mut settled = SmallVec::new();
        while let Some(first) = self.in_flight.front()
            && (self.failed || self.durable.covers(first.block))
        {
            settled.extend(self.in_flight.pop_front());
        }
        self.finished += settled.len() as u64;
        settled
    }

    fn put_back(
        &mut self,
        committer: Box<Committer>,
        buffer: Option<BlockBuffer>,
        answers: SmallVec<[Vec<PendingAnswer>; 1]>,
    ) {
        assert!(
            self.committer.is_none(),
            "two threads used the log at the same time"
        );
        self.committer = Some(committer);
        if self.spare_buffers.len() <= WAITING_MAX {
            self.spare_buffers.extend(buffer);
        }
        let room = (WAITING_MAX + 1).saturating_sub(self.spare_answers.len());
        self.spare_answers.extend(answers.into_iter().take(room));
    }

    fn spare(&mut self) -> Spare {
        Spare {
            buffer: self.spare_buffers.pop(),
            answers: self.spare_answers.pop().unwrap_or_default(),
        }
    }
}

// ===== impl AbandonOnPanic =====

impl Drop for AbandonOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.abandon();
        }
    }
}

fn spare_buffer(block: SealedBlock) -> Option<BlockBuffer> {
    let mut buffer = block.buffer;
    buffer.clear();
    (buffer.capacity() <= SPARE_BYTES_MAX).then_some(buffer)
}
