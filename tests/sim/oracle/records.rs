//! Rule 2: every acknowledged transaction is recorded, with the figures of its answer. Each record has an attempt that can have made it.
//! Records from before a crash keep their places. Reads through the service show the records of the journal.

use std::collections::{HashMap, HashSet};

use tally::engine::{EngineError, OwnedKey};
use tally_ledger::{AccountTerms, Committed, NewAccount, Rejection, Timestamp};

use super::{
    Violation,
    answers::{Acknowledgements, shown},
    calls::{Entry, Logged, Recorded, State},
    content::transaction_difference,
    history::{Attempt, Effect, History, NEVER, Tick},
    violation,
};

/// What the last examination has found.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// The tick of the examination.
    pub(super) examined: Tick,
    pub(super) records: Vec<SeenRecord>,
}

/// A record that an examination has found.
#[derive(Debug, Clone)]
pub(super) struct SeenRecord {
    pub(super) logged: Logged,
    /// The last examination that did not find the record.
    absent: Tick,
}

/// All records of an examination.
#[derive(Debug, Clone)]
pub(super) struct Records<'a> {
    all: Vec<Found<'a>>,
    /// The records of transactions, by their ids.
    by_id: HashMap<&'a str, usize>,
    /// The records of the creations of accounts, in their order, and by the ids of the accounts.
    creations: Vec<usize>,
    accounts: HashMap<&'a str, usize>,
}

/// A record.
#[derive(Debug, Clone)]
pub(super) struct Found<'a> {
    /// The number of the record, from 1. The same number names the moment directly after the record (see
    /// [`moments`](super::moments)).
    pub(super) number: u64,
    pub(super) logged: &'a Logged,
    absent: Tick,
    /// The attempts that can have made the record. One of them has made it. The list is empty for an expiry, which needs no call.
    pub(super) executors: Vec<Attempt>,
    /// When the first of these attempts began.
    pub(super) begun: Tick,
    /// For the record of an update: the terms and the revision of the account before the update.
    pub(super) before: Option<(AccountTerms, u64)>,
}

// ===== impl Records =====

impl<'a> Records<'a> {
    pub(super) fn collect(history: &History, seen: &Seen, state: &'a State) -> Result<Self, Violation> {
        let mut records = Records {
            all: Vec::with_capacity(state.log.len()),
            by_id: HashMap::new(),
            creations: Vec::new(),
            accounts: HashMap::new(),
        };
        let mut terms: HashMap<&str, (AccountTerms, u64)> = HashMap::new();
        for (place, logged) in state.log.iter().enumerate() {
            let number = place as u64 + 1;
            let mut before = None;
            let twice = match &logged.entry {
                Entry::Created { account, .. } => {
                    records.creations.push(place);
                    terms.insert(&account.id, (terms_of(account), 0));
                    records.accounts.insert(&account.id, place)
                }
                Entry::Updated { id, terms: after } => {
                    before = terms.insert(id, (after.clone(), number));
                    None
                }
                Entry::Transaction(recorded) => records.by_id.insert(&recorded.transaction.id, place),
                Entry::Expired { .. } => None,
            };
            if let Some(first) = twice {
                let text = format!("records {} and {number} have the same id: {logged:?}", first + 1);
                return violation("exactly once", text);
            }
            records.all.push(Found {
                number,
                logged,
                absent: seen.records.get(place).map_or(seen.examined, |seen| seen.absent),
                executors: Vec::new(),
                begun: NEVER,
                before,
            });
        }
        let executors: Vec<Vec<(Attempt, Effect)>> = records
            .all
            .iter()
            .map(|found| records.effects(history, found))
            .collect();
        for (found, effects) in records.all.iter_mut().zip(executors) {
            found.find_executors(history, &effects);
        }
        Ok(records)
    }

    /// For each attempt: whether it can have made a record.
    fn effects(&self, history: &History, found: &Found<'_>) -> Vec<(Attempt, Effect)> {
        let attempts = match &found.logged.entry {
            Entry::Transaction(recorded) => history.attempts.get(&recorded.transaction.id),
            Entry::Created { account, .. } => history.creations.get(&account.id),
            Entry::Updated { id, .. } => history.updates.get(id),
            Entry::Expired { .. } => None,
        };
        let effect = |attempt: Attempt| match &found.logged.entry {
            Entry::Transaction(recorded) => history.effect(attempt, recorded, found.absent),
            Entry::Created { account, .. } => self.creation_effect(history, attempt, found, account),
            Entry::Updated { terms, .. } => super::updates::effect(history, attempt, found, terms),
            Entry::Expired { .. } => Effect::Impossible("nobody asks for an expiry"),
        };
        let attempts = attempts.map_or(&[][..], Vec::as_slice);
        attempts
            .iter()
            .map(|attempt| (*attempt, effect(*attempt)))
            .collect()
    }

