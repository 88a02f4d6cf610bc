//! Rule 5: each answer was right at a moment between the beginning and the end of its call.
//!
//! A moment is a sequence: the moment after the commit with this sequence. A moment of an answer is not before anything
//! that a client had seen when the call began, because reads are linearizable. It is not after a transaction that had
//! not begun when the answer was given. If the process died later, the moment is not after the end of what survived,
//! because a read shows only what is durable.

use std::collections::HashMap;

use tally_ledger::{AccountSnapshot, Amount, Outcome, Reason, Rejection, Side, Timestamp};

use super::{
    Violation,
    accounts::Accounts,
    answers::shown_rejection,
    calls::{Answer, CallId, Leg, Recorded, Request, Transaction},
    content::{account_difference, transaction_difference},
    history::{Attempt, Event, History, Invocation, Tick, is_recorded},
    records::Records,
    reference::Reference,
    violation,
    window::Window,
};

/// The sequence that clients had seen when each call began.
pub(super) type Floors = HashMap<CallId, u64>;

/// Everything that is needed to find the moments of answers.
#[derive(Debug, Clone)]
pub(super) struct Moments<'a> {
    pub(super) history: &'a History,
    records: &'a Records<'a>,
    pub(super) accounts: &'a Accounts<'a>,
    reference: &'a Reference<'a>,
    /// The commit times, by sequence.
    times: Vec<Timestamp>,
    /// For each sequence: when all transactions up to it had begun.
    begun: Vec<Tick>,
}

/// Checks all answers in the order in which they were given.
pub(super) fn check(
    history: &History,
    records: &Records<'_>,
    accounts: &Accounts<'_>,
    reference: &Reference<'_>,
) -> Result<Floors, Violation> {
    let times = records
        .committed()
        .map(|found| found.recorded.place.time)
        .collect();
    let mut latest = 0;
    let begun = records.committed().map(|found| {
        latest = found.begun.max(latest);
        latest
    });
    let moments = Moments {
        history,
        records,
        accounts,
        reference,
        times,
        begun: begun.collect(),
    };
    let survived = survived(&history.events, reference.committed());
    let mut floors = Floors::with_capacity(history.calls.len());
    let mut floor = 0;
    for ((event, survived), tick) in history.events.iter().zip(survived).zip(0..) {
        match *event {
            Event::Began(call) => {
                floors.insert(call, floor);
            }
            Event::Examined { committed } => floor = committed.max(floor),
            Event::Died => {}
            Event::Answered(call) => {
                if let Some(invocation) = history.calls.get(&call)
                    && let Some(Ok(answer)) = &invocation.reply
                {
                    let window = Window {
                        from: floors.get(&call).copied().unwrap_or(0),
                        to: moments.begun_before(tick).min(survived),
                    };
                    floor = moments.check_answer(invocation, answer, window)?.max(floor);
                }
            }
        }
    }
    Ok(floors)
}

/// For each event: the highest sequence that a crash after it left.
fn survived(events: &[Event], committed: u64) -> Vec<u64> {
    let (mut examined, mut limit) = (committed, committed);
    let mut limits = vec![0; events.len()];
    for (event, limited) in events.iter().zip(&mut limits).rev() {
        match *event {
            Event::Examined { committed } => examined = committed,
            Event::Died => limit = examined,
            Event::Began(_) | Event::Answered(_) => {}
        }
        *limited = limit;
    }
    limits
}

/// Whether the rules reject the legs at a moment in `window` with a rejection that `fits` and is not recorded. All
/// accounts count as existing. Returns the first such moment.
pub(super) fn rejected_at(
    reference: &Reference<'_>,
    legs: &[Leg],
    window: Window,
    fits: impl Fn(Rejection) -> bool,
) -> Option<u64> {
    let window = window.up_to(reference.committed());
    (window.from..=window.to).find(|after| match reference.judge(legs, *after) {
        Ok(_) => false,
        Err(rejection) => !is_recorded(rejection) && fits(rejection),
    })
}

