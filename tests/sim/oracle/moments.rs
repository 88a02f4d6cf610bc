//! Rule 5: each answer was right at a moment between the beginning and the end of its call.
//!
//! A moment is the number of a record, and means the moment after this record. The moment of an answer has three bounds. It is not before
//! any record that a client had seen when the call began, because reads are linearizable. It is before every record of a call that had not
//! begun when the answer was given. If the process died later, it is not after the last record that survived, because
//! a read shows only what is durable.

use std::collections::HashMap;

use tally::engine::{BalancesAfter, Detail};
use tally_ledger::{AccountSnapshot, Amount, Balances, Hold, Outcome, Rejection};

use super::{
    Violation,
    answers::shown_rejection,
    calls::{Answer, CallId, Kind, Recorded, Request, Transaction},
    content::transaction_difference,
    history::{Attempt, Event, History, Invocation, Tick, is_recorded},
    records::{Found, Records},
    reference::{Reference, ReferenceAccount, Version},
    violation,
    window::Window,
};

/// The latest moment that clients had seen when each call began.
pub(super) type Floors = HashMap<CallId, u64>;

/// Everything that is needed to find the moments of answers.
#[derive(Debug, Clone)]
pub(super) struct Moments<'a> {
    pub(super) history: &'a History,
    pub(super) records: &'a Records<'a>,
    pub(super) reference: &'a Reference<'a>,
    /// For each record: the tick at which the calls of all records up to it had begun.
    begun: Vec<Tick>,
}

