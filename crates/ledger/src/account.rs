//! Accounts: their balance columns and balance rules, and how a transfer changes them.

use std::collections::BTreeMap;

use super::{
    codec::{Malformed, Reader, put_long_str, put_short_str, put_varint},
    reject::Reason,
    side::Side,
    velocity::{VelocityLimit, put_limits, take_limits},
};
use crate::{money::Amount, mutation::planted, time::Timestamp};

/// Maximum number of metadata entries of an account or a transaction.
pub const METADATA_ENTRIES_MAX: usize = 16;
/// Maximum length of all metadata keys and values together, in bytes.
pub const METADATA_BYTES_MAX: usize = 1024;
/// Maximum length of a metadata key, in bytes.
pub const METADATA_KEY_BYTES_MAX: usize = 64;

/// Free text that a client attaches to an account or a transaction. The keys are sorted, so equal
/// metadata has equal bytes.
pub type Metadata = BTreeMap<String, String>;

/// The number of an account. Accounts are numbered from 0, in the order of their creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountIndex(pub u32);

/// The number of an asset. Assets are numbered from 0, in the order in which accounts first used them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AssetIndex(pub u32);

/// Which balances an account may have. The numbers are part of the record format and never change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum BalanceRule {
    /// Any balance is allowed.
    #[default]
    Unlimited = 1,
    /// Debits may not exceed credits plus the overdraft limit.
    CreditBalance = 2,
    /// Credits may not exceed debits plus the overdraft limit.
    DebitBalance = 3,
}

/// Whether an account accepts transfers. The numbers are part of the record format and never change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AccountStatus {
    /// The account accepts transfers.
    #[default]
    Open = 1,
    /// The account accepts no transfers for now.
    Frozen = 2,
    /// The account accepts no transfers any more.
    Closed = 3,
    /// The account accepts credits, but no debits.
    DebitsFrozen = 4,
}

/// The two kinds of balance columns. Each side of an account has one column of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// Transfers that have taken effect.
    Posted,
    /// Transfers that holds reserve.
    Pending,
}

/// The four balance columns of an account, in minor units of its asset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Balances {
    /// The sum of pending debits.
    pub debits_pending: Amount,
    /// The sum of posted debits.
    pub debits_posted: Amount,
    /// The sum of pending credits.
    pub credits_pending: Amount,
    /// The sum of posted credits.
    pub credits_posted: Amount,
}

/// An account as a client creates it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAccount {
    /// The account's id, which the client chooses.
    pub id: String,
    /// The asset's name.
    pub asset: String,
    /// Which balances the account may have.
    pub rule: BalanceRule,
    /// The amount by which the balance may exceed the bound of the rule.
    pub overdraft_limit: Amount,
    /// Whether the account accepts transfers.
    pub status: AccountStatus,
    /// The client's metadata.
    pub metadata: Metadata,
    /// The velocity limits, at most [`VELOCITY_LIMITS_MAX`](crate::velocity::VELOCITY_LIMITS_MAX).
    pub velocity_limits: Vec<VelocityLimit>,
}

/// The part of an account that an update can change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountTerms {
    /// See [`NewAccount::status`].
    pub status: AccountStatus,
    /// See [`NewAccount::overdraft_limit`].
    pub overdraft_limit: Amount,
    /// See [`NewAccount::metadata`].
    pub metadata: Metadata,
    /// See [`NewAccount::velocity_limits`].
    pub velocity_limits: Vec<VelocityLimit>,
}

/// A [`NewAccount`] that borrows its text from the account table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccountContent<'a> {
    /// See [`NewAccount::id`].
    pub id: &'a str,
    /// See [`NewAccount::asset`].
    pub asset: &'a str,
    /// See [`NewAccount::rule`].
    pub rule: BalanceRule,
    /// See [`NewAccount::overdraft_limit`].
    pub overdraft_limit: Amount,
    /// See [`NewAccount::status`].
    pub status: AccountStatus,
    /// See [`NewAccount::metadata`].
    pub metadata: &'a Metadata,
    /// See [`NewAccount::velocity_limits`].
    pub velocity_limits: &'a [VelocityLimit],
}

/// An account and its balances at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountSnapshot {
    /// The account.
    pub account: NewAccount,
    /// The balances.
    pub balances: Balances,
    /// What the balance rule still allows on the side that it bounds; `None` for [`BalanceRule::Unlimited`].
    pub available: Option<Amount>,
    /// When the account was created.
    pub create_time: Timestamp,
    /// The number of the record of the account's last update; 0 if the account was never updated.
    pub revision: u64,
}

