//! Measures throttling: the time for which the kernel stops the process because it has used up its CPU quota. This time
//! adds to every latency that the process measures.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;

use super::{
    cgroup::CpuStat,
    warning::{Figures, Warning, WarningCode},
};

/// Throttling between two readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Throttled {
    /// Number of periods in which the control group used up its quota.
    pub periods: u64,
    /// Time for which the group's threads were stopped. The kernel adds the times of all CPUs, so two threads that are
    /// stopped at the same time count twice.
    pub time: Duration,
}

/// The last reading, and the sums since the start of the process.
#[derive(Debug, Default)]
pub(super) struct ThrottleWatch {
    last: Mutex<Option<CpuStat>>,
    /// Number of throttled periods since the start of the process.
    periods: AtomicU64,
    /// Throttled time since the start of the process, in µs.
    time_us: AtomicU64,
}

// ===== impl ThrottleWatch =====

impl ThrottleWatch {
    /// Starts with `stat` as the first reading.
    pub(super) fn since(stat: Option<CpuStat>) -> Self {
        Self {
            last: Mutex::new(stat),
            ..Self::default()
        }
    }

    /// Returns the throttling between the last reading and `now`, and stores `now` as the last reading. Returns `None`
    /// if the process was not throttled, or if there was no earlier reading.
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
        // Relaxed: the sums are only reported, and order no other memory access.
        self.periods.fetch_add(periods, Ordering::Relaxed);
        self.time_us.fetch_add(throttled_us, Ordering::Relaxed);
        Some(Throttled {
            periods,
            time: Duration::from_micros(throttled_us),
        })
    }

    /// Returns the warning about all throttling since the start of the process; `None` if the process was not throttled.
    pub(super) fn warning(&self) -> Option<Warning> {
        let periods = self.periods.load(Ordering::Relaxed);
        let time_us = self.time_us.load(Ordering::Relaxed);
        (periods > 0).then(|| {
            let detail = format!(
                "the CPU quota has stopped this process: number of periods {periods}, CPU time in total {time_us} µs"
            );
            Warning::new(WarningCode::Throttled, detail).with(Figures {
                periods: Some(periods),
                time_us: Some(time_us),
                ..Figures::default()
            })
        })
    }
}
