//! What the batch processor counts.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

use crate::distribution::{Distribution, Summary};

/// What closed a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushReason {
    /// The batch had its greatest number of items.
    Items,
    /// The batch had its greatest number of bytes.
    Bytes,
    /// The committer was idle: what was there went out at once.
    Idle,
    /// It had lingered for callers on their way, and they have come, or the time was up.
    Linger,
    /// It lingered, and one of its deadlines came near.
    Deadline,
    /// It lingered, and somebody asked for it.
    Explicit,
    /// The executor was shutting down.
    Drain,
}

/// Counters and distributions since the process started.
#[derive(Debug)]
pub(super) struct Counters {
    /// When these counters began, for the times below.
    epoch: Instant,
    full: AtomicU64,
    expired: AtomicU64,
    cancelled: AtomicU64,
    replies_missing: AtomicU64,
    flushes: [AtomicU64; FlushReason::ALL.len()],
    held_back: AtomicU64,
    client_share_percent: AtomicU64,
    pub(super) distributions: Distributions,
    /// Items that the executor takes in a second, as last measured; 0 until then.
    items_per_second: AtomicU64,
    /// A running average of how long a commit takes, in nanoseconds; 0 until one has been measured.
    commit_average: AtomicU64,
    /// When that was measured last, in nanoseconds since the epoch.
    average_measured: AtomicU64,
    /// When it was measured or lowered last, in nanoseconds since the epoch.
    average_changed: AtomicU64,
    /// About when the oldest request was queued, in nanoseconds since the epoch; 0 if none waits.
    oldest: AtomicU64,
    /// What was queued until then was asked to go out, in nanoseconds since the epoch; 0 if that never happened.
    flush_to: AtomicU64,
    latency_budget: Option<Duration>,
    over_budget: AtomicU64,
    /// When the last warning about the latency budget was logged, in nanoseconds since the epoch; 0 if there was none.
    warned_at: AtomicU64,
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
    /// Bytes that wait.
    pub queue_bytes: usize,
    /// Bytes that can wait.
    pub queue_bytes_capacity: usize,
    /// How long the oldest request has waited, about.
    pub oldest_age: Duration,
    /// Requests refused because the ring was full.
    pub full: u64,
    /// Requests whose deadline passed in the queue.
    pub expired: u64,
    /// Requests whose caller left while they were queued.
    pub cancelled: u64,
    /// Requests that the executor dropped unanswered: a bug if it is ever more than zero.
    pub replies_missing: u64,
    /// Batches that took longer than [`BatchConfig::latency_budget`](super::BatchConfig::latency_budget).
    pub over_budget: u64,
    /// Batches by what closed them, in the order of [`FlushReason::ALL`].
    pub flushes: [u64; FlushReason::ALL.len()],
    /// Requests held back for the next batch because their client had had its share.
    pub held_back: u64,
    /// The largest part of one client, in percent, of the last batch that was large enough for shares to be counted.
    pub client_share_percent: u64,
    /// How long a batch may linger now for callers on their way.
    pub linger: Duration,
    /// How long a commit takes: a running average over about eight.
    pub commit_average: Duration,
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

/// Minimum time between two warnings about the latency budget.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// A commit counts for one part in so many of the average.
const AVERAGE_OVER: u64 = 8;

// ===== impl FlushReason =====

impl FlushReason {
    /// All of them.
    pub const ALL: [FlushReason; 7] = [
        FlushReason::Items,
        FlushReason::Bytes,
        FlushReason::Idle,
        FlushReason::Linger,
        FlushReason::Deadline,
        FlushReason::Explicit,
        FlushReason::Drain,
    ];

    /// Its name in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            FlushReason::Items => "items",
            FlushReason::Bytes => "bytes",
            FlushReason::Idle => "idle",
            FlushReason::Linger => "linger",
            FlushReason::Deadline => "deadline",
            FlushReason::Explicit => "explicit",
            FlushReason::Drain => "drain",
        }
    }
}

// ===== impl BatchStats =====

impl BatchStats {
    /// Batches that were closed for `reason`.
    #[must_use]
    pub fn flushed(&self, reason: FlushReason) -> u64 {
        self.flushes.get(reason as usize).copied().unwrap_or_default()
    }
}

// ===== impl Counters =====

impl Counters {
    pub(super) fn new(latency_budget: Option<Duration>) -> Self {
        Counters {
            epoch: Instant::now(),
            full: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            replies_missing: AtomicU64::new(0),
            flushes: Default::default(),
            held_back: AtomicU64::new(0),
            client_share_percent: AtomicU64::new(0),
            distributions: Distributions::default(),
            items_per_second: AtomicU64::new(0),
            commit_average: AtomicU64::new(0),
            average_measured: AtomicU64::new(0),
            average_changed: AtomicU64::new(0),
            oldest: AtomicU64::new(0),
            flush_to: AtomicU64::new(0),
            latency_budget,
            over_budget: AtomicU64::new(0),
            warned_at: AtomicU64::new(0),
        }
    }

    /// Never 0, which says that there is no such time.
    fn since_epoch(&self, at: Instant) -> u64 {
        nanos(at.saturating_duration_since(self.epoch)).max(1)
    }

    fn at(&self, since_epoch: u64) -> Option<Instant> {
        (since_epoch > 0).then(|| self.epoch + Duration::from_nanos(since_epoch))
    }

