//! Applies transfers to accounts: all transfers of a transaction, or none.

use super::{
    account::{AccountIndex, Column, HasExtras},
    codec::Malformed,
    mutation::planted,
    reject::{Reason, Rejection},
    side::Side,
    table::AccountTable,
    time::Timestamp,
    transaction::{AmountRule, Transfer},
};

/// Applies all of `transfers`, in order, or none of them. Sets the amount of each transfer with an amount rule to what was moved.
/// `velocity_time` is the commit time of the transaction; `None` if velocity limits do not apply to it.
///
/// # Errors
/// The rejection of the first transfer that can't be applied.
pub(super) fn apply(
    accounts: &mut AccountTable,
    transfers: &mut [Transfer<AccountIndex>],
    column: Column,
    velocity_time: Option<Timestamp>,
) -> Result<(), Rejection> {
    let mut is_limited = false;
    let mut rejected = None;
    for (place, transfer) in transfers.iter_mut().enumerate() {
        match apply_transfer(accounts, transfer, column) {
            Ok(limited) => is_limited |= limited,
            Err((reason, side)) => {
                rejected = Some((place, reason, side));
                break;
            }
        }
    }
    if let Some((place, reason, side)) = rejected {
        return Err(reject(accounts, transfers, column, place, (reason, side)));
    }
    if is_limited
        && let Some(time) = velocity_time
        && let Err(rejection) = count(accounts, transfers, time)
    {
        take_back(accounts, transfers, column);
        return Err(rejection);
    }
    Ok(())
}

/// Undoes the transfers before the rejected one, which is at index `place`. Returns the rejection.
#[cold]
fn reject(
    accounts: &mut AccountTable,
    transfers: &[Transfer<AccountIndex>],
    column: Column,
    place: usize,
    (reason, side): (Reason, Side),
) -> Rejection {
    let (applied, rest) = transfers.split_at(place);
    let Some(transfer) = rest.first() else {
        panic!(
            "transfer {place} was rejected, but there are only {} transfers",
            transfers.len()
        );
    };
    let rejection = rejection(accounts, transfer, index_of(place), reason, side);
    if !planted("lose_take_back") {
        take_back(accounts, applied, column);
    }
    rejection
}

/// The index of a transfer in a transaction, which has at most 256 transfers.
pub(super) fn index_of(place: usize) -> u8 {
    let Ok(index) = u8::try_from(place) else {
        panic!("a transaction has a transfer number {place}, but at most 256 transfers are allowed");
    };
    index
}

/// Undoes transfers that were just applied, the last one first.
fn take_back(accounts: &mut AccountTable, transfers: &[Transfer<AccountIndex>], column: Column) {
    for transfer in transfers.iter().rev() {
        undo(accounts, transfer, Side::Credit, column);
        undo(accounts, transfer, Side::Debit, column);
    }
}

/// Counts applied transfers against the velocity limits of their accounts.
///
/// # Errors
/// The rejection of the first transfer that exceeds a limit. Then no transfer counts.
#[cold]
fn count(
    accounts: &mut AccountTable,
    transfers: &[Transfer<AccountIndex>],
    time: Timestamp,
) -> Result<(), Rejection> {
    let sides = |transfer: &Transfer<AccountIndex>| {
        let amount = transfer.amount;
        [
            (transfer.debit, Side::Debit, amount),
            (transfer.credit, Side::Credit, amount),
        ]
    };
    let mut counted = Vec::new();
    for (place, transfer) in transfers.iter().enumerate() {
        for (index, side, amount) in sides(transfer) {
            let checked = accounts
                .extras(index)
                .map(|extras| extras.velocity.check(side, amount, time));
            if let Some(Err(exceeded)) = checked {
                for (index, side, amount) in counted.into_iter().rev() {
                    accounts.change_extras(index, |extras| extras.velocity.take_back(side, amount, time));
                }
                return Err(Rejection::velocity(index_of(place), side, &exceeded));
            }
            if checked.is_some() {
                accounts.change_extras(index, |extras| extras.velocity.count(side, amount, time));
                counted.push((index, side, amount));
            }
        }
    }
    Ok(())
}

/// Returns a decoded transfer.
///
/// # Panics
/// If the transfer could not be decoded, because the transaction was not encoded correctly.
#[inline]
pub(super) fn decoded<A>(transfer: Result<Transfer<A>, Malformed>) -> Transfer<A> {
    match transfer {
        Ok(transfer) => transfer,
        Err(error) => panic!("a transfer was not encoded correctly: {error}"),
    }
}

