//! Counters and distributions of a batch processor.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

use crate::distribution::{Distribution, Summary};

/// Why a batch was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushReason {
    /// The batch had the maximum number of items.
    Items,
    /// The batch had the maximum number of bytes.
    Bytes,
    /// The batch had no reason to wait, so it was closed as soon as a commit could begin.
    Idle,
    /// The batch waited for announced callers ([`Caller::calling`](super::Caller::calling)). The wait ended because the
    /// callers submitted their requests, or because the maximum time passed.
    Linger,
    /// The batch waited for announced callers. The wait ended because the deadline of a request in the batch left just
    /// enough time for a commit.
    Deadline,
    /// The batch waited for announced callers. The wait ended because [`flush`](super::BatchProcessor::flush) was
    /// called.
    Explicit,
    /// The queue was closed.
    Drain,
}

/// Counters and distributions since the batch processor was made.
#[derive(Debug)]
pub(super) struct Counters {
    /// The time at which the counters were created. The times below are measured from this epoch.
    epoch: Instant,
    full: AtomicU64,
    expired: AtomicU64,
    cancelled: AtomicU64,
    replies_missing: AtomicU64,
    flushes: [AtomicU64; FlushReason::ALL.len()],
    held_back: AtomicU64,
    client_share_percent: AtomicU64,
    pub(super) distributions: Distributions,
    /// Items that the executor takes per second, by the last measurement; 0 before the first measurement.
    items_per_second: AtomicU64,
    /// A running average of the duration of a commit, in nanoseconds; 0 before the first commit.
    commit_average: AtomicU64,
    /// Time at which the last commit was added to the average, in nanoseconds since the epoch.
    average_measured: AtomicU64,
    /// Time of the last change of the average, in nanoseconds since the epoch.
    average_changed: AtomicU64,
    /// Time at which the oldest queued request was queued, in nanoseconds since the epoch; 0 if the queue is empty.
    /// This time is an estimate, because the executor updates it only once per batch.
    oldest: AtomicU64,
    /// Time of the last explicit flush, in nanoseconds since the epoch; 0 before the first flush.
    flush_to: AtomicU64,
    latency_budget: Option<Duration>,
    over_budget: AtomicU64,
    /// Time of the last warning about the latency budget, in nanoseconds since the epoch; 0 before the first warning.
    warned_at: AtomicU64,
}

/// Distributions since the batch processor was made.
#[derive(Debug, Default)]
pub struct Distributions {
    /// Items in a batch.
    pub items: Distribution,
    /// Bytes in a batch.
    pub bytes: Distribution,
    /// Time from the submission of a request to the moment at which the executor claimed it, in nanoseconds.
    pub queue_wait: Distribution,
    /// Time from the claim of a request to its answer, in nanoseconds.
    pub commit: Distribution,
}

/// A snapshot of the state of the queue and of the counters since the batch processor was made.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BatchStats {
    /// Number of queued requests.
    pub queue_depth: usize,
    /// Maximum number of queued requests.
    pub queue_capacity: usize,
    /// Number of queued bytes.
    pub queue_bytes: usize,
    /// Maximum number of queued bytes.
    pub queue_bytes_capacity: usize,
    /// Estimated age of the oldest queued request.
    pub oldest_age: Duration,
    /// Number of requests rejected because the queue was full.
    pub full: u64,
    /// Number of requests not executed because their deadline passed in the queue or would have passed before an
    /// average commit ended.
    pub expired: u64,
    /// Number of requests whose caller dropped its future while the request was queued.
    pub cancelled: u64,
    /// Number of requests that the executor dropped without an answer. A value above 0 is a bug of the executor.
    pub replies_missing: u64,
    /// Number of batches that took longer than [`BatchConfig::latency_budget`](super::BatchConfig::latency_budget).
    pub over_budget: u64,
    /// Number of batches by the reason for which they were closed, in the order of [`FlushReason::ALL`].
    pub flushes: [u64; FlushReason::ALL.len()],
    /// Number of requests held back for the next batch because their client had used its share of the batch.
    pub held_back: u64,
    /// The largest share of one client in a batch, in percent. The value is that of the last batch that was large
    /// enough for shares to be counted.
    pub client_share_percent: u64,
    /// Maximum time that a batch waits at present for announced callers:
    /// [`BatchConfig::max_linger`](super::BatchConfig::max_linger), but at most half of `commit_average`.
    pub linger: Duration,
    /// Running average of the duration of a commit. Each new commit has the weight of one eighth.
    pub commit_average: Duration,
    /// Items in a batch.
    pub items: Summary,
    /// Bytes in a batch.
    pub bytes: Summary,
    /// Time from the submission of a request to the moment at which the executor claimed it, in nanoseconds.
    pub queue_wait: Summary,
    /// Time from the claim of a request to its answer, in nanoseconds.
    pub commit: Summary,
}

