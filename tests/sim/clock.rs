//! The clocks of the simulation, which follow tokio's paused clock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tally::wall_clock::WallClock;
use tally_breaker::Clock;
use tally_ledger::Timestamp;
use tokio::time::Instant;

use crate::oracle::WALL_BASE;

/// The monotonic clock and the wall clock. Time stands still until the scheduler moves it.
#[derive(Debug, Clone)]
pub(crate) struct SimClock {
    origin: Instant,
    /// How far the wall clock was moved, in nanoseconds.
    jumped: Arc<AtomicI64>,
}

// ===== impl SimClock =====

impl SimClock {
    /// Makes clocks that start now.
    pub(crate) fn new() -> Self {
        SimClock {
            origin: Instant::now(),
            jumped: Arc::new(AtomicI64::new(0)),
        }
    }

    /// The simulated time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        Instant::now() - self.origin
    }

    /// Turns a time since the start into a time of tokio's clock.
    pub(crate) fn at(&self, elapsed: Duration) -> Instant {
        self.origin + elapsed
    }

    /// Moves the wall clock by up to some seconds, forwards or backwards.
    pub(crate) fn jump(&self, nanos: i64) {
        self.jumped.fetch_add(nanos, Ordering::Relaxed);
    }
}

impl WallClock for SimClock {
    fn now(&self) -> Timestamp {
        let elapsed = u64::try_from(self.elapsed().as_nanos()).unwrap();
        let nanos = WALL_BASE.as_nanos() + elapsed;
        Timestamp::from_nanos(nanos.saturating_add_signed(self.jumped.load(Ordering::Relaxed)))
    }
}

impl Clock for SimClock {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.elapsed().as_nanos()).unwrap()
    }

    fn wall_time(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(WallClock::now(self).as_nanos())
    }
}
