//! Tests of the commit pipeline. [`TestLog`] takes three blocks at a time and reports blocks as durable when the test
//! calls [`TestLog::report`]. [`SyncLog`] makes each block durable at once.

use std::{
    collections::VecDeque,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use futures_executor::block_on;
use parking_lot::Mutex;
use tally_batch::{
    BatchConfig, BatchError, BatchProcessor, Intake, ResponseFuture, Submission, batch,
    distribution::Distribution,
};
use tally_journal::{
    AppendReceipt, BlockBuffer, BlockHash, BlockMeta, BlockStamp, ChainPoint, JournalError, Position,
};

use super::{
    command::{Command, CommandReply},
    counters::EngineCounters,
    fault::{LogEnd, StoreFault},
    health::{Condition, Health},
    open_batch::SealedBatch,
    pending::{EngineReply, PendingAnswer},
    pipeline::{CommitPipeline, PipelineStep},
    wal::Wal,
};
use crate::store::{
    block_log::{BlockLog, Commit, LogFault, Submitted},
    embedded::{DurablePoint, OrderPoint, SealedBlock},
    replicated::ReplicaFault,
};

const DEPTH: usize = 3;
/// Number of records in a test block. EXEC does not commit a block with this many records itself, but leaves it to WAL.
const RECORDS: u32 = 1000;

/// A log in memory. The test keeps a clone of the log, to order its reports.
#[derive(Debug, Clone, Default)]
struct TestLog(Arc<Mutex<LogState>>);

#[derive(Debug, Default)]
struct LogState {
    /// The numbers of the submitted blocks.
    submitted: Vec<u64>,
    /// Reports that the pipeline has not polled yet: the last durable block, or why there will be none.
    reports: VecDeque<Result<u64, LogEnd>>,
    waker: Option<Waker>,
    finished: bool,
    panics: bool,
    /// Sends the number of each submitted block to a thread that reports the block as durable.
    disk: Option<mpsc::SyncSender<u64>>,
}

impl TestLog {
    /// Makes the log report that the blocks up to this number are durable, or that the log takes no more blocks.
    fn report(&self, result: Result<u64, LogEnd>) {
        let waker = {
            let mut state = self.0.lock();
            state.reports.push_back(result);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn submitted(&self) -> Vec<u64> {
        self.0.lock().submitted.clone()
    }
}

impl BlockLog for TestLog {
    fn depth(&self) -> usize {
        DEPTH
    }

    fn submit(&mut self, block: &mut SealedBlock) -> Result<Submitted, LogFault> {
        let mut state = self.0.lock();
        assert!(!state.panics, "on purpose");
        state.submitted.push(block.sequence);
        if let Some(disk) = &state.disk {
            disk.send(block.sequence).unwrap();
        }
        Ok(Submitted::Pending)
    }

    fn poll_durable(&mut self, context: &mut Context<'_>) -> Poll<Result<Commit, LogFault>> {
        let mut state = self.0.lock();
        match state.reports.pop_front() {
            Some(Ok(last)) => Poll::Ready(Ok(Commit {
                durable: durable(last),
                latency: Duration::ZERO,
            })),
            Some(Err(LogEnd::Failed)) => Poll::Ready(Err(JournalError::Poisoned.into())),
            Some(Err(LogEnd::LeadershipLost)) => Poll::Ready(Err(ReplicaFault::Fenced { term: 2 }.into())),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn finish(&mut self) -> Result<(), LogFault> {
        self.0.lock().finished = true;
        Ok(())
    }
}

/// A log that makes a block durable before `submit` returns, as the journal does.
#[derive(Debug)]
struct SyncLog {
    /// The number of the last durable block.
    durable: Arc<AtomicU64>,
    /// The number of the block that the log fails to write.
    fails_at: u64,
    /// Whether this failure is a panic instead of an error.
    panics: bool,
}

impl BlockLog for SyncLog {
    fn depth(&self) -> usize {
        1
    }

    fn submit(&mut self, block: &mut SealedBlock) -> Result<Submitted, LogFault> {
        let last = self.durable.load(Ordering::SeqCst);
        assert_eq!(block.sequence, last + 1, "submitted out of order");
        assert!(last < self.fails_at, "submitted after a failure");
        if block.sequence == self.fails_at {
            if self.panics {
                resume_unwind(Box::new("on purpose"));
            }
            return Err(JournalError::Poisoned.into());
        }
        if !block.sequence.is_multiple_of(3) {
            thread::yield_now();
        }
        self.durable.store(block.sequence, Ordering::SeqCst);
        Ok(Submitted::Durable(Commit {
            durable: durable(block.sequence),
            latency: Duration::ZERO,
        }))
    }

    fn poll_durable(&mut self, _: &mut Context<'_>) -> Poll<Result<Commit, LogFault>> {
        panic!("a synchronous log has nothing to report")
    }

    fn finish(&mut self) -> Result<(), LogFault> {
        Ok(())
    }
}

fn sealed(sequence: u64) -> SealedBlock {
    sealed_with(sequence, RECORDS)
}

fn sealed_with(sequence: u64, record_count: u32) -> SealedBlock {
    SealedBlock {
        sequence,
        meta: BlockMeta {
            position: Position::START,
            first_entry: 1,
            first_sequence: 1,
            base_time_ns: 1,
            record_count,
        },
        stamp: BlockStamp::default(),
        is_accepted: false,
        buffer: BlockBuffer::with_capacity(0),
        end: OrderPoint::START,
    }
}

fn durable(last: u64) -> DurablePoint {
    let hash = BlockHash([0; 32]);
    let end = ChainPoint {
        position: Position::START,
        block_sequence: last + 1,
        previous_hash: hash,
        previous_position: Position::START,
    };
    let receipt = AppendReceipt {
        end,
        block_sequence: last,
        block_hash: hash,
        bytes_written: 0,
        write_duration: Duration::ZERO,
        sync_duration: Duration::ZERO,
        segment_started: false,
    };
    DurablePoint::after(&receipt, &sealed(last))
}

type Response = Pin<Box<ResponseFuture<EngineReply>>>;
type Answered = Result<Result<(), StoreFault>, BatchError>;

/// A pipeline with a test log, and the queue that makes its answers.
struct Rig {
    log: TestLog,
    pipeline: Arc<CommitPipeline>,
    health: Arc<Health>,
    counters: Arc<EngineCounters>,
    processor: BatchProcessor<Command, EngineReply>,
    intake: Intake<Command, EngineReply>,
}

impl Rig {
    fn new() -> Self {
        let log = TestLog::default();
        Self::with(Box::new(log.clone()), log)
    }

    /// A pipeline that writes to `used`. `log` is the handle that tests use.
    fn with(used: Box<dyn BlockLog>, log: TestLog) -> Self {
        let (processor, intake) = batch(&BatchConfig::default()).unwrap();
        let (health, counters) = (Arc::new(Health::new()), Arc::new(EngineCounters::default()));
        let pipeline = CommitPipeline::new(
            used,
            durable(0),
            intake.answerer(),
            Arc::clone(&health),
            Arc::clone(&counters),
            Arc::new(Distribution::new()),
        );
        Rig {
            log,
            pipeline: Arc::new(pipeline),
            health,
            counters,
            processor,
            intake,
        }
    }

    /// A batch with one answer that depends on `block`, and the caller's end of the answer.
    fn batch(&mut self, block: Option<SealedBlock>, depends_on: u64) -> (SealedBatch, Response) {
        let response = Box::pin(self.processor.submit(Submission::new(Command::Probe, None)));
        let mut claimed = Vec::new();
        assert_eq!(self.intake.take(1, &mut claimed), 1);
        let reply = claimed.pop().unwrap().reply;
        let answer = PendingAnswer::new(reply, Ok(CommandReply::Probed), depends_on);
        let batch = SealedBatch {
            block,
            answers: vec![answer],
            links: Vec::new(),
        };
        (batch, response)
    }

    /// Adds block `sequence` to the pipeline, and then does the work of WAL until there is none left.
    fn commit(&mut self, sequence: u64) -> Response {
        let (batch, response) = self.batch(Some(sealed(sequence)), sequence);
        self.pipeline.commit(batch);
        self.work();
        response
    }

    /// Does the work of WAL on this thread until there is none left. Returns the result of the last step.
    fn work(&self) -> PipelineStep {
        let waker = Waker::from(Arc::clone(&self.pipeline));
        loop {
            let step = self.pipeline.step(&waker, || ());
            if step != PipelineStep::Worked {
                return step;
            }
        }
    }

    fn wal(&self) -> thread::JoinHandle<()> {
        let wal = Wal {
            pipeline: Arc::clone(&self.pipeline),
            exec: self.processor.notifier(),
            health: Arc::clone(&self.health),
        };
        thread::spawn(move || wal.run())
    }
}

/// Returns the answer if it has been given. After this function has returned an answer, do not call it again for the
/// same response.
fn answer(response: &mut Response) -> Option<Answered> {
    match response.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer.map(|answer| answer.value.into_result().map(drop))),
        Poll::Pending => None,
    }
}

fn answered(response: &mut Response) -> Answered {
    answer(response).expect("an answer")
}

#[test]
fn answers_are_given_in_order_when_their_blocks_are_durable() {
    let mut rig = Rig::new();
    let mut responses: Vec<_> = (1..=3).map(|block| rig.commit(block)).collect();
    assert_eq!(
        rig.log.submitted(),
        [1, 2, 3],
        "three blocks are in flight at a time"
    );
    assert!(responses.iter_mut().all(|response| answer(response).is_none()));

    rig.log.report(Ok(1));
    rig.work();
    assert_eq!(answered(&mut responses[0]), Ok(Ok(())));
    assert!(answer(&mut responses[1]).is_none());
    assert!(answer(&mut responses[2]).is_none());

    rig.log.report(Ok(3));
    rig.work();
    assert_eq!(answered(&mut responses[1]), Ok(Ok(())));
    assert_eq!(answered(&mut responses[2]), Ok(Ok(())));
    let progress = rig.pipeline.progress();
    assert!(progress.idle && progress.ended.is_none());
    assert_eq!(progress.finished, 3);
    assert_eq!(progress.durable, durable(3));
}

#[test]
fn answers_without_a_block_wait_for_earlier_blocks() {
    let mut rig = Rig::new();
    let mut write = rig.commit(1);
    let (reads, mut read) = rig.batch(None, 1);
    rig.pipeline.commit(reads);
    rig.work();
    assert!(answer(&mut write).is_none());
    assert!(answer(&mut read).is_none());
    rig.log.report(Ok(1));
    rig.work();
    assert_eq!(answered(&mut write), Ok(Ok(())));
    assert_eq!(answered(&mut read), Ok(Ok(())));
}

#[test]
fn after_a_failure_only_what_is_durable_is_confirmed() {
    let mut rig = Rig::new();
    let mut responses: Vec<_> = (1..=4).map(|block| rig.commit(block)).collect();
    assert_eq!(rig.log.submitted(), [1, 2, 3], "the fourth block waits");
    rig.log.report(Ok(1));
    rig.log.report(Err(LogEnd::Failed));
    // Block 1 leaves the log, so the pipeline submits block 4 before it polls the failure.
    rig.work();
    assert_eq!(answered(&mut responses[0]), Ok(Ok(())));
    for response in &mut responses[1..] {
        assert_eq!(answered(response), Ok(Err(StoreFault::WriteFailed)));
    }
    assert_eq!(rig.counters.unknown_outcomes(), 3);
    assert_eq!(rig.health.condition(), Condition::StoreFailed);
    assert_eq!(rig.pipeline.progress().ended, Some(LogEnd::Failed));

    let before = rig.log.submitted();
    let mut late = rig.commit(5);
    assert_eq!(answered(&mut late), Ok(Err(StoreFault::WriteFailed)));
    assert_eq!(
        rig.log.submitted(),
        before,
        "nothing is submitted after a failure"
    );
    rig.pipeline.close();
    assert_eq!(rig.work(), PipelineStep::Ended);
    rig.pipeline.finish();
    assert!(!rig.log.0.lock().finished, "a failed log has no clean end");
}

/// What the log got may be accepted, although another replica leads. What it never got is lost with this process.
#[test]
fn after_a_loss_of_leadership_a_block_that_was_not_sent_was_not_executed() {
    let mut rig = Rig::new();
    let mut responses: Vec<_> = (1..=4).map(|block| rig.commit(block)).collect();
    assert_eq!(rig.log.submitted(), [1, 2, 3], "the fourth block waits");
    rig.log.report(Err(LogEnd::LeadershipLost));
    rig.work();
    for response in &mut responses[..3] {
        assert_eq!(answered(response), Ok(Err(StoreFault::LeaderLost)));
    }
    assert_eq!(answered(&mut responses[3]), Ok(Err(StoreFault::NotLeader)));
    assert_eq!(rig.counters.unknown_outcomes(), 3);
    assert_eq!(rig.health.condition(), Condition::SteppedDown);
}

#[test]
fn a_closed_pipeline_ends_when_everything_is_durable() {
    let mut rig = Rig::new();
    let mut responses: Vec<_> = (1..=4).map(|block| rig.commit(block)).collect();
    rig.pipeline.close();
    assert_eq!(rig.work(), PipelineStep::Idle, "blocks are in flight");
    rig.log.report(Ok(2));
    assert_eq!(rig.work(), PipelineStep::Idle);
    assert_eq!(rig.log.submitted(), [1, 2, 3, 4]);
    rig.log.report(Ok(4));
    assert_eq!(rig.work(), PipelineStep::Ended);
    for response in &mut responses {
        assert_eq!(answered(response), Ok(Ok(())));
    }
    rig.pipeline.finish();
    assert!(rig.log.0.lock().finished);
}

#[test]
fn a_full_pipeline_makes_exec_wait_until_a_block_is_durable() {
    let mut rig = Rig::new();
    let mut responses: Vec<_> = (1..=4).map(|block| rig.commit(block)).collect();
    assert!(!rig.pipeline.progress().has_room);
    let (fifth, mut response) = rig.batch(Some(sealed(5)), 5);
    let exec = {
        let pipeline = Arc::clone(&rig.pipeline);
        thread::spawn(move || drop(pipeline.commit(fifth)))
    };
    let wal = rig.wal();
    rig.log.report(Ok(1));
    exec.join().unwrap();
    rig.pipeline.close();
    // WAL may not have submitted the last blocks yet, so the test waits for each block before it reports the block.
    for last in 2..=5 {
        while rig.log.submitted().len() < last {
            thread::yield_now();
        }
        rig.log.report(Ok(last as u64));
    }
    wal.join().unwrap();
    for response in &mut responses {
        assert_eq!(answered(response), Ok(Ok(())));
    }
    assert_eq!(answered(&mut response), Ok(Ok(())));
}

#[test]
fn no_wake_up_is_lost_between_exec_wal_and_the_log() {
    const BLOCKS: u64 = 20_000;
    let mut rig = Rig::new();
    let (disk, blocks) = mpsc::sync_channel(2 * DEPTH);
    rig.log.0.lock().disk = Some(disk);
    let disk = {
        let log = rig.log.clone();
        thread::spawn(move || {
            // Reports all blocks that have arrived so far at once, so that some reports cover several blocks.
            while let Ok(first) = blocks.recv() {
                log.report(Ok(blocks.try_iter().last().unwrap_or(first)));
            }
        })
    };
    let wal = rig.wal();
    let (responses, answers) = mpsc::sync_channel(64);
    let log = rig.log.clone();
    let caller = thread::spawn(move || {
        for (block, response) in answers {
            let response: Response = response;
            assert!(block_on(response).unwrap().value.into_result().is_ok());
            assert!(log.submitted().len() as u64 >= block);
        }
    });
    for block in 1..=BLOCKS {
        let (batch, response) = rig.batch(Some(sealed(block)), block);
        responses.send((block, response)).unwrap();
        rig.pipeline.commit(batch);
        if block % 1000 == 0 {
            rig.pipeline.wait_idle();
            assert_eq!(rig.pipeline.progress().durable, durable(block));
        }
    }
    rig.pipeline.close();
    wal.join().unwrap();
    drop(responses);
    caller.join().unwrap();
    rig.log.0.lock().disk = None;
    disk.join().unwrap();
    assert_eq!(rig.pipeline.progress().finished, BLOCKS);
    assert_eq!(rig.health.condition(), Condition::Running);
}

/// EXEC commits the small blocks and WAL the large ones, until the log fails or panics. After the failure, no thread
/// and no caller waits for ever. A caller gets a result only if its block is durable.
#[test]
fn a_synchronous_log_may_fail_or_panic_at_any_block_on_either_thread() {
    const BLOCKS: u64 = 40;
    const SIZES: [u32; 5] = [0, 1, 64, 65, RECORDS];
    for round in 0..2_000_u64 {
        let (fails_at, panics) = (round / 2 % (BLOCKS + 5) + 1, round % 2 == 1);
        let last_durable = Arc::new(AtomicU64::new(0));
        let log = SyncLog {
            durable: Arc::clone(&last_durable),
            fails_at,
            panics,
        };
        let mut rig = Rig::with(Box::new(log), TestLog::default());
        let wal = rig.wal();
        let (mut responses, mut exec_panicked) = (Vec::new(), false);
        let mut mixed = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for block in 1..=BLOCKS {
            mixed ^= mixed << 13;
            mixed ^= mixed >> 7;
            mixed ^= mixed << 17;
            let size = SIZES[usize::try_from(mixed % 5).unwrap()];
            let (batch, response) = rig.batch(Some(sealed_with(block, size)), block);
            responses.push((block, response));
            let committed = catch_unwind(AssertUnwindSafe(|| drop(rig.pipeline.commit(batch))));
            exec_panicked = committed.is_err();
            if exec_panicked {
                break;
            }
            if mixed >> 8 & 3 == 0 {
                let (batch, response) = rig.batch(None, block);
                responses.push((block, response));
                drop(rig.pipeline.commit(batch));
            }
            if mixed >> 10 & 3 == 0 {
                rig.pipeline.wait_idle();
            }
        }
        if !exec_panicked {
            rig.pipeline.wait_idle();
        }
        rig.pipeline.close();
        let wal_panicked = wal.join().is_err();
        let progress = rig.pipeline.progress();
        let ended = fails_at <= BLOCKS;
        assert_eq!(progress.ended.is_some(), ended);
        assert_eq!(exec_panicked || wal_panicked, ended && panics);
        assert!(!(exec_panicked && wal_panicked));
        assert!(progress.idle);
        for (depends_on, response) in responses {
            let answered = block_on(response).map(|answer| answer.value.into_result().map(drop));
            let is_durable = depends_on < fails_at;
            match answered {
                Ok(Ok(())) => assert!(is_durable, "round {round}: block {depends_on} is not durable"),
                Ok(Err(fault)) => assert!(!is_durable && fault == StoreFault::WriteFailed, "round {round}"),
                Err(error) => assert!(panics && error == BatchError::Lost, "round {round}: {error}"),
            }
        }
        rig.pipeline.finish();
    }
}

#[test]
fn a_panic_of_the_log_leaves_nobody_waiting() {
    let mut rig = Rig::new();
    let mut first = rig.commit(1);
    rig.log.0.lock().panics = true;
    let (batch, mut second) = rig.batch(Some(sealed(2)), 2);
    rig.pipeline.commit(batch);
    assert!(rig.wal().join().is_err());
    assert_eq!(answered(&mut first), Err(BatchError::Lost));
    assert_eq!(answered(&mut second), Err(BatchError::Lost));
    assert_eq!(rig.health.condition(), Condition::Panicked);
    rig.pipeline.wait_idle();
    let (batch, mut third) = rig.batch(Some(sealed(3)), 3);
    rig.pipeline.commit(batch);
    assert_eq!(answered(&mut third), Err(BatchError::Lost));
    rig.pipeline.finish();
    assert!(!rig.log.0.lock().finished);
}

#[test]
#[should_panic(expected = "does not follow the previous block")]
fn a_block_that_is_handed_over_twice_is_a_bug() {
    let mut rig = Rig::new();
    let _first = rig.commit(1);
    let _again = rig.commit(1);
}

#[test]
#[should_panic(expected = "it was durable up to block 1 already")]
fn a_block_that_is_reported_twice_is_a_bug() {
    let mut rig = Rig::new();
    let _responses: Vec<_> = (1..=2).map(|block| rig.commit(block)).collect();
    rig.log.report(Ok(1));
    rig.log.report(Ok(1));
    rig.work();
}

#[test]
#[should_panic(expected = "the last block that was submitted is 1")]
fn a_report_of_a_block_that_was_not_submitted_is_a_bug() {
    let mut rig = Rig::new();
    let _response = rig.commit(1);
    rig.log.report(Ok(2));
    rig.work();
}