/// The time after which a caller that found the queue full is asked to retry, if the rate of the executor has not been
/// measured yet.
const HINT_DEFAULT: Duration = Duration::from_millis(100);
/// Shortest time after which a caller that found the queue full is asked to retry.
const HINT_MIN: Duration = Duration::from_millis(1);
/// Longest time after which a caller that found the queue full is asked to retry.
const HINT_MAX: Duration = Duration::from_secs(10);

/// Minimum time between two warnings about the latency budget.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// Each commit has the weight 1 / `AVERAGE_OVER` in the average.
const AVERAGE_OVER: u64 = 8;

// ===== impl FlushReason =====

impl FlushReason {
    /// All reasons.
    pub const ALL: [FlushReason; 7] = [
        FlushReason::Items,
        FlushReason::Bytes,
        FlushReason::Idle,
        FlushReason::Linger,
        FlushReason::Deadline,
        FlushReason::Explicit,
        FlushReason::Drain,
    ];

    /// The reason's name in metrics.
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
    /// Number of batches closed for `reason`.
    #[must_use]
    #[inline]
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

    /// Nanoseconds from the epoch to `at`. At least 1, because the counters use 0 for "no time".
    #[inline]
    fn since_epoch(&self, at: Instant) -> u64 {
        nanos(at.saturating_duration_since(self.epoch)).max(1)
    }

    /// The inverse of [`since_epoch`](Self::since_epoch): `None` for 0.
    #[inline]
    fn at(&self, since_epoch: u64) -> Option<Instant> {
        (since_epoch > 0).then(|| self.epoch + Duration::from_nanos(since_epoch))
    }

