//! A second, simple implementation of the ledger's rules.

use std::collections::HashMap;

use proptest::sample::Index;
use tally_ledger::{transaction::put_transaction, *};

/// Ids of accounts. There are only a few, so transactions often use the same accounts. The last account is never
/// created.
pub(super) const ACCOUNTS: [&str; 8] = ["a0", "a1", "a2", "a3", "a4", "a5", "a6", "nobody"];
/// A transaction that owns its text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Content {
    pub(super) id: String,
    pub(super) effective_time: Option<EffectiveTime>,
    pub(super) metadata: Metadata,
    pub(super) transfers: Vec<Transfer<String>>,
}

/// A change to one field of a transaction before it is sent again.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    EffectiveTime,
    Metadata,
    OneTransferMore,
    OneTransferLess,
    Debit(Index, Index),
    Credit(Index, Index),
    Amount(Index),
    Code(Index),
}

/// The outcome of a transaction in the model.
#[derive(Debug)]
pub(super) enum Verdict {
    /// The id was not recorded.
    First(Result<(), Rejection>),
    /// The id was recorded with the same content.
    Again(Result<Committed, Rejection>),
    /// The id was recorded with different content.
    Reused(ContentField),
}

#[derive(Debug, Clone)]
pub(super) struct ModelAccount {
    pub(super) new: NewAccount,
    pub(super) debits: u128,
    pub(super) credits: u128,
}

/// A second, simple implementation of the ledger's rules.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) accounts: HashMap<String, ModelAccount>,
    recorded: HashMap<String, (Content, Result<Committed, Rejection>)>,
    pub(super) committed: u64,
}

// ===== impl Content =====

impl Content {
    pub(super) fn encode(&self) -> Vec<u8> {
        let heading = Heading {
            id: self.id.as_bytes(),
            phase: Phase::Posted,
            effective_time: self.effective_time,
            metadata: &self.metadata,
        };
        let mut bytes = Vec::new();
        put_transaction(
            &mut bytes,
            &heading,
            self.transfers.iter().map(|transfer| Transfer {
                debit: transfer.debit.as_str(),
                credit: transfer.credit.as_str(),
                amount: transfer.amount,
                code: transfer.code,
            }),
        );
        bytes
    }

    pub(super) fn changed(mut self, change: Change) -> Self {
        let count = self.transfers.len();
        let name = |place: Index| ACCOUNTS[place.index(ACCOUNTS.len())].to_owned();
        match change {
            Change::EffectiveTime => {
                self.effective_time = match self.effective_time {
                    None => Some(EffectiveTime { seconds: 0, nanos: 0 }),
                    Some(_) => None,
                }
            }
            Change::Metadata => {
                self.metadata.insert("changed".to_owned(), String::new());
            }
            Change::OneTransferMore => self.transfers.push(self.transfers[0].clone()),
            Change::OneTransferLess if count > 1 => self.transfers.truncate(count - 1),
            Change::OneTransferLess => {}
            Change::Debit(place, account) => self.transfers[place.index(count)].debit = name(account),
            Change::Credit(place, account) => self.transfers[place.index(count)].credit = name(account),
            Change::Amount(place) => self.transfers[place.index(count)].amount = Amount::from(21),
            Change::Code(place) => self.transfers[place.index(count)].code += 1,
        }
        self
    }

    /// The first field in which `self` differs from the `recorded` transaction.
    fn first_difference(&self, recorded: &Content) -> Option<ContentField> {
        if self.effective_time != recorded.effective_time {
            return Some(ContentField::EffectiveTime);
        }
        if self.transfers.len() != recorded.transfers.len() {
            return Some(ContentField::Transfers);
        }
        for (place, (sent, kept)) in (0..=u8::MAX).zip(self.transfers.iter().zip(&recorded.transfers)) {
            let differences = [
                (sent.debit != kept.debit, ContentField::DebitAccount(place)),
                (sent.credit != kept.credit, ContentField::CreditAccount(place)),
                (sent.amount != kept.amount, ContentField::Amount(place)),
                (sent.code != kept.code, ContentField::Code(place)),
            ];
            if let Some((_, field)) = differences.into_iter().find(|(differs, _)| *differs) {
                return Some(field);
            }
        }
        (self.metadata != recorded.metadata).then_some(ContentField::Metadata)
    }
}

// ===== impl ModelAccount =====

impl ModelAccount {
    fn accepts_transfers(&self) -> Result<(), Reason> {
        match self.new.status {
            AccountStatus::Open => Ok(()),
            AccountStatus::Frozen => Err(Reason::AccountFrozen),
            AccountStatus::Closed => Err(Reason::AccountClosed),
        }
    }

