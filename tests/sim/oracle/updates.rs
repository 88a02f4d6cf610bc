//! Rule 10: an update changes an account as requested, or is refused for a reason, and has its place in the order.

use tally_ledger::{AccountSnapshot, AccountStatus, AccountTerms, AccountUpdate, BalanceRule, UpdateOutcome};

use super::{
    Violation,
    calls::{Answer, Entry, Request},
    history::{Attempt, Effect, History, Invocation},
    moments::Moments,
    records::Found,
    reference::{Reference, ReferenceAccount, Version},
    violation,
    window::Window,
};

/// The terms of an account after an update.
fn updated(before: &AccountTerms, update: &AccountUpdate) -> AccountTerms {
    AccountTerms {
        status: update.status.unwrap_or(before.status),
        overdraft_limit: update.overdraft_limit.unwrap_or(before.overdraft_limit),
        metadata: update.metadata.clone().unwrap_or_else(|| before.metadata.clone()),
        velocity_limits: update
            .velocity_limits
            .clone()
            .unwrap_or_else(|| before.velocity_limits.clone()),
    }
}

/// Decides about an update of an account.
///
/// # Errors
/// The reason for which the update is refused.
fn judge(
    account: &ReferenceAccount<'_>,
    now: &Version,
    update: &AccountUpdate,
) -> Result<AccountTerms, UpdateOutcome> {
    let after = updated(&now.terms, update);
    let is_revision = |expected| expected == now.revision;
    if !update.expected_revision.is_none_or(is_revision) {
        return Err(UpdateOutcome::ChangedSince);
    }
    let was_closed = now.terms.status == AccountStatus::Closed;
    let with_metadata = AccountTerms {
        metadata: after.metadata.clone(),
        ..now.terms.clone()
    };
    if was_closed && after != with_metadata {
        return Err(UpdateOutcome::Closed);
    }
    if account.new.rule == BalanceRule::Unlimited && after.overdraft_limit.minor_units() > 0 {
        return Err(UpdateOutcome::Unlimited);
    }
    if after.status == AccountStatus::Closed && !was_closed && !now.columns.is_settled() {
        return Err(UpdateOutcome::NotEmpty);
    }
    Ok(after)
}

/// Whether an attempt can have made the record of an update, which gave an account `terms`.
pub(super) fn effect(history: &History, attempt: Attempt, found: &Found<'_>, terms: &AccountTerms) -> Effect {
    let Some(invocation) = history.calls.get(&attempt.call) else {
        return Effect::Impossible("unknown call");
    };
    let (Request::Update(update), Some((before, revision))) = (&invocation.call.request, &found.before)
    else {
        return Effect::Impossible("the account did not exist");
    };
    if updated(before, update) != *terms {
        return Effect::Impossible("asks for something else");
    }
    if update
        .expected_revision
        .is_some_and(|expected| expected != *revision)
    {
        return Effect::Impossible("asks for another revision");
    }
    match &invocation.reply {
        Some(Ok(Answer::Updated(Ok(snapshot)))) if snapshot.revision == found.number => Effect::Possible,
        Some(Ok(Answer::Updated(Ok(_)))) => Effect::Impossible("answered with another revision"),
        Some(Ok(_)) => Effect::Impossible("answered as refused"),
        Some(Err(_)) | None => history.unanswered_effect(invocation, found.absent(), None),
    }
}

/// Whether the rules allow the update of the next record of `reference`.
pub(super) fn is_allowed(history: &History, reference: &Reference<'_>, found: &Found<'_>) -> bool {
    let Entry::Updated { id, terms } = &found.logged.entry else {
        return false;
    };
    let account = reference.account(id);
    let Some((account, now)) = account.and_then(|account| Some((account, account.at(reference.records())?)))
    else {
        return false;
    };
    let update = |attempt: &Attempt| {
        let Request::Update(update) = &history.calls.get(&attempt.call)?.call.request else {
            return None;
        };
        Some(update)
    };
    let mut updates = found.executors.iter().filter_map(update);
    // An update that changes nothing has no record.
    now.terms != *terms && updates.any(|update| judge(account, now, update).as_ref() == Ok(terms))
}

// ===== impl Moments: updates =====

impl Moments<'_> {
    /// Checks that the answer to an update was right at a moment.
    pub(super) fn check_update(
        &self,
        invocation: &Invocation,
        answer: &Result<Box<AccountSnapshot>, UpdateOutcome>,
        window: Window,
    ) -> Result<u64, Violation> {
        let Request::Update(update) = &invocation.call.request else {
            return Ok(window.from);
        };
        let call = invocation.id;
        if let Err(UpdateOutcome::NotFound) = answer {
            return Ok(self.check_account_absent(invocation, &update.id, window)?.from);
        }
        let moment = match answer {
            Ok(snapshot) => self.updated_at(invocation, update, snapshot, window)?,
            Err(refusal) => self.refused_at(update, *refusal, window),
        };
        let Some(moment) = moment else {
            return violation(
                "updates",
                format!(
                    "call {call} was answered {answer:?} to {update:?}, but at no moment in {window} do the rules say so"
                ),
            );
        };
        Ok(moment)
    }

    /// The first moment at which the account equals `snapshot`, and the update had nothing to change or had just made the
    /// change.
    fn updated_at(
        &self,
        invocation: &Invocation,
        update: &AccountUpdate,
        snapshot: &AccountSnapshot,
        window: Window,
    ) -> Result<Option<u64>, Violation> {
        if snapshot.account.id != update.id {
            return violation(
                "updates",
                format!("call {} was answered {snapshot:?} to {update:?}", invocation.id),
            );
        }
        let moment = self.check_snapshots(invocation, std::slice::from_ref(snapshot), window)?;
        let Some(account) = self.reference.account(&update.id) else {
            return Ok(None);
        };
        let executed = self.records.number(snapshot.revision).filter(|found| {
            let is_own = found
                .executors
                .iter()
                .any(|attempt| attempt.call == invocation.id);
            is_own && matches!(found.logged.entry, Entry::Updated { .. })
        });
        if let Some(found) = executed.filter(|found| found.number > window.from && found.number >= moment) {
            // Another update may have made the same change before. Then this update had nothing to change, which is right, too.
            return Ok(Some(found.number));
        }
        let is_done = |version: &Version| judge(account, version, update).as_ref() == Ok(&version.terms);
        Ok(account
            .at(moment)
            .filter(|version| is_done(version))
            .map(|_| moment))
    }

    /// The first moment at which a correct service refuses the update with `refusal`.
    fn refused_at(&self, update: &AccountUpdate, refusal: UpdateOutcome, window: Window) -> Option<u64> {
        let account = self.reference.account(&update.id)?;
        let window = window.up_to(self.records.len());
        let from = window.from.max(account.created_by());
        let is_refused = |version: &Version| judge(account, version, update) == Err(refusal);
        let first = account.first_from(from, is_refused)?;
        (first <= window.to).then_some(first)
    }
}