    /// Records that a request was queued at the time `at`. If the queue was empty, this request becomes the oldest.
    #[inline]
    pub(super) fn queued(&self, at: Instant) {
        if self.oldest.load(Ordering::Relaxed) == 0 {
            // If another caller stores its time first, the two requests are about equally old, so the time of this
            // request may be dropped.
            let _ =
                self.oldest
                    .compare_exchange(0, self.since_epoch(at), Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Records the time at which the oldest queued request was queued; `None` if the queue is empty.
    #[inline]
    pub(super) fn oldest_is(&self, queued_at: Option<Instant>) {
        let oldest = queued_at.map_or(0, |at| self.since_epoch(at));
        self.oldest.store(oldest, Ordering::Relaxed);
    }

    /// Records an explicit flush of all requests queued until now.
    pub(super) fn flush(&self) {
        let now = self.since_epoch(Instant::now());
        self.flush_to.fetch_max(now, Ordering::Relaxed);
    }

    /// The time of the last explicit flush.
    #[inline]
    pub(super) fn flush_to(&self) -> Option<Instant> {
        self.at(self.flush_to.load(Ordering::Relaxed))
    }

    /// Whether the oldest queued request was queued before the last flush. The queue must not be empty. `taken_at` is a
    /// time shortly before the executor last took requests.
    pub(super) fn flush_covers_oldest(&self, taken_at: Instant) -> bool {
        let flush_to = self.flush_to.load(Ordering::Relaxed);
        match self.oldest.load(Ordering::Relaxed) {
            // A request that was queued while the executor emptied the queue is missing in `oldest`. Such a request was
            // queued after `taken_at`.
            0 => flush_to >= self.since_epoch(taken_at),
            oldest => oldest <= flush_to,
        }
    }

    /// Average duration of a commit; zero before the first commit.
    #[inline]
    pub(super) fn commit_average(&self) -> Duration {
        Duration::from_nanos(self.commit_average.load(Ordering::Relaxed))
    }

    /// Adds a commit of this duration, which ended at `now`, to the average.
    #[inline]
    pub(super) fn committed(&self, duration: Duration, now: Instant) {
        let average = self.commit_average.load(Ordering::Relaxed);
        let next = match average {
            0 => nanos(duration),
            average => average - average / AVERAGE_OVER + nanos(duration) / AVERAGE_OVER,
        };
        // If two threads execute this function at the same time, one of the two commits is missing in the average. This
        // is harmless.
        self.commit_average.store(next, Ordering::Relaxed);
        let now = self.since_epoch(now);
        self.average_measured.store(now, Ordering::Relaxed);
        self.average_changed.store(now, Ordering::Relaxed);
    }

    /// Counts a batch of `requests` requests that took longer than the budget, and logs a warning unless one was logged
    /// in the last [`WARNING_INTERVAL`].
    #[inline]
    pub(super) fn compare_to_budget(&self, took: Duration, requests: usize, now: Instant) {
        let Some(budget) = self.latency_budget.filter(|budget| took > *budget) else {
            return;
        };
        let over_budget = self.over_budget.fetch_add(1, Ordering::Relaxed) + 1;
        let now = self.since_epoch(now);
        let last = self.warned_at.load(Ordering::Relaxed);
        let is_due = last == 0 || now.saturating_sub(last) >= nanos(WARNING_INTERVAL);
        // If two threads answer at the same time, only one of them logs the warning.
        let warns = is_due
            && self
                .warned_at
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if warns {
            tracing::warn!(
                took_ms = millis(took),
                budget_ms = millis(budget),
                requests,
                over_budget,
                "a batch exceeded its latency budget"
            );
        }
    }

    /// Records that a request was rejected at the time `now`, because its deadline would have passed before an average
    /// commit ends.
    ///
    /// After a single very slow commit, the average may be longer than the deadlines of all callers. If every request
    /// is rejected, no commit is measured, so the average would stay long for ever. Therefore the average shrinks when
    /// requests are rejected: it starts to shrink once no commit was measured for a time as long as the average, and
    /// then shrinks about as fast as time passes. The number of rejected requests makes no difference.
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

    #[inline]
    pub(super) fn held_back(&self, requests: usize) {
        self.held_back.fetch_add(requests as u64, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn client_share(&self, percent: u64) {
        self.client_share_percent.store(percent, Ordering::Relaxed);
    }

    pub(super) fn full(&self) {
        self.full.fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn expired(&self) {
        self.expired.fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
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

    /// Estimated time until the executor has taken `items` items, by the last measured rate.
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
    #[inline]
    pub(super) fn flushed(&self, reason: FlushReason, items: usize, bytes: usize) {
        if let Some(counter) = self.flushes.get(reason as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        self.distributions.items.record(items as u64);
        self.distributions.bytes.record(bytes as u64);
    }

    /// Estimated age of the oldest queued request.
    fn oldest_age(&self) -> Duration {
        self.at(self.oldest.load(Ordering::Relaxed))
            .map_or(Duration::ZERO, |oldest| oldest.elapsed())
    }

    /// Returns a snapshot of the counters. The fields that only the queue can fill in have their default values.
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

/// Returns `time` in milliseconds, for fields of log lines. Because the result is computed with a single division, it
/// is printed with at most six decimals, which are whole nanoseconds.
fn millis(time: Duration) -> f64 {
    nanos(time) as f64 / 1e6
}

#[inline]
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