/// Applies one transfer, or changes nothing and returns the reason and the side whose account is the cause. Returns whether one of the
/// accounts has velocity limits.
#[inline]
fn apply_transfer(
    accounts: &mut AccountTable,
    transfer: &mut Transfer<AccountIndex>,
    column: Column,
) -> Result<bool, (Reason, Side)> {
    let &mut Transfer { debit, credit, .. } = transfer;
    // The amount of a transfer can be zero in a partial reversal. Such a transfer moves nothing, so the status of the accounts does
    // not matter.
    if transfer.amount.is_zero() {
        return Ok(false);
    }
    if debit == credit {
        return Err((Reason::SameAccount, Side::Credit));
    }
    let creditor = accounts.found_mut(credit);
    let (creditor_asset, creditor_accepts, creditor_limited) = (
        creditor.asset,
        creditor.accepts(Side::Credit),
        creditor.extras == HasExtras::Limited,
    );
    let debtor = accounts.found_mut(debit);
    if debtor.asset != creditor_asset {
        return Err((Reason::AssetMismatch, Side::Credit));
    }
    let is_limited = (debtor.extras == HasExtras::Limited) | creditor_limited;
    debtor
        .accepts(Side::Debit)
        .map_err(|reason| (reason, Side::Debit))?;
    creditor_accepts.map_err(|reason| (reason, Side::Credit))?;
    // Most transfers have no amount rule, so the debit account need not be looked up a second time.
    let debtor = if matches!(transfer.rule, AmountRule::Exact) {
        debtor
    } else {
        clamp(accounts, transfer)?;
        accounts.found_mut(debit)
    };
    let amount = transfer.amount;
    debtor
        .grow(Side::Debit, column, amount)
        .map_err(|reason| (reason, Side::Debit))?;
    if let Err(reason) = accounts.found_mut(credit).grow(Side::Credit, column, amount) {
        if !planted("balance_of_one_side_only") {
            undo(accounts, transfer, Side::Debit, column);
        }
        return Err((reason, Side::Credit));
    }
    Ok(is_limited)
}

/// Reduces the amount of a transfer to what its rule allows at this moment.
#[cold]
fn clamp(accounts: &mut AccountTable, transfer: &mut Transfer<AccountIndex>) -> Result<(), (Reason, Side)> {
    let mut bounded_by = Side::Debit;
    for (index, side) in [(transfer.debit, Side::Debit), (transfer.credit, Side::Credit)] {
        let available = accounts.found_mut(index).available(side);
        if transfer.rule.bounds(side)
            && let Some(available) = available.filter(|available| *available < transfer.amount)
        {
            transfer.amount = available;
            bounded_by = side;
        }
    }
    if transfer.amount.is_zero() {
        return Err((Reason::NothingAvailable, bounded_by));
    }
    Ok(())
}

/// Returns the rejection of the transfer at index `place`. If the account lacks funds, the rejection contains the available amount.
#[cold]
fn rejection(
    accounts: &mut AccountTable,
    transfer: &Transfer<AccountIndex>,
    place: u8,
    reason: Reason,
    side: Side,
) -> Rejection {
    let rejection = Rejection::new(reason, place, side);
    if reason != Reason::InsufficientFunds {
        return rejection;
    }
    let index = match side {
        Side::Debit => transfer.debit,
        Side::Credit => transfer.credit,
    };
    let Some(available) = accounts.found_mut(index).available(side) else {
        panic!(
            "account number {} rejected a transfer for lack of funds, although its rule does not bound {side:?}",
            index.0
        );
    };
    assert!(
        available < transfer.amount,
        "account number {} rejected {} for lack of funds, although {available} was available",
        index.0,
        transfer.amount
    );
    rejection.with_available(available)
}

/// Undoes one side of a transfer that was just applied.
#[cold]
fn undo(accounts: &mut AccountTable, transfer: &Transfer<AccountIndex>, side: Side, column: Column) {
    let index = match side {
        Side::Debit => transfer.debit,
        Side::Credit => transfer.credit,
    };
    let column = accounts.found_mut(index).balances.column_mut(side, column);
    let Some(before) = column.checked_sub(transfer.amount) else {
        panic!(
            "account number {} holds {column} on one side, which is less than the {} that was just added",
            index.0, transfer.amount
        );
    };
    *column = before;
}
