//! Applies the records of a log again. No rule is evaluated, and to apply a record, no other record is read.

use thiserror::Error;

use super::{
    account::{Account, AccountIndex, AccountTerms, HasExtras, NewAccount},
    chain::{Links, linked_accounts},
    change::Change,
    codec::Malformed,
    effects::{self, Effects, Leg},
    holds::{Hold, deadline},
    machine::Ledger,
    mutation::planted,
    record::Record,
    side::Side,
    table::TableFull,
    time::Timestamp,
    transaction::{Names, Phase, TransactionView},
};

/// Why a record can't be applied to a ledger to which the earlier records were applied.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// The record can't be decoded.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The number of the account is too high: the record of another account is missing.
    #[error("the record creates account number {found}, but the next account must have number {expected}")]
    AccountGap {
        /// The number in the record.
        found: u32,
        /// The number of the next account.
        expected: usize,
    },
    /// Another account has the number of the record's account: the checkpoint and the records do not belong together.
    #[error(
        "the record creates {expected:?} as account number {account}, but this number already belongs to {found:?}"
    )]
    OtherAccount {
        /// The account's number.
        account: u32,
        /// The id in the account table.
        found: String,
        /// The id in the record.
        expected: String,
    },
    /// The ledger can't hold more accounts or assets.
    #[error(transparent)]
    Full(#[from] TableFull),
    /// A record contains the number of an account that does not exist.
    #[error("transaction {id:?} names account number {account}, but there are {accounts} accounts")]
    UnknownAccount {
        /// The transaction's id.
        id: String,
        /// The account's number.
        account: u32,
        /// The number of accounts.
        accounts: usize,
    },
    /// A link of the record does not lead to the previous record of the account, or states other balances.
    #[error("the record does not link to the previous record of account number {account}")]
    ChainBroken {
        /// The account's number.
        account: u32,
    },
    /// A balance column of an account would exceed 2^128 - 1, or a pending column would become negative.
    #[error("transaction {id:?} takes a balance of account number {account} out of its range")]
    OutOfRange {
        /// The transaction's id.
        id: String,
        /// The account's number.
        account: u32,
    },
}

/// Where a record is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordPlace {
    /// The number of the record, from 1.
    pub entry: u64,
    /// The place of the record, see [`TransactionLog::next_place`](crate::TransactionLog::next_place).
    pub place: u64,
    /// The time of the record, if it has a sequence.
    pub time: Timestamp,
}

// ===== impl Ledger =====

impl Ledger {
    /// Applies a record of the log again, with its links. Skips each account and each hold that already contains its effect.
    ///
    /// # Errors
    /// [`ReplayError`] if the record can't follow the records that were applied before this record.
    pub fn replay(
        &mut self,
        record: Record<'_>,
        links: Links<'_>,
        at: RecordPlace,
    ) -> Result<(), ReplayError> {
        match record {
            Record::AccountCreated { index, account } => self.replay_account(index, account, at),
            Record::AccountUpdated { index, terms, .. } => self.replay_update(index, terms, links, at),
            Record::Committed {
                transaction,
                ref effects,
            } => {
                let mut legs = std::mem::take(&mut self.legs);
                let decoded = effects::legs(&transaction, *effects, &mut legs);
                let replayed = decoded.map_err(ReplayError::from).and_then(|()| {
                    self.replay_transaction(&transaction, &legs, at)?;
                    self.replay_hold(&transaction, *effects, &legs, at);
                    self.replay_links(&linked_accounts(&legs), links, at)
                });
                self.legs = legs;
                replayed
            }
            Record::HoldExpired { hold_id, hold, legs } => {
                let id = String::from_utf8_lossy(hold_id);
                self.replay_legs(&id, &legs, at, Change::of_expiry)?;
                if self.holds.get(hold).is_some() {
                    self.holds.remove(hold);
                }
                self.replay_links(&linked_accounts(&legs), links, at)
            }
            Record::Rejected { .. } => Ok(()),
        }
    }

    fn replay_account(
        &mut self,
        index: AccountIndex,
        account: NewAccount,
        at: RecordPlace,
    ) -> Result<(), ReplayError> {
        let expected = self.accounts.len();
        if let Some(existing) = self.accounts.id(index) {
            if existing == account.id {
                return Ok(());
            }
            return Err(ReplayError::OtherAccount {
                account: index.0,
                found: existing.to_owned(),
                expected: account.id,
            });
        }
        if index.0 as usize != expected {
            return Err(ReplayError::AccountGap {
                found: index.0,
                expected,
            });
        }
        self.accounts.push(account, at.place, at.time)?;
        Ok(())
    }

