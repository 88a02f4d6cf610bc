//! Rule 3: accounts are created all or none, and never change.

use std::collections::HashMap;

use tally_ledger::{AccountSnapshot, NewAccount, Timestamp};

use super::{
    Violation,
    calls::Answer,
    content::account_difference,
    history::{Attempt, Effect, History, Invocation, NEVER, Tick},
    violation,
};

/// An account that an examination has found.
#[derive(Debug, Clone)]
pub(super) struct SeenAccount {
    pub(super) new: NewAccount,
    created: Timestamp,
    /// The last examination that did not find the account.
    absent: Tick,
}

/// All accounts of an examination, in the order of creation.
#[derive(Debug, Clone)]
pub(super) struct Accounts<'a> {
    pub(super) all: Vec<FoundAccount<'a>>,
    numbers: HashMap<&'a str, usize>,
}

/// An account of the service.
#[derive(Debug, Clone)]
pub(super) struct FoundAccount<'a> {
    pub(super) snapshot: &'a AccountSnapshot,
    absent: Tick,
    /// The attempts that can have created the account. One of them has.
    pub(super) creators: Vec<Attempt>,
    /// When the first of these attempts began.
    pub(super) begun: Tick,
}

// ===== impl Accounts =====

impl<'a> Accounts<'a> {
    /// The number of an account in the order of creation, from 0.
    pub(super) fn number(&self, id: &str) -> Option<usize> {
        self.numbers.get(id).copied()
    }

    pub(super) fn get(&self, id: &str) -> Option<&FoundAccount<'a>> {
        self.all.get(self.number(id)?)
    }

    /// The accounts from this number on, to remember.
    pub(super) fn new_since(&self, seen: usize) -> Vec<SeenAccount> {
        let new = self.all.iter().skip(seen);
        new.map(|found| SeenAccount {
            new: found.snapshot.account.clone(),
            created: found.snapshot.create_time,
            absent: found.absent,
        })
        .collect()
    }

    /// Whether an attempt can have created the account.
    fn effect(&self, history: &History, attempt: Attempt, found: &FoundAccount<'_>) -> Effect {
        let Some(invocation) = history.calls.get(&attempt.call) else {
            return Effect::Impossible("unknown call");
        };
        if let Some(Ok(Answer::Reused { .. })) = invocation.reply {
            return Effect::Impossible("answered as reused");
        }
        if invocation.skips_existing() && invocation.is_repeated(attempt.place) {
            return Effect::Impossible("its request has the id before");
        }
        let sent = invocation.accounts().get(attempt.place);
        if sent.is_none_or(|sent| account_difference(sent, &found.snapshot.account).is_some()) {
            return Effect::Impossible("other content");
        }
        if let Err(why) = self.is_whole(invocation, attempt.place, found) {
            return Effect::Impossible(why);
        }
        if let Some(Ok(Answer::Created(created))) = &invocation.reply
            && invocation.skips_existing()
        {
            let id = &found.snapshot.account.id;
            return if created.iter().any(|created| created.account.id == *id) {
                Effect::Certain
            } else {
                Effect::Impossible("answered that the account existed")
            };
        }
        let known = history.accounts_known.get(&found.snapshot.account.id).copied();
        history.unanswered_effect(invocation, found.absent, known)
    }

    /// Whether all accounts of the call exist, as they must if the call has created the account at `place`.
    fn is_whole(
        &self,
        invocation: &Invocation,
        place: usize,
        found: &FoundAccount<'_>,
    ) -> Result<(), &'static str> {
        let number = self.number(&found.snapshot.account.id);
        for (other_place, sent) in invocation.accounts().iter().enumerate() {
            let Some(other) = self.get(&sent.id) else {
                return Err("only a part of its accounts exists");
            };
            if !invocation.skips_existing() && account_difference(sent, &other.snapshot.account).is_some() {
                return Err("one of its accounts exists with other content");
            }
            if other.snapshot.create_time > found.snapshot.create_time {
                return Err("one of its accounts was created later");
            }
            let is_repeated = invocation.is_repeated(other_place);
            if other_place < place && !is_repeated && self.number(&sent.id) > number {
                return Err("its accounts are not in the order of the request");
            }
        }
        Ok(())
    }

    fn find_creators(&mut self, history: &History) -> Result<(), Violation> {
        let mut creators = Vec::with_capacity(self.all.len());
        for found in &self.all {
            let id = &found.snapshot.account.id;
            let attempts = history.creations.get(id).map_or(&[][..], Vec::as_slice);
            let effects: Vec<(Attempt, Effect)> = attempts
                .iter()
                .map(|attempt| (*attempt, self.effect(history, *attempt, found)))
                .collect();
            let with = |wanted: Effect| -> Vec<Attempt> {
                let wanted = effects.iter().filter(|(_, effect)| *effect == wanted);
                wanted.map(|(attempt, _)| *attempt).collect()
            };
            let certain = with(Effect::Certain);
            if certain.len() > 1 {
                return violation(
                    "accounts",
                    format!("account {id} was created twice: {}", history.describe(&effects)),
                );
            }
            let possible = if certain.is_empty() {
                with(Effect::Possible)
            } else {
                certain
            };
            if possible.is_empty() {
                return violation(
                    "accounts",
                    format!(
                        "account {id} exists with number {}, but no call can have created it: {}",
                        creators.len(),
                        history.describe(&effects)
                    ),
                );
            }
            creators.push(possible);
        }
        for (found, creators) in self.all.iter_mut().zip(creators) {
            let begun = creators
                .iter()
                .filter_map(|attempt| history.calls.get(&attempt.call));
            found.begun = begun.map(|call| call.begun).min().unwrap_or(NEVER);
            found.creators = creators;
        }
        Ok(())
    }
}