    /// A request was queued: the oldest, if no other waits.
    pub(super) fn queued(&self, at: Instant) {
        if self.oldest.load(Ordering::Relaxed) == 0 {
            // If another is faster, it is as old.
            let _ =
                self.oldest
                    .compare_exchange(0, self.since_epoch(at), Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// When the oldest request that waits was queued, about; `None` if none waits.
    pub(super) fn oldest_is(&self, queued_at: Option<Instant>) {
        let oldest = queued_at.map_or(0, |at| self.since_epoch(at));
        self.oldest.store(oldest, Ordering::Relaxed);
    }

    /// What is queued now is asked to go out.
    pub(super) fn flush(&self) {
        let now = self.since_epoch(Instant::now());
        self.flush_to.fetch_max(now, Ordering::Relaxed);
    }

    /// What was queued until then was asked to go out.
    pub(super) fn flush_to(&self) -> Option<Instant> {
        self.at(self.flush_to.load(Ordering::Relaxed))
    }

    /// Whether the oldest queued request was queued before the last flush.
    pub(super) fn flush_covers_oldest(&self) -> bool {
        let oldest = self.oldest.load(Ordering::Relaxed);
        oldest > 0 && oldest <= self.flush_to.load(Ordering::Relaxed)
    }

    /// How long a commit takes, about; zero if that is not known.
    pub(super) fn commit_average(&self) -> Duration {
        Duration::from_nanos(self.commit_average.load(Ordering::Relaxed))
    }

    /// A commit has taken so long, and is over at `now`.
    pub(super) fn committed(&self, duration: Duration, now: Instant) {
        let average = self.commit_average.load(Ordering::Relaxed);
        let next = match average {
            0 => nanos(duration),
            average => average - average / AVERAGE_OVER + nanos(duration) / AVERAGE_OVER,
        };
        // Two threads that do this at once lose a commit, which an average can bear.
        self.commit_average.store(next, Ordering::Relaxed);
        let now = self.since_epoch(now);
        self.average_measured.store(now, Ordering::Relaxed);
        self.average_changed.store(now, Ordering::Relaxed);
    }

    /// Counts a batch of `requests` requests that took longer than the budget, and logs a warning unless one was logged in the
    /// last [`WARNING_INTERVAL`].
    pub(super) fn compare_to_budget(&self, took: Duration, requests: usize, now: Instant) {
        let Some(budget) = self.latency_budget.filter(|budget| took > *budget) else {
            return;
        };
        let over_budget = self.over_budget.fetch_add(1, Ordering::Relaxed) + 1;
        let now = self.since_epoch(now);
        let last = self.warned_at.load(Ordering::Relaxed);
        let is_due = last == 0 || now.saturating_sub(last) >= nanos(WARNING_INTERVAL);
        // Of two threads that answer at the same time, one logs.
        let warns = is_due
            && self
                .warned_at
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if warns {
            tracing::warn!(
                ?took,
                ?budget,
                requests,
                over_budget,
                "a batch exceeded its latency budget"
            );
        }
    }

    /// A request was refused at `now` since the average would have made it too late.
    ///
    /// One stall must not shut out for ever those who give less time than it took: nothing of theirs would be committed
    /// again, and nothing measured. So the average is believed for as long as it says since it was measured, and shrinks
    /// from then on, about as fast as time passes. How many are refused meanwhile makes no difference.
    pub(super) fn expired_by_average(&self, now: Instant) {
        self.expired();
        let average = self.commit_average.load(Ordering::Relaxed);
        let now = self.since_epoch(now);
        let since = |then: &AtomicU64| now.saturating_sub(then.load(Ordering::Relaxed));
        let step = average / AVERAGE_OVER;
        if since(&self.average_measured) >= average && since(&self.average_changed) >= step {
            self.commit_average.store(average - step, Ordering::Relaxed);
            self.average_changed.store(now, Ordering::Relaxed);
        }
    }

    pub(super) fn held_back(&self, requests: usize) {
        self.held_back.fetch_add(requests as u64, Ordering::Relaxed);
    }

    pub(super) fn client_share(&self, percent: u64) {
        self.client_share_percent.store(percent, Ordering::Relaxed);
    }

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
        if let Some(counter) = self.flushes.get(reason as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        self.distributions.items.record(items as u64);
        self.distributions.bytes.record(bytes as u64);
    }

    /// How long the oldest request has waited, about.
    fn oldest_age(&self) -> Duration {
        self.at(self.oldest.load(Ordering::Relaxed))
            .map_or(Duration::ZERO, |oldest| oldest.elapsed())
    }

    /// Everything but what the queue itself knows.
    pub(super) fn read(&self, queue_depth: usize) -> BatchStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BatchStats {
            queue_depth,
            oldest_age: if queue_depth == 0 {
                Duration::ZERO
            } else {
                self.oldest_age()
            },
            full: count(&self.full),
            expired: count(&self.expired),
            cancelled: count(&self.cancelled),
            replies_missing: count(&self.replies_missing),
            over_budget: count(&self.over_budget),
            flushes: std::array::from_fn(|reason| self.flushes.get(reason).map_or(0, count)),
            held_back: count(&self.held_back),
            client_share_percent: count(&self.client_share_percent),
            commit_average: self.commit_average(),
            items: self.distributions.items.summary(),
            bytes: self.distributions.bytes.summary(),
            queue_wait: self.distributions.queue_wait.summary(),
            commit: self.distributions.commit.summary(),
            ..BatchStats::default()
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
