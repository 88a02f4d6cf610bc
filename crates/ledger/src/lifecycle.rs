//! Creates and updates accounts.

use std::collections::HashMap;

use super::{
    account::{AccountIndex, AccountStatus, AccountTerms, BalanceRule, Metadata, NewAccount},
    chain::LinkBuffer,
    difference::AccountField,
    log::{TransactionLog, append},
    machine::Ledger,
    money::Amount,
    record::NewRecord,
    table::TableFull,
    velocity::VelocityLimit,
};

/// The outcome of a request to create accounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountOutcome {
    /// All accounts exist now. Some may have existed before the request, with the same content.
    Created(Vec<AccountIndex>),
    /// An account exists with different content, or the request contains its id twice with different content. No
    /// account was created.
    Reused {
        /// The index of this account in the request. The first account has index 0.
        place: usize,
        /// The first field that differs.
        field: AccountField,
    },
    /// The ledger has no room for all of the accounts. No account was created.
    Full(TableFull),
}

/// A request to update an account. A field that is `None` changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccountUpdate {
    /// The account's id.
    pub id: String,
    /// The new status.
    pub status: Option<AccountStatus>,
    /// The new overdraft limit.
    pub overdraft_limit: Option<Amount>,
    /// The new metadata.
    pub metadata: Option<Metadata>,
    /// The new velocity limits.
    pub velocity_limits: Option<Vec<VelocityLimit>>,
    /// The [`revision`](crate::AccountSnapshot::revision) that the account must have.
    pub expected_revision: Option<u64>,
}

/// The outcome of a request to update an account. With every outcome except [`UpdateOutcome::Updated`], nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateOutcome {
    /// The account has the requested terms.
    Updated(AccountIndex),
    /// No account has the id.
    NotFound,
    /// The account has another revision than the request names.
    ChangedSince,
    /// The account is closed. Only the metadata of a closed account can change.
    Closed,
    /// The account can't be closed, because its balance is not zero, or something is pending.
    NotEmpty,
    /// The account has [`BalanceRule::Unlimited`], so it can't have an overdraft limit.
    Unlimited,
}

// ===== impl Ledger =====

impl Ledger {
    /// Creates all of the accounts or none. An account that was created with the same content counts as created, even if it was
    /// updated later.
    pub fn create_accounts<L: TransactionLog>(
        &mut self,
        new: Vec<NewAccount>,
        log: &mut L,
    ) -> AccountOutcome {
        let mut seen = HashMap::with_capacity(new.len());
        for (place, account) in new.iter().enumerate() {
            let first = *seen.entry(account.id.as_str()).or_insert(account);
            let field = AccountField::first_difference(account, first).or_else(|| {
                let existing = self.accounts.find(&account.id)?;
                AccountField::first_difference(account, &self.accounts.as_created(existing)?)
            });
            if let Some(field) = field {
                return AccountOutcome::Reused { place, field };
            }
        }
        if let Err(full) = self.accounts.check_room(&new) {
            return AccountOutcome::Full(full);
        }
        AccountOutcome::Created(
            new.into_iter()
                .map(|account| self.create_account(account, log))
                .collect(),
        )
    }

    /// Creates an account if it does not exist. The caller has checked that the ledger has room for it.
    fn create_account<L: TransactionLog>(&mut self, new: NewAccount, log: &mut L) -> AccountIndex {
        if let Some(existing) = self.accounts.find(&new.id) {
            return existing;
        }
        let place = log.next_place();
        let Ok(index) = self.accounts.next_index() else {
            panic!(
                "the ledger is full, although an earlier check found room for account {:?}",
                new.id
            );
        };
        let created = append(
            log,
            None,
            None,
            NewRecord::AccountCreated { index, account: &new },
            &LinkBuffer::default(),
        );
        let pushed = self.accounts.push(new, place, created.time);
        assert_eq!(
            pushed,
            Ok(index),
            "an account is in the log, but not in the account table"
        );
        index
    }

    /// Updates an account. If the account has the requested terms already, nothing is recorded.
    pub fn update_account<L: TransactionLog>(&mut self, update: AccountUpdate, log: &mut L) -> UpdateOutcome {
        let Some(index) = self.accounts.find(&update.id) else {
            return UpdateOutcome::NotFound;
        };
        let (Some(before), Some(account)) = (self.accounts.snapshot(index), self.accounts.get(index)) else {
            panic!("account number {} was found, but is not in the table", index.0);
        };
        if update
            .expected_revision
            .is_some_and(|expected| expected != before.revision)
        {
            return UpdateOutcome::ChangedSince;
        }
        let is_settled = account.balances.is_settled();
        let rule = account.rule;
        let before = before.account.into_terms();
        let terms = AccountTerms {
            status: update.status.map_or(before.status, |status| status),
            overdraft_limit: update
                .overdraft_limit
                .map_or(before.overdraft_limit, |limit| limit),
            metadata: update.metadata.unwrap_or_else(|| before.metadata.clone()),
            velocity_limits: update
                .velocity_limits
                .unwrap_or_else(|| before.velocity_limits.clone()),
        };
        let only_metadata = AccountTerms {
            metadata: terms.metadata.clone(),
            ..before.clone()
        };
        if before.status == AccountStatus::Closed && terms != only_metadata {
            return UpdateOutcome::Closed;
        }
        if rule == BalanceRule::Unlimited && !terms.overdraft_limit.is_zero() {
            return UpdateOutcome::Unlimited;
        }
        if terms.status == AccountStatus::Closed && before.status != AccountStatus::Closed && !is_settled {
            return UpdateOutcome::NotEmpty;
        }
        if terms != before {
            let (entry, place) = (log.next_entry(), log.next_place());
            self.links.clear();
            self.accounts.link(index, place, &mut self.links);
            let record = NewRecord::AccountUpdated {
                index,
                previous: self.accounts.last_update(index),
                terms: &terms,
            };
            append(log, None, None, record, &self.links);
            self.accounts.update(index, terms, (entry, place));
        }
        UpdateOutcome::Updated(index)
    }
}