    /// Checks the balance rule. Compares the difference of both sides with the overdraft limit. The ledger compares one
    /// side with the sum of the other side and the limit, so the two implementations differ.
    fn check_rule(&self) -> Result<(), Reason> {
        let overdraft = match self.new.rule {
            BalanceRule::Unlimited => 0,
            BalanceRule::CreditBalance => self.debits.saturating_sub(self.credits),
            BalanceRule::DebitBalance => self.credits.saturating_sub(self.debits),
        };
        if overdraft > self.new.overdraft_limit.minor_units() {
            return Err(Reason::InsufficientFunds);
        }
        Ok(())
    }

    /// The amount that still fits on the side that the balance rule bounds.
    const fn available(&self) -> u128 {
        let limit = self.new.overdraft_limit.minor_units();
        let (own, other) = match self.new.rule {
            BalanceRule::Unlimited => return u128::MAX,
            BalanceRule::CreditBalance => (self.debits, self.credits),
            BalanceRule::DebitBalance => (self.credits, self.debits),
        };
        // The balance may be on either side of zero, and the limit may be as large as the columns.
        if own >= other {
            limit - (own - other)
        } else {
            limit.saturating_add(other - own)
        }
    }
}

// ===== impl Model =====

impl Model {
    /// Creates all accounts. If one exists with different content, creates none and returns its index.
    pub(super) fn create(&mut self, new: &[NewAccount]) -> Result<(), usize> {
        let mut after = self.accounts.clone();
        for (place, account) in new.iter().enumerate() {
            let existing = after.entry(account.id.clone()).or_insert_with(|| ModelAccount {
                new: account.clone(),
                debits: 0,
                credits: 0,
            });
            if existing.new != *account {
                return Err(place);
            }
        }
        self.accounts = after;
        Ok(())
    }

    pub(super) fn process(&mut self, content: &Content) -> Verdict {
        if let Some((recorded, outcome)) = self.recorded.get(&content.id) {
            return match content.first_difference(recorded) {
                None => Verdict::Again(*outcome),
                Some(field) => Verdict::Reused(field),
            };
        }
        Verdict::First(self.apply(&content.transfers))
    }

    fn apply(&mut self, transfers: &[Transfer<String>]) -> Result<(), Rejection> {
        for (place, transfer) in (0..=u8::MAX).zip(transfers) {
            for (name, side) in [(&transfer.debit, Side::Debit), (&transfer.credit, Side::Credit)] {
                if !self.accounts.contains_key(name) {
                    return Err(Rejection::new(Reason::AccountNotFound, place, side));
                }
            }
        }
        let mut after = self.accounts.clone();
        for (place, transfer) in (0..=u8::MAX).zip(transfers) {
            apply_transfer(&mut after, place, transfer)?;
        }
        self.accounts = after;
        Ok(())
    }

    pub(super) fn remember(&mut self, content: Content, outcome: Result<Committed, Rejection>) {
        self.committed += u64::from(outcome.is_ok());
        self.recorded.insert(content.id.clone(), (content, outcome));
    }
}

fn apply_transfer(
    accounts: &mut HashMap<String, ModelAccount>,
    place: u8,
    transfer: &Transfer<String>,
) -> Result<(), Rejection> {
    let because = |reason, side| Rejection::new(reason, place, side);
    let Transfer {
        debit,
        credit,
        amount,
        ..
    } = transfer;
    let (debtor, creditor) = (&accounts[debit], &accounts[credit]);
    if debit == credit {
        return Err(because(Reason::SameAccount, Side::Credit));
    }
    if debtor.new.asset != creditor.new.asset {
        return Err(because(Reason::AssetMismatch, Side::Credit));
    }
    debtor
        .accepts_transfers()
        .map_err(|reason| because(reason, Side::Debit))?;
    creditor
        .accepts_transfers()
        .map_err(|reason| because(reason, Side::Credit))?;
    for (name, side) in [(debit, Side::Debit), (credit, Side::Credit)] {
        let account = accounts.get_mut(name).unwrap();
        let available = account.available();
        let column = match side {
            Side::Debit => &mut account.debits,
            Side::Credit => &mut account.credits,
        };
        *column = column
            .checked_add(amount.minor_units())
            .ok_or(because(Reason::BalanceOverflow, side))?;
        // Only the side that grows can break the rule.
        account
            .check_rule()
            .map_err(|reason| because(reason, side).with_available(Amount::new(available)))?;
    }
    Ok(())
}

/// Whether a rejection is recorded, so that every retry gets the same rejection.
pub(super) const fn is_recorded(reason: Reason) -> bool {
    match reason {
        Reason::AccountFrozen
        | Reason::AccountClosed
        | Reason::InsufficientFunds
        | Reason::BalanceOverflow => true,
        Reason::AccountNotFound | Reason::SameAccount | Reason::AssetMismatch => false,
    }
}
