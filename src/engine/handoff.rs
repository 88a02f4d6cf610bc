//! The place where EXEC hands blocks to WAL, and WAL says how far the journal is durable.
//!
//! It is a lock and a condition: both threads come here once for each block, not for each transaction.

use std::collections::VecDeque;

use parking_lot::{Condvar, Mutex};

use super::{fault::StoreFault, pending::PendingAnswer};
use crate::{
    store::{
        embedded::{DurablePoint, SealedBlock},
        journal::BlockBuffer,
    },
    telemetry::TraceLink,
};

/// Blocks that wait while another is being synced: one, so that WAL never waits for EXEC under load, and no more, so
/// that what arrives meanwhile shares a block instead of queueing behind several.
const WAITING_BLOCKS_MAX: usize = 1;

/// A block with the answers that wait for it.
#[derive(Debug)]
pub(super) struct Work {
    /// `None`: nothing to write, only answers that wait for the blocks before.
    pub(super) block: Option<SealedBlock>,
    pub(super) answers: Vec<PendingAnswer>,
    /// The spans of the calls in it.
    pub(super) links: Vec<TraceLink>,
}

/// What is used again for the next block.
#[derive(Debug, Default)]
pub(super) struct Spare {
    pub(super) buffer: Option<BlockBuffer>,
    pub(super) answers: Vec<PendingAnswer>,
}

#[derive(Debug)]
pub(super) struct Handoff {
    state: Mutex<State>,
    /// Signalled when there is work, or no more will come.
    work: Condvar,
    /// Signalled when WAL has finished a block.
    progress: Condvar,
}

#[derive(Debug)]
struct State {
    waiting: VecDeque<Work>,
    busy: bool,
    closed: bool,
    failed: bool,
    /// Blocks that WAL or EXEC is done with, since the start.
    finished: u64,
    durable: DurablePoint,
    spares: Vec<Spare>,
}

/// What EXEC sees of WAL.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    /// Nothing is being written and nothing waits.
    pub(super) idle: bool,
    /// One more block can wait.
    pub(super) has_room: bool,
    /// The journal has failed.
    pub(super) failed: bool,
    /// Pieces of work that are done with, since the start.
    pub(super) finished: u64,
    /// How far the journal is durable.
    pub(super) durable: DurablePoint,
}

// ===== impl Handoff =====

impl Handoff {
    pub(super) fn new(durable: DurablePoint) -> Self {
        Handoff {
            state: Mutex::new(State {
                waiting: VecDeque::with_capacity(WAITING_BLOCKS_MAX),
                busy: false,
                closed: false,
                failed: false,
                finished: 0,
                durable,
                spares: Vec::with_capacity(WAITING_BLOCKS_MAX + 1),
            }),
            work: Condvar::new(),
            progress: Condvar::new(),
        }
    }

    pub(super) fn progress(&self) -> Progress {
        let state = self.state.lock();
        Progress {
            idle: !state.busy && state.waiting.is_empty(),
            has_room: state.waiting.len() < WAITING_BLOCKS_MAX,
            failed: state.failed,
            finished: state.finished,
            durable: state.durable,
        }
    }

    /// Hands a block over; waits while another one waits already.
    pub(super) fn submit(&self, work: Work) -> Spare {
        let mut state = self.state.lock();
        while !state.closed && state.waiting.len() >= WAITING_BLOCKS_MAX {
            self.progress.wait(&mut state);
        }
        if state.closed {
            // WAL is gone. The answers are dropped, and their callers learn that the outcome is unknown.
            return Spare::default();
        }
        state.waiting.push_back(work);
        self.work.notify_one();
        state.spares.pop().unwrap_or_default()
    }

    /// Takes it on EXEC to write a block itself, if nothing is being written and nothing waits: until it says that it has
    /// [finished](Handoff::finished), the journal is busy for everybody who looks.
    #[must_use]
    pub(super) fn begin(&self) -> bool {
        let mut state = self.state.lock();
        let idle = !state.busy && state.waiting.is_empty() && !state.closed;
        state.busy |= idle;
        idle
    }

    /// Waits until nothing is being written and nothing waits.
    pub(super) fn wait_idle(&self) {
        let mut state = self.state.lock();
        while state.busy || !state.waiting.is_empty() {
            self.progress.wait(&mut state);
        }
    }

    /// The next block to write; `None` when no more will come.
    pub(super) fn next(&self) -> Option<Work> {
        let mut state = self.state.lock();
        loop {
            if let Some(work) = state.waiting.pop_front() {
                state.busy = true;
                // There is room for the next block.
                self.progress.notify_all();
                return Some(work);
            }
            if state.closed {
                return None;
            }
            self.work.wait(&mut state);
        }
    }

    /// WAL has finished a block: how far the journal is durable now, or that it has failed.
    pub(super) fn finished(&self, result: Result<DurablePoint, StoreFault>) {
        let mut state = self.state.lock();
        match result {
            Ok(durable) => state.durable = durable,
            Err(_) => state.failed = true,
        }
        state.busy = false;
        state.finished += 1;
        self.progress.notify_all();
    }

    /// Gives buffers back to EXEC.
    pub(super) fn recycle(&self, spare: Spare) {
        let mut state = self.state.lock();
        if state.spares.len() <= WAITING_BLOCKS_MAX {
            state.spares.push(spare);
        }
    }

    /// No more blocks will come; or, when WAL itself is gone, none will be written.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.work.notify_all();
    }

    /// WAL is gone: whoever waits for it must not.
    pub(super) fn abandon(&self) {
        let mut state = self.state.lock();
        state.failed = true;
        state.closed = true;
        state.busy = false;
        // Their answers are dropped, and their callers learn that the outcome is unknown.
        state.waiting.clear();
        self.progress.notify_all();
    }
}
