//! The oracle of the simulation: it knows the calls of the clients and their answers, and decides whether a correct
//! ledger could have given these answers.
//!
//! The simulator reports each event to [`Oracle`] when it happens. So the order of the reports is real time. The answers
//! say little about the order in which the service executed the calls, but the journal shows this order: each record has a number.
//! So most rules are checked when the simulator reads everything back ([`Oracle::examine`]), both through the calls of the
//! service and from its journal:
//!
//! 1. [`answers`]: an answer fits its request, and answers about the same id agree.
//! 2. [`records`]: every acknowledged transaction is recorded, with the figures of its answer. Each record has an attempt that can have
//!    made it. Records from before a crash keep their places. Reads through the service show the records of the journal.
//! 3. [`accounts`]: the accounts of a request are created all or none.
//! 4. [`replay`]: the naive [`reference`] ledger accepts each committed transaction at its place, rejects each rejected transaction for the
//!    same reason, and has the same balances and [`holds`] at the end. Holds expire at their deadlines, and not
//!    before. [`velocity`] limits count the right transfers.
//! 5. [`moments`]: each answer was right at a moment between the beginning and the end of its call.
//! 6. [`order`]: records that a client has seen before a call began precede the effects of the call. Batches and streams are in order
//!    and have no holes.
//! 7. [`deadlines`]: nothing is executed after its deadline.
//! 8. [`times`]: commit times follow the ledger clock, which follows only small steps of the wall clock.
//! 9. [`figures`]: the service's own figures are right.
//! 10. [`updates`]: an update changes an account as requested, or is refused for a reason.
//!
//! [`errors`] decides which errors are excused because the simulator has caused them. After the last fault, almost no error is excused.

mod accounts;
mod answers;
mod content;
mod deadlines;
mod errors;
mod figures;
mod history;
mod holds;
mod lists;
mod moments;
mod order;
mod records;
mod reference;
mod replay;
mod times;
mod updates;
mod velocity;
mod window;

use std::{fmt, time::Duration};

use tally::engine::OwnedKey;
use tally_ledger::Timestamp;

use self::{
    answers::Acknowledgements,
    deadlines::Clock,
    errors::Planted,
    figures::{Answered, Expected},
    history::{Event, History},
    records::{Records, Seen},
    reference::Reference,
    replay::Expiry,
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

/// Checks one run of the simulation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Oracle {
    history: History,
    acknowledgements: Acknowledgements,
    /// The records of the last examination.
    seen: Seen,
    /// Maximum number of outstanding holds, if there is one.
    holds_max: Option<usize>,
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

    /// Sets the maximum number of outstanding holds that the service accepts.
    pub(crate) fn holds_max_is(&mut self, holds_max: usize) {
        self.holds_max = Some(holds_max);
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
    /// A violation that this answer shows, alone or together with earlier answers.
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

    /// The client of a call has left. The call may still be executed, until the process dies.
    pub(crate) fn abandoned(&mut self, id: CallId) {
        self.history.abandon(id);
        self.answered.abandon();
    }

    /// The process or the machine crashed. An earlier call can no longer be executed. Its records may be on the disk already.
    pub(crate) fn died(&mut self) {
        self.history.die();
        self.times.die();
        self.answered = Answered::default();
        self.planted.stops = false;
    }

    /// EXEC waits for the commit pipeline from the time `now` of the wall clock on. Requests that EXEC has already claimed may be
    /// executed after their deadlines.
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
        (self.planted.faults, self.planted.had_faults) = (true, true);
    }

    /// Compares everything that the service knows with the history. No call may be in flight, not even an abandoned
    /// one.
    ///
    /// # Errors
    /// The first violation.
    pub(crate) fn examine(&mut self, state: &State) -> Result<(), Violation> {
        let now = self.history.now();
        self.planted.check_state(state)?;
        let records = Records::collect(&self.history, &self.seen, state)?;
        records.check_acknowledged(&self.acknowledgements)?;
        records.check_prefix(&self.seen)?;
        records.check_order()?;
        records.check_read_back(state)?;
        records.check_accounts_known(&self.history)?;
        records.check_executors(&self.history)?;
        let holds_max = self.holds_max.unwrap_or(usize::MAX);
        let reference = replay::check(&self.history, &records, state, holds_max, self.expiry())?;
        records::check_keys(&state.found, |key| place_of(&records, &reference, key))?;
        let floors = moments::check(&self.history, &records, &reference)?;
        order::check_real_time(&self.history, &records, &floors)?;
        order::check_sequences(&self.history, &records, &reference, &floors)?;
        self.clock.check(&self.history, &records)?;
        self.times.check(&self.history, &records)?;
        if !self.planted.damage {
            self.answered.check(state, expected(&records, &reference))?;
        }

        let new = records.new_since(&self.seen);
        let count = records.len();
        self.history.note_examined(now, &new);
        self.history.events.push(Event::Examined { records: count });
        self.seen.examined = now;
        self.seen.records.extend(new);
        Ok(())
    }

    /// When holds must expire.
    fn expiry(&self) -> Expiry {
        let now = self.times.now();
        Expiry {
            is_prompt: !self.planted.damage && !self.planted.had_faults,
            now: now.ledger.filter(|_| !self.planted.may_be_full(now)),
        }
    }
}

/// The position of the record with this key.
fn place_of(records: &Records<'_>, reference: &Reference<'_>, key: &OwnedKey) -> Option<u64> {
    match key {
        OwnedKey::Transaction(id) => Some(records.transaction(id)?.1.position),
        OwnedKey::HoldEnd(id) => reference.holds.get(id.as_str())?.ended_by,
        OwnedKey::Reversal(id, number) => {
            let reversals = &reference.reversible.get(id.as_str())?.reversals;
            let place = usize::try_from(number.checked_sub(1)?).ok()?;
            reversals.get(place).copied()
        }
    }
}

/// The figures that the service must report.
fn expected(records: &Records<'_>, reference: &Reference<'_>) -> Expected {
    let transactions = records
        .in_order()
        .filter(|found| found.logged.transaction().is_some());
    let ends = reference.holds.values().filter(|hold| hold.ended_by.is_some());
    let reversals = reference.reversible.values().map(|found| found.reversals.len());
    Expected {
        last_sequence: reference.sequence,
        keys: (transactions.count() + ends.count() + reversals.sum::<usize>()) as u64,
        holds: reference.outstanding as u64,
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