/// Checks all answers in the order in which they were given.
pub(super) fn check(
    history: &History,
    records: &Records<'_>,
    reference: &Reference<'_>,
) -> Result<Floors, Violation> {
    let mut latest = 0;
    let begun = records.in_order().map(|found| {
        latest = found.begun.max(latest);
        latest
    });
    let moments = Moments {
        history,
        records,
        reference,
        begun: begun.collect(),
    };
    let survived = survived(&history.events, records.len());
    let mut floors = Floors::with_capacity(history.calls.len());
    let mut floor = 0;
    for ((event, survived), tick) in history.events.iter().zip(survived).zip(0..) {
        match *event {
            Event::Began(call) => {
                floors.insert(call, floor);
            }
            Event::Examined { records } => floor = records.max(floor),
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

/// For each event: the last record that survived the first crash after it.
fn survived(events: &[Event], records: u64) -> Vec<u64> {
    let (mut examined, mut limit) = (records, records);
    let mut limits = vec![0; events.len()];
    for (event, limited) in events.iter().zip(&mut limits).rev() {
        match *event {
            Event::Examined { records } => examined = records,
            Event::Died => limit = examined,
            Event::Began(_) | Event::Answered(_) => {}
        }
        *limited = limit;
    }
    limits
}

/// The first moment in `window` at which the service refuses the transaction without a record, with a rejection that
/// `fits`.
pub(super) fn refused_at(
    reference: &Reference<'_>,
    transaction: &Transaction,
    window: Window,
    fits: impl Fn(Rejection) -> bool,
) -> Option<u64> {
    let window = window.up_to(reference.records());
    (window.from..=window.to).find(|after| reference.unrecorded(transaction, *after).is_some_and(&fits))
}

// ===== impl Moments =====

impl Moments<'_> {
    /// The highest moment that is possible at a tick: the calls of all records up to it had begun.
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
            Answer::Outcomes(outcomes, details) => self.check_outcomes(invocation, outcomes, details, window),
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
            Answer::Updated(updated) => self.check_update(invocation, updated, window),
            Answer::Hold(shown) => self.check_hold(invocation, shown.as_ref(), window),
            Answer::Holds(shown) => self.check_holds(invocation, shown, window),
        }
    }

    /// The transactions of a call are executed in their order.
    fn check_outcomes(
        &self,
        invocation: &Invocation,
        outcomes: &[Outcome],
        details: &[Detail],
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
                    to = to.min(found.number - 1);
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
            let detail = details.iter().find(|detail| detail.place == place);
            self.check_detail(invocation, place, sent, *outcome, detail)?;
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
        let replayed = match outcome {
            Outcome::Rejected { rejection, .. } if !is_recorded(rejection) => {
                return self.check_unrecorded(invocation, sent, rejection, window);
            }
            Outcome::Committed { replayed, .. } | Outcome::Rejected { replayed, .. } => replayed,
            Outcome::Reused { .. } => true,
        };
        let Some((found, recorded)) = self.records.transaction(id) else {
            return violation(
                "acknowledged",
                format!(
                    "call {call} place {place}: transaction {id} was answered with {outcome:?}, but it is not recorded"
                ),
            );
        };
        if let Outcome::Reused { field } = outcome {
            let differs = transaction_difference(sent, &recorded.transaction);
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
        let number = found.number;
        if number > window.to || (!replayed && number <= window.from) {
            return violation(
                "order",
                format!(
                    "call {call} place {place}: transaction {id} is record {number}, but at the moment of its execution the \
                     last record was in {window}"
                ),
            );
        }
        Ok(number.max(window.from))
    }

    /// Checks that the answer has the moved amounts, and the balances afterwards, if and only if the request needs them.
    fn check_detail(
        &self,
        invocation: &Invocation,
        place: usize,
        sent: &Transaction,
        outcome: Outcome,
        detail: Option<&Detail>,
    ) -> Result<(), Violation> {
        let expected = match (outcome, self.records.transaction(&sent.id)) {
            (Outcome::Committed { .. }, Some((found, recorded))) => self.detail(sent, found, recorded, place),
            _ => None,
        };
        if detail == expected.as_ref() {
            return Ok(());
        }
        // If the disk fails, the answer to a repeated transaction can lack the balances. Nothing else can be missing.
        if let (Some(detail), Some(expected), Outcome::Committed { replayed: true, .. }) =
            (detail, &expected, outcome)
            && matches!(detail.balances, BalancesAfter::Unread(_))
            && detail.moved == expected.moved
            && !expected.balances.known().is_empty()
        {
            return Ok(());
        }
        violation(
            "details",
            format!(
                "call {} place {place}: the answer about transaction {} has the details {detail:?}, but they must be \
                 {expected:?}",
                invocation.id, sent.id
            ),
        )
    }

    /// The details in the answer to a committed transaction.
    fn detail(
        &self,
        sent: &Transaction,
        found: &Found<'_>,
        recorded: &Recorded,
        place: usize,
    ) -> Option<Detail> {
        let follows_from_request = match &sent.kind {
            Kind::Move | Kind::Hold { .. } => {
                let mut rules = sent.legs.iter().map(|leg| leg.rule);
                rules.all(|rule| rule == tally_ledger::AmountRule::Exact)
            }
            // Nothing is moved.
            Kind::Void { .. } => true,
            Kind::Post { .. } | Kind::Reverse { .. } => false,
        };
        let mut detail = Detail {
            place,
            moved: tally::engine::MovedAmounts::new(),
            balances: BalancesAfter::default(),
        };
        let mut balances = Vec::<(Box<str>, Balances)>::new();
        if !follows_from_request {
            let moved = recorded.moved.iter().map(|moved| Amount::new(moved.amount));
            detail.moved = moved.collect();
        }
        if sent.wants_balances {
            for id in recorded
                .moved
                .iter()
                .flat_map(|moved| [&moved.debit, &moved.credit])
            {
                let account = self.reference.account(id);
                if let Some(version) = account.and_then(|account| account.at(found.number))
                    && balances.iter().all(|(other, _)| **other != **id)
                {
                    balances.push((Box::from(id.as_str()), version.columns.balances()));
                }
            }
        }
        let says_something = !detail.moved.is_empty() || !balances.is_empty();
        detail.balances = BalancesAfter::Known(balances);
        says_something.then_some(detail)
    }

    /// Checks that a rejection that is not recorded was right at a moment.
    fn check_unrecorded(
        &self,
        invocation: &Invocation,
        sent: &Transaction,
        rejection: Rejection,
        window: Window,
    ) -> Result<u64, Violation> {
        let (call, id) = (invocation.id, &sent.id);
        let known = self.history.transactions_known.get(id);
        let recorded = self.records.get(id).map(|found| found.number);
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
        // After the record of the transaction, its id is known, so the rejection must have come before this record.
        let window = recorded.map_or(window, |recorded| window.up_to(recorded - 1));
        let at = refused_at(self.reference, sent, window, |expected| expected == rejection);
        at.map_or_else(
            || {
                violation(
                    "reads",
                    format!(
                        "call {call}: transaction {id} was rejected with {}, but at no moment in {window} do the rules \
                         say so",
                        shown_rejection(rejection)
                    ),
                )
            },
            Ok,
        )
    }

    /// Checks that the account did not exist at a moment. Returns all such moments.
    pub(super) fn check_account_absent(
        &self,
        invocation: &Invocation,
        id: &str,
        window: Window,
    ) -> Result<Window, Violation> {
        let Some(found) = self.records.creation(id) else {
            return Ok(window);
        };
        let moments = window.up_to(found.number - 1);
        if moments.is_empty() {
            return violation(
                "reads",
                format!(
                    "call {} was answered that account {id} does not exist, but record {} created it, and the answer is \
                     about a moment in {window}",
                    invocation.id, found.number
                ),
            );
        }
        Ok(moments)
    }

    /// Checks that all snapshots are right at the same moment. Returns the first such moment.
    pub(super) fn check_snapshots(
        &self,
        invocation: &Invocation,
        snapshots: &[AccountSnapshot],
        window: Window,
    ) -> Result<u64, Violation> {
        let call = invocation.id;
        let mut moment = window.from;
        let mut agreed = 0;
        // If a snapshot is right only at a later moment, the other snapshots must be right at that later moment, too.
        for snapshot in snapshots.iter().cycle() {
            if agreed >= snapshots.len() {
                break;
            }
            let id = &snapshot.account.id;
            let Some(account) = self.reference.account(id) else {
                return violation(
                    "reads",
                    format!("call {call} was shown account {id}, which does not exist"),
                );
            };
            let from = moment.max(account.created_by());
            let first = account.first_from(from, |version| is_shown(account, version, snapshot));
            let Some(first) = first.filter(|first| *first <= window.to) else {
                return self.not_shown(call, account, snapshot, moment, window);
            };
            agreed = if first == moment { agreed + 1 } else { 1 };
            moment = first;
        }
        Ok(moment)
    }

    fn not_shown(
        &self,
        call: CallId,
        account: &ReferenceAccount<'_>,
        snapshot: &AccountSnapshot,
        moment: u64,
        window: Window,
    ) -> Result<u64, Violation> {
        let shown = account.first_from(account.created_by(), |version| {
            is_shown(account, version, snapshot)
        });
        let shown = shown.map_or("never".to_owned(), |first| format!("first at moment {first}"));
        let after = if moment > window.from {
            format!(", and from {moment} on because of the other accounts that it shows")
        } else {
            String::new()
        };
        violation(
            "reads",
            format!(
                "call {call} was shown account {} as {snapshot:?}, which it was {shown}, but the answer is about a moment in \
                 {window}{after}",
                snapshot.account.id
            ),
        )
    }

    /// Checks that a read shows a transaction as it is recorded, and does not miss a known transaction.
    fn check_transaction(
        &self,
        invocation: &Invocation,
        shown: Option<&Recorded>,
        window: Window,
    ) -> Result<u64, Violation> {
        let (call, Request::Transaction(id)) = (invocation.id, &invocation.call.request) else {
            return Ok(window.from);
        };
        let recorded = self.records.transaction(id);
        let Some(shown) = shown else {
            let known = self.history.transactions_known.get(id);
            if recorded.is_some_and(|(found, _)| {
                known.is_some_and(|known| *known < invocation.begun) || found.number <= window.from
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
        let Some((found, recorded)) = recorded.filter(|(_, recorded)| *recorded == shown) else {
            let recorded = recorded.map(|(_, recorded)| recorded);
            return violation(
                "reads",
                format!("call {call} was shown transaction {id} as {shown:?}, but recorded is {recorded:?}"),
            );
        };
        if found.number > window.to {
            return violation(
                "reads",
                format!(
                    "call {call} was shown transaction {id} with sequence {}, which is record {}, but the answer is about a \
                     moment in {window}",
                    recorded.place.sequence, found.number
                ),
            );
        }
        Ok(found.number.max(window.from))
    }

    /// Checks that a read shows the outstanding part of a hold.
    fn check_hold(
        &self,
        invocation: &Invocation,
        shown: Option<&Hold>,
        window: Window,
    ) -> Result<u64, Violation> {
        let (call, Request::Hold(id)) = (invocation.id, &invocation.call.request) else {
            return Ok(window.from);
        };
        let hold = self.reference.holds.get(id.as_str());
        let at = |moment: &u64| hold.and_then(|hold| hold.at(*moment)).as_ref() == shown;
        let mut moments = window.from..=window.to;
        moments.find(at).map_or_else(
            || {
                violation(
                    "reads",
                    format!(
                        "call {call} was shown hold {id} as {shown:?}, but it was so at no moment in {window}: {hold:?}"
                    ),
                )
            },
            Ok,
        )
    }

    /// Checks that a read shows all holds that are outstanding at a moment.
    fn check_holds(&self, invocation: &Invocation, shown: &[Hold], window: Window) -> Result<u64, Violation> {
        let mut shown = shown.to_vec();
        shown.sort_unstable_by_key(|hold| hold.place);
        let mut moments = window.from..=window.to;
        moments
            .find(|moment| self.reference.holds_at(*moment) == shown)
            .map_or_else(
                || {
                    violation(
                        "reads",
                        format!(
                            "call {} was shown the holds {shown:?}, but at no moment in {window} these were outstanding",
                            invocation.id
                        ),
                    )
                },
                Ok,
            )
    }
}

/// Whether a read of this `version` of an account shows `snapshot`.
pub(super) fn is_shown(
    account: &ReferenceAccount<'_>,
    version: &Version,
    snapshot: &AccountSnapshot,
) -> bool {
    snapshot.balances == version.columns.balances()
        && snapshot.revision == version.revision
        && snapshot.create_time == account.created
        && snapshot.available == account.available(version)
        && snapshot.account == account.shown(version)
}
