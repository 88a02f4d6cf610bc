//! [`Backlog`]: iterates over the queued requests in the order of their arrival. The requests that earlier batches did
//! not take come first, and the requests in the ring buffer follow.
//!
//! To fill a batch, the executor iterates from the oldest request to the youngest. A request that the batch does not
//! take keeps its position in this order, so a younger request never overtakes it. [`Backlog::pass_over`] skips a
//! request, [`Backlog::put_back`] makes a request the next one again, and [`Backlog::rewind`] starts the iteration
//! again at the oldest request.

use std::collections::VecDeque;

use super::ring::LockFreeRingBuffer;

/// Requests that were taken out of the ring and are not yet in a batch.
#[derive(Debug)]
pub(super) struct Backlog<Q> {
    /// Requests that the iteration has skipped. They are older than the requests in `ahead`.
    passed: VecDeque<Q>,
    /// Requests that the iteration returns before the requests in the ring buffer, because they are older.
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

    /// Removes and returns the next request. `pass_over` and `put_back` return the request to the backlog.
    pub(super) fn next(&mut self, ring: &LockFreeRingBuffer<Q>) -> Option<Q> {
        self.ahead.pop_front().or_else(|| ring.pop())
    }

    /// Returns to the backlog the request that `next` returned last, as skipped. The iteration continues after this
    /// request.
    pub(super) fn pass_over(&mut self, request: Q) {
        self.passed.push_back(request);
    }

    /// Returns to the backlog the request that `next` returned last. The next call of `next` returns this request
    /// again.
    pub(super) fn put_back(&mut self, request: Q) {
        self.ahead.push_front(request);
    }

    /// Starts the iteration again at the oldest request.
    pub(super) fn rewind(&mut self) {
        while let Some(request) = self.passed.pop_back() {
            self.ahead.push_front(request);
        }
    }

    /// Number of skipped requests.
    pub(super) fn passed(&self) -> usize {
        self.passed.len()
    }

    /// The oldest request outside the ring buffer; `None` if all requests are in the ring buffer.
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
