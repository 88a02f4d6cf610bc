//! Requests that depend on one another's order: once one of them was not executed, none behind it is.
//!
//! The requests of a sequence are submitted one after the other, and each carries a [`Turn`]. A turn has two ends only:
//! the executor says that the request was [executed](Turn::executed), or the turn is dropped, wherever that happens: a
//! circuit was open, the queue was full, the caller left, the deadline passed, the executor failed. A turn that is dropped
//! closes the sequence behind its place. So a hole can't be forgotten by somebody who finds a new way to refuse a request.
//!
//! It rests on one fact: the executor meets the requests of one client in the order in which they were submitted
//! ([`Backlog`](super::backlog::Backlog)). A turn has been dropped before the executor looks at the next one.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// No place: nothing has been left out.
const NOWHERE: u64 = u64::MAX;

/// One caller's requests, in their order. Made by [`BatchProcessor::sequence`](super::BatchProcessor::sequence).
#[derive(Debug)]
pub struct Sequence {
    client: u64,
    next: u64,
    hole: Arc<AtomicU64>,
}

/// The place of a request in its sequence. Dropping it says that the request was not executed.
#[derive(Debug)]
pub struct Turn {
    place: u64,
    /// The first place whose request was not executed.
    hole: Arc<AtomicU64>,
}

// ===== impl Sequence =====

impl Sequence {
    pub(super) fn new(client: u64) -> Self {
        Sequence {
            client,
            next: 0,
            hole: Arc::new(AtomicU64::new(NOWHERE)),
        }
    }

    /// Returns the turn of the next request, which must be submitted before this is called again. `None` if an earlier request
    /// was not executed: then the next one must not be submitted.
    pub(super) fn next_turn(&mut self) -> Option<Turn> {
        let turn = Turn {
            place: self.next,
            hole: Arc::clone(&self.hole),
        };
        self.next += 1;
        turn.is_open().then_some(turn)
    }

    pub(super) const fn client(&self) -> u64 {
        self.client
    }

    /// Refuses every request from the next one on.
    pub fn close(&mut self) {
        self.hole.fetch_min(self.next, Ordering::Relaxed);
    }
}

// ===== impl Turn =====

impl Turn {
    /// Whether everything before it was executed, as far as it has ended.
    #[must_use]
    pub fn is_open(&self) -> bool {
        // Relaxed: whoever left out a request before this one is the thread that asks now, or the task that submitted both.
        self.hole.load(Ordering::Relaxed) > self.place
    }

    /// The request was executed: those behind it may be.
    pub fn executed(mut self) {
        self.place = NOWHERE;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.hole.fetch_min(self.place, Ordering::Relaxed);
    }
}