    fn replay_update(
        &mut self,
        index: AccountIndex,
        terms: AccountTerms,
        links: Links<'_>,
        at: RecordPlace,
    ) -> Result<(), ReplayError> {
        let accounts = self.accounts.len();
        let Some(account) = self.accounts.get(index) else {
            return Err(ReplayError::UnknownAccount {
                id: String::new(),
                account: index.0,
                accounts,
            });
        };
        let is_new = account.head < at.place;
        // The links state the last update before this one.
        self.replay_links(&[index], links, at)?;
        if is_new {
            self.accounts.update(index, terms, (at.entry, at.place));
        }
        Ok(())
    }

    fn replay_transaction(
        &mut self,
        transaction: &TransactionView<'_, AccountIndex>,
        legs: &[Leg],
        at: RecordPlace,
    ) -> Result<(), ReplayError> {
        let id = transaction.id();
        let is_counted = match transaction.phase() {
            Phase::Posted | Phase::Pending => transaction.names() == Names::Nothing,
            Phase::PostPending | Phase::VoidPending => false,
        };
        if is_counted {
            self.replay_velocity(legs, at);
        }
        self.replay_legs(id, legs, at, |leg| {
            Change::of_transaction(transaction.phase(), leg)
        })
    }

    /// Counts the legs against the velocity limits of the accounts that do not contain the record's effect yet. The caller calls
    /// this method before [`Ledger::replay_links`], which changes the heads of the accounts.
    fn replay_velocity(&mut self, legs: &[Leg], at: RecordPlace) {
        for leg in legs {
            for (index, side) in [(leg.debit, Side::Debit), (leg.credit, Side::Credit)] {
                let is_due =
                    |account: &Account| account.extras == HasExtras::Limited && account.head < at.place;
                if self.accounts.get(index).is_some_and(is_due) {
                    self.accounts
                        .change_extras(index, |extras| extras.velocity.count(side, leg.moved, at.time));
                }
            }
        }
    }

    fn replay_legs(
        &mut self,
        id: &str,
        legs: &[Leg],
        at: RecordPlace,
        change: impl Fn(&Leg) -> Change,
    ) -> Result<(), ReplayError> {
        // The heads of the accounts change after this loop. If they changed in the loop, and two legs of the record changed the
        // same account, the second leg would be skipped.
        for leg in legs {
            let change = change(leg);
            for (index, side) in [(leg.debit, Side::Debit), (leg.credit, Side::Credit)] {
                let accounts = self.accounts.len();
                let account = self
                    .accounts
                    .get_mut(index)
                    .ok_or_else(|| ReplayError::UnknownAccount {
                        id: id.to_owned(),
                        account: index.0,
                        accounts,
                    })?;
                if account.head < at.place || planted("apply_twice_on_replay") {
                    let out_of_range = || ReplayError::OutOfRange {
                        id: id.to_owned(),
                        account: index.0,
                    };
                    account.balances = change.apply(&account.balances, side).ok_or_else(out_of_range)?;
                    let seen = at.place * u64::from(planted("replay_skips_second_leg"));
                    account.head = account.head.max(seen);
                }
            }
        }
        Ok(())
    }

    /// Appends the record to the chains of the accounts that do not contain it yet.
    fn replay_links(
        &mut self,
        accounts: &[AccountIndex],
        links: Links<'_>,
        at: RecordPlace,
    ) -> Result<(), ReplayError> {
        let mut links = links.iter();
        for index in accounts {
            let broken = ReplayError::ChainBroken { account: index.0 };
            let Some(link) = links.next() else {
                return Err(broken);
            };
            let link = link?;
            let is_due = self.accounts.found(*index).head < at.place;
            if is_due && !self.accounts.replay_link(*index, at.place, &link) {
                return Err(broken);
            }
        }
        match links.next() {
            None => Ok(()),
            Some(_) => Err(ReplayError::Malformed(Malformed {
                what: "one link for each account of a record",
            })),
        }
    }

    fn replay_hold(
        &mut self,
        transaction: &TransactionView<'_, AccountIndex>,
        effects: Option<Effects<'_>>,
        legs: &[Leg],
        at: RecordPlace,
    ) {
        match (transaction.phase(), effects) {
            (Phase::Pending, _) => {
                if self.holds.get(at.place).is_none() {
                    let accounts = legs.iter().map(|leg| (leg.debit, leg.credit));
                    self.holds
                        .insert(Hold::new(at.place, deadline(transaction, at.time), accounts));
                }
            }
            (Phase::PostPending | Phase::VoidPending, Some(Effects { origin, .. })) => {
                let is_new = |hold: &Hold| hold.newest < at.place;
                if self.holds.get(origin).as_ref().is_some_and(is_new) {
                    if legs.iter().all(|leg| leg.remaining.is_zero()) {
                        self.holds.remove(origin);
                    } else {
                        self.holds.advance(origin, at.place);
                    }
                }
            }
            (Phase::PostPending | Phase::VoidPending, None) => {
                unreachable!("the legs of such a transaction could not be decoded without effects")
            }
            (Phase::Posted, _) => {}
        }
    }
}
