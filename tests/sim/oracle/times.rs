//! Rule 8: commit times follow the ledger clock, which follows only small steps of the wall clock.
//!
//! The ledger clock has the rate of the simulated time. When the service reads the wall clock, and the wall clock differs
//! from the ledger clock by at most 60 s, the ledger clock takes the time of the wall clock. A larger step is held until an administrator
//! confirms it, or the wall clock comes back. A start takes the time of the wall clock as it is.
//!
//! The time of a block is the time of the ledger clock when the first record goes into the block, or the last time plus 1 ns
//! if that is later. So no time is later than the highest time of the ledger clock, apart from 1 ns for each record and
//! block. If nothing else can be executed from the beginning of a call on, the record of the call begins a block, so
//! its time is not earlier than the lowest time of the ledger clock between the beginning and the answer.

use std::time::Duration;

use tally_ledger::Timestamp;

use super::{
    Violation,
    calls::Entry,
    history::History,
    records::{Found, Records},
    violation,
};

/// What the oracle knows about the ledger clock.
#[derive(Debug, Clone, Default)]
pub(super) struct Times {
    now: Now,
    /// The ledger clock minus the simulated time since the start, in nanoseconds; `None` before the first reading after a
    /// start.
    ahead: Option<i128>,
    /// The time of the ledger clock right after each of its steps.
    steps: Vec<Timestamp>,
}

/// The clocks at a moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Now {
    /// The simulated time since the start.
    pub(super) elapsed: Duration,
    /// The time of the ledger clock; `None` if it is not known.
    pub(super) ledger: Option<Timestamp>,
    /// The highest time that the ledger clock has shown so far, in all processes of the service.
    highest: Option<Timestamp>,
    /// How many steps the ledger clock has made.
    steps: usize,
}

/// The largest step of the wall clock that the ledger clock follows, in nanoseconds. This is the promise of docs/durability.md. The test must
/// not use the constant of the service.
const STEP_MAX_NANOS: u128 = 60 * 1_000_000_000;
/// An upper bound of the number of records and blocks of a run, each of which may add 1 ns.
const SLACK_NANOS: u64 = 1_000_000;

// ===== impl Times =====

impl Times {
    pub(super) const fn now(&self) -> Now {
        self.now
    }

    /// The simulated time is `elapsed`.
    pub(super) fn advance(&mut self, elapsed: Duration) {
        self.now.elapsed = elapsed;
        self.now.ledger = self.ahead.map(|ahead| after(elapsed, ahead));
        self.now.highest = self.now.highest.max(self.now.ledger);
    }

    /// The service read the wall clock.
    pub(super) fn read(&mut self, elapsed: Duration, wall: Timestamp) {
        self.advance(elapsed);
        let step = self.ahead.map(|ahead| ahead_of(elapsed, wall) - ahead);
        if step.is_none_or(|step| step.unsigned_abs() <= STEP_MAX_NANOS) {
            self.follow(wall);
        }
    }

    /// An administrator has confirmed the time of the wall clock.
    pub(super) fn confirm(&mut self, wall: Timestamp) {
        self.follow(wall);
    }

    /// The process died. The next process has a new ledger clock.
    pub(super) const fn die(&mut self) {
        self.ahead = None;
        self.now.ledger = None;
    }

    fn follow(&mut self, wall: Timestamp) {
        let ahead = ahead_of(self.now.elapsed, wall);
        if self.ahead != Some(ahead) {
            self.ahead = Some(ahead);
            self.steps.push(wall);
            self.now.steps = self.steps.len();
        }
        self.advance(self.now.elapsed);
    }

    /// The lowest time that the ledger clock showed between two moments. It showed `from` at the first moment.
    fn lowest(&self, from: Timestamp, begun: Now, ended: Now) -> Timestamp {
        let steps = self.steps.get(begun.steps..ended.steps).unwrap_or_default();
        steps.iter().copied().fold(from, Timestamp::min)
    }

    /// Checks the times of all records.
    pub(super) fn check(&self, history: &History, records: &Records<'_>) -> Result<(), Violation> {
        let mut block = 0;
        let mut begins_with_expiry = false;
        for found in records.in_order() {
            if found.logged.block != block {
                block = found.logged.block;
                begins_with_expiry = matches!(found.logged.entry, Entry::Expired { .. });
            }
            self.check_one(history, found, begins_with_expiry)?;
        }
        Ok(())
    }

    /// Checks the time of a record. If the block begins with an expiry, the time of the block may be from before the call began.
    fn check_one(
        &self,
        history: &History,
        found: &Found<'_>,
        begins_with_expiry: bool,
    ) -> Result<(), Violation> {
        let time = found.logged.time();
        let maker = match found.executors[..] {
            [attempt] => history.calls.get(&attempt.call),
            _ => None,
        };
        let answered =
            maker.and_then(|maker| maker.answered_at.filter(|_| matches!(maker.reply, Some(Ok(_)))));
        if let Some(highest) = answered.unwrap_or(self.now).highest
            && highest
                .checked_add_nanos(SLACK_NANOS)
                .is_some_and(|latest| time > latest)
        {
            return violation(
                "times",
                format!(
                    "{} has the time {time}, but until then the clock of the ledger showed at most {highest}",
                    found.name()
                ),
            );
        }
        if let (Some(maker), Some(answered)) = (maker, answered)
            && !begins_with_expiry
            && let Some(begun) = maker.alone_since
            && let earliest = self.lowest(begun, maker.begun_at, answered)
            && time < earliest
        {
            return violation(
                "times",
                format!(
                    "{} has the time {time}, but the clock of the ledger showed at least {earliest} since call {} began, and \
                     nothing was in flight before",
                    found.name(),
                    maker.id
                ),
            );
        }
        Ok(())
    }
}

/// A time minus the simulated time since the start, in nanoseconds.
fn ahead_of(elapsed: Duration, time: Timestamp) -> i128 {
    i128::from(time.as_nanos()).saturating_sub_unsigned(elapsed.as_nanos())
}

/// The time that is `ahead` of the simulated time since the start.
fn after(elapsed: Duration, ahead: i128) -> Timestamp {
    let nanos = ahead.saturating_add_unsigned(elapsed.as_nanos());
    Timestamp::from_nanos(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
}
