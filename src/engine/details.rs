//! What the response says about a committed transaction besides its outcome: what was moved, and balances.

use std::collections::HashSet;

use tally_ledger::{AccountIndex, Amount, Balances, Outcome, Phase};

use super::command::{Detail, TransactionBatch};
use crate::store::embedded::JournaledLedger;

/// Returns the details of the transaction at `place`, which was just processed with this outcome. Returns `None` if there is nothing to
/// say.
pub(super) fn of(
    book: &JournaledLedger,
    batch: &TransactionBatch,
    place: usize,
    outcome: &Outcome,
) -> Option<Detail> {
    let replayed = match outcome {
        Outcome::Committed { replayed, .. } => *replayed,
        Outcome::Rejected { .. } | Outcome::Reused { .. } => return None,
    };
    let (transaction, _) = batch.transaction(place);
    let moved: Vec<Amount> = if transaction.is_derived() && transaction.phase() != Phase::VoidPending {
        book.ledger().last_legs().iter().map(|leg| leg.moved).collect()
    } else {
        Vec::new()
    };
    let balances = if batch.returns_balances(place) && !replayed {
        balances(book)
    } else {
        Vec::new()
    };
    (!moved.is_empty() || !balances.is_empty()).then_some(Detail {
        place,
        moved,
        balances,
    })
}

/// Returns the balances of the accounts of the last transaction, each account once, in the order in which the transfers name them.
fn balances(book: &JournaledLedger) -> Vec<(Box<str>, Balances)> {
    let accounts = book.ledger().accounts();
    let mut seen = HashSet::new();
    let touched = book.ledger().last_accounts().filter(|index| seen.insert(*index));
    let balances = |index: AccountIndex| {
        let (Some(id), Some(account)) = (accounts.id(index), accounts.get(index)) else {
            panic!("account number {} was changed, but is not in the table", index.0);
        };
        (Box::from(id), account.balances)
    };
    touched.map(balances).collect()
}
