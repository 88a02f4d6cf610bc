//! Finds the balances of several accounts directly after one record, with one walk through their [chains](super::chain).
//!
//! A waypoint states the balances of its account after its record, and a new account has none. So the walk goes back from the record,
//! for each account to the first record that states its balances, and adds up what the records after that one have done. Accounts that
//! change together have many records in common, and the walk reads each record only once.
//!
//! As in [`history`](super::history), the walk itself reads nothing: its caller passes the records in.

use std::collections::BTreeMap;

use smallvec::smallvec;

use super::{
    account::{AccountIndex, Balances, Column},
    chain::{Accounts, linked_accounts},
    change::{Change, Changes},
    codec::Malformed,
    history::NOT_LINKED,
    money::Amount,
    record::{FramedRecord, Record},
    side::Side,
};

/// A walk from one record back to where the balances of its accounts are stated.
#[derive(Debug)]
pub struct JointWalk {
    /// The accounts whose balances are not found yet, by the place of the record that the walk needs next for them.
    waiting: BTreeMap<u64, Accounts>,
    /// All accounts, in order. A map would take twice the memory.
    progress: Vec<(AccountIndex, Progress)>,
}

/// How far the walk of an account is.
#[derive(Debug, Clone, Copy)]
enum Progress {
    /// What the records have done to the account that the walk has passed.
    Passed(Sum),
    /// The balances after the record where the walk began.
    Found(Balances),
}

/// What some consecutive records of an account have done to its balances together.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    added: Balances,
    /// For each column, this or `added` is zero. So both stay in the range of a balance, however often an amount is reserved and
    /// released.
    taken: Balances,
}

// ===== impl JointWalk =====

impl JointWalk {
    /// Begins a walk for `accounts` at `place`, the place of a record that has changed all of them.
    #[must_use]
    pub fn new(place: u64, accounts: impl IntoIterator<Item = AccountIndex>) -> Self {
        let mut accounts: Accounts = accounts.into_iter().collect();
        accounts.sort_unstable();
        accounts.dedup();
        let nothing = Progress::Passed(Sum::default());
        let progress = accounts.iter().map(|account| (*account, nothing)).collect();
        let mut waiting = BTreeMap::new();
        if !accounts.is_empty() {
            waiting.insert(place, accounts);
        }
        JointWalk { waiting, progress }
    }

    /// The place of the record that the walk needs next. `None` at the end of the walk.
    #[must_use]
    pub fn next_place(&self) -> Option<u64> {
        self.waiting.last_key_value().map(|(place, _)| *place)
    }

    /// Passes the record at [`JointWalk::next_place`].
    ///
    /// # Errors
    /// [`Malformed`] if the record is not part of the accounts' chains.
    pub fn pass(&mut self, framed: &FramedRecord<'_>) -> Result<(), Malformed> {
        let (place, mut accounts) = self.waiting.pop_last().ok_or(NOT_LINKED)?;
        accounts.sort_unstable();
        let changes = Changes::of(&framed.record)?;
        let linked: Accounts = match &framed.record {
            Record::AccountCreated { index, .. } => return self.pass_creation(*index, &accounts),
            Record::AccountUpdated { index, .. } => smallvec![*index],
            Record::Committed { .. } | Record::HoldExpired { .. } | Record::Rejected { .. } => {
                linked_accounts(changes.as_ref().ok_or(NOT_LINKED)?.legs())
            }
        };
        let (mut seen, mut passed) = (0, Accounts::new());
        for (account, link) in linked.iter().zip(framed.links.iter()) {
            if accounts.binary_search(account).is_err() {
                continue;
            }
            seen += 1;
            let link = link?;
            if let Some(waypoint) = link.waypoint {
                self.find(*account, &waypoint.balances)?;
                continue;
            }
            let previous = place
                .checked_sub(link.distance)
                .filter(|previous| *previous < place);
            let waiting = self.waiting.entry(previous.ok_or(NOT_LINKED)?).or_default();
            waiting.push(*account);
            passed.push(*account);
        }
        if seen != accounts.len() {
            return Err(NOT_LINKED);
        }
        passed.sort_unstable();
        self.add(changes.as_ref(), &passed)
    }

    /// The balances of an account after the record where the walk began. `None` if they are not found yet.
    #[must_use]
    pub fn balances(&self, account: AccountIndex) -> Option<Balances> {
        let at = self
            .progress
            .binary_search_by_key(&account, |(account, _)| *account)
            .ok()?;
        match self.progress.get(at)? {
            (_, Progress::Found(balances)) => Some(*balances),
            (_, Progress::Passed(_)) => None,
        }
    }

