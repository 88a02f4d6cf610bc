//! Rule 2: what was acknowledged is recorded, with the same figures. Each record has an attempt that can have made it.
//! What was recorded before a crash keeps its place.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

use tally_ledger::Rejection;

use super::{
    Violation,
    answers::{Acknowledgements, shown},
    calls::{Recorded, State},
    content::transaction_difference,
    history::{Attempt, Effect, History, NEVER, Tick},
    violation,
};

/// What the last examination has found.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// When it was.
    pub(super) examined: Tick,
    pub(super) records: HashMap<String, SeenRecord>,
}

/// A record that an examination has found.
#[derive(Debug, Clone)]
pub(super) struct SeenRecord {
    pub(super) recorded: Recorded,
    /// The last examination that did not find the record.
    pub(super) absent: Tick,
}

/// All recorded transactions of an examination.
#[derive(Debug, Clone)]
pub(super) struct Records<'a> {
    by_id: HashMap<&'a str, Found<'a>>,
    /// The ids of all records, by their places.
    order: Vec<&'a str>,
    /// Rejections that were acknowledged, but can't be read now.
    unreadable: HashSet<&'a str>,
}

/// A recorded transaction.
#[derive(Debug, Clone)]
pub(super) struct Found<'a> {
    pub(super) recorded: Cow<'a, Recorded>,
    absent: Tick,
    /// The attempts that can have made the record. One of them has.
    pub(super) executors: Vec<Attempt>,
    /// When the first of these attempts began.
    pub(super) begun: Tick,
}

/// The place of a record in the order. A rejection precedes the commit whose sequence it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) sequence: u64,
    pub(super) is_commit: bool,
}

// ===== impl Records =====

impl<'a> Records<'a> {
    /// Collects the records. `None` if too little can be read because of damage.
    pub(super) fn collect(
        history: &History,
        acknowledgements: &'a Acknowledgements,
        seen: &'a Seen,
        state: &'a State,
    ) -> Result<Option<Self>, Violation> {
        let mut records = Records {
            by_id: HashMap::with_capacity(state.transactions.len()),
            order: Vec::with_capacity(state.transactions.len()),
            unreadable: HashSet::new(),
        };
        for (id, found) in &state.transactions {
            let before = seen.records.get(id);
            let recorded = match found {
                Ok(Some(recorded)) => Cow::Borrowed(recorded),
                Ok(None) => continue,
                Err(_) => {
                    let acknowledged = acknowledgements.by_id.get(id);
                    let known = acknowledged.and_then(|first| first.to_record());
                    match (before, known) {
                        (Some(before), _) => Cow::Borrowed(&before.recorded),
                        (None, Some(known)) => Cow::Owned(known),
                        (None, None) if acknowledged.is_some() => {
                            records.unreadable.insert(id);
                            continue;
                        }
                        (None, None) => return Ok(None),
                    }
                }
            };
            if recorded.transaction.id != *id {
                return violation(
                    "acknowledged",
                    format!(
                        "asked for transaction {id}, the service returned transaction {}",
                        recorded.transaction.id
                    ),
                );
            }
            let absent = before.map_or(seen.examined, |before| before.absent);
            let found = Found {
                recorded,
                absent,
                executors: Vec::new(),
                begun: NEVER,
            };
            if records.by_id.insert(id, found).is_some() {
                return violation("simulator", format!("the state has transaction {id} twice"));
            }
            records.order.push(id);
        }
        let by_id = &records.by_id;
        records.order.sort_by_key(|id| by_id.get(id).map(Found::place));
        records.find_executors(history);
        Ok(Some(records))
    }

    fn find_executors(&mut self, history: &History) {
        for (id, found) in &mut self.by_id {
            let attempts = history.attempts.get(*id).map_or(&[][..], Vec::as_slice);
            let effects: Vec<(Attempt, Effect)> = attempts
                .iter()
                .map(|attempt| (*attempt, history.effect(*attempt, &found.recorded, found.absent)))
                .collect();
            let with = |wanted: Effect| {
                effects
                    .iter()
                    .filter(move |(_, effect)| *effect == wanted)
                    .map(|(attempt, _)| *attempt)
            };
            found.executors = with(Effect::Certain).collect();
            if found.executors.is_empty() {
                found.executors = with(Effect::Possible).collect();
            }
            let begun = found
                .executors
                .iter()
                .filter_map(|attempt| history.calls.get(&attempt.call));
            found.begun = begun.map(|call| call.begun).min().unwrap_or(NEVER);
        }
    }

