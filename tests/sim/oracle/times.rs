//! Rule 8: commit times follow the wall clock.
//!
//! The time of a block is what the wall clock shows when the first record goes into the block, or the last time and 1 ns
//! if that is later. So no time is later than the highest reading of the clock, apart from 1 ns for each record and block.
//! And if nothing else can be executed from the beginning of a call on, the record of the call begins a block, so its time
//! is not earlier than the reading at the beginning.

use std::time::Duration;

use tally_ledger::Timestamp;

use super::{
    Violation,
    accounts::Accounts,
    history::{Attempt, History},
    records::Records,
    violation,
};

/// The clocks at a moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Now {
    /// The simulated time since the start.
    pub(super) elapsed: Duration,
    /// What the wall clock shows; `None` if the simulator has not said it.
    pub(super) wall: Option<Timestamp>,
    /// The highest time that the wall clock has shown so far.
    highest: Option<Timestamp>,
    /// How many times the wall clock was set.
    steps: u32,
}

/// A run has fewer records and blocks than this has nanoseconds.
const SLACK_NANOS: u64 = 1_000_000;

// ===== impl Now =====

impl Now {
    /// The clocks show these times.
    pub(super) fn advance(&mut self, elapsed: Duration, wall: Timestamp) {
        self.elapsed = elapsed;
        self.wall = Some(wall);
        self.highest = self.highest.max(self.wall);
    }

    /// The wall clock is set to another time, which is not known yet.
    pub(super) const fn step(&mut self) {
        self.steps += 1;
        self.wall = None;
    }
}

/// Checks the times of all records and accounts.
pub(super) fn check(
    history: &History,
    records: &Records<'_>,
    accounts: &Accounts<'_>,
    now: Now,
) -> Result<(), Violation> {
    for found in records.in_order() {
        let (id, time) = (&found.recorded.transaction.id, found.recorded.place.time);
        check_one(history, ("transaction", id), &found.executors, time, now)?;
    }
    for found in &accounts.all {
        let (id, time) = (&found.snapshot.account.id, found.snapshot.create_time);
        check_one(history, ("account", id), &found.creators, time, now)?;
    }
    Ok(())
}

/// `attempts` are those that can have made the record.
fn check_one(
    history: &History,
    (kind, id): (&str, &str),
    attempts: &[Attempt],
    time: Timestamp,
    now: Now,
) -> Result<(), Violation> {
    let maker = match attempts {
        [attempt] => history.calls.get(&attempt.call),
        _ => None,
    };
    let answered = maker.and_then(|maker| maker.answered_at.filter(|_| matches!(maker.reply, Some(Ok(_)))));
    let highest = answered.unwrap_or(now).highest;
    if let Some(highest) = highest
        && highest
            .checked_add_nanos(SLACK_NANOS)
            .is_some_and(|latest| time > latest)
    {
        return violation(
            "times",
            format!("{kind} {id} has the time {time}, but until then the clock showed at most {highest}"),
        );
    }
    if let (Some(maker), Some(answered)) = (maker, answered)
        && let Some(earliest) = maker.alone_since
        && answered.steps == maker.begun_at.steps
        && time < earliest
    {
        return violation(
            "times",
            format!(
                "{kind} {id} has the time {time}, but the clock showed {earliest} when call {} began, before which nothing \
                 was in flight",
                maker.id
            ),
        );
    }
    Ok(())
}