/// The part of an account that a transfer reads or changes: 96 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// The balances.
    pub balances: Balances,
    /// The amount by which the balance may exceed the bound of the rule.
    pub overdraft_limit: Amount,
    /// The place of the record that last changed the account, where its [chain](crate::chain) begins.
    /// [`Ledger::replay`](crate::Ledger::replay) does not apply records at this place or before it to the account. So a checkpoint can
    /// copy accounts one after the other while transactions change them.
    pub head: u64,
    /// The asset.
    pub asset: AssetIndex,
    /// Which balances the account may have.
    pub rule: BalanceRule,
    /// Whether the account accepts transfers.
    pub status: AccountStatus,
    /// The number of records that changed the account since its newest waypoint; 255 if it is greater.
    pub since_waypoint: u8,
    /// Whether the account has entries in the table of [`AccountTable`](crate::table::AccountTable) for accounts with limits or
    /// updates.
    pub extras: HasExtras,
}

/// Whether an account has velocity limits or updates, which few accounts have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum HasExtras {
    /// The account has neither limits nor updates.
    No,
    /// The account was updated, and has no limits now.
    Updated,
    /// The account has limits.
    Limited,
}

// ===== impl BalanceRule =====

impl BalanceRule {
    /// The side that the rule bounds, if there is one.
    #[must_use]
    pub const fn bounded_side(self) -> Option<Side> {
        match self {
            BalanceRule::Unlimited => None,
            BalanceRule::CreditBalance => Some(Side::Debit),
            BalanceRule::DebitBalance => Some(Side::Credit),
        }
    }

    #[inline]
    const fn bounds(self, side: Side) -> bool {
        match (self, side) {
            (BalanceRule::CreditBalance, Side::Debit) | (BalanceRule::DebitBalance, Side::Credit) => true,
            (BalanceRule::Unlimited | BalanceRule::CreditBalance | BalanceRule::DebitBalance, _) => false,
        }
    }

    fn from_code(code: u8) -> Result<Self, Malformed> {
        match code {
            1 => Ok(BalanceRule::Unlimited),
            2 => Ok(BalanceRule::CreditBalance),
            3 => Ok(BalanceRule::DebitBalance),
            _ => Err(Malformed {
                what: "a balance rule",
            }),
        }
    }
}

// ===== impl AccountStatus =====

impl AccountStatus {
    fn from_code(code: u8) -> Result<Self, Malformed> {
        match code {
            1 => Ok(AccountStatus::Open),
            2 => Ok(AccountStatus::Frozen),
            3 => Ok(AccountStatus::Closed),
            4 => Ok(AccountStatus::DebitsFrozen),
            _ => Err(Malformed {
                what: "an account status",
            }),
        }
    }

    /// The reason why an account with this status accepts no transfer on `side`, or `None` if it accepts transfers.
    #[inline]
    const fn rejection_reason(self, side: Side) -> Option<Reason> {
        match (self, side) {
            (AccountStatus::Open, _) | (AccountStatus::DebitsFrozen, Side::Credit) => None,
            (AccountStatus::Frozen, _) | (AccountStatus::DebitsFrozen, Side::Debit) => {
                Some(Reason::AccountFrozen)
            }
            (AccountStatus::Closed, _) => Some(Reason::AccountClosed),
        }
    }
}

// ===== impl Balances =====

impl Balances {
    /// One of the four columns.
    #[inline]
    #[must_use]
    pub const fn column(&self, side: Side, column: Column) -> Amount {
        match (side, column) {
            (Side::Debit, Column::Posted) => self.debits_posted,
            (Side::Debit, Column::Pending) => self.debits_pending,
            (Side::Credit, Column::Posted) => self.credits_posted,
            (Side::Credit, Column::Pending) => self.credits_pending,
        }
    }

    /// One of the four columns.
    #[inline]
    pub(crate) const fn column_mut(&mut self, side: Side, column: Column) -> &mut Amount {
        match (side, column) {
            (Side::Debit, Column::Posted) => &mut self.debits_posted,
            (Side::Debit, Column::Pending) => &mut self.debits_pending,
            (Side::Credit, Column::Posted) => &mut self.credits_posted,
            (Side::Credit, Column::Pending) => &mut self.credits_pending,
        }
    }

    /// Whether the balance of the account is zero: both sides are equal, and nothing is pending.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.debits_posted == self.credits_posted
            && self.debits_pending.is_zero()
            && self.credits_pending.is_zero()
    }
}

// ===== impl Account =====

