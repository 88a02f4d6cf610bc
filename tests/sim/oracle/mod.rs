//! The oracle of the simulation: it knows what clients asked and what they were answered, and decides whether a correct
//! ledger could have done that.
//!
//! The simulator reports each event to [`Oracle`] when it happens. So the order of the reports is real time. The answers
//! say little about the order in which the service executed the calls, but the recorded transactions say it: each has a
//! sequence. So most rules are checked when the simulator reads everything back ([`Oracle::examine`]):
//!
//! 1. [`answers`]: an answer fits its request, and answers about the same id agree.
//! 2. [`records`]: what was acknowledged is recorded, with the same figures. Each record has an attempt that can have
//!    made it. What was recorded before a crash keeps its place.
//! 3. [`accounts`]: accounts are created all or none, and never change.
//! 4. [`replay`]: the naive [`reference`] ledger accepts each transaction at its place, rejects each rejected one for the
//!    same reason, and has the same balances at the end.
//! 5. [`moments`]: each answer was right at a moment between the beginning and the end of its call.
//! 6. [`order`]: what was known before a call began precedes the effects of the call. Batches and streams are in order
//!    and have no holes.
//! 7. [`deadlines`]: nothing is executed after its deadline.
//! 8. [`times`]: commit times follow the ledger clock, which follows only small steps of the wall clock.
//! 9. [`figures`]: the service's own figures are right.
//!
//! [`errors`] says which errors the simulator has excused. After the last fault, hardly any is.

mod accounts;
mod answers;
mod content;
mod deadlines;
mod errors;
mod figures;
mod history;
mod lists;
mod moments;
mod order;
mod records;
mod reference;
mod replay;
mod times;
mod window;

use std::{fmt, time::Duration};

use tally_ledger::Timestamp;

use self::{
    accounts::SeenAccount,
    answers::Acknowledgements,
    deadlines::Clock,
    errors::Planted,
    figures::Answered,
    history::{Event, History},
    records::{Records, Seen},
    times::Times,
};
use super::calls::{self, Call, CallId, Reply, State};

/// The time of the wall clock at the start of a simulation.
pub(crate) const WALL_BASE: Timestamp = Timestamp::from_nanos(1_700_000_000 * 1_000_000_000);

/// Something that a correct service never does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// The name of the rule.
    pub(crate) rule: &'static str,
    /// What was found, and what was expected.
    pub(crate) text: String,
}

/// Judges one run of the simulation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Oracle {
    history: History,
    acknowledgements: Acknowledgements,
    /// The transactions of the last examination.
    seen: Seen,
    /// The accounts of the last examination.
    seen_accounts: Vec<SeenAccount>,
    planted: Planted,
    clock: Clock,
    times: Times,
    answered: Answered,
}

// ===== impl Oracle =====

impl Oracle {
    pub(crate) fn new() -> Self {
        Oracle::default()
    }

    /// The simulated time since the start. Reported before every event whose time matters, and before the wall clock is
    /// set.
    pub(crate) fn time_is(&mut self, elapsed: Duration) {
        self.times.advance(elapsed);
    }

    /// The service read the wall clock at the simulated time `elapsed`, and the wall clock showed `wall`. Reported in
    /// order, and before [`time_is`](Oracle::time_is). Of several readings between two steps of the wall clock, only the
    /// first one matters.
    pub(crate) fn wall_clock_read(&mut self, elapsed: Duration, wall: Timestamp) {
        self.times.read(elapsed, wall);
    }

    /// An administrator has confirmed the time `wall` of the wall clock.
    pub(crate) fn clock_confirmed(&mut self, wall: Timestamp) {
        self.times.confirm(wall);
    }

    /// A call begins.
    pub(crate) fn invoked(&mut self, id: CallId, call: &Call) {
        self.history.begin(id, call, self.times.now());
    }

    /// A call is answered.
    ///
    /// # Errors
    /// A violation that the answer alone shows, or the answer together with earlier answers.
    pub(crate) fn answered(&mut self, id: CallId, reply: &Reply) -> Result<(), Violation> {
        let invocation = self.history.answer(id, reply, self.times.now())?;
        self.answered.note(invocation, reply);
        match reply {
            Ok(answer) => {
                answers::check_shape(invocation, answer)?;
                self.acknowledgements.note(invocation, answer)
            }
            Err(error) => self.planted.check_error(invocation, error, self.times.now()),
        }
    }

