//! Rule 3: a call creates all of its accounts or none.

use tally_ledger::NewAccount;

use super::{
    Violation,
    calls::{Answer, Entry},
    content::account_difference,
    history::{Attempt, Effect, History, Invocation},
    records::{Found, Records},
    violation,
};

// ===== impl Records: creations =====

impl Records<'_> {
    /// Whether an attempt can have created the account.
    pub(super) fn creation_effect(
        &self,
        history: &History,
        attempt: Attempt,
        found: &Found<'_>,
        account: &NewAccount,
    ) -> Effect {
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
        if sent.is_none_or(|sent| account_difference(sent, account).is_some()) {
            return Effect::Impossible("other content");
        }
        if let Err(why) = self.is_whole(invocation, attempt.place, found) {
            return Effect::Impossible(why);
        }
        if let Some(Ok(Answer::Created(created))) = &invocation.reply
            && invocation.skips_existing()
        {
            return if created.iter().any(|created| created.account.id == account.id) {
                Effect::Certain
            } else {
                Effect::Impossible("answered that the account existed")
            };
        }
        let known = history.accounts_known.get(&account.id).copied();
        history.unanswered_effect(invocation, found.absent(), known)
    }

    /// Whether all accounts of the call exist, as they must if the call has created the account at `place`.
    fn is_whole(&self, invocation: &Invocation, place: usize, found: &Found<'_>) -> Result<(), &'static str> {
        for (other_place, sent) in invocation.accounts().iter().enumerate() {
            let Some((other, content)) = self.created(&sent.id) else {
                return Err("only a part of its accounts exists");
            };
            if !invocation.skips_existing() && account_difference(sent, content).is_some() {
                return Err("one of its accounts exists with other content");
            }
            if other.number > found.number && other.logged.block != found.logged.block {
                return Err("one of its accounts was created later");
            }
            let is_repeated = invocation.is_repeated(other_place);
            if other_place < place && !is_repeated && other.number > found.number {
                return Err("its accounts are not in the order of the request");
            }
        }
        Ok(())
    }

    /// The record that created an account, and the account as it was created.
    pub(super) fn created(&self, id: &str) -> Option<(&Found<'_>, &NewAccount)> {
        let found = self.creation(id)?;
        match &found.logged.entry {
            Entry::Created { account, .. } => Some((found, account)),
            Entry::Updated { .. } | Entry::Transaction(_) | Entry::Expired { .. } => None,
        }
    }

    /// Checks that every account exists that an answer has shown.
    pub(super) fn check_accounts_known(&self, history: &History) -> Result<(), Violation> {
        // The order of a map is random, and the text of a violation must not be random.
        let lost = history
            .accounts_known
            .keys()
            .filter(|id| self.creation(id).is_none());
        let Some(id) = lost.min() else {
            return Ok(());
        };
        violation(
            "accounts",
            format!("account {id} is lost: a client was answered that it exists, but it does not"),
        )
    }
}
