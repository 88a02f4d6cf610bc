//! A log in front of the journal that takes simulated time.
//!
//! The journal writes and syncs a block in one call, which takes no simulated time. So this log keeps a block until it is due,
//! and passes it to the journal only then. Meanwhile clients, EXEC and AUX continue, deadlines pass, and the
//! power may fail.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use parking_lot::Mutex;
use tally::store::{
    block_log::{BlockLog, Commit, EmbeddedLog, LogFault, Submitted},
    embedded::SealedBlock,
};
use tally_journal::{BlockBuffer, HEADER_BYTES};
use tokio::time::Instant;

use crate::{config::Config, random::Random};

/// The log.
#[derive(Debug)]
pub(crate) struct SlowLog {
    journal: EmbeddedLog,
    pace: LogPace,
    pending: Option<Pending>,
}

/// The times of the log, which the simulation observes and changes.
#[derive(Debug, Clone)]
pub(crate) struct LogPace(Arc<Mutex<Pace>>);

#[derive(Debug)]
struct Pace {
    random: Random,
    commit_max: Duration,
    spike_one_in: u64,
    stall_one_in: u64,
    /// When the block in flight was submitted.
    submitted: Option<Instant>,
    /// When the block in flight is to be written.
    due: Option<Instant>,
    waker: Option<Waker>,
    /// The positions of the durable blocks, in order.
    durable: Vec<BlockPlace>,
}

/// Where a block is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockPlace {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
    /// Length with the header, in bytes.
    pub(crate) bytes: usize,
}

#[derive(Debug)]
struct Pending {
    block: SealedBlock,
    submitted: Instant,
    due: Instant,
}

/// The longest stall.
const STALL_MAX: Duration = Duration::from_secs(20);

// ===== impl LogPace =====

impl LogPace {
    pub(crate) fn new(config: &Config, random: Random) -> Self {
        LogPace(Arc::new(Mutex::new(Pace {
            random,
            commit_max: config.commit_max(),
            spike_one_in: config.spike_one_in,
            stall_one_in: config.stall_one_in,
            submitted: None,
            due: None,
            waker: None,
            durable: Vec::new(),
        })))
    }

    /// When the block in flight is to be written; `None` if no block is in flight.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.0.lock().due
    }

    /// When the block in flight was submitted; `None` if no block is in flight.
    pub(crate) fn hangs_since(&self) -> Option<Instant> {
        let pace = self.0.lock();
        pace.due?;
        pace.submitted
    }

    /// Makes the block in flight due now.
    pub(crate) fn hurry(&self) {
        let mut pace = self.0.lock();
        if pace.due.is_some() {
            pace.due = Some(Instant::now());
        }
    }

    /// Makes every later block fast.
    pub(crate) fn heal(&self) {
        let mut pace = self.0.lock();
        (pace.spike_one_in, pace.stall_one_in) = (0, 0);
    }

    /// Forgets the block in flight, because the process died.
    pub(crate) fn reset(&self) {
        let mut pace = self.0.lock();
        (pace.due, pace.waker) = (None, None);
    }

    /// Wakes the pipeline if the block in flight is due. Returns whether it is due.
    pub(crate) fn wake_if_due(&self) -> bool {
        let waker = {
            let mut pace = self.0.lock();
            let is_due = pace.due.is_some_and(|due| due <= Instant::now());
            if is_due { pace.waker.take() } else { None }
        };
        waker.map(Waker::wake).is_some()
    }

    /// Forgets all durable blocks except these.
    pub(crate) fn keep_blocks(&self, blocks: Vec<BlockPlace>) {
        self.0.lock().durable = blocks;
    }

    /// The positions of the blocks that were reported as durable, in order.
    pub(crate) fn durable_blocks(&self) -> Vec<BlockPlace> {
        self.0.lock().durable.clone()
    }
}

// ===== impl Pace =====

impl Pace {
    fn latency(&mut self) -> Duration {
        if self.commit_max.is_zero() {
            return Duration::ZERO;
        }
        if self.random.one_in(self.stall_one_in) {
            return Duration::from_secs(1) + self.random.up_to(STALL_MAX - Duration::from_secs(1));
        }
        let max = if self.random.one_in(self.spike_one_in) {
            self.commit_max * 100
        } else {
            self.commit_max
        };
        self.random.up_to(max.min(STALL_MAX))
    }
}

// ===== impl SlowLog =====

impl SlowLog {
    pub(crate) fn new(journal: EmbeddedLog, pace: LogPace) -> Self {
        SlowLog {
            journal,
            pace,
            pending: None,
        }
    }
}

impl SlowLog {
    fn write(&mut self, block: &mut SealedBlock) -> Result<Commit, LogFault> {
        let position = block.meta.position;
        let place = BlockPlace {
            segment: position.segment(),
            offset: position.offset(),
            bytes: HEADER_BYTES + block.buffer.body_bytes(),
        };
        match self.journal.submit(block)? {
            Submitted::Durable(commit) => {
                self.pace.0.lock().durable.push(place);
                Ok(commit)
            }
            Submitted::Pending => unreachable!("the journal has no block in flight"),
        }
    }
}

impl BlockLog for SlowLog {
    fn depth(&self) -> usize {
        self.journal.depth()
    }

    fn submit(&mut self, block: &mut SealedBlock) -> Result<Submitted, LogFault> {
        assert!(
            self.pending.is_none(),
            "two blocks are in flight, but the depth is 1"
        );
        let mut pace = self.pace.0.lock();
        let latency = pace.latency();
        if latency.is_zero() {
            drop(pace);
            return self.write(block).map(Submitted::Durable);
        }
        let submitted = Instant::now();
        let due = submitted + latency;
        (pace.submitted, pace.due) = (Some(submitted), Some(due));
        let buffer = std::mem::replace(&mut block.buffer, BlockBuffer::with_capacity(0));
        self.pending = Some(Pending {
            block: SealedBlock {
                sequence: block.sequence,
                meta: block.meta,
                stamp: block.stamp,
                buffer,
                end: block.end,
                is_accepted: block.is_accepted,
            },
            submitted,
            due,
        });
        Ok(Submitted::Pending)
    }

    fn poll_durable(&mut self, context: &mut Context<'_>) -> Poll<Result<Commit, LogFault>> {
        let now = Instant::now();
        let mut pace = self.pace.0.lock();
        let is_due = pace.due.is_some_and(|due| due <= now);
        let Some(mut pending) = self.pending.take_if(|_| is_due) else {
            pace.waker = Some(context.waker().clone());
            return Poll::Pending;
        };
        pace.due = None;
        drop(pace);
        debug_assert!(pending.submitted <= pending.due, "time went back");
        Poll::Ready(self.write(&mut pending.block).map(|commit| Commit {
            latency: now - pending.submitted,
            ..commit
        }))
    }

    fn finish(&mut self) -> Result<(), LogFault> {
        self.journal.finish()
    }
}