/// Checks the accounts of an examination. `seen` are the accounts of the last one, which was at the tick `examined`.
pub(super) fn check<'a>(
    history: &History,
    seen: &[SeenAccount],
    examined: Tick,
    state: &'a [AccountSnapshot],
) -> Result<Accounts<'a>, Violation> {
    check_unchanged(seen, state)?;
    let mut accounts = Accounts {
        all: Vec::with_capacity(state.len()),
        numbers: HashMap::with_capacity(state.len()),
    };
    for (number, snapshot) in state.iter().enumerate() {
        let id = snapshot.account.id.as_str();
        if let Some(other) = accounts.numbers.insert(id, number) {
            return violation(
                "accounts",
                format!("account {id} exists twice, with the numbers {other} and {number}"),
            );
        }
        if let Some(before) = accounts.all.last()
            && before.snapshot.create_time > snapshot.create_time
        {
            return violation(
                "accounts",
                format!(
                    "account {id} was created at {}, which is before the account with the number before, {}",
                    snapshot.create_time, before.snapshot.account.id
                ),
            );
        }
        accounts.all.push(FoundAccount {
            snapshot,
            absent: seen.get(number).map_or(examined, |seen| seen.absent),
            creators: Vec::new(),
            begun: NEVER,
        });
    }
    check_known(history, &accounts)?;
    accounts.find_creators(history)?;
    Ok(accounts)
}

/// Accounts of an earlier examination keep their number, content and time.
fn check_unchanged(seen: &[SeenAccount], state: &[AccountSnapshot]) -> Result<(), Violation> {
    for (number, before) in seen.iter().enumerate() {
        let now = state.get(number);
        if now.is_none_or(|now| now.account != before.new || now.create_time != before.created) {
            return violation(
                "prefix",
                format!(
                    "account number {number} was {:?} of {} at an earlier examination, but is {now:?} now",
                    before.new, before.created
                ),
            );
        }
    }
    Ok(())
}

/// Accounts that a client was shown exist.
fn check_known(history: &History, accounts: &Accounts<'_>) -> Result<(), Violation> {
    // A map has no order of its own, and the text of a violation must not depend on chance.
    let lost = history
        .accounts_known
        .iter()
        .filter(|(id, _)| accounts.get(id).is_none());
    let Some((id, _)) = lost.min() else {
        return Ok(());
    };
    violation(
        "accounts",
        format!("account {id} is lost: a client was answered that it exists, but it does not"),
    )
}
