//! Shared atomic words beside the gate and the window: failures in a row, the newest batches, the time of the last tick, and the
//! lifetime counters of each shard. They record facts; the policy decides.

use super::sync::{AtomicU64, Ordering};

/// Failures in a row, `generation:22 | count:42`. Successes only read it while the count is zero, so that the healthy path
/// shares the cache line without writing it.
#[derive(Debug, Default)]
pub(super) struct Streak(AtomicU64);

/// The highest id, plus one, of a batch that was counted for something. Ids grow, so a batch is new if its id is higher.
#[derive(Debug, Default)]
pub(super) struct HighWater(AtomicU64);

/// When the ticker last ran, and when the process last resumed after a pause.
#[derive(Debug, Default)]
pub(super) struct PauseDetector {
    /// Nanoseconds of the clock; zero until the host has ticked once. Without a ticker nothing is ever suspect.
    last_tick_ns: AtomicU64,
    /// Calls admitted before this moment are judged as if admitted then.
    resumed_ns: AtomicU64,
    /// Total time for which the process did not run.
    throttled_ns: AtomicU64,
    /// Pauses up to this moment have been counted, so that two threads that notice the same pause count it once.
    counted_until_ns: AtomicU64,
}

/// Lifetime counters of one shard; written by the threads of the shard, read by snapshots.
#[derive(Debug, Default)]
pub(super) struct ShardCounters {
    pub(super) admitted: AtomicU64,
    pub(super) finished: AtomicU64,
    /// Finished calls that were given up or gave no evidence. Written before `finished`, so that a reader that reads `finished`
    /// first never counts one of them as answered.
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
    /// Counts a failure of `generation`; returns how many there have been in a row.
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

    /// Failures of `generation` since its last success.
    pub(super) fn current(&self, generation: u32) -> u64 {
        let word = self.0.load(Ordering::Relaxed);
        if word >> STREAK_BITS == u64::from(generation) {
            word & STREAK_MASK
        } else {
            0
        }
    }

    /// Ends the row: a call succeeded.
    pub(super) fn end(&self) {
        let word = self.0.load(Ordering::Relaxed);
        if word & STREAK_MASK != 0 {
            // A failure that is counted in between stays counted: both calls ended at the same time, in either order.
            let ended = word & !STREAK_MASK;
            let _ = self
                .0
                .compare_exchange(word, ended, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

// ===== impl HighWater =====

impl HighWater {
    /// Returns whether `id` is higher than every earlier id; true for exactly one of the calls of a batch.
    pub(super) fn raise_to(&self, id: u64) -> bool {
        let mark = id.saturating_add(1);
        self.0.load(Ordering::Relaxed) < mark && self.0.fetch_max(mark, Ordering::Relaxed) < mark
    }
}

// ===== impl PauseDetector =====

impl PauseDetector {
    /// Detects a pause: the last tick is `late_ns` or more ago. Returns the length of the pause to one of the threads that
    /// notice it.
    pub(super) fn check(&self, now_ns: u64, late_ns: u64) -> Option<u64> {
        let last = self.last_tick_ns.load(Ordering::Acquire);
        let gap = now_ns.saturating_sub(last);
        if last == 0 || gap < late_ns {
            return None;
        }
        // Written before `last_tick_ns`: a thread that reads the new tick must also read the new `resumed_ns`.
        self.resumed_ns.fetch_max(now_ns, Ordering::AcqRel);
        // Counts each pause once. It also limits the excuse if the ticker has died: calls are judged again from now on.
        self.last_tick_ns
            .compare_exchange(last, now_ns, Ordering::AcqRel, Ordering::Acquire)
            .ok()?;
        self.count(now_ns, gap)
    }

    /// Records a tick.
    pub(super) fn tick(&self, now_ns: u64) {
        self.last_tick_ns.fetch_max(now_ns.max(1), Ordering::AcqRel);
    }

    /// Records a pause of `pause_ns` until about now that the host reports. Returns the part that was not counted before.
    pub(super) fn report_pause(&self, now_ns: u64, pause_ns: u64) -> Option<u64> {
        self.resumed_ns.fetch_max(now_ns, Ordering::AcqRel);
        self.count(now_ns, pause_ns)
    }

    /// Adds the part of a pause that is later than the last counted pause, so that the total never grows faster than the
    /// clock.
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
