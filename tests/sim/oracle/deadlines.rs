//! Rule 7: nothing is executed after its deadline, except for requests that EXEC had claimed before the deadline while it was blocked.

use std::time::Duration;

use tally_ledger::Timestamp;

use super::{
    Violation, WALL_BASE,
    history::History,
    records::{Found, Records},
    violation,
};

/// The time of a record may be this much later than its deadline, because a block has one time for all its records.
const SLACK: Duration = Duration::from_millis(1);

/// The facts about time that this rule needs.
#[derive(Debug, Clone, Default)]
pub(super) struct Clock {
    /// The periods in which EXEC was blocked, in order. The last period has no end while EXEC is blocked.
    blocked: Vec<(Timestamp, Option<Timestamp>)>,
    /// Whether the wall clock was set, so that the times of records say nothing about deadlines.
    stepped: bool,
}

// ===== impl Clock =====

impl Clock {
    pub(super) fn blocked(&mut self, now: Timestamp) {
        if self.blocked.last().is_none_or(|(_, until)| until.is_some()) {
            self.blocked.push((now, None));
        }
    }

    pub(super) fn resumed(&mut self, now: Timestamp) {
        if let Some((_, until)) = self.blocked.last_mut() {
            until.get_or_insert(now);
        }
    }

    pub(super) fn stepped(&mut self) {
        self.stepped = true;
    }

    /// Checks all records for which it is certain which call made them.
    pub(super) fn check(&self, history: &History, records: &Records<'_>) -> Result<(), Violation> {
        if self.stepped {
            return Ok(());
        }
        records
            .in_order()
            .try_for_each(|found| self.check_one(history, found))
    }

    fn check_one(&self, history: &History, found: &Found<'_>) -> Result<(), Violation> {
        let [attempt] = found.executors[..] else {
            return Ok(());
        };
        let time = found.logged.time();
        let invocation = history.calls.get(&attempt.call);
        let Some(deadline) = invocation.and_then(|invocation| invocation.call.deadline) else {
            return Ok(());
        };
        let (Some(deadline), Some(latest)) = (after_base(deadline), after_base(deadline + SLACK)) else {
            return Ok(());
        };
        if time <= latest || self.was_blocked(deadline, time) {
            return Ok(());
        }
        violation(
            "deadlines",
            format!(
                "{} was executed at {time}, but the deadline of call {} was {deadline}, and EXEC was not blocked in between",
                found.name(),
                attempt.call
            ),
        )
    }

    /// Whether EXEC was blocked in this time.
    fn was_blocked(&self, from: Timestamp, to: Timestamp) -> bool {
        self.blocked
            .iter()
            .any(|(begin, end)| *begin <= to && end.is_none_or(|end| end >= from))
    }
}

/// The time of the wall clock this long after the start of the simulation.
fn after_base(elapsed: Duration) -> Option<Timestamp> {
    WALL_BASE.checked_add_nanos(u64::try_from(elapsed.as_nanos()).ok()?)
}
