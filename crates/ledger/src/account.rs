//! Accounts: four balance columns, one rule, and how a transfer changes them.

use std::collections::BTreeMap;

use super::{
    codec::{Malformed, Reader, put_long_str, put_short_str, put_varint},
    reject::Reason,
};
use crate::{money::Amount, time::Timestamp};

/// Most metadata entries of an account or a transaction.
pub const METADATA_ENTRIES_MAX: usize = 16;
/// Most bytes of all metadata keys and values together.
pub const METADATA_BYTES_MAX: usize = 1024;
/// Longest metadata key, in bytes.
pub const METADATA_KEY_BYTES_MAX: usize = 64;

/// Free text that belongs to an account or a transaction. Sorted, so that its encoding is canonical.
pub type Metadata = BTreeMap<String, String>;

/// The dense number of an account: its place in the table, in the order of creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountIndex(pub u32);

/// The dense number of an asset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AssetIndex(pub u32);

/// Which side of an account may outgrow the other. The numbers are written to the journal and never change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum BalanceRule {
    /// Any balance.
    #[default]
    Unlimited = 1,
    /// Debits may not exceed credits plus the overdraft limit.
    CreditBalance = 2,
    /// Credits may not exceed debits plus the overdraft limit.
    DebitBalance = 3,
}

/// Whether an account takes transfers. The numbers are written to the journal and never change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AccountStatus {
    /// Takes transfers.
    #[default]
    Open = 1,
    /// Takes none for now.
    Frozen = 2,
    /// Takes none any more.
    Closed = 3,
}

/// The four columns, in minor units of the account's asset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Balances {
    /// Reserved, to be debited.
    pub debits_pending: Amount,
    /// Debited.
    pub debits_posted: Amount,
    /// Reserved, to be credited.
    pub credits_pending: Amount,
    /// Credited.
    pub credits_posted: Amount,
}

/// What a client says of an account when it creates it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAccount {
    /// The client's id.
    pub id: String,
    /// The asset's name.
    pub asset: String,
    /// Which side may outgrow the other.
    pub rule: BalanceRule,
    /// By how much the rule's bound is moved.
    pub overdraft_limit: Amount,
    /// Whether it takes transfers.
    pub status: AccountStatus,
    /// Free text.
    pub metadata: Metadata,
}

/// What was said of an account when it was created, where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccountContent<'a> {
    /// As in [`NewAccount`].
    pub id: &'a str,
    /// As in [`NewAccount`].
    pub asset: &'a str,
    /// As in [`NewAccount`].
    pub rule: BalanceRule,
    /// As in [`NewAccount`].
    pub overdraft_limit: Amount,
    /// As in [`NewAccount`].
    pub status: AccountStatus,
    /// As in [`NewAccount`].
    pub metadata: &'a Metadata,
}

/// An account as a reader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountSnapshot {
    /// As it was created.
    pub account: NewAccount,
    /// The columns now.
    pub balances: Balances,
    /// When it was created.
    pub create_time: Timestamp,
}

/// The part of an account that a transfer touches: 96 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// The columns.
    pub balances: Balances,
    /// By how much the rule's bound is moved.
    pub overdraft_limit: Amount,
    /// The journal entry that changed the account last. Replaying an older entry leaves the account alone, which is
    /// what lets a checkpoint copy accounts one after the other while transactions go on.
    pub version: u64,
    /// The asset.
    pub asset: AssetIndex,
    /// Which side may outgrow the other.
    pub rule: BalanceRule,
    /// Whether it takes transfers.
    pub status: AccountStatus,
}

// ===== impl BalanceRule =====

impl BalanceRule {
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
            _ => Err(Malformed {
                what: "an account status",
            }),
        }
    }

    /// Why an account of this status takes no transfer, if it takes none.
    const fn refusal(self) -> Option<Reason> {
        match self {
            AccountStatus::Open => None,
            AccountStatus::Frozen => Some(Reason::AccountFrozen),
            AccountStatus::Closed => Some(Reason::AccountClosed),
        }
    }
}