impl Account {
    /// Adds `amount` to one side, posted or pending. Both columns of a side count against the balance rule and the
    /// bound of 128 bits; only the posted column of the other side raises the bound of the rule.
    ///
    /// # Errors
    /// The reason why the account rejects the amount. The account is then unchanged.
    #[inline]
    pub fn add(&mut self, side: Side, column: Column, amount: Amount) -> Result<(), Reason> {
        self.accepts(side)?;
        self.grow(side, column, amount)
    }

    /// Does what [`Account::add`] does, for a caller that has checked that the account [accepts](Account::accepts) transfers on this
    /// side.
    ///
    /// # Errors
    /// Those of [`Account::add`].
    #[inline]
    pub(crate) fn grow(&mut self, side: Side, column: Column, amount: Amount) -> Result<(), Reason> {
        let (posted, pending, other) = match side {
            Side::Debit => (
                self.balances.debits_posted,
                self.balances.debits_pending,
                self.balances.credits_posted,
            ),
            Side::Credit => (
                self.balances.credits_posted,
                self.balances.credits_pending,
                self.balances.debits_posted,
            ),
        };
        let grown = match column {
            Column::Posted => posted,
            Column::Pending => pending,
        };
        let grown = grown.checked_add(amount).ok_or(Reason::BalanceOverflow)?;
        let total = match column {
            Column::Posted => grown.checked_add(pending),
            Column::Pending => posted.checked_add(grown),
        };
        let total = total.ok_or(Reason::BalanceOverflow)?;
        if self.rule.bounds(side) && self.exceeds(total, other) {
            return Err(Reason::InsufficientFunds);
        }
        *self.balances.column_mut(side, column) = grown;
        Ok(())
    }

    /// The maximum amount that one side still accepts under the balance rule, with the overdraft limit. Ignores the
    /// account's status. `None` if the rule does not bound this side.
    #[must_use]
    pub fn available(&self, side: Side) -> Option<Amount> {
        Account::available_of(self.rule, &self.balances, self.overdraft_limit, side)
    }

    /// What [`Account::available`] returns for an account with this rule, these balances and this overdraft limit.
    #[must_use]
    pub fn available_of(
        rule: BalanceRule,
        balances: &Balances,
        overdraft_limit: Amount,
        side: Side,
    ) -> Option<Amount> {
        let (posted, pending, other) = match (rule, side) {
            (BalanceRule::CreditBalance, Side::Debit) => (
                balances.debits_posted,
                balances.debits_pending,
                balances.credits_posted,
            ),
            (BalanceRule::DebitBalance, Side::Credit) => (
                balances.credits_posted,
                balances.credits_pending,
                balances.debits_posted,
            ),
            (BalanceRule::Unlimited | BalanceRule::CreditBalance | BalanceRule::DebitBalance, _) => {
                return None;
            }
        };
        let units = Amount::minor_units;
        // The total of one side, posted plus pending, never exceeds 2^128 - 1. A larger bound therefore has the same
        // effect as a bound of 2^128 - 1.
        let bound = units(other).saturating_add(units(overdraft_limit));
        Some(Amount::new(
            bound.saturating_sub(units(posted)).saturating_sub(units(pending)),
        ))
    }

    /// Checks that the account accepts transfers on `side`.
    ///
    /// # Errors
    /// The reason why the account does not accept them.
    #[inline]
    pub fn accepts(&self, side: Side) -> Result<(), Reason> {
        self.status.rejection_reason(side).map_or(Ok(()), Err)
    }

    /// Checks that a hold may be posted to the account. The account must be neither frozen nor closed.
    ///
    /// # Errors
    /// The reason why the account does not accept the posting.
    pub fn accepts_posting(&self) -> Result<(), Reason> {
        self.accepts(Side::Credit)
    }

    /// Whether the `total` of one side exceeds the bound: the `other` side plus the overdraft limit. If the bound
    /// exceeds 2^128 - 1, no total exceeds the bound.
    #[inline]
    fn exceeds(&self, total: Amount, other: Amount) -> bool {
        other
            .checked_add(self.overdraft_limit)
            .and_then(|bound| bound.checked_add(Amount::new(u128::from(planted("overdraw_by_one")))))
            .is_some_and(|bound| total > bound)
    }
}

// ===== impl AccountContent =====

