//! What the response says about a committed transaction besides its outcome: what was moved, and balances.

use std::collections::HashSet;

use tally_ledger::{AccountIndex, Outcome, Phase, Reason, RecordKey, TRANSFERS_MAX, TransactionView};

use super::{
    command::{BalancesAfter, Detail, LEGS_CHARGED, MovedAmounts, PastBalances},
    transaction_batch::TransactionBatch,
};
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

/// Returns the maximum number of legs for which memory is reserved before a transaction is executed. `are_wanted` says
/// whether the response says more about the transaction than its outcome.
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

/// Returns the details of the transaction at `place`, which was just processed with this outcome. Returns `None` if the response says
/// nothing but the outcome.
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
    let ledger = book.ledger();
    let balances = match (batch.returns_balances(place), replayed) {
        (false, _) => BalancesAfter::default(),
        (true, false) => BalancesAfter::Known(of_touched(book, |index| {
            Some(ledger.accounts().get(index)?.balances)
        })),
        // Reading the balances here would delay the other calls.
        (true, true) => BalancesAfter::Past(Box::new(PastBalances {
            candidates: book.candidates(RecordKey::Transaction(transaction.id_bytes())),
            accounts: of_touched(book, |index| ledger.history(index)),
        })),
    };
    (!moved.is_empty() || !balances.is_empty()).then_some(Detail {
        place,
        moved,
        balances,
    })
}

/// Calls `of` once for each account of the last transaction, in the order in which the transfers name the accounts. Returns the ids of
/// the accounts, each with the result of `of`.
fn of_touched<T>(book: &JournaledLedger, of: impl Fn(AccountIndex) -> Option<T>) -> Vec<(Box<str>, T)> {
    let accounts = book.ledger().accounts();
    let mut seen = HashSet::new();
    let touched = book.ledger().last_accounts().filter(|index| seen.insert(*index));
    let described = |index: AccountIndex| {
        let (Some(id), Some(found)) = (accounts.id(index), of(index)) else {
            panic!("account number {} was changed, but is not in the table", index.0);
        };
        (Box::from(id), found)
    };
    touched.map(described).collect()
}
