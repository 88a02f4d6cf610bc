//! The clocks of the simulation, which follow tokio's paused clock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tally::{ledger_clock::STEP_MAX, wall_clock::WallClock};
use tally_breaker::Clock;
use tally_ledger::Timestamp;
use tokio::time::Instant;

use crate::{oracle::WALL_BASE, world::World};

/// The monotonic clock and the wall clock. Time stands still until the scheduler moves it.
#[derive(Debug, Clone)]
pub(crate) struct SimClock {
    origin: Instant,
    /// How far the wall clock was moved, in nanoseconds.
    jumped: Arc<AtomicI64>,
    set: Arc<AtomicBool>,
}

// ===== impl SimClock =====

impl SimClock {
    /// Makes clocks that start now.
    pub(crate) fn new() -> Self {
        SimClock {
            origin: Instant::now(),
            jumped: Arc::new(AtomicI64::new(0)),
            set: Arc::new(AtomicBool::new(false)),
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

    /// How far the wall clock was moved, in nanoseconds.
    pub(crate) fn jumped(&self) -> i64 {
        self.jumped.load(Ordering::Relaxed)
    }

    /// Whether the wall clock was ever set.
    pub(crate) fn was_set(&self) -> bool {
        self.set.load(Ordering::Relaxed)
    }

    /// Moves the wall clock forwards or backwards.
    pub(crate) fn jump(&self, nanos: i64) {
        self.jumped.fetch_add(nanos, Ordering::Relaxed);
        self.set.store(true, Ordering::Relaxed);
    }
}

// ===== impl World: steps of the wall clock =====

/// The largest step that the wall clock makes, in seconds.
const JUMP_MAX: i64 = 24 * 3600;

impl World {
    /// Sets the wall clock: by some seconds, or by more than the service follows. Sometimes an administrator confirms the
    /// step that is held before.
    pub(crate) fn step_clock(&mut self) {
        if self.random.percent(30) {
            self.confirm_clock();
        }
        let seconds = if self.random.percent(70) {
            i64::try_from(self.random.below(20)).unwrap() - 10
        } else {
            i64::try_from(self.random.within(&(0..JUMP_MAX.unsigned_abs() * 2))).unwrap() - JUMP_MAX
        };
        self.note(format_args!("the wall clock jumps by {seconds} s"));
        self.oracle.clock_stepped();
        self.clock.jump(seconds * 1_000_000_000);
        // The service may follow from any clock that it has followed before, and the latest of them is the worst.
        let jumped = self.clock.jumped();
        if jumped - self.clock_followed <= i64::try_from(STEP_MAX.as_nanos()).unwrap() {
            self.clock_is_followed();
        }
    }

    fn confirm_clock(&mut self) {
        let engine = &self.service.as_ref().unwrap().engine;
        let Some(held) = engine.clock().held else {
            return;
        };
        let confirmed = engine.confirm_clock(held);
        self.note(format_args!("a step of the clock is confirmed: {confirmed:?}"));
        self.clock_is_followed();
    }

    /// The ledger clock may show the time of the wall clock from now on.
    pub(crate) fn clock_is_followed(&mut self) {
        self.clock_followed = self.clock_followed.max(self.clock.jumped());
    }

    /// Returns the latest time that the ledger clock may show now.
    pub(crate) fn latest_time(&self) -> Timestamp {
        let elapsed = u64::try_from(self.clock.elapsed().as_nanos()).unwrap();
        let nanos = WALL_BASE.as_nanos() + elapsed;
        Timestamp::from_nanos(nanos.saturating_add_signed(self.clock_followed))
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
