//! The clocks of the simulation, which follow tokio's paused clock.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use tally::wall_clock::WallClock;
use tally_breaker::Clock;
use tally_ledger::Timestamp;
use tokio::time::Instant;

use crate::{
    oracle::WALL_BASE,
    world::{Failure, World},
};

/// The monotonic clock and the wall clock. Time stands still until the scheduler moves it.
#[derive(Debug, Clone)]
pub(crate) struct SimClock {
    origin: Instant,
    /// How far the wall clock was moved, in nanoseconds.
    jumped: Arc<AtomicI64>,
    set: Arc<AtomicBool>,
    /// The readings of the wall clock by the service that the oracle does not know yet.
    readings: Arc<Mutex<Vec<Reading>>>,
}

/// A reading of the wall clock: the simulated time since the start, and what the wall clock showed.
type Reading = (Duration, Timestamp);

// ===== impl SimClock =====

impl SimClock {
    /// Makes clocks that start now.
    pub(crate) fn new() -> Self {
        SimClock {
            origin: Instant::now(),
            jumped: Arc::new(AtomicI64::new(0)),
            set: Arc::new(AtomicBool::new(false)),
            readings: Arc::default(),
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

    /// Returns the time of the wall clock. This is a reading by the simulator, which does not affect the ledger clock.
    pub(crate) fn wall(&self) -> Timestamp {
        let elapsed = u64::try_from(self.elapsed().as_nanos()).unwrap();
        let nanos = WALL_BASE.as_nanos() + elapsed;
        Timestamp::from_nanos(nanos.saturating_add_signed(self.jumped.load(Ordering::Relaxed)))
    }

    /// Returns the readings of the wall clock by the service since the last call.
    pub(crate) fn take_readings(&self) -> Vec<Reading> {
        mem::take(&mut *self.readings.lock())
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
    /// Moves the wall clock by some seconds, or by a step that is too large for the service to follow. Before that, sometimes an
    /// administrator confirms the held step.
    pub(crate) fn step_clock(&mut self) -> Result<(), Failure> {
        if self.random.percent(30) {
            self.confirm_clock()?;
        }
        let seconds = if self.random.percent(70) {
            i64::try_from(self.random.below(20)).unwrap() - 10
        } else {
            i64::try_from(self.random.within(&(0..JUMP_MAX.unsigned_abs() * 2))).unwrap() - JUMP_MAX
        };
        self.note(format_args!("the wall clock jumps by {seconds} s"));
        // The oracle must know what the ledger clock showed until now.
        self.tell_time();
        self.oracle.clock_stepped();
        self.clock.jump(seconds * 1_000_000_000);
        Ok(())
    }

    fn confirm_clock(&mut self) -> Result<(), Failure> {
        let engine = &self.service.as_ref().unwrap().engine;
        let Some(held) = engine.clock().held else {
            return Ok(());
        };
        let confirmed = engine.confirm_clock(held);
        self.note(format_args!("a step of the clock is confirmed: {confirmed:?}"));
        if confirmed != Ok(Some(held)) {
            return Err(Failure(format!(
                "the held step {held} can't be confirmed: {confirmed:?}"
            )));
        }
        self.tell_time();
        self.oracle.clock_confirmed(self.clock.wall());
        Ok(())
    }
}

/// The wall clock of the service. Only its ledger clock reads it.
impl WallClock for SimClock {
    fn now(&self) -> Timestamp {
        let wall = self.wall();
        self.readings.lock().push((self.elapsed(), wall));
        wall
    }
}

impl Clock for SimClock {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.elapsed().as_nanos()).unwrap()
    }

    fn wall_time(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.wall().as_nanos())
    }
}
