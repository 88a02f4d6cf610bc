//! Requests in the order of their arrival: first those that an earlier batch left behind, then those in the ring buffer.
//!
//! To fill a batch, the executor walks over the requests from the oldest to the youngest. A request that the batch does not take keeps its
//! place, so a younger request never overtakes it: [`Backlog::pass_over`] skips the request, [`Backlog::put_back`] ends the walk
//! before the request, and [`Backlog::rewind`] starts the walk again at the oldest request.

use std::collections::VecDeque;

use super::ring::LockFreeRingBuffer;

/// Requests that were taken out of the ring and are not yet in a batch.
#[derive(Debug)]
pub(super) struct Backlog<Q> {
    /// Requests that the walk has skipped. They are older than those in `ahead`.
    passed: VecDeque<Q>,
    /// Requests that the walk reaches before the ring buffer. They are older than those in the ring buffer.
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

    /// Removes and returns the next request of the walk. `pass_over` and `put_back` give it back.
    pub(super) fn next(&mut self, ring: &LockFreeRingBuffer<Q>) -> Option<Q> {
        self.ahead.pop_front().or_else(|| ring.pop())
    }

    /// Gives back the request that `next` returned last. The walk continues with the next request.
    pub(super) fn pass_over(&mut self, request: Q) {
        self.passed.push_back(request);
    }

    /// Gives back the request that `next` returned last. The next call returns it again.
    pub(super) fn put_back(&mut self, request: Q) {
        self.ahead.push_front(request);
    }

    /// Starts the walk again at the oldest request.
    pub(super) fn rewind(&mut self) {
        while let Some(request) = self.passed.pop_back() {
            self.ahead.push_front(request);
        }
    }

    /// Number of skipped requests.
    pub(super) fn passed(&self) -> usize {
        self.passed.len()
    }

    /// The oldest request; `None` if it is in the ring buffer.
    pub(super) fn oldest(&self) -> Option<&Q> {
        self.passed.front().or_else(|| self.ahead.front())
    }

    /// Number of requests outside the ring buffer.
    pub(super) fn len(&self) -> usize {
        self.passed.len() + self.ahead.len()
    }

    /// Whether all waiting requests are in the ring buffer.
    pub(super) fn is_empty(&self) -> bool {
        self.passed.is_empty() && self.ahead.is_empty()
    }
}
