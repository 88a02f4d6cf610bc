//! Rule 1: an answer fits its request, and answers about the same id agree.

use std::collections::{BTreeMap, HashMap};

use tally_ledger::{Committed, Outcome, Rejection};

use super::{
    Violation,
    calls::{Answer, CallId, Request, Transaction},
    content::transaction_difference,
    history::{Invocation, is_recorded},
    violation,
};

/// What the answers have said about recorded transactions.
#[derive(Debug, Clone, Default)]
pub(super) struct Acknowledgements {
    by_id: BTreeMap<String, Acknowledgement>,
    by_sequence: HashMap<u64, String>,
}

/// The first answer that showed the outcome of a transaction.
#[derive(Debug, Clone)]
pub(super) struct Acknowledgement {
    pub(super) call: CallId,
    pub(super) transaction: Transaction,
    pub(super) outcome: Result<Committed, Rejection>,
    /// The call whose answer said that it was not a replay.
    executed_by: Option<CallId>,
}

// ===== impl Acknowledgements =====

impl Acknowledgements {
    /// The first answers that showed the outcomes of transactions, by the ids of these.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (&String, &Acknowledgement)> {
        self.by_id.iter()
    }

    /// Notes the outcomes of an answer.
    ///
    /// # Errors
    /// A violation if an earlier answer said something else.
    pub(super) fn note(&mut self, invocation: &Invocation, answer: &Answer) -> Result<(), Violation> {
        let Answer::Outcomes(outcomes, _) = answer else {
            return Ok(());
        };
        for (sent, outcome) in invocation.transactions().iter().zip(outcomes) {
            match *outcome {
                Outcome::Committed { committed, replayed } => {
                    self.note_outcome(invocation.id, sent, Ok(committed), replayed)?;
                }
                Outcome::Rejected { rejection, replayed } if is_recorded(rejection) => {
                    self.note_outcome(invocation.id, sent, Err(rejection), replayed)?;
                }
                Outcome::Rejected { rejection, replayed } => {
                    if replayed {
                        return violation(
                            "acknowledged",
                            format!(
                                "call {}: transaction {} was rejected with {} as a replay, but this rejection is never \
                                 recorded",
                                invocation.id, sent.id, rejection.reason
                            ),
                        );
                    }
                }
                Outcome::Reused { .. } => {}
            }
        }
        Ok(())
    }

    fn note_outcome(
        &mut self,
        call: CallId,
        sent: &Transaction,
        outcome: Result<Committed, Rejection>,
        replayed: bool,
    ) -> Result<(), Violation> {
        if let Ok(committed) = outcome {
            let owner = self
                .by_sequence
                .entry(committed.sequence)
                .or_insert_with(|| sent.id.clone());
            if *owner != sent.id {
                return violation(
                    "acknowledged",
                    format!(
                        "call {call}: transaction {} was answered with sequence {}, but so was transaction {owner}",
                        sent.id, committed.sequence
                    ),
                );
            }
        }
        let executed_by = (!replayed).then_some(call);
        let Some(first) = self.by_id.get_mut(&sent.id) else {
            let first = Acknowledgement {
                call,
                transaction: sent.clone(),
                outcome,
                executed_by,
            };
            self.by_id.insert(sent.id.clone(), first);
            return Ok(());
        };
        if first.outcome != outcome {
            return violation(
                "acknowledged",
                format!(
                    "call {call}: transaction {} was answered with {}, but call {} was answered with {}",
                    sent.id,
                    shown(&outcome),
                    first.call,
                    shown(&first.outcome)
                ),
            );
        }
        if let Some(field) = transaction_difference(sent, &first.transaction) {
            return violation(
                "acknowledged",
                format!(
                    "call {call}: transaction {} was answered with the outcome of call {}, although they differ in {field}",
                    sent.id, first.call
                ),
            );
        }
        match (first.executed_by, executed_by) {
            (Some(before), Some(_)) => violation(
                "acknowledged",
                format!(
                    "transaction {} was executed twice: calls {before} and {call} were both answered with replayed=false",
                    sent.id
                ),
            ),
            (None, Some(_)) => {
                first.executed_by = executed_by;
                Ok(())
            }
            (_, None) => Ok(()),
        }
    }
}

/// Checks that the answer is of the kind that the request asks for, and has its size.
pub(super) fn check_shape(invocation: &Invocation, answer: &Answer) -> Result<(), Violation> {
    let call = invocation.id;
    let fits = match (&invocation.call.request, answer) {
        (Request::Transactions(sent), Answer::Outcomes(outcomes, details)) => {
            sent.len() == outcomes.len() && details.is_sorted_by(|one, other| one.place < other.place)
        }
        (Request::CreateAccounts(sent), Answer::Created(created)) => sent.len() == created.len(),
        (Request::CreateMissing(sent), Answer::Created(created)) => created.len() <= sent.len(),
        (Request::CreateAccounts(sent), Answer::Reused { place, .. }) => *place < sent.len(),
        (Request::Account(id), Answer::Account(found)) => {
            found.as_ref().is_none_or(|found| found.account.id == *id)
        }
        (Request::Accounts { limit, .. }, Answer::Accounts(accounts, _)) => accounts.len() <= *limit,
        (Request::Transaction(id), Answer::Transaction(found)) => {
            found.as_ref().is_none_or(|found| found.transaction.id == *id)
        }
        (Request::Update(_), Answer::Updated(_))
        | (Request::Hold(_), Answer::Hold(_))
        | (Request::Holds, Answer::Holds(_)) => true,
        _ => false,
    };
    if fits {
        Ok(())
    } else {
        violation(
            "answers",
            format!(
                "call {call} asked {:?}, but was answered {answer:?}",
                invocation.call.request
            ),
        )
    }
}

/// An outcome as the text of a violation.
pub(super) fn shown(outcome: &Result<Committed, Rejection>) -> String {
    match outcome {
        Ok(committed) => format!("sequence {} at {}", committed.sequence, committed.time),
        Err(rejection) => shown_rejection(*rejection),
    }
}

/// A rejection as the text of a violation.
pub(super) fn shown_rejection(rejection: Rejection) -> String {
    format!(
        "{} at transfer {} side {:?} available {}",
        rejection.reason,
        rejection.transfer,
        rejection.side,
        rejection.available()
    )
}
