//! Sequences of dependent requests. If a request of a [`Sequence`] is not executed, no later request of the sequence is
//! executed.
//!
//! The requests of a sequence are submitted one after the other, and each request carries a [`Turn`]: its position in
//! the sequence. A turn ends in one of two ways. Either the executor reports that the request was
//! [executed](Turn::executed), or the turn is dropped. A dropped turn closes the sequence for all later requests. The
//! reason for the drop makes no difference: a circuit was open, the queue was full, the caller dropped its future, the
//! deadline passed, or the executor failed. Because the drop itself closes the sequence, code that rejects requests for
//! a new reason can't forget to close the sequence.
//!
//! Sequences rely on one fact: the executor receives the requests of one client in the order of their submission
//! ([`Backlog`](super::backlog::Backlog)). Therefore a turn is dropped before the executor checks the next turn of the
//! sequence.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{caller::UNKNOWN, mutation::planted};

/// The value of `lowest_unexecuted` while no request of the sequence is known to be unexecuted.
const NO_POSITION: u64 = u64::MAX;

/// One caller's dependent requests, in the order of their submission. Made by
/// [`BatchProcessor::sequence`](super::BatchProcessor::sequence).
#[derive(Debug)]
pub struct Sequence {
    client: u64,
    /// The position of the next request, from 0.
    next: u64,
    lowest_unexecuted: Arc<AtomicU64>,
}

/// The position of a request in its sequence. Dropping a turn reports that its request was not executed.
#[derive(Debug)]
pub struct Turn {
    position: u64,
    /// The lowest position whose request was not executed, or [`NO_POSITION`]. Shared by the sequence and all its
    /// turns.
    lowest_unexecuted: Arc<AtomicU64>,
}

// ===== impl Sequence =====

impl Sequence {
    pub(super) fn new(client: u64) -> Self {
        Sequence {
            client,
            next: 0,
            lowest_unexecuted: Arc::new(AtomicU64::new(NO_POSITION)),
        }
    }

    /// Returns the turn of the next request, which must be submitted before this method is called again. `None` if an
    /// earlier request was not executed; in that case, the next request must not be submitted.
    #[inline]
    pub(super) fn next_turn(&mut self) -> Option<Turn> {
        let turn = Turn {
            position: self.next,
            lowest_unexecuted: Arc::clone(&self.lowest_unexecuted),
        };
        self.next += 1;
        turn.is_open().then_some(turn)
    }

    pub(super) const fn client(&self) -> u64 {
        self.client
    }

    /// Whether the client is known: the thread that started the sequence was polling a client's call
    /// ([`Caller::calling`](super::Caller::calling)).
    #[must_use]
    pub const fn has_client(&self) -> bool {
        self.client != UNKNOWN
    }

    /// Closes the sequence: no further request can be submitted.
    pub fn close(&mut self) {
        self.lowest_unexecuted.fetch_min(self.next, Ordering::Relaxed);
    }
}

// ===== impl Turn =====

impl Turn {
    /// Whether the request may be executed. False if an earlier request of the sequence was not executed.
    #[must_use]
    #[inline]
    pub fn is_open(&self) -> bool {
        // Relaxed is enough, because no other thread drops the earlier turn at the same time. Either this thread has
        // dropped the turn, or the task that submitted both requests dropped it before it submitted this request.
        self.lowest_unexecuted.load(Ordering::Relaxed) > self.position || planted("turn_executes_after_hole")
    }

    /// Reports that the request was executed, so later requests of the sequence may be executed, too.
    #[inline]
    pub fn executed(mut self) {
        self.position = NO_POSITION;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.lowest_unexecuted.fetch_min(self.position, Ordering::Relaxed);
    }
}
