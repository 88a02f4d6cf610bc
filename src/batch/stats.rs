//! What the batch processor counts.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::distribution::{Distribution, Summary};

/// What closed a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushReason {
    /// The committer was idle: what was there went out at once.
    Idle,
    /// The batch had its greatest number of items.
    Items,
    /// The batch had its greatest number of bytes.
    Bytes,
    /// The executor was shutting down.
    Drain,
}

/// Counters and distributions since the process started.
#[derive(Debug, Default)]
pub(super) struct Counters {
    full: AtomicU64,
    expired: AtomicU64,
    cancelled: AtomicU64,
    replies_missing: AtomicU64,
    flush_idle: AtomicU64,
    flush_items: AtomicU64,
    flush_bytes: AtomicU64,
    flush_drain: AtomicU64,
    pub(super) distributions: Distributions,
    /// Items that the executor takes in a second, as last measured; 0 until then.
    items_per_second: AtomicU64,
}

/// Distributions since the process started.
#[derive(Debug, Default)]
pub struct Distributions {
    /// Items in a batch.
    pub items: Distribution,
    /// Bytes in a batch.
    pub bytes: Distribution,
    /// From entering the ring to being claimed, in nanoseconds.
    pub queue_wait: Distribution,
    /// From being claimed to being answered, in nanoseconds.
    pub commit: Distribution,
}

/// A reading of the counters.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BatchStats {
    /// Requests that wait.
    pub queue_depth: usize,
    /// Requests that can wait.
    pub queue_capacity: usize,
    /// Requests refused because the ring was full.
    pub full: u64,
    /// Requests whose deadline passed in the queue.
    pub expired: u64,
    /// Requests whose caller left while they were queued.
    pub cancelled: u64,
    /// Requests that the executor dropped unanswered: a bug if it is ever more than zero.
    pub replies_missing: u64,
    /// Batches closed because the committer was idle.
    pub flush_idle: u64,
    /// Batches closed because of their items.
    pub flush_items: u64,
    /// Batches closed because of their bytes.
    pub flush_bytes: u64,
    /// Batches closed by the shutdown.
    pub flush_drain: u64,
    /// Items in a batch.
    pub items: Summary,
    /// Bytes in a batch.
    pub bytes: Summary,
    /// From entering the ring to being claimed, in nanoseconds.
    pub queue_wait: Summary,
    /// From being claimed to being answered, in nanoseconds.
    pub commit: Summary,
}

/// Hint for a full queue before anything has been measured.
const HINT_DEFAULT: Duration = Duration::from_millis(100);
/// Shortest hint.
const HINT_MIN: Duration = Duration::from_millis(1);
/// Longest hint.
const HINT_MAX: Duration = Duration::from_secs(10);

// ===== impl Counters =====

impl Counters {
    pub(super) fn full(&self) {
        self.full.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn expired(&self) {
        self.expired.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn cancelled(&self) {
        self.cancelled.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn replies_missing(&self) {
        self.replies_missing.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn answered(&self, queue_waits: &[Duration], commits: &[Duration]) {
        self.distributions
            .queue_wait
            .record_durations(queue_waits.iter().copied());
        self.distributions
            .commit
            .record_durations(commits.iter().copied());
    }

    pub(super) fn drain_rate(&self, items_per_second: u64) {
        self.items_per_second.store(items_per_second, Ordering::Relaxed);
    }

    /// When `items` should have been taken, by the rate that was last measured.
    pub(super) fn drain_time(&self, items: usize) -> Duration {
        match self.items_per_second.load(Ordering::Relaxed) {
            0 => HINT_DEFAULT,
            rate => {
                let millis = (items as u64).saturating_mul(1000) / rate;
                Duration::from_millis(millis).clamp(HINT_MIN, HINT_MAX)
            }
        }
    }

    /// Counts a batch that was closed.
    pub(super) fn flushed(&self, reason: FlushReason, items: usize, bytes: usize) {
        let counter = match reason {
            FlushReason::Idle => &self.flush_idle,
            FlushReason::Items => &self.flush_items,
            FlushReason::Bytes => &self.flush_bytes,
            FlushReason::Drain => &self.flush_drain,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.distributions.items.record(items as u64);
        self.distributions.bytes.record(bytes as u64);
    }

    pub(super) fn read(&self, queue_depth: usize, queue_capacity: usize) -> BatchStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BatchStats {
            queue_depth,
            queue_capacity,
            full: count(&self.full),
            expired: count(&self.expired),
            cancelled: count(&self.cancelled),
            replies_missing: count(&self.replies_missing),
            flush_idle: count(&self.flush_idle),
            flush_items: count(&self.flush_items),
            flush_bytes: count(&self.flush_bytes),
            flush_drain: count(&self.flush_drain),
            items: self.distributions.items.summary(),
            bytes: self.distributions.bytes.summary(),
            queue_wait: self.distributions.queue_wait.summary(),
            commit: self.distributions.commit.summary(),
        }
    }
}