    /// The record of a transaction.
    pub(super) fn get(&self, id: &str) -> Option<&Found<'a>> {
        self.all.get(*self.by_id.get(id)?)
    }

    /// The record of the transaction with this id, and what it says.
    pub(super) fn transaction(&self, id: &str) -> Option<(&Found<'a>, &'a Recorded)> {
        let found = self.get(id)?;
        Some((found, found.logged.transaction()?))
    }

    /// The record that created an account.
    pub(super) fn creation(&self, id: &str) -> Option<&Found<'a>> {
        self.all.get(*self.accounts.get(id)?)
    }

    /// The id of the account with this number in the order of creation, and the record that created it.
    pub(super) fn nth_creation(&self, number: usize) -> Option<(&'a str, &Found<'a>)> {
        let found = self.all.get(*self.creations.get(number)?)?;
        match &found.logged.entry {
            Entry::Created { account, .. } => Some((&account.id, found)),
            Entry::Updated { .. } | Entry::Transaction(_) | Entry::Expired { .. } => None,
        }
    }

    /// All records, in their order.
    pub(super) fn in_order(&self) -> impl Iterator<Item = &Found<'a>> {
        self.all.iter()
    }

    /// The record with this number.
    pub(super) fn number(&self, number: u64) -> Option<&Found<'a>> {
        let place = usize::try_from(number.checked_sub(1)?).ok()?;
        self.all.get(place)
    }

    pub(super) fn len(&self) -> u64 {
        self.all.len() as u64
    }

    /// Every acknowledged transaction is recorded, with its content and the figures of the answer.
    pub(super) fn check_acknowledged(&self, acknowledgements: &Acknowledgements) -> Result<(), Violation> {
        for (id, first) in acknowledgements.in_order() {
            let Some((_, recorded)) = self.transaction(id) else {
                return violation(
                    "acknowledged",
                    format!(
                        "transaction {id} is lost: call {} was answered with {}, but it is not recorded",
                        first.call,
                        shown(&first.outcome)
                    ),
                );
            };
            if recorded.outcome() != first.outcome {
                return violation(
                    "acknowledged",
                    format!(
                        "transaction {id}: call {} was answered with {}, but recorded is {}",
                        first.call,
                        shown(&first.outcome),
                        shown(&recorded.outcome())
                    ),
                );
            }
            if let Some(field) = transaction_difference(&first.transaction, &recorded.transaction) {
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

    /// Checks that the records of an earlier examination are unchanged.
    pub(super) fn check_prefix(&self, seen: &Seen) -> Result<(), Violation> {
        for (place, before) in seen.records.iter().enumerate() {
            let now = self.all.get(place).map(|found| found.logged);
            if now != Some(&before.logged) {
                return violation(
                    "prefix",
                    format!(
                        "record {} was {:?} at an earlier examination, but is {now:?} now",
                        place + 1,
                        before.logged
                    ),
                );
            }
        }
        Ok(())
    }

    /// Checks that sequences have no gap from 1 on, and that times increase with them. A record without a sequence has the time of the next record
    /// with a sequence in its block.
    pub(super) fn check_order(&self) -> Result<(), Violation> {
        // The greatest time of a block or of a record with a sequence.
        let mut last = Timestamp::from_nanos(0);
        let (mut sequence, mut block, mut committed_in_block) = (0, 0, 0);
        for found in &self.all {
            let logged = found.logged;
            if logged.block != block {
                if logged.block < block || logged.block_time <= last {
                    return violation(
                        "order",
                        format!(
                            "{} is in block {} with the time {}, which is not after block {block} and the time {last}",
                            found.name(),
                            logged.block,
                            logged.block_time
                        ),
                    );
                }
                (block, committed_in_block) = (logged.block, 0);
                last = logged.block_time;
            }
            let time = logged.block_time.plus_nanos(committed_in_block);
            let expected = Committed {
                sequence: sequence + 1,
                time,
            };
            let place = match &logged.entry {
                Entry::Transaction(Recorded { place, .. }) | Entry::Expired { place, .. } => *place,
                Entry::Created { time, .. } => Committed {
                    time: *time,
                    ..expected
                },
                Entry::Updated { .. } => expected,
            };
            if place != expected {
                return violation(
                    "order",
                    format!(
                        "{} has sequence {} and time {}, but the next sequence is {}, and its time {time}",
                        found.name(),
                        place.sequence,
                        place.time,
                        sequence + 1
                    ),
                );
            }
            if logged.committed().is_some() {
                (sequence, committed_in_block, last) = (sequence + 1, committed_in_block + 1, time);
            }
        }
        Ok(())
    }

    /// Checks that the service finds each record, and nothing else, by its id and by the hold or transaction that it ended or reversed.
    pub(super) fn check_read_back(&self, state: &State) -> Result<(), Violation> {
        let mut read = HashSet::with_capacity(state.transactions.len());
        for (id, found) in &state.transactions {
            if !read.insert(id.as_str()) {
                return violation("simulator", format!("the state has transaction {id} twice"));
            }
            let Ok(found) = found else {
                continue;
            };
            let recorded = self.transaction(id).map(|(_, recorded)| recorded);
            if found.as_ref() != recorded {
                return violation(
                    "acknowledged",
                    format!(
                        "asked for transaction {id}, the service returned {found:?}, but recorded is {recorded:?}"
                    ),
                );
            }
        }
        let unknown = self.all.iter().filter_map(|found| found.logged.transaction());
        let unknown = unknown.map(|recorded| &recorded.transaction.id);
        if let Some(id) = unknown.into_iter().find(|id| !read.contains(id.as_str())) {
            return violation(
                "not executed",
                format!("transaction {id} is recorded, but no client ever used this id"),
            );
        }
        Ok(())
    }

    /// Checks that each record was made by exactly one attempt that can have made it.
    pub(super) fn check_executors(&self, history: &History) -> Result<(), Violation> {
        for found in &self.all {
            let is_certain = |attempt: &&Attempt| match found.logged.entry {
                Entry::Transaction(_) => history.outcome(**attempt).is_some(),
                Entry::Created { .. } => history.has_created(**attempt),
                Entry::Updated { .. } | Entry::Expired { .. } => false,
            };
            let certain = found.executors.iter().filter(is_certain).count();
            let is_caused =
                !found.executors.is_empty() || matches!(found.logged.entry, Entry::Expired { .. });
            if !is_caused || certain > 1 {
                let effects = self.effects(history, found);
                let problem = if certain > 1 {
                    "more than one attempt says that it made the record"
                } else {
                    "no attempt can have made the record"
                };
                return violation(
                    "not executed",
                    format!(
                        "{} is recorded, but {problem}: {}",
                        found.name(),
                        history.describe(&effects)
                    ),
                );
            }
        }
        Ok(())
    }

    /// The records that the last examination did not find.
    pub(super) fn new_since(&self, seen: &Seen) -> Vec<SeenRecord> {
        let new = self.all.iter().skip(seen.records.len());
        new.map(|found| SeenRecord {
            logged: found.logged.clone(),
            absent: found.absent,
        })
        .collect()
    }
}

/// Checks that the service finds the records that ended holds, and reversals.
pub(super) fn check_keys(
    found: &[(OwnedKey, Result<Option<u64>, EngineError>)],
    expected: impl Fn(&OwnedKey) -> Option<u64>,
) -> Result<(), Violation> {
    for (key, found) in found {
        let Ok(found) = found else {
            continue;
        };
        let expected = expected(key);
        if *found != expected {
            return violation(
                "acknowledged",
                format!(
                    "asked for the record of {key:?}, the service found {found:?}, but it is {expected:?}"
                ),
            );
        }
    }
    Ok(())
}

fn terms_of(new: &NewAccount) -> AccountTerms {
    AccountTerms {
        status: new.status,
        overdraft_limit: new.overdraft_limit,
        metadata: new.metadata.clone(),
        velocity_limits: new.velocity_limits.clone(),
    }
}

// ===== impl Found =====

impl Found<'_> {
    fn find_executors(&mut self, history: &History, effects: &[(Attempt, Effect)]) {
        let with = |wanted: Effect| -> Vec<Attempt> {
            let wanted = effects.iter().filter(|(_, effect)| *effect == wanted);
            wanted.map(|(attempt, _)| *attempt).collect()
        };
        self.executors = with(Effect::Certain);
        if self.executors.is_empty() {
            self.executors = with(Effect::Possible);
        }
        let begun = self
            .executors
            .iter()
            .filter_map(|attempt| history.calls.get(&attempt.call));
        let begun = begun.map(|call| call.begun).min();
        self.begun = match self.logged.entry {
            // An expiry needs no call.
            Entry::Expired { .. } => 0,
            Entry::Created { .. } | Entry::Updated { .. } | Entry::Transaction(_) => begun.unwrap_or(NEVER),
        };
    }

    /// Whether this attempt has made the record, and no other attempt can have made it.
    pub(super) fn is_made_by(&self, attempt: Attempt) -> bool {
        self.executors == [attempt]
    }

    pub(super) const fn absent(&self) -> Tick {
        self.absent
    }

    /// The record in a few words.
    pub(super) fn name(&self) -> String {
        match &self.logged.entry {
            Entry::Created { account, .. } => format!("the creation of account {}", account.id),
            Entry::Updated { id, .. } => format!("an update of account {id}"),
            Entry::Expired { hold, .. } => format!("the expiry of hold {hold}"),
            Entry::Transaction(recorded) => {
                let kind = if recorded.rejection.is_some() {
                    "rejection"
                } else {
                    "transaction"
                };
                format!("{kind} {}", recorded.transaction.id)
            }
        }
    }
}

impl Recorded {
    /// The outcome that every answer must show.
    pub(super) fn outcome(&self) -> Result<Committed, Rejection> {
        self.rejection.map_or(Ok(self.place), Err)
    }
}