// ===== impl Account =====

impl Account {
    /// Debits `amount`.
    ///
    /// # Errors
    /// The reason for which the account refuses it; the account is unchanged then.
    pub fn debit(&mut self, amount: Amount) -> Result<(), Reason> {
        self.accepts_transfers()?;
        let posted = self
            .balances
            .debits_posted
            .checked_add(amount)
            .ok_or(Reason::BalanceOverflow)?;
        let total = posted
            .checked_add(self.balances.debits_pending)
            .ok_or(Reason::BalanceOverflow)?;
        if self.rule == BalanceRule::CreditBalance && self.exceeds(total, self.balances.credits_posted) {
            return Err(Reason::InsufficientFunds);
        }
        self.balances.debits_posted = posted;
        Ok(())
    }

    /// Credits `amount`.
    ///
    /// # Errors
    /// The reason for which the account refuses it; the account is unchanged then.
    pub fn credit(&mut self, amount: Amount) -> Result<(), Reason> {
        self.accepts_transfers()?;
        let posted = self
            .balances
            .credits_posted
            .checked_add(amount)
            .ok_or(Reason::BalanceOverflow)?;
        let total = posted
            .checked_add(self.balances.credits_pending)
            .ok_or(Reason::BalanceOverflow)?;
        if self.rule == BalanceRule::DebitBalance && self.exceeds(total, self.balances.debits_posted) {
            return Err(Reason::InsufficientFunds);
        }
        self.balances.credits_posted = posted;
        Ok(())
    }

    /// Whether the account takes transfers at all.
    ///
    /// # Errors
    /// The reason for which it does not.
    pub fn accepts_transfers(&self) -> Result<(), Reason> {
        self.status.refusal().map_or(Ok(()), Err)
    }

    /// Whether `total` of one side is more than `other` side and the overdraft limit allow. A bound beyond 2^128 - 1
    /// is no bound.
    fn exceeds(&self, total: Amount, other: Amount) -> bool {
        other
            .checked_add(self.overdraft_limit)
            .is_some_and(|bound| total > bound)
    }
}

// ===== impl AccountContent =====

impl AccountContent<'_> {
    /// Appends the journal's form, which [`NewAccount::take`] reads.
    pub fn put(&self, out: &mut Vec<u8>) {
        put_short_str(out, self.id);
        put_short_str(out, self.asset);
        out.push(self.rule as u8);
        out.push(self.status as u8);
        put_varint(out, self.overdraft_limit.minor_units());
        put_metadata(out, self.metadata);
    }

    /// A copy of its own.
    #[must_use]
    pub fn to_new(&self) -> NewAccount {
        NewAccount {
            id: self.id.to_owned(),
            asset: self.asset.to_owned(),
            rule: self.rule,
            overdraft_limit: self.overdraft_limit,
            status: self.status,
            metadata: self.metadata.clone(),
        }
    }
}

// ===== impl NewAccount =====

impl NewAccount {
    /// The same, borrowed.
    #[must_use]
    pub fn content(&self) -> AccountContent<'_> {
        AccountContent {
            id: &self.id,
            asset: &self.asset,
            rule: self.rule,
            overdraft_limit: self.overdraft_limit,
            status: self.status,
            metadata: &self.metadata,
        }
    }

    /// Reads the journal's form.
    ///
    /// # Errors
    /// [`Malformed`] if it is none.
    pub fn take(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let id = reader.short_str()?.to_owned();
        let asset = reader.short_str()?.to_owned();
        let rule = BalanceRule::from_code(reader.u8()?)?;
        let status = AccountStatus::from_code(reader.u8()?)?;
        let overdraft_limit = Amount::new(reader.varint_u128()?);
        let metadata = take_metadata(reader)?;
        Ok(NewAccount {
            id,
            asset,
            rule,
            overdraft_limit,
            status,
            metadata,
        })
    }
}