impl AccountContent<'_> {
    /// Appends the encoded account to `out`. [`NewAccount::take`] decodes it.
    pub fn put(&self, out: &mut Vec<u8>) {
        put_short_str(out, self.id);
        put_short_str(out, self.asset);
        out.push(self.rule as u8);
        out.push(self.status as u8);
        put_varint(out, self.overdraft_limit.minor_units());
        put_metadata(out, self.metadata);
        put_limits(out, self.velocity_limits);
    }

    /// Copies the account.
    #[must_use]
    pub fn to_new(&self) -> NewAccount {
        NewAccount {
            id: self.id.to_owned(),
            asset: self.asset.to_owned(),
            rule: self.rule,
            overdraft_limit: self.overdraft_limit,
            status: self.status,
            metadata: self.metadata.clone(),
            velocity_limits: self.velocity_limits.to_vec(),
        }
    }
}

// ===== impl NewAccount =====

impl NewAccount {
    /// Borrows the account.
    #[must_use]
    pub fn content(&self) -> AccountContent<'_> {
        AccountContent {
            id: &self.id,
            asset: &self.asset,
            rule: self.rule,
            overdraft_limit: self.overdraft_limit,
            status: self.status,
            metadata: &self.metadata,
            velocity_limits: &self.velocity_limits,
        }
    }

    /// The account with other terms.
    #[must_use]
    pub fn with_terms(self, terms: AccountTerms) -> Self {
        let AccountTerms {
            status,
            overdraft_limit,
            metadata,
            velocity_limits,
        } = terms;
        NewAccount {
            status,
            overdraft_limit,
            metadata,
            velocity_limits,
            ..self
        }
    }

    /// The part of the account that an update can change.
    #[must_use]
    pub fn into_terms(self) -> AccountTerms {
        AccountTerms {
            status: self.status,
            overdraft_limit: self.overdraft_limit,
            metadata: self.metadata,
            velocity_limits: self.velocity_limits,
        }
    }

    /// Reads an encoded account.
    ///
    /// # Errors
    /// [`Malformed`] if the bytes are not an encoded account.
    pub fn take(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let id = reader.short_str()?.to_owned();
        let asset = reader.short_str()?.to_owned();
        let rule = BalanceRule::from_code(reader.u8()?)?;
        let status = AccountStatus::from_code(reader.u8()?)?;
        let overdraft_limit = Amount::new(reader.varint_u128()?);
        let metadata = take_metadata(reader)?;
        let velocity_limits = take_limits(reader)?;
        Ok(NewAccount {
            id,
            asset,
            rule,
            overdraft_limit,
            status,
            metadata,
            velocity_limits,
        })
    }
}

// ===== impl AccountTerms =====

impl AccountTerms {
    /// Appends the encoded terms to `out`.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.push(self.status as u8);
        put_varint(out, self.overdraft_limit.minor_units());
        put_metadata(out, &self.metadata);
        put_limits(out, &self.velocity_limits);
    }

    /// Reads encoded terms.
    ///
    /// # Errors
    /// [`Malformed`] if the bytes are not encoded terms.
    pub fn take(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(AccountTerms {
            status: AccountStatus::from_code(reader.u8()?)?,
            overdraft_limit: Amount::new(reader.varint_u128()?),
            metadata: take_metadata(reader)?,
            velocity_limits: take_limits(reader)?,
        })
    }
}

/// Appends the number of entries, then each key and value, in order.
pub fn put_metadata(out: &mut Vec<u8>, metadata: &Metadata) {
    put_varint(out, metadata.len() as u128);
    for (key, value) in metadata {
        put_long_str(out, key);
        put_long_str(out, value);
    }
}

/// Reads metadata that [`put_metadata`] wrote.
///
/// # Errors
/// [`Malformed`] if the metadata is cut short, is not UTF-8, or has more than [`METADATA_ENTRIES_MAX`] entries.
pub fn take_metadata(reader: &mut Reader<'_>) -> Result<Metadata, Malformed> {
    let entries = take_metadata_len(reader)?;
    (0..entries)
        .map(|_| Ok((reader.long_str()?.to_owned(), reader.long_str()?.to_owned())))
        .collect()
}

/// Skips metadata that [`put_metadata`] wrote.
///
/// # Errors
/// Those of [`take_metadata`].
pub fn skip_metadata(reader: &mut Reader<'_>) -> Result<(), Malformed> {
    for _ in 0..take_metadata_len(reader)? {
        reader.long_str()?;
        reader.long_str()?;
    }
    Ok(())
}

fn take_metadata_len(reader: &mut Reader<'_>) -> Result<u64, Malformed> {
    let entries = reader.varint_u64()?;
    if entries > METADATA_ENTRIES_MAX as u64 {
        return Err(Malformed {
            what: "at most 16 metadata entries",
        });
    }
    Ok(entries)
}

#[cfg(test)]
#[path = "account_tests.rs"]
mod tests;
