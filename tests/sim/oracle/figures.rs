//! Rule 9: the service's own figures are right.

use tally::engine::LedgerFigures;
use tally_ledger::{Outcome, Reason, Rejection};

use super::{
    Violation,
    calls::{Answer, Reply, State},
    history::Invocation,
    violation,
};

/// Counts of the answers that clients got since the process started.
#[derive(Debug, Clone, Default)]
pub(super) struct Answered {
    committed: u64,
    rejected: u64,
    replayed: u64,
    velocity_refusals: u64,
    /// Transactions of batches that the service abandoned because of a fault. The service may have counted some of them as replayed or
    /// as rejected, but it executed none of them.
    given_up: u64,
    /// Whether the outcome of a request is unknown, so that the service may have counted more.
    unknown: bool,
}

/// The figures that the examination has found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    pub(super) last_sequence: u64,
    /// The number of keys under which records are found: ids of transactions, ends of holds, and reversals.
    pub(super) keys: u64,
    /// The number of outstanding holds.
    pub(super) holds: u64,
}

// ===== impl Answered =====

impl Answered {
    pub(super) fn note(&mut self, invocation: &Invocation, reply: &Reply) {
        let outcomes = match reply {
            Ok(Answer::Outcomes(outcomes, _)) => outcomes,
            Ok(_) => return,
            Err(error) => {
                let transactions = invocation.transactions().len();
                self.unknown |= !error.is_not_executed() && transactions > 0;
                // The transaction at which the fault occurred has no outcome.
                self.given_up += transactions.saturating_sub(1) as u64;
                return;
            }
        };
        for outcome in outcomes {
            if let Outcome::Rejected {
                rejection:
                    Rejection {
                        reason: Reason::VelocityLimit,
                        ..
                    },
                replayed: false,
            } = outcome
            {
                self.velocity_refusals += 1;
            }
            let count = match outcome {
                Outcome::Committed { replayed: true, .. } | Outcome::Rejected { replayed: true, .. } => {
                    &mut self.replayed
                }
                Outcome::Committed { .. } => &mut self.committed,
                Outcome::Rejected { .. } | Outcome::Reused { .. } => &mut self.rejected,
            };
            *count += 1;
        }
    }

    /// Notes that the client of a call does not learn the outcome.
    pub(super) fn abandon(&mut self) {
        self.unknown = true;
    }

    /// Compares the figures with the answers and with the findings of the examination. No call may be in flight.
    pub(super) fn check(&self, state: &State, expected: Expected) -> Result<(), Violation> {
        let Some(figures) = state.figures else {
            return Ok(());
        };
        let LedgerFigures {
            committed,
            rejected,
            replayed,
            accounts,
            ids,
            holds,
            velocity_refusals,
            ..
        } = figures;
        let mut comparisons = vec![
            ("accounts", accounts, state.accounts.len() as u64, 0),
            ("ids", ids, expected.keys, 0),
            (
                "the last sequence",
                figures.last_sequence,
                expected.last_sequence,
                0,
            ),
            ("outstanding holds", holds, expected.holds, 0),
        ];
        if !self.unknown {
            comparisons.extend([
                ("committed transactions", committed, self.committed, 0),
                ("rejected transactions", rejected, self.rejected, self.given_up),
                ("replayed transactions", replayed, self.replayed, self.given_up),
                (
                    "transactions that a velocity limit rejected",
                    velocity_refusals,
                    self.velocity_refusals,
                    self.given_up,
                ),
            ]);
        }
        for (what, reported, expected, more) in comparisons {
            if !(expected..=expected + more).contains(&reported) {
                let more = if more > 0 {
                    format!(" to {}", expected + more)
                } else {
                    String::new()
                };
                return violation(
                    "figures",
                    format!("the service reports {what}: {reported}, but it must report {expected}{more}"),
                );
            }
        }
        Ok(())
    }
}
