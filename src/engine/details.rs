//! What the response says about a committed transaction besides its outcome: what was moved, and balances.

use std::collections::HashSet;

use tally_ledger::{AccountIndex, Balances, Outcome, Phase, Reason, TRANSFERS_MAX, TransactionView};

use super::command::{Detail, LEGS_CHARGED, MovedAmounts, TransactionBatch};
use crate::store::embedded::JournaledLedger;

/// Whether the response may say more about a transaction than its outcome.
#[inline]
pub(super) fn are_wanted(transaction: &TransactionView<'_, &[u8]>, returns_balances: bool) -> bool {
    returns_balances || shows_moved(transaction)
}

/// Whether the response shows what a transaction has moved, because this does not follow from the request.
#[inline]
fn shows_moved(transaction: &TransactionView<'_, &[u8]>) -> bool {
    transaction.is_derived() && transaction.phase() != Phase::VoidPending
}

/// Returns the maximum number of legs of a transaction about which the response says more than its outcome, as long as no
/// more memory is held.
#[inline]
pub(super) const fn legs_max(are_wanted: bool) -> usize {
    if are_wanted { LEGS_CHARGED } else { TRANSFERS_MAX }
}

/// Returns the number of legs of a transaction that has more than [`legs_max`].
#[inline]
pub(super) fn too_many_legs(outcome: &Outcome) -> Option<usize> {
    match outcome {
        Outcome::Rejected { rejection, .. } if rejection.reason == Reason::MemoryLimit => {
            usize::try_from(rejection.available().minor_units()).ok()
        }
        Outcome::Rejected { .. } | Outcome::Committed { .. } | Outcome::Reused { .. } => None,
    }
}

/// Returns the details of the transaction at `place`, which was just processed with this outcome. Returns `None` if there is nothing to
/// say.
pub(super) fn of(
    book: &JournaledLedger,
    batch: &TransactionBatch,
    place: usize,
    transaction: &TransactionView<'_, &[u8]>,
    outcome: &Outcome,
) -> Option<Detail> {
    let replayed = match outcome {
        Outcome::Committed { replayed, .. } => *replayed,
        Outcome::Rejected { .. } | Outcome::Reused { .. } => return None,
    };
    let mut moved = MovedAmounts::new();
    if shows_moved(transaction) {
        moved.extend(book.ledger().last_legs().iter().map(|leg| leg.moved));
    }
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