    pub(super) fn get(&self, id: &str) -> Option<&Found<'a>> {
        self.by_id.get(id)
    }

    /// Whether the transaction was acknowledged as rejected, but can't be read because of damage.
    pub(super) fn is_unreadable(&self, id: &str) -> bool {
        self.unreadable.contains(id)
    }

    /// All records, by their places.
    pub(super) fn in_order(&self) -> impl Iterator<Item = &Found<'a>> {
        self.order.iter().filter_map(|id| self.by_id.get(id))
    }

    /// The committed transactions in their order.
    pub(super) fn committed(&self) -> impl Iterator<Item = &Found<'a>> {
        self.in_order().filter(|found| found.recorded.rejection.is_none())
    }

    /// Every acknowledged transaction is recorded, with its content and the figures of the answer.
    pub(super) fn check_acknowledged(&self, acknowledgements: &Acknowledgements) -> Result<(), Violation> {
        for (id, first) in &acknowledgements.by_id {
            if self.is_unreadable(id) {
                continue;
            }
            let Some(found) = self.get(id) else {
                return violation(
                    "acknowledged",
                    format!(
                        "transaction {id} is lost: call {} was answered with {}, but it is not recorded",
                        first.call,
                        shown(&first.outcome)
                    ),
                );
            };
            if found.outcome() != first.outcome {
                return violation(
                    "acknowledged",
                    format!(
                        "transaction {id}: call {} was answered with {}, but recorded is {}",
                        first.call,
                        shown(&first.outcome),
                        shown(&found.outcome())
                    ),
                );
            }
            if let Some(field) = transaction_difference(&first.transaction, &found.recorded.transaction) {
                return violation(
                    "acknowledged",
                    format!(
                        "transaction {id}: call {} sent other content than recorded; it differs in {field}",
                        first.call
                    ),
                );
            }
        }
        Ok(())
    }

    /// What an earlier examination has found is unchanged.
    pub(super) fn check_prefix(&self, seen: &Seen) -> Result<(), Violation> {
        for (id, before) in &seen.records {
            let now = self.get(id).map(|found| &*found.recorded);
            if now != Some(&before.recorded) {
                return violation(
                    "prefix",
                    format!(
                        "transaction {id} was recorded as {:?} at an earlier examination, but now as {now:?}",
                        before.recorded
                    ),
                );
            }
        }
        Ok(())
    }

    /// Sequences have no gap from 1, and times increase with them. A rejection is between the commits before and after
    /// its place.
    pub(super) fn check_order(&self) -> Result<(), Violation> {
        let (mut last, mut last_id) = (None, "");
        let mut next = 1;
        for (found, id) in self.in_order().zip(&self.order) {
            let (sequence, time) = (found.recorded.place.sequence, found.recorded.place.time);
            if sequence != next {
                return violation(
                    "order",
                    format!(
                        "{} {id} has sequence {sequence}, but the next sequence after transaction {last_id:?} is {next}",
                        found.kind()
                    ),
                );
            }
            if last.is_some_and(|last| time <= last) {
                return violation(
                    "order",
                    format!(
                        "{} {id} has sequence {sequence} and time {time}, which is not after transaction {last_id}",
                        found.kind()
                    ),
                );
            }
            if found.recorded.rejection.is_none() {
                (last, last_id) = (Some(time), id);
                next += 1;
            }
        }
        self.check_times_of_rejections()
    }

    /// A rejection is not later than the commit that follows it.
    fn check_times_of_rejections(&self) -> Result<(), Violation> {
        let mut latest: Option<&Found<'a>> = None;
        for found in self.in_order() {
            if found.recorded.rejection.is_some() {
                if latest.is_none_or(|latest| latest.recorded.place.time < found.recorded.place.time) {
                    latest = Some(found);
                }
            } else if let Some(rejected) = latest
                && rejected.recorded.place.time > found.recorded.place.time
            {
                return violation(
                    "order",
                    format!(
                        "rejection {} has time {}, but transaction {} with sequence {} after it has the earlier time {}",
                        rejected.recorded.transaction.id,
                        rejected.recorded.place.time,
                        found.recorded.transaction.id,
                        found.recorded.place.sequence,
                        found.recorded.place.time
                    ),
                );
            }
        }
        Ok(())
    }

    /// Each record was made by an attempt that can have made it, and by one only.
    pub(super) fn check_executors(&self, history: &History) -> Result<(), Violation> {
        for found in self.in_order() {
            let id = &found.recorded.transaction.id;
            let certain = found
                .executors
                .iter()
                .filter(|attempt| history.outcome(**attempt).is_some())
                .count();
            if found.executors.is_empty() || certain > 1 {
                let attempts = history.attempts.get(id).map_or(&[][..], Vec::as_slice);
                let effects: Vec<(Attempt, Effect)> = attempts
                    .iter()
                    .map(|attempt| (*attempt, history.effect(*attempt, &found.recorded, found.absent)))
                    .collect();
                let problem = if certain > 1 {
                    "more than one attempt says that it made the record"
                } else {
                    "no attempt can have made the record"
                };
                return violation(
                    "not executed",
                    format!(
                        "transaction {id} is recorded with {}, but {problem}: {}",
                        shown(&found.outcome()),
                        history.describe(&effects)
                    ),
                );
            }
        }
        Ok(())
    }

    /// The records that the last examination did not find.
    pub(super) fn new_since(&self, seen: &Seen) -> Vec<(String, SeenRecord)> {
        let new = self
            .by_id
            .iter()
            .filter(|(id, _)| !seen.records.contains_key(**id));
        new.map(|(id, found)| {
            let recorded = Recorded::clone(&found.recorded);
            let absent = found.absent;
            ((*id).to_owned(), SeenRecord { recorded, absent })
        })
        .collect()
    }
}

// ===== impl Found =====

impl Found<'_> {
    pub(super) fn place(&self) -> Place {
        Place {
            sequence: self.recorded.place.sequence,
            is_commit: self.recorded.rejection.is_none(),
        }
    }

    /// The outcome that every answer must show.
    pub(super) fn outcome(&self) -> Result<tally_ledger::Committed, Rejection> {
        self.recorded.rejection.map_or(Ok(self.recorded.place), Err)
    }

    /// Whether this attempt has made the record, and no other can have.
    pub(super) fn is_made_by(&self, attempt: Attempt) -> bool {
        self.executors == [attempt]
    }

    /// The number of commits that are certain to precede the end of the transaction, including its own.
    pub(super) fn shows(&self) -> u64 {
        if self.recorded.rejection.is_some() {
            self.recorded.place.sequence - 1
        } else {
            self.recorded.place.sequence
        }
    }

    fn kind(&self) -> &'static str {
        if self.recorded.rejection.is_some() {
            "rejection"
        } else {
            "transaction"
        }
    }
}
