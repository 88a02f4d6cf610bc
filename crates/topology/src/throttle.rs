//! Watches the CPU quota: every pause that it makes looks like slowness to those who measure latency.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;

use super::{CpuAffinityManager, CpuStat, Warning, WarningCode};

/// What the quota took since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Throttled {
    /// Periods in which the group ran into its quota.
    pub periods: u64,
    /// How long its threads were stopped. The kernel adds up CPUs, so several stopped at once count several times.
    pub time: Duration,
}

/// What the last look found.
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
    /// Counts from `stat` on.
    pub(super) fn since(stat: Option<CpuStat>) -> Self {
        Self {
            last: Mutex::new(stat),
            ..Self::default()
        }
    }

    /// Takes a reading; `None` if nothing was added.
    fn take(&self, now: CpuStat) -> Option<Throttled> {
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
}

// ===== impl CpuAffinityManager =====

impl CpuAffinityManager {
    /// What the CPU quota took since the last call; `None` if it took nothing or there is none, which costs nothing to
    /// find out. With a quota it reads one small file.
    pub fn sample_throttling(&self) -> Option<Throttled> {
        let layout = self.in_force();
        let cgroup = &layout.machine.cgroup;
        cgroup.quota?;
        self.shared.throttle.take(cgroup.read_stat(&self.shared.sources)?)
    }

    /// What an operator should know of the pauses so far.
    pub(super) fn throttle_warning(&self) -> Option<Warning> {
        let watch = &self.shared.throttle;
        let periods = watch.periods.load(Ordering::Relaxed);
        let time = Duration::from_micros(watch.time_us.load(Ordering::Relaxed));
        (periods > 0).then(|| {
            Warning::new(
                WarningCode::Throttled,
                format!("the CPU quota has stopped this process in {periods} periods, for {time:?} of CPU time in all"),
            )
        })
    }
}
