//! Measures throttling by the CPU quota. A throttled process looks slow to everything that measures latency.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;

use super::{
    cgroup::CpuStat,
    warning::{Warning, WarningCode},
};

/// Throttling between two readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Throttled {
    /// Number of periods in which the control group used up its quota.
    pub periods: u64,
    /// Time for which its threads were stopped. The kernel adds the times of all CPUs, so threads stopped at the same time count
    /// separately.
    pub time: Duration,
}

/// The last reading, and the sums since the start of the process.
#[derive(Debug, Default)]
pub(super) struct ThrottleWatch {
    last: Mutex<Option<CpuStat>>,
    /// Since the start of the process.
    periods: AtomicU64,
    /// Since the start of the process.
    time_us: AtomicU64,
}

// ===== impl ThrottleWatch =====

impl ThrottleWatch {
    /// Starts with the reading `stat`.
    pub(super) fn since(stat: Option<CpuStat>) -> Self {
        Self {
            last: Mutex::new(stat),
            ..Self::default()
        }
    }

    /// Returns the throttling since the last reading; `None` if there was none.
    pub(super) fn take(&self, now: CpuStat) -> Option<Throttled> {
        let before = self.last.lock().replace(now)?;
        let CpuStat {
            throttled_periods: periods,
            throttled_us,
            ..
        } = now.since(&before);
        if periods == 0 && throttled_us == 0 {
            return None;
        }
        // Relaxed: only ever shown.
        self.periods.fetch_add(periods, Ordering::Relaxed);
        self.time_us.fetch_add(throttled_us, Ordering::Relaxed);
        Some(Throttled {
            periods,
            time: Duration::from_micros(throttled_us),
        })
    }

    /// The warning about all throttling so far; `None` if there was none.
    pub(super) fn warning(&self) -> Option<Warning> {
        let periods = self.periods.load(Ordering::Relaxed);
        let time = Duration::from_micros(self.time_us.load(Ordering::Relaxed));
        (periods > 0).then(|| {
            Warning::new(
                WarningCode::Throttled,
                format!("the CPU quota has stopped this process in {periods} periods, for {time:?} of CPU time in all"),
            )
        })
    }
}
