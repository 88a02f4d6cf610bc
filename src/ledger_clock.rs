//! The ledger clock, which gives blocks their times: the wall clock, without its large steps.
//!
//! If the wall clock steps by more than [`STEP_MAX`] against the monotonic clock, the ledger clock does not follow: it
//! continues from its last time with the monotonic clock. The step is *held* until an administrator confirms the new time,
//! or until the wall clock has come back.
//!
//! The ledger clock follows each smaller step, even if several steps add up to more than [`STEP_MAX`]. The monotonic clock
//! of a machine has the same rate as its wall clock, so in the months for which a process runs, the two differ only by steps:
//! leap seconds, and the corrections of a time daemon. A bound for the sum of these steps would, some day, hold the ledger
//! clock of a machine whose wall clock is right. The bound is meant for a clock that was set wrongly, which makes one large
//! step. A step is measured against the previous reading, and the maintenance thread reads the clock every 20 ms.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use tally_ledger::Timestamp;
use thiserror::Error;
use tokio::time::Instant;

use crate::{mutation::planted, terminal::units, wall_clock::WallClock};

/// The largest step of the wall clock that the ledger clock follows, forward or back, and the longest time by which the
/// wall clock may be behind the journal at a start. A time daemon corrects errors of seconds, and a leap second is one
/// second. A step of more than a minute usually has another cause: a wrong battery clock, a wrong command, a restored
/// virtual machine. The order of commits never goes back, so a wrong step forward would spoil the times of all later
/// commits.
pub const STEP_MAX: Duration = Duration::from_secs(60);

/// The time that the wall clock shows if its time is too late for a [`Timestamp`].
const TOO_LATE: Timestamp = Timestamp::from_nanos(u64::MAX);

/// The clock of the ledger. See the documentation of the module. Any number of threads may read it.
#[derive(Debug)]
pub struct LedgerClock {
    wall: Arc<dyn WallClock>,
    /// The zero of the monotonic clock.
    origin: Instant,
    /// The ledger clock minus the monotonic clock, in nanoseconds. The difference may be negative, so it wraps around.
    offset: AtomicU64,
}

/// A step of the wall clock against the ledger clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockStep {
    /// The wall clock is ahead of the ledger clock.
    Forward(Duration),
    /// The wall clock is behind the ledger clock.
    Back(Duration),
}

/// A reading of the clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    /// The time of the wall clock.
    pub wall: Timestamp,
    /// The time of the ledger clock.
    pub ledger: Timestamp,
    /// The step of the wall clock that the ledger clock does not follow; `None` while it follows the wall clock.
    pub held: Option<ClockStep>,
}

/// Why a start or a confirmation refuses the time of the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ClockError {
    /// At a start, the wall clock is behind the journal.
    #[error(
        "the system clock shows {}, but the last time in the journal is {}, which is {} later; at most {} are accepted: \
         set the clock, or start with --accept-clock-behind (TALLY_ACCEPT_CLOCK_BEHIND=true) if the clock is right",
        date(*.wall), date(*.last), units::time(*.behind), units::time(STEP_MAX)
    )]
    Behind {
        /// The time of the wall clock.
        wall: Timestamp,
        /// The last time in the journal.
        last: Timestamp,
        /// The difference.
        behind: Duration,
    },
    /// The wall clock shows a time that no record can have.
    #[error(
        "the system clock shows a time after {}, the last time that the ledger can store: set the clock",
        date(TOO_LATE)
    )]
    TooLate,
    /// The administrator has confirmed another step than the one that is held.
    #[error(
        "the system clock is {held} of the time of the ledger, and the call confirms that it is {confirmed}; the two may \
         differ by at most {}: look at the clock again",
        units::time(STEP_MAX)
    )]
    OtherStep {
        /// The step that is held.
        held: ClockStep,
        /// The step that was confirmed.
        confirmed: ClockStep,
    },
}