/// Appends the number of entries, then every key and value in order.
pub fn put_metadata(out: &mut Vec<u8>, metadata: &Metadata) {
    put_varint(out, metadata.len() as u128);
    for (key, value) in metadata {
        put_long_str(out, key);
        put_long_str(out, value);
    }
}

/// Reads what [`put_metadata`] wrote.
///
/// # Errors
/// [`Malformed`] if it is cut short or has more than [`METADATA_ENTRIES_MAX`] entries.
pub fn take_metadata(reader: &mut Reader<'_>) -> Result<Metadata, Malformed> {
    let entries = take_metadata_len(reader)?;
    (0..entries)
        .map(|_| Ok((reader.long_str()?.to_owned(), reader.long_str()?.to_owned())))
        .collect()
}

/// Reads past what [`put_metadata`] wrote.
///
/// # Errors
/// As [`take_metadata`].
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
mod tests {
    use super::*;

    fn account(rule: BalanceRule, overdraft_limit: u64) -> Account {
        Account {
            balances: Balances::default(),
            overdraft_limit: Amount::from(overdraft_limit),
            version: 0,
            asset: AssetIndex(0),
            rule,
            status: AccountStatus::Open,
        }
    }

    #[test]
    fn what_a_transfer_touches_is_96_bytes() {
        assert_eq!(size_of::<Account>(), 96);
    }

    #[test]
    fn a_credit_balance_holds_at_the_bound_and_refuses_one_beyond() {
        let mut wallet = account(BalanceRule::CreditBalance, 5);
        wallet.credit(Amount::from(10)).unwrap();
        let before = wallet;
        assert_eq!(wallet.debit(Amount::from(16)), Err(Reason::InsufficientFunds));
        assert_eq!(wallet, before);
        assert_eq!(wallet.debit(Amount::from(15)), Ok(()));
        assert_eq!(wallet.debit(Amount::from(1)), Err(Reason::InsufficientFunds));
    }

    #[test]
    fn a_debit_balance_is_the_mirror_image() {
        let mut cash = account(BalanceRule::DebitBalance, 0);
        assert_eq!(cash.credit(Amount::from(1)), Err(Reason::InsufficientFunds));
        cash.debit(Amount::from(7)).unwrap();
        assert_eq!(cash.credit(Amount::from(8)), Err(Reason::InsufficientFunds));
        assert_eq!(cash.credit(Amount::from(7)), Ok(()));
    }

    #[test]
    fn pending_amounts_count_against_the_bound() {
        let mut wallet = account(BalanceRule::CreditBalance, 0);
        wallet.credit(Amount::from(10)).unwrap();
        wallet.balances.debits_pending = Amount::from(4);
        assert_eq!(wallet.debit(Amount::from(7)), Err(Reason::InsufficientFunds));
        assert_eq!(wallet.debit(Amount::from(6)), Ok(()));
    }

    #[test]
    fn overflow_is_refused_and_an_unreachable_bound_is_none() {
        let mut unlimited = account(BalanceRule::Unlimited, 0);
        unlimited.debit(Amount::new(u128::MAX)).unwrap();
        assert_eq!(unlimited.debit(Amount::from(1)), Err(Reason::BalanceOverflow));

        let mut wallet = account(BalanceRule::CreditBalance, 1);
        wallet.balances.credits_posted = Amount::new(u128::MAX);
        assert_eq!(wallet.debit(Amount::new(u128::MAX)), Ok(()));
    }

    #[test]
    fn frozen_and_closed_accounts_take_nothing() {
        let mut frozen = Account {
            status: AccountStatus::Frozen,
            ..account(BalanceRule::Unlimited, 0)
        };
        assert_eq!(frozen.debit(Amount::from(1)), Err(Reason::AccountFrozen));
        let mut closed = Account {
            status: AccountStatus::Closed,
            ..frozen
        };
        frozen.status = AccountStatus::Frozen;
        assert_eq!(frozen.credit(Amount::from(1)), Err(Reason::AccountFrozen));
        assert_eq!(closed.credit(Amount::from(1)), Err(Reason::AccountClosed));
    }
}