    /// Passes the record that created the account `created`. `accounts` must not have another one.
    fn pass_creation(&mut self, created: AccountIndex, accounts: &[AccountIndex]) -> Result<(), Malformed> {
        if *accounts != [created] {
            return Err(NOT_LINKED);
        }
        self.find(created, &Balances::default())
    }

    /// Adds what a record has done to `accounts`, which are in order.
    fn add(&mut self, changes: Option<&Changes>, accounts: &[AccountIndex]) -> Result<(), Malformed> {
        for (leg, change) in changes.into_iter().flat_map(Changes::iter) {
            for (account, side) in [(leg.debit, Side::Debit), (leg.credit, Side::Credit)] {
                if accounts.binary_search(&account).is_ok() {
                    match self.progress_of(account)? {
                        Progress::Passed(sum) => sum.add(&change, side).ok_or(OUT_OF_RANGE)?,
                        Progress::Found(_) => return Err(NOT_LINKED),
                    }
                }
            }
        }
        Ok(())
    }

    /// Ends the walk of an account at a record after which it had the balances `stated`.
    fn find(&mut self, account: AccountIndex, stated: &Balances) -> Result<(), Malformed> {
        let progress = self.progress_of(account)?;
        let Progress::Passed(sum) = progress else {
            return Err(NOT_LINKED);
        };
        *progress = Progress::Found(sum.after(stated).ok_or(OUT_OF_RANGE)?);
        Ok(())
    }

    fn progress_of(&mut self, account: AccountIndex) -> Result<&mut Progress, Malformed> {
        let at = self
            .progress
            .binary_search_by_key(&account, |(account, _)| *account);
        let found = at.ok().and_then(|at| self.progress.get_mut(at));
        found.map(|(_, progress)| progress).ok_or(NOT_LINKED)
    }
}

const OUT_OF_RANGE: Malformed = Malformed {
    what: "amounts that follow from the balances of a waypoint",
};

// ===== impl Sum =====

impl Sum {
    /// Adds what a leg does. `None` if a column would leave its range.
    fn add(&mut self, change: &Change, side: Side) -> Option<()> {
        let Sum { added, taken } = self;
        let posted = added.column_mut(side, Column::Posted);
        *posted = posted.checked_add(change.posted)?;
        let added = added.column_mut(side, Column::Pending);
        let taken = taken.column_mut(side, Column::Pending);
        add_to(added, taken, change.reserved)?;
        add_to(taken, added, change.unreserved)?;
        add_to(taken, added, change.released)
    }

    /// The balances after the records, if they were `before` in front of them. `None` if a column would leave its range.
    fn after(&self, before: &Balances) -> Option<Balances> {
        let mut balances = *before;
        for side in [Side::Debit, Side::Credit] {
            for column in [Column::Posted, Column::Pending] {
                let amount = balances.column_mut(side, column);
                *amount = amount
                    .checked_add(self.added.column(side, column))?
                    .checked_sub(self.taken.column(side, column))?;
            }
        }
        Some(balances)
    }
}

/// Adds `amount` to `sum`, or takes it from its `opposite` as far as this has something.
fn add_to(sum: &mut Amount, opposite: &mut Amount, amount: Amount) -> Option<()> {
    if let Some(rest) = opposite.checked_sub(amount) {
        *opposite = rest;
    } else {
        *sum = sum.checked_add(amount.checked_sub(*opposite)?)?;
        *opposite = Amount::ZERO;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_stays_in_range_however_often_an_amount_is_reserved_and_released() {
        let large = Amount::new(u128::MAX - 5);
        let change = |reserved, unreserved, released, posted| Change {
            posted,
            reserved,
            unreserved,
            released,
        };
        let zero = Amount::ZERO;
        let mut sum = Sum::default();
        for _ in 0..3 {
            sum.add(&change(large, zero, zero, zero), Side::Debit).unwrap();
            sum.add(&change(zero, zero, large, zero), Side::Debit).unwrap();
        }
        // From the end back, a hold is released before it was reserved.
        for _ in 0..3 {
            sum.add(&change(zero, zero, large, zero), Side::Credit).unwrap();
            sum.add(&change(large, zero, zero, zero), Side::Credit).unwrap();
        }
        sum.add(&change(zero, large, zero, Amount::new(7)), Side::Debit)
            .unwrap();
        let before = Balances {
            debits_pending: Amount::new(u128::MAX - 2),
            ..Balances::default()
        };
        let after = Balances {
            debits_pending: Amount::new(3),
            debits_posted: Amount::new(7),
            ..Balances::default()
        };
        assert_eq!(sum.after(&before), Some(after));
        // More was released than there was.
        assert_eq!(sum.after(&Balances::default()), None);
        // A sum out of range comes from a damaged record.
        assert_eq!(sum.add(&change(zero, large, zero, zero), Side::Debit), None);
    }
}
