//! Further atomic words of a breaker: consecutive failures, the highest batch ids, the time of the last tick, and the
//! lifetime counters of each shard. The types in this file only record facts; `policy.rs` decides what they mean.

use super::sync::{AtomicU64, Ordering};

/// The number of consecutive failures: `generation:22 | count:42`. While the count is zero, a success only reads the
/// word. Therefore the threads of healthy calls do not contend for the word's cache line.
#[derive(Debug, Default)]
pub(super) struct Streak(AtomicU64);

/// The highest id recorded so far, plus one. Ids (of batches or time slices) increase, so an id is new if it is higher.
#[derive(Debug, Default)]
pub(super) struct HighWater(AtomicU64);

/// Detects that the process did not run, by the time since the last tick.
#[derive(Debug, Default)]
pub(super) struct PauseDetector {
    /// Time of the last tick in nanoseconds of the clock. Zero before the first tick. While the time is zero, no pause
    /// is detected.
    last_tick_ns: AtomicU64,
    /// Time at which the process last resumed after a pause. If a call was admitted before this time, its latency is
    /// measured from this time.
    resumed_ns: AtomicU64,
    /// Total time for which the process did not run.
    throttled_ns: AtomicU64,
    /// Pauses before this time have been counted. So if two threads detect the same pause, the pause is counted once.
    counted_until_ns: AtomicU64,
}

/// Lifetime counters of one shard. The threads of the shard write them; snapshots read them.
#[derive(Debug, Default)]
pub(super) struct ShardCounters {
    pub(super) admitted: AtomicU64,
    pub(super) finished: AtomicU64,
    /// Finished calls that got no answer from the service. Written before `finished`. So a reader that reads `finished`
    /// first never counts such a call as answered.
    pub(super) unanswered: AtomicU64,
    pub(super) cancelled: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) neutral: AtomicU64,
    pub(super) slow: AtomicU64,
    pub(super) stale_results: AtomicU64,
    pub(super) rejected_open: AtomicU64,
    pub(super) rejected_half_open: AtomicU64,
    pub(super) rejected_ramp: AtomicU64,
    pub(super) would_reject: AtomicU64,
}

const STREAK_BITS: u32 = 42;
const STREAK_MASK: u64 = (1 << STREAK_BITS) - 1;

// ===== impl Streak =====

impl Streak {
    /// Counts a failure of `generation`. Returns the number of consecutive failures.
    pub(super) fn extend(&self, generation: u32) -> u64 {
        let tag = u64::from(generation) << STREAK_BITS;
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let same = word & !STREAK_MASK == tag;
            let next = if same { word.saturating_add(1) } else { tag | 1 };
            match self
                .0
                .compare_exchange_weak(word, next, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return next & STREAK_MASK,
                Err(changed) => word = changed,
            }
        }
    }

    /// Returns the number of failures of `generation` since its last success.
    pub(super) fn current(&self, generation: u32) -> u64 {
        let word = self.0.load(Ordering::Relaxed);
        if word >> STREAK_BITS == u64::from(generation) {
            word & STREAK_MASK
        } else {
            0
        }
    }

    /// Resets the count after a success.
    pub(super) fn end(&self) {
        let word = self.0.load(Ordering::Relaxed);
        if word & STREAK_MASK != 0 {
            // If another thread counts a failure at the same moment, the exchange fails and the count stays. This is
            // correct: the two calls ended together, so the failure may count as the later call.
            let ended = word & !STREAK_MASK;
            let _ = self
                .0
                .compare_exchange(word, ended, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

// ===== impl HighWater =====

impl HighWater {
    /// Records `id`. Returns whether `id` is higher than every earlier id. If several calls have the same id, exactly
    /// one of them gets true.
    pub(super) fn raise_to(&self, id: u64) -> bool {
        let mark = id.saturating_add(1);
        self.0.load(Ordering::Relaxed) < mark && self.0.fetch_max(mark, Ordering::Relaxed) < mark
    }
}

// ===== impl PauseDetector =====

impl PauseDetector {
    /// Detects a pause: the last tick was `late_ns` or longer ago. If several threads detect the same pause, exactly
    /// one of them gets the length of the pause.
    pub(super) fn check(&self, now_ns: u64, late_ns: u64) -> Option<u64> {
        let last = self.last_tick_ns.load(Ordering::Acquire);
        let gap = now_ns.saturating_sub(last);
        if last == 0 || gap < late_ns {
            return None;
        }
        // `resumed_ns` is written before `last_tick_ns`: a thread that reads the new tick must also read the new
        // `resumed_ns`.
        self.resumed_ns.fetch_max(now_ns, Ordering::AcqRel);
        // Only one thread succeeds, so each pause is counted once. The exchange also ends the pause. So if the host has
        // stopped ticking permanently, calls are judged normally from now on.
        self.last_tick_ns
            .compare_exchange(last, now_ns, Ordering::AcqRel, Ordering::Acquire)
            .ok()?;
        self.count(now_ns, gap)
    }

    /// Records a tick.
    pub(super) fn tick(&self, now_ns: u64) {
        self.last_tick_ns.fetch_max(now_ns.max(1), Ordering::AcqRel);
    }

    /// Records that the host reports a pause of `pause_ns` that has just ended. Returns the part of the pause that was
    /// not counted before, or None if the whole pause was counted before.
    pub(super) fn report_pause(&self, now_ns: u64, pause_ns: u64) -> Option<u64> {
        self.resumed_ns.fetch_max(now_ns, Ordering::AcqRel);
        self.count(now_ns, pause_ns)
    }

    /// Counts the part of a pause that is after the last counted pause, so no time is counted twice.
    fn count(&self, now_ns: u64, pause_ns: u64) -> Option<u64> {
        let before = self.counted_until_ns.fetch_max(now_ns, Ordering::AcqRel);
        let new = pause_ns.min(now_ns.saturating_sub(before));
        self.throttled_ns.fetch_add(new, Ordering::Relaxed);
        (new > 0).then_some(new)
    }

    pub(super) fn resumed_ns(&self) -> u64 {
        self.resumed_ns.load(Ordering::Acquire)
    }

    pub(super) fn throttled_ns(&self) -> u64 {
        self.throttled_ns.load(Ordering::Relaxed)
    }
}
