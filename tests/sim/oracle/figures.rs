//! Rule 9: the service's own figures are right.

use tally::engine::LedgerFigures;
use tally_ledger::Outcome;

use super::{
    Violation,
    calls::{Answer, Reply, State},
    history::Invocation,
    violation,
};

/// What the clients were answered since the process started.
#[derive(Debug, Clone, Default)]
pub(super) struct Answered {
    committed: u64,
    rejected: u64,
    replayed: u64,
    /// Whether the outcome of a request is unknown, so that the service may have counted more.
    unknown: bool,
}

// ===== impl Answered =====

impl Answered {
    pub(super) fn note(&mut self, invocation: &Invocation, reply: &Reply) {
        let outcomes = match reply {
            Ok(Answer::Outcomes(outcomes)) => outcomes,
            Ok(_) => return,
            Err(error) => {
                self.unknown |= !error.is_not_executed() && !invocation.transactions().is_empty();
                return;
            }
        };
        for outcome in outcomes {
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

    /// The client of a call does not learn the outcome.
    pub(super) fn abandon(&mut self) {
        self.unknown = true;
    }

    /// Compares the figures with the answers, and with what the examination has found. Nothing is in flight.
    pub(super) fn check(&self, state: &State, last_sequence: u64, records: u64) -> Result<(), Violation> {
        let Some(figures) = state.figures else {
            return Ok(());
        };
        let LedgerFigures {
            committed,
            rejected,
            replayed,
            accounts,
            ids,
            ..
        } = figures;
        let mut comparisons = vec![
            ("accounts", accounts, state.accounts.len() as u64),
            ("ids", ids, records),
            ("the last sequence", figures.last_sequence, last_sequence),
        ];
        if !self.unknown {
            comparisons.extend([
                ("committed transactions", committed, self.committed),
                ("rejected transactions", rejected, self.rejected),
                ("replayed transactions", replayed, self.replayed),
            ]);
        }
        for (what, reported, expected) in comparisons {
            if reported != expected {
                return violation(
                    "figures",
                    format!("the service reports {what}: {reported}, but it must report {expected}"),
                );
            }
        }
        Ok(())
    }
}