/// Returns a time as people write it: in UTC, with milliseconds.
#[must_use]
pub fn date(time: Timestamp) -> String {
    let time = UNIX_EPOCH + Duration::from_nanos(time.as_nanos());
    humantime::format_rfc3339_millis(time).to_string()
}

// ===== impl ClockStep =====

impl ClockStep {
    /// Returns the step of a clock that should show `from` and shows `to`.
    #[must_use]
    pub const fn between(from: Timestamp, to: Timestamp) -> Self {
        let (from, to) = (from.as_nanos(), to.as_nanos());
        if to >= from {
            ClockStep::Forward(Duration::from_nanos(to - from))
        } else {
            ClockStep::Back(Duration::from_nanos(from - to))
        }
    }

    /// Returns the length of the step.
    #[must_use]
    pub const fn size(self) -> Duration {
        match self {
            ClockStep::Forward(size) | ClockStep::Back(size) => size,
        }
    }

    /// Returns the step in seconds. A step back is negative.
    #[must_use]
    pub const fn seconds(self) -> f64 {
        match self {
            ClockStep::Forward(size) => size.as_secs_f64(),
            ClockStep::Back(size) => -size.as_secs_f64(),
        }
    }

    /// Returns whether two steps differ by at most [`STEP_MAX`].
    #[must_use]
    pub fn is_about(self, other: ClockStep) -> bool {
        let apart = match (self, other) {
            (ClockStep::Forward(one), ClockStep::Forward(another))
            | (ClockStep::Back(one), ClockStep::Back(another)) => one.abs_diff(another),
            (ClockStep::Forward(one), ClockStep::Back(another))
            | (ClockStep::Back(one), ClockStep::Forward(another)) => one.saturating_add(another),
        };
        apart <= STEP_MAX
    }
}

impl fmt::Display for ClockStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = units::time(self.size());
        match self {
            ClockStep::Forward(_) => write!(f, "{size} ahead"),
            ClockStep::Back(_) => write!(f, "{size} behind"),
        }
    }
}

// ===== impl LedgerClock =====

impl LedgerClock {
    /// Creates a clock that shows the time of `wall`, and follows it from there.
    #[must_use]
    pub fn new(wall: Arc<dyn WallClock>) -> Self {
        let (origin, now) = (Instant::now(), wall.now());
        LedgerClock {
            wall,
            origin,
            offset: AtomicU64::new(now.as_nanos()),
        }
    }

    /// Checks that a service may start with this clock on a journal whose last time is `last`.
    ///
    /// # Errors
    /// [`ClockError::TooLate`], and [`ClockError::Behind`] if the wall clock is more than [`STEP_MAX`] before `last`.
    pub fn check_start(&self, last: Timestamp) -> Result<(), ClockError> {
        let wall = self.read().wall;
        if wall == TOO_LATE {
            return Err(ClockError::TooLate);
        }
        match ClockStep::between(last, wall) {
            ClockStep::Back(behind) if behind > STEP_MAX => Err(ClockError::Behind { wall, last, behind }),
            ClockStep::Forward(_) | ClockStep::Back(_) => Ok(()),
        }
    }

    /// Reads the clocks. Follows the wall clock unless it has made a large step.
    pub fn read(&self) -> ClockReading {
        let reading = self.read_once();
        if reading.held.is_none() {
            return reading;
        }
        // If the thread was stopped for a while between the readings of the two clocks, the pause looks like a step. A second
        // reading does not show this step.
        self.read_once()
    }

    fn read_once(&self) -> ClockReading {
        let offset = self.offset.load(Ordering::Relaxed);
        let elapsed = self.elapsed();
        let wall = self.wall.now();
        let ledger = Timestamp::from_nanos(offset.wrapping_add(elapsed));
        let step = ClockStep::between(ledger, wall);
        if step.size() > STEP_MAX && !planted("follow_large_step") {
            return ClockReading {
                wall,
                ledger,
                held: Some(step),
            };
        }
        // If another thread has stored a newer difference in the meantime, the newer difference stays.
        let followed = wall.as_nanos().wrapping_sub(elapsed);
        let (stored, failed) = (Ordering::Relaxed, Ordering::Relaxed);
        let _ = self.offset.compare_exchange(offset, followed, stored, failed);
        ClockReading {
            wall,
            ledger: wall,
            held: None,
        }
    }

