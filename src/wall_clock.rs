//! The wall clock, which gives blocks their times, and a clock for tests.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use tally_ledger::Timestamp;

/// A clock that returns the time of day. The store reads the clock once for each block. If the clock goes back, the
/// store uses a later time than the clock shows, so the times of blocks always increase. The engine gives the store a
/// clock without large steps ([`LedgerClock`](crate::ledger_clock::LedgerClock)).
pub trait WallClock: Send + Sync + fmt::Debug {
    /// Returns the current time.
    fn now(&self) -> Timestamp;
}

/// The operating system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemWallClock;

impl WallClock for SystemWallClock {
    fn now(&self) -> Timestamp {
        let nanos = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map(|since_epoch| u64::try_from(since_epoch.as_nanos()));
        match nanos {
            Ok(Ok(nanos)) => Timestamp::from_nanos(nanos),
            // The store accepts this time: it gives the next block the time of its last transaction plus 1 ns instead.
            Err(_before_1970) => Timestamp::from_nanos(0),
            // The ledger clock does not follow a step to this time, and a start refuses this time.
            Ok(Err(_after_2554)) => Timestamp::from_nanos(u64::MAX),
        }
    }
}

/// A clock for tests. Its time changes only when a test calls [`ManualWallClock::set`].
#[derive(Debug, Default)]
pub struct ManualWallClock(AtomicU64);

impl ManualWallClock {
    /// Creates a clock that shows `now`.
    #[must_use]
    pub const fn new(now: Timestamp) -> Self {
        ManualWallClock(AtomicU64::new(now.as_nanos()))
    }

    /// Sets the clock to `now`, which may be earlier than its current time.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.as_nanos(), Ordering::Relaxed);
    }
}

impl WallClock for ManualWallClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.0.load(Ordering::Relaxed))
    }
}
