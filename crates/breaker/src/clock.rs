//! Monotonic clocks: the trait, the system's clock, and a clock that tests move.

use std::{
    any::Any,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds in a second.
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// A monotonic clock. All deadlines of a breaker use its monotonic time, so a step of the wall clock cannot move a
/// deadline. A breaker reads the time of day only to record when a transition happened.
pub trait Clock: Any + Send + Sync + fmt::Debug {
    /// Returns the nanoseconds since a fixed origin. The value never decreases.
    fn now_ns(&self) -> u64;

    /// Returns a recent time at a lower cost than [`now_ns`](Self::now_ns). The returned time is never in the future,
    /// and at most 10 ms in the past unless the system stalls. An open circuit whose deadline is more than 50 ms away
    /// reads this time, because reading the exact time would make rejections slower. By default, this method calls
    /// `now_ns`.
    fn recent_ns(&self) -> u64 {
        self.now_ns()
    }

    /// Returns the time of day. A breaker reads the time of day once for each transition, and records it with the
    /// transition. By default, this method calls `SystemTime::now`.
    fn wall_time(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// The operating system's monotonic clock. Its time is zero at the moment at which the value is made.
///
/// This clock reads the same system clock as `std::time::Instant`, but returns plain nanoseconds. An `Instant` would
/// need a conversion through a `Duration`, twice per guarded call. Each conversion took a tenth of the call's time.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    origin_ns: u64,
}

/// The clock of one breaker. The system's clock has its own variant, so that the compiler can inline its methods.
#[derive(Debug)]
pub(super) enum Time {
    System(SystemClock),
    Other(Arc<dyn Clock>),
}

/// A clock that moves only when a test moves it.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

// ===== impl SystemClock =====

impl SystemClock {
    /// Makes a clock whose time is zero now.
    #[must_use]
    pub fn new() -> Self {
        Self {
            origin_ns: nanos_of(ClockId::Monotonic),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[inline]
    fn now_ns(&self) -> u64 {
        nanos_of(ClockId::Monotonic).saturating_sub(self.origin_ns)
    }

    /// Reads the time of the kernel's last timer tick from memory. Ticks are 1 to 10 ms apart.
    #[inline]
    #[cfg(target_os = "linux")]
    fn recent_ns(&self) -> u64 {
        nanos_of(ClockId::MonotonicCoarse).saturating_sub(self.origin_ns)
    }
}

/// Returns the nanoseconds since the origin of `clock`, usually the start of the system.
#[inline]
fn nanos_of(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    // Neither part is negative, and 2^64 nanoseconds are 584 years, so the sum fits 64 bits.
    now.tv_sec.cast_unsigned() * NANOS_PER_SECOND + now.tv_nsec.cast_unsigned()
}

/// Returns `time` in nanoseconds, at most `u64::MAX` (584 years).
pub(super) fn nanos(time: Duration) -> u64 {
    time.as_secs()
        .saturating_mul(NANOS_PER_SECOND)
        .saturating_add(u64::from(time.subsec_nanos()))
}

/// Returns `time` in milliseconds, for fields of log lines. The only rounding is that of one division, so the result has at
/// most the six decimals of whole nanoseconds.
pub(super) fn millis(time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "exact up to 104 days")]
    let nanos = time.as_nanos() as f64;
    nanos / 1e6
}

/// Returns `share` with at most six decimals, for fields of log lines.
pub(super) fn rounded(share: f64) -> f64 {
    (share * 1e6).round() / 1e6
}

// ===== impl Time =====

impl Time {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let any: &dyn Any = &*clock;
        match any.downcast_ref::<SystemClock>() {
            Some(system) => Self::System(*system),
            None => Self::Other(clock),
        }
    }

    #[inline]
    pub(super) fn now_ns(&self) -> u64 {
        match self {
            Self::System(clock) => clock.now_ns(),
            Self::Other(clock) => clock.now_ns(),
        }
    }

    #[inline]
    pub(super) fn recent_ns(&self) -> u64 {
        match self {
            Self::System(clock) => clock.recent_ns(),
            Self::Other(clock) => clock.recent_ns(),
        }
    }

    pub(super) fn wall_time(&self) -> SystemTime {
        match self {
            Self::System(clock) => clock.wall_time(),
            Self::Other(clock) => clock.wall_time(),
        }
    }
}

// ===== impl ManualClock =====

impl ManualClock {
    /// Makes a clock whose time is `now_ns` nanoseconds.
    #[must_use]
    pub const fn new(now_ns: u64) -> Self {
        Self(AtomicU64::new(now_ns))
    }

    /// Moves the clock forward by `step`, at most to `u64::MAX`.
    pub fn advance(&self, step: Duration) {
        let step_ns = nanos(step);
        let mut now = self.0.load(Ordering::Acquire);
        while let Err(seen) = self.0.compare_exchange(
            now,
            now.saturating_add(step_ns),
            Ordering::AcqRel,
            Ordering::Acquire,
        ) {
            now = seen;
        }
    }
}

impl Clock for ManualClock {
    fn now_ns(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Returns the Unix epoch plus the time of this clock.
    fn wall_time(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.now_ns())
    }
}
