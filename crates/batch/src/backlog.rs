//! What waits, in the order in which it came: requests that an earlier batch has left behind, then the ring.
//!
//! A batch walks along it from the oldest request on. Each that it does not take stays in its place, so there is no way to
//! get behind a younger one: [`Backlog::pass_over`] leaves it and goes on, [`Backlog::put_back`] leaves it and ends, and
//! [`Backlog::rewind`] goes back to the oldest.

use std::collections::VecDeque;

use super::ring::LockFreeRingBuffer;

/// Requests that were taken out of the ring and are not yet in a batch.
#[derive(Debug)]
pub(super) struct Backlog<Q> {
    /// Those that the walk has passed. Older than `ahead`.
    passed: VecDeque<Q>,
    /// Those that the walk comes to before the ring. Older than what is in the ring.
    ahead: VecDeque<Q>,
}

// ===== impl Backlog =====

impl<Q> Backlog<Q> {
    pub(super) const fn new() -> Self {
        Backlog {
            passed: VecDeque::new(),
            ahead: VecDeque::new(),
        }
    }

    /// The next request of the walk. It is out of the backlog, unless it is given to one of the two below.
    pub(super) fn next(&mut self, ring: &LockFreeRingBuffer<Q>) -> Option<Q> {
        self.ahead.pop_front().or_else(|| ring.pop())
    }

    /// The request that was met last stays where it is, and the walk goes on behind it.
    pub(super) fn pass_over(&mut self, request: Q) {
        self.passed.push_back(request);
    }

    /// The request that was met last stays where it is, and is met again.
    pub(super) fn put_back(&mut self, request: Q) {
        self.ahead.push_front(request);
    }

    /// The walk begins again with the oldest.
    pub(super) fn rewind(&mut self) {
        while let Some(request) = self.passed.pop_back() {
            self.ahead.push_front(request);
        }
    }

    /// How many the walk has passed.
    pub(super) fn passed(&self) -> usize {
        self.passed.len()
    }

    /// The oldest, if it is not in the ring.
    pub(super) fn oldest(&self) -> Option<&Q> {
        self.passed.front().or_else(|| self.ahead.front())
    }

    /// How many there are, without the ring.
    pub(super) fn len(&self) -> usize {
        self.passed.len() + self.ahead.len()
    }

    /// Whether all that waits is in the ring.
    pub(super) fn is_empty(&self) -> bool {
        self.passed.is_empty() && self.ahead.is_empty()
    }
}