    /// The client of a call has vanished. The call may still be executed, until the process dies.
    pub(crate) fn abandoned(&mut self, id: CallId) {
        self.history.abandon(id);
        self.answered.abandon();
    }

    /// The process or the machine crashed. No earlier call can take effect any more, except for what is on the disk.
    pub(crate) fn died(&mut self) {
        self.history.die();
        self.times.die();
        self.answered = Answered::default();
        self.planted.stops = false;
    }

    /// EXEC waits for the commit pipeline from the time `now` of the wall clock on. What EXEC has claimed before may be
    /// executed after its deadline.
    pub(crate) fn exec_was_blocked(&mut self, now: Timestamp) {
        self.clock.blocked(now);
    }

    /// EXEC has made a step, so it no longer waits. May be reported for each step.
    pub(crate) fn exec_resumed(&mut self, now: Timestamp) {
        self.clock.resumed(now);
    }

    /// The wall clock was set. From now on, deadlines are not checked.
    pub(crate) fn clock_stepped(&mut self) {
        self.clock.stepped();
    }

    /// From now on, data on the disk may be damaged.
    pub(crate) fn damage_planted(&mut self) {
        self.planted.damage = true;
    }

    /// From now on, the disk may be full.
    pub(crate) fn disk_fills(&mut self) {
        self.planted.disk_fills(self.times.now());
    }

    /// The disk has space from now on.
    pub(crate) fn disk_has_space(&mut self) {
        self.planted.disk_has_space(self.times.now());
    }

    /// The queue is so small that it may be full.
    pub(crate) fn queue_is_small(&mut self) {
        self.planted.small_queue = true;
    }

    /// The service stops in good order, and refuses further calls.
    pub(crate) fn stops(&mut self) {
        self.planted.stops = true;
    }

    /// No more faults happen from now on.
    pub(crate) fn healed(&mut self) {
        self.planted.healed = true;
        self.planted.faults = false;
        self.planted.disk_has_space(self.times.now());
    }

    /// After the last fault, all circuits are closed. They stay closed.
    pub(crate) fn circuits_closed(&mut self) {
        self.planted.circuits_closed = Some(self.times.now().elapsed);
    }

    /// From now on, the disk may report errors when it is read.
    pub(crate) fn faults_planted(&mut self) {
        self.planted.faults = true;
    }

    /// Compares everything that the service knows with the history. Nothing may be in flight, not even an abandoned
    /// call.
    ///
    /// # Errors
    /// The first violation.
    pub(crate) fn examine(&mut self, state: &State) -> Result<(), Violation> {
        let now = self.history.now();
        self.planted.check_state(state)?;
        let records = Records::collect(&self.history, &self.acknowledgements, &self.seen, state)?;
        // Without the content of a transaction, the transactions after it can't be judged.
        let Some(records) = records else {
            return Ok(());
        };
        records.check_acknowledged(&self.acknowledgements)?;
        records.check_prefix(&self.seen)?;
        records.check_order()?;
        records.check_executors(&self.history)?;
        let accounts = accounts::check(
            &self.history,
            &self.seen_accounts,
            self.seen.examined,
            &state.accounts,
        )?;
        let reference = replay::check(&records, &state.accounts)?;
        let committed = reference.committed();
        let floors = moments::check(&self.history, &records, &accounts, &reference)?;
        order::check_real_time(&self.history, &records, &accounts, &floors)?;
        order::check_sequences(&self.history, &records, &reference, &floors)?;
        self.clock.check(&self.history, &records, &accounts)?;
        self.times.check(&self.history, &records, &accounts)?;
        if !self.planted.damage {
            let records = records.in_order().count() as u64;
            self.answered.check(state, committed, records)?;
        }

        let new_records = records.new_since(&self.seen);
        let new_accounts = accounts.new_since(self.seen_accounts.len());
        self.history.note_examined(now, &new_records, &new_accounts);
        self.history.events.push(Event::Examined { committed });
        self.seen.examined = now;
        self.seen.records.extend(new_records);
        self.seen_accounts.extend(new_accounts);
        Ok(())
    }
}

// ===== impl Violation =====

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.text)
    }
}

fn violation<T>(rule: &'static str, text: String) -> Result<T, Violation> {
    Err(Violation { rule, text })
}
