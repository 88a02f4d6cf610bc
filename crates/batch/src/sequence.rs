//! Sequences: requests that depend on their order. Once a request was not executed, no later request of its sequence is.
//!
//! The requests of a sequence are submitted one after the other, and each carries a [`Turn`]. A turn ends in one of two ways: the
//! executor reports that the request was [executed](Turn::executed), or the turn is dropped. A dropped turn closes the sequence
//! for all later requests. It makes no difference where the turn is dropped: because a circuit was open, the queue was full, the
//! caller left, the deadline passed, or the executor failed. So code that refuses requests for a new reason can't forget to close the
//! sequence.
//!
//! This relies on one fact: the executor receives the requests of one client in the order of their submission
//! ([`Backlog`](super::backlog::Backlog)), so a turn is dropped before the executor looks at the next one.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::caller::UNKNOWN;

/// The value of `hole` while every request was executed.
const NOWHERE: u64 = u64::MAX;

/// One caller's requests, in their order. Made by [`BatchProcessor::sequence`](super::BatchProcessor::sequence).
#[derive(Debug)]
pub struct Sequence {
    client: u64,
    next: u64,
    hole: Arc<AtomicU64>,
}

/// The place of a request in its sequence. Dropping a turn reports that its request was not executed.
#[derive(Debug)]
pub struct Turn {
    place: u64,
    /// The lowest place whose request was not executed, or [`NOWHERE`].
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
    #[inline]
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

    /// Whether the sequence was started while the calling thread polled a call of a client.
    #[must_use]
    pub const fn has_client(&self) -> bool {
        self.client != UNKNOWN
    }

    /// Refuses every request from the next one on.
    pub fn close(&mut self) {
        self.hole.fetch_min(self.next, Ordering::Relaxed);
    }
}

// ===== impl Turn =====

impl Turn {
    /// Whether no earlier request of the sequence is known to be left out.
    #[must_use]
    #[inline]
    pub fn is_open(&self) -> bool {
        // Relaxed: the earlier turn was dropped by the thread that asks now, or by the task that submitted both requests.
        self.hole.load(Ordering::Relaxed) > self.place
    }

    /// Reports that the request was executed, so later requests may be executed, too.
    #[inline]
    pub fn executed(mut self) {
        self.place = NOWHERE;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.hole.fetch_min(self.place, Ordering::Relaxed);
    }
}
