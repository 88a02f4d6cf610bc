//! Rule 7: nothing is executed after its deadline, except for what EXEC had claimed before and could not complete. And no
//! time is later than the ledger clock can have shown.

use std::time::Duration;

use tally_ledger::Timestamp;

use super::{
    Violation, WALL_BASE, accounts::Accounts, history::Attempt, history::History, records::Records, violation,
};

/// The time of a record may be this much later than its deadline, because a block has one time for all its records.
const SLACK: Duration = Duration::from_millis(1);
/// Times after the last one grow by a nanosecond for each transaction and block, if the clock is behind: at most by this
/// many nanoseconds in a simulation.
const TICKS: u64 = 1_000_000;

/// What is known about the simulated time.
#[derive(Debug, Clone, Default)]
pub(super) struct Clock {
    /// When EXEC was blocked, in order. The end is unknown while EXEC is blocked.
    blocked: Vec<(Timestamp, Option<Timestamp>)>,
    /// Whether the wall clock was set, so that the times of records say nothing about deadlines.
    stepped: bool,
    /// The latest time that the ledger clock can have shown; `None` if it is unknown.
    latest: Option<Timestamp>,
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

    pub(super) const fn latest(&mut self, latest: Timestamp) {
        self.latest = Some(latest);
    }

    fn check_latest(&self, records: &Records<'_>, accounts: &Accounts<'_>) -> Result<(), Violation> {
        let Some(latest) = self.latest.and_then(|latest| latest.checked_add_nanos(TICKS)) else {
            return Ok(());
        };
        let transactions = records
            .in_order()
            .map(|found| (&found.recorded.transaction.id, found.recorded.place.time));
        let accounts = accounts
            .all
            .iter()
            .map(|found| (&found.snapshot.account.id, found.snapshot.create_time));
        match transactions.chain(accounts).find(|(_, time)| *time > latest) {
            None => Ok(()),
            Some((id, time)) => violation(
                "clock",
                format!("{id} has the time {time}, but the clock of the ledger has shown at most {latest}"),
            ),
        }
    }

    /// Checks everything of which it is certain which call made it.
    pub(super) fn check(
        &self,
        history: &History,
        records: &Records<'_>,
        accounts: &Accounts<'_>,
    ) -> Result<(), Violation> {
        self.check_latest(records, accounts)?;
        if self.stepped {
            return Ok(());
        }
        for found in records.in_order() {
            if let [attempt] = found.executors[..] {
                let (id, time) = (&found.recorded.transaction.id, found.recorded.place.time);
                self.check_one(history, "transaction", id, attempt, time)?;
            }
        }
        for found in &accounts.all {
            if let [attempt] = found.creators[..] {
                let (id, time) = (&found.snapshot.account.id, found.snapshot.create_time);
                self.check_one(history, "account", id, attempt, time)?;
            }
        }
        Ok(())
    }

    fn check_one(
        &self,
        history: &History,
        kind: &str,
        id: &str,
        attempt: Attempt,
        time: Timestamp,
    ) -> Result<(), Violation> {
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
                "{kind} {id} was executed at {time}, but the deadline of call {} was {deadline}, and EXEC was not blocked \
                 in between",
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