    /// Follows the wall clock from now on, because an administrator has confirmed its time. `seen` is the step that the
    /// administrator has seen. Returns the step that was held, or `None` if none was held; then nothing changes.
    ///
    /// # Errors
    /// [`ClockError::OtherStep`] if another step is held, and [`ClockError::TooLate`]. In both cases, nothing changes.
    pub fn confirm(&self, seen: ClockStep) -> Result<Option<ClockStep>, ClockError> {
        let ClockReading { wall, held, .. } = self.read();
        let Some(held) = held else {
            return Ok(None);
        };
        if wall == TOO_LATE {
            return Err(ClockError::TooLate);
        }
        if !held.is_about(seen) {
            return Err(ClockError::OtherStep {
                held,
                confirmed: seen,
            });
        }
        let offset = wall.as_nanos().wrapping_sub(self.elapsed());
        self.offset.store(offset, Ordering::Relaxed);
        Ok(Some(held))
    }

    /// Returns the time of the monotonic clock in nanoseconds.
    fn elapsed(&self) -> u64 {
        let Ok(elapsed) = u64::try_from(self.origin.elapsed().as_nanos()) else {
            panic!("the process has run for more than 584 years")
        };
        elapsed
    }
}

impl WallClock for LedgerClock {
    fn now(&self) -> Timestamp {
        self.read().ledger
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::wall_clock::ManualWallClock;

    const START: u64 = 1_700_000_000;

    /// A wall clock that a test sets, and the ledger clock that follows it. tokio's paused clock is the monotonic clock.
    struct Clocks {
        wall: Arc<ManualWallClock>,
        ledger: LedgerClock,
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    impl Clocks {
        fn new() -> Self {
            let wall = Arc::new(ManualWallClock::new(at(START)));
            let ledger = LedgerClock::new(wall.clone());
            Clocks { wall, ledger }
        }

        /// Moves both clocks.
        async fn pass(&self, time: u64) {
            advance(seconds(time)).await;
            self.step(i64::try_from(time).unwrap());
        }

        /// Moves the wall clock only.
        fn step(&self, by: i64) {
            let nanos = self.wall.now().as_nanos();
            let now = nanos.checked_add_signed(by * 1_000_000_000).unwrap();
            self.wall.set(Timestamp::from_nanos(now));
        }

        /// Reads the ledger clock. Returns the seconds since the start, and the step that is held, in seconds.
        fn read(&self) -> (u64, f64) {
            let ClockReading { wall, ledger, held } = self.ledger.read();
            assert_eq!(wall, self.wall.now());
            let elapsed = ledger.as_nanos() - at(START).as_nanos();
            assert!(elapsed.is_multiple_of(1_000_000_000));
            (elapsed / 1_000_000_000, held.map_or(0.0, ClockStep::seconds))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn steps_of_up_to_a_minute_are_followed() {
        for step in [59, 60] {
            let clocks = Clocks::new();
            clocks.pass(1000).await;
            assert_eq!(clocks.read(), (1000, 0.0));
            clocks.step(step);
            assert_eq!(clocks.read(), (1000 + step.unsigned_abs(), 0.0));
            clocks.pass(1).await;
            assert_eq!(clocks.read(), (1001 + step.unsigned_abs(), 0.0));
            clocks.step(-step);
            assert_eq!(clocks.read(), (1001, 0.0));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_larger_step_is_held_until_the_wall_clock_comes_back() {
        for step in [61, -61, 1_000_000, -1_000_000] {
            let clocks = Clocks::new();
            clocks.pass(1000).await;
            clocks.read();
            clocks.step(step);
            for time in 1000..1100 {
                assert_eq!(clocks.read(), (time, step as f64), "{step}");
                clocks.pass(1).await;
            }
            // The remaining difference is not larger than the steps that the clock follows.
            clocks.step(1 - step);
            assert_eq!(clocks.read(), (1101, 0.0), "{step}");
            clocks.pass(1).await;
            assert_eq!(clocks.read(), (1102, 0.0), "{step}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn small_steps_are_followed_although_their_sum_is_large() {
        let clocks = Clocks::new();
        for step in 1..=100 {
            clocks.step(60);
            assert_eq!(clocks.read(), (60 * step, 0.0));
        }
        // Without a reading in between, they are one step.
        clocks.step(60);
        clocks.step(1);
        assert_eq!(clocks.read(), (6000, 61.0));
        // A clock that is set back slowly comes back.
        clocks.step(-1);
        assert_eq!(clocks.read(), (6060, 0.0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_confirmed_step_is_followed_and_nothing_else_is_confirmed() {
        for step in [61, 3600, -3600] {
            let clocks = Clocks::new();
            clocks.pass(10_000).await;
            let there =
                |by: i64| ClockStep::between(at(START), at(START.checked_add_signed(step + by).unwrap()));
            assert_eq!(clocks.ledger.confirm(there(0)), Ok(None));
            clocks.step(step);
            assert_eq!(clocks.read(), (10_000, step as f64));
            for other in [there(61), there(-61), there(-2 * step)] {
                let error = clocks.ledger.confirm(other);
                let (held, confirmed) = (there(0), other);
                assert_eq!(error, Err(ClockError::OtherStep { held, confirmed }));
                assert_eq!(clocks.read(), (10_000, step as f64));
            }
            assert_eq!(clocks.ledger.confirm(there(60)), Ok(Some(there(0))));
            let followed = 10_000_u64.checked_add_signed(step).unwrap();
            assert_eq!(clocks.read(), (followed, 0.0));
            clocks.pass(5).await;
            assert_eq!(clocks.read(), (followed + 5, 0.0));
            // The next step is measured against the confirmed time.
            clocks.step(61);
            assert_eq!(clocks.read(), (followed + 5, 61.0));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_that_no_record_can_have_is_held_and_can_not_be_confirmed() {
        let clocks = Clocks::new();
        clocks.wall.set(TOO_LATE);
        let held = clocks.ledger.read().held.unwrap();
        assert_eq!(clocks.ledger.confirm(held), Err(ClockError::TooLate));
        assert_eq!(clocks.ledger.read().ledger, at(START));
        let error = LedgerClock::new(clocks.wall.clone())
            .check_start(at(0))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "the system clock shows a time after 2554-07-21T23:34:33.709Z, the last time that the ledger can store: set the clock"
        );
        // A time before 1970 is a step back.
        clocks.wall.set(at(0));
        assert_eq!(clocks.ledger.read().held, Some(ClockStep::Back(seconds(START))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_needs_a_wall_clock_that_is_at_most_a_minute_behind_the_journal() {
        let clocks = Clocks::new();
        for last in [0, 1, START, START + 60] {
            assert_eq!(clocks.ledger.check_start(at(last)), Ok(()));
        }
        let error = clocks.ledger.check_start(at(START + 61)).unwrap_err();
        let behind = seconds(61);
        let (wall, last) = (at(START), at(START + 61));
        assert_eq!(error, ClockError::Behind { wall, last, behind });
        assert_eq!(
            error.to_string(),
            "the system clock shows 2023-11-14T22:13:20.000Z, but the last time in the journal is \
             2023-11-14T22:14:21.000Z, which is 1 min 1 s later; at most 1 min are accepted: set the clock, or start with \
             --accept-clock-behind (TALLY_ACCEPT_CLOCK_BEHIND=true) if the clock is right"
        );
    }
}