// ===== impl Moments =====

impl Moments<'_> {
    /// The highest sequence that can have been committed at a tick, because all transactions up to it had begun.
    fn begun_before(&self, tick: Tick) -> u64 {
        self.begun.partition_point(|begun| *begun < tick) as u64
    }

    /// Checks an answer. Returns the first moment of the window that agrees with the answer.
    fn check_answer(
        &self,
        invocation: &Invocation,
        answer: &Answer,
        window: Window,
    ) -> Result<u64, Violation> {
        match answer {
            Answer::Outcomes(outcomes) => self.check_outcomes(invocation, outcomes, window),
            Answer::Created(snapshots) if invocation.skips_existing() => {
                self.check_missing_created(invocation, snapshots, window)
            }
            Answer::Created(snapshots) => self.check_created(invocation, snapshots, window),
            Answer::Reused { place, field } => {
                self.check_account_reused(invocation, *place, *field)?;
                Ok(window.from)
            }
            Answer::Account(Some(snapshot)) => {
                self.check_snapshots(invocation, std::slice::from_ref(snapshot), window)
            }
            Answer::Account(None) => {
                let Request::Account(id) = &invocation.call.request else {
                    return Ok(window.from);
                };
                Ok(self.check_account_absent(invocation, id, window)?.from)
            }
            Answer::Accounts(snapshots, next) => self.check_list(invocation, snapshots, *next, window),
            Answer::Transaction(shown) => self.check_transaction(invocation, shown.as_ref(), window),
        }
    }

    /// The transactions of a call are executed in their order.
    fn check_outcomes(
        &self,
        invocation: &Invocation,
        outcomes: &[Outcome],
        window: Window,
    ) -> Result<u64, Violation> {
        let call = invocation.id;
        let mut to = window.to;
        let mut limits: Vec<u64> = (0..outcomes.len())
            .rev()
            .map(|place| {
                let limit = to;
                if let Some(sent) = invocation.transactions().get(place)
                    && let Some(found) = self.records.get(&sent.id)
                    && found.is_made_by(Attempt { call, place })
                {
                    to = to.min(found.recorded.place.sequence - 1);
                }
                limit
            })
            .collect();
        limits.reverse();
        let mut from = window.from;
        for (((sent, outcome), to), place) in invocation
            .transactions()
            .iter()
            .zip(outcomes)
            .zip(limits)
            .zip(0..)
        {
            from = self.check_outcome(invocation, place, sent, *outcome, Window { from, to })?;
        }
        Ok(from)
    }

    fn check_outcome(
        &self,
        invocation: &Invocation,
        place: usize,
        sent: &Transaction,
        outcome: Outcome,
        window: Window,
    ) -> Result<u64, Violation> {
        let (call, id) = (invocation.id, &sent.id);
        if self.records.is_unreadable(id) {
            return Ok(window.from);
        }
        let replayed = match outcome {
            Outcome::Rejected { rejection, .. } if !is_recorded(rejection) => {
                return self.check_unrecorded(invocation, sent, rejection, window);
            }
            Outcome::Committed { replayed, .. } | Outcome::Rejected { replayed, .. } => replayed,
            Outcome::Reused { .. } => true,
        };
        let Some(found) = self.records.get(id) else {
            return violation(
                "acknowledged",
                format!(
                    "call {call} place {place}: transaction {id} was answered with {outcome:?}, but it is not recorded"
                ),
            );
        };
        if let Outcome::Reused { field } = outcome {
            let differs = transaction_difference(sent, &found.recorded.transaction);
            if differs != Some(field) {
                return violation(
                    "acknowledged",
                    format!(
                        "call {call} place {place}: transaction {id} was refused because {field} differs, but the first \
                         difference from the recorded one is {differs:?}"
                    ),
                );
            }
        }
        let shows = found.shows();
        let first = window.from + u64::from(found.recorded.rejection.is_none());
        if shows > window.to || (!replayed && shows < first) {
            return violation(
                "order",
                format!(
                    "call {call} place {place}: transaction {id} has sequence {}, but at the moment of its execution the \
                     last sequence was in {window}",
                    found.recorded.place.sequence
                ),
            );
        }
        Ok(shows.max(window.from))
    }

    /// A rejection that is not recorded was right at a moment.
    fn check_unrecorded(
        &self,
        invocation: &Invocation,
        sent: &Transaction,
        rejection: Rejection,
        window: Window,
    ) -> Result<u64, Violation> {
        let (call, id) = (invocation.id, &sent.id);
        let known = self.history.transactions_known.get(id);
        let recorded = self.records.get(id).map(|found| found.recorded.place.sequence);
        if known.is_some_and(|known| *known < invocation.begun)
            || recorded.is_some_and(|recorded| recorded <= window.from)
        {
            return violation(
                "acknowledged",
                format!(
                    "call {call}: transaction {id} was rejected with {}, but its id was recorded before",
                    shown_rejection(rejection)
                ),
            );
        }
        let legs = (0..=u8::MAX).zip(&sent.legs);
        let ids = legs.flat_map(|(place, leg)| {
            [
                (place, Side::Debit, &leg.debit),
                (place, Side::Credit, &leg.credit),
            ]
        });
        let mut last = None;
        for (place, side, account) in ids {
            let is_cause = rejection == Rejection::new(Reason::AccountNotFound, place, side);
            if is_cause {
                let window = self.check_account_absent(invocation, account, window)?;
                if self.accounts.number(account).is_some() && self.accounts.number(account) < last {
                    break;
                }
                return Ok(window.from);
            }
            last = last.max(self.accounts.number(account));
            let existing = self.accounts.get(account);
            if existing.is_none_or(|found| found.begun >= invocation.ended) {
                return violation(
                    "reads",
                    format!(
                        "call {call}: transaction {id} was rejected with {}, but account {account} did not exist",
                        shown_rejection(rejection)
                    ),
                );
            }
        }
        let at = rejected_at(self.reference, &sent.legs, window, |expected| {
            expected == rejection
        });
        at.map_or_else(
            || {
                violation(
                    "reads",
                    format!(
                        "call {call}: transaction {id} was rejected with {}, but at no sequence in {window} do the rules \
                         say so",
                        shown_rejection(rejection)
                    ),
                )
            },
            Ok,
        )
    }

    /// The account did not exist at a moment. Returns these moments.
    pub(super) fn check_account_absent(
        &self,
        invocation: &Invocation,
        id: &str,
        window: Window,
    ) -> Result<Window, Violation> {
        let Some(found) = self.accounts.get(id) else {
            return Ok(window);
        };
        let moments = window.up_to(self.last_without(found.snapshot.create_time));
        let known = self.history.accounts_known.get(id);
        if known.is_some_and(|known| *known < invocation.begun) || moments.is_empty() {
            return violation(
                "reads",
                format!(
                    "call {} was answered that account {id} does not exist, but it was created at {}, before the call \
                     began at sequence {}",
                    invocation.id, found.snapshot.create_time, window.from
                ),
            );
        }
        Ok(moments)
    }

    /// All snapshots show the same moment.
    pub(super) fn check_snapshots(
        &self,
        invocation: &Invocation,
        snapshots: &[AccountSnapshot],
        window: Window,
    ) -> Result<u64, Violation> {
        let call = invocation.id;
        let mut moments = window;
        for snapshot in snapshots {
            let id = &snapshot.account.id;
            let (Some(found), Some(account)) = (self.accounts.get(id), self.reference.account(id)) else {
                return violation(
                    "reads",
                    format!("call {call} was shown account {id}, which does not exist"),
                );
            };
            let differs = account_difference(&snapshot.account, &found.snapshot.account);
            if differs.is_some() || snapshot.create_time != found.snapshot.create_time {
                return violation(
                    "reads",
                    format!(
                        "call {call} was shown account {id} as {:?} of {}, but it is {:?} of {}",
                        snapshot.account,
                        snapshot.create_time,
                        found.snapshot.account,
                        found.snapshot.create_time
                    ),
                );
            }
            if found.begun >= invocation.ended {
                return violation(
                    "reads",
                    format!("call {call} was shown account {id} before any call began to create it"),
                );
            }
            let balances = snapshot.balances;
            if (balances.debits_pending, balances.credits_pending) != (Amount::ZERO, Amount::ZERO) {
                return violation(
                    "reads",
                    format!("call {call} was shown account {id} with pending amounts: {balances:?}"),
                );
            }
            let (debits, credits) = (
                balances.debits_posted.minor_units(),
                balances.credits_posted.minor_units(),
            );
            let shown = account.when(debits, credits);
            let before = moments;
            let created = Window {
                from: self.first_with(snapshot.create_time),
                to: u64::MAX,
            };
            moments = shown.map_or(Window { from: 1, to: 0 }, |shown| before.and(shown).and(created));
            if moments.is_empty() {
                let shown = shown.map_or("at no sequence".to_owned(), |shown| {
                    format!("at the sequences {shown}")
                });
                return violation(
                    "reads",
                    format!(
                        "call {call} was shown account {id} with debits {debits} and credits {credits}, which it had \
                         {shown}, but the read was at a sequence in {before}"
                    ),
                );
            }
        }
        Ok(moments.from)
    }

    /// A read shows a transaction as it is recorded, and does not miss a transaction that was known.
    fn check_transaction(
        &self,
        invocation: &Invocation,
        shown: Option<&Recorded>,
        window: Window,
    ) -> Result<u64, Violation> {
        let (call, Request::Transaction(id)) = (invocation.id, &invocation.call.request) else {
            return Ok(window.from);
        };
        if self.records.is_unreadable(id) {
            return Ok(window.from);
        }
        let found = self.records.get(id);
        let recorded = found.map(|found| &*found.recorded);
        let Some(shown) = shown else {
            let known = self.history.transactions_known.get(id);
            if recorded.is_some_and(|recorded| {
                known.is_some_and(|known| *known < invocation.begun) || recorded.place.sequence <= window.from
            }) {
                return violation(
                    "reads",
                    format!(
                        "call {call} was answered that transaction {id} is not recorded, but it was known before"
                    ),
                );
            }
            return Ok(window.from);
        };
        if recorded != Some(shown) {
            return violation(
                "reads",
                format!("call {call} was shown transaction {id} as {shown:?}, but recorded is {recorded:?}"),
            );
        }
        let shows = found.map_or(0, |found| found.shows());
        if shows > window.to || found.is_some_and(|found| found.begun >= invocation.ended) {
            return violation(
                "reads",
                format!(
                    "call {call} was shown transaction {id} with sequence {}, but the read was at a sequence in {window}",
                    shown.place.sequence
                ),
            );
        }
        Ok(shows.max(window.from))
    }

    /// The first moment at which an account with this time can exist.
    pub(super) fn first_with(&self, created: Timestamp) -> u64 {
        self.times.partition_point(|time| *time < created) as u64
    }

    /// The last moment at which an account with this time can be missing: the end of its block. The times in a block
    /// increase by 1 ns.
    fn last_without(&self, created: Timestamp) -> u64 {
        let before = self.first_with(created);
        let block = self
            .times
            .iter()
            .skip(usize::try_from(before).unwrap_or(usize::MAX));
        let same = block
            .zip(created.as_nanos()..)
            .take_while(|(time, nanos)| time.as_nanos() == *nanos);
        before + same.count() as u64
    }
}
