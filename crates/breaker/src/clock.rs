//! Monotonic time, as the breaker needs it, and a clock that tests can move.

use std::{
    any::Any,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds in a second.
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Tells monotonic time. A breaker never looks at the time of day: a step of the wall clock cannot move a deadline.
pub trait Clock: Any + Send + Sync + fmt::Debug {
    /// Nanoseconds since a fixed moment of the clock's own choice; never goes back.
    fn now_ns(&self) -> u64;

    /// The same, as of a little while ago, for less: not later than now, and not more than some 10 ms earlier unless the
    /// system is held up. An open circuit goes by it while its deadline is far, so that rejections cost next to nothing.
    fn recent_ns(&self) -> u64 {
        self.now_ns()
    }
}

/// The operating system's monotonic clock, counted from the moment this value was made.
///
/// It asks the clock that `std::time::Instant` asks, too, and takes the number as it is: an `Instant` tells nanoseconds
/// only by way of a `Duration`, which took a tenth of a whole call through the breaker, twice.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    origin_ns: u64,
}

/// The clock of one breaker: the system's, known to the compiler, or another one.
#[derive(Debug)]
pub(super) enum Time {
    System(SystemClock),
    Other(Arc<dyn Clock>),
}

/// A clock that stands still until a test moves it.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

// ===== impl SystemClock =====

impl SystemClock {
    /// A clock that shows zero now.
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

    /// The same clock at the kernel's last tick, which is read from memory; a tick is 1 to 10 ms.
    #[inline]
    #[cfg(target_os = "linux")]
    fn recent_ns(&self) -> u64 {
        nanos_of(ClockId::MonotonicCoarse).saturating_sub(self.origin_ns)
    }
}

/// Nanoseconds since the clock's own origin, usually the system's start.
#[inline]
fn nanos_of(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    // Neither part is ever negative, and 2^64 nanoseconds are 584 years.
    now.tv_sec.cast_unsigned() * NANOS_PER_SECOND + now.tv_nsec.cast_unsigned()
}

/// Whole nanoseconds of `time`, at most `u64::MAX` (584 years).
pub(super) fn nanos(time: Duration) -> u64 {
    time.as_secs()
        .saturating_mul(NANOS_PER_SECOND)
        .saturating_add(u64::from(time.subsec_nanos()))
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
}

// ===== impl ManualClock =====

impl ManualClock {
    /// A clock that shows `now_ns` nanoseconds.
    #[must_use]
    pub const fn new(now_ns: u64) -> Self {
        Self(AtomicU64::new(now_ns))
    }

    /// Moves it forward by `step`; it stops at the end of time rather than wrapping.
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
}
