//! Creates missing accounts.

use std::collections::HashSet;

use clap::ValueEnum;

use crate::{
    client::{CREATE_ACCOUNTS_MAX, CallError, Client},
    proto::{self, Account},
};

/// Maximum number of existing accounts to remember, which take about 100 MB. The set is cleared when it is full.
const KNOWN_MAX: usize = 1 << 20;

/// The balance rule of created accounts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum BalanceRule {
    /// Any balance.
    #[default]
    Unlimited,
    /// Debits may not exceed credits, as for wallets and deposits.
    CreditBalance,
    /// Credits may not exceed debits, as for cash and receivables.
    DebitBalance,
}

/// Creates the accounts that do not exist, and remembers which accounts exist.
#[derive(Debug)]
pub(super) struct AccountCreator {
    rule: BalanceRule,
    asset: String,
    known: HashSet<String>,
    created: u64,
}

// ===== impl BalanceRule =====

impl From<BalanceRule> for proto::BalanceRule {
    fn from(rule: BalanceRule) -> Self {
        match rule {
            BalanceRule::Unlimited => proto::BalanceRule::Unlimited,
            BalanceRule::CreditBalance => proto::BalanceRule::CreditBalance,
            BalanceRule::DebitBalance => proto::BalanceRule::DebitBalance,
        }
    }
}

// ===== impl AccountCreator =====

impl AccountCreator {
    /// Creates an account creator. New accounts get the balance rule `rule` and the asset `asset`.
    pub(super) fn new(rule: BalanceRule, asset: String) -> Self {
        AccountCreator {
            rule,
            asset,
            known: HashSet::new(),
            created: 0,
        }
    }

    /// Returns the number of created accounts. If an answer was lost, the accounts that its call created are not counted.
    pub(super) const fn created(&self) -> u64 {
        self.created
    }

    /// Creates those of the accounts `ids` that do not exist. Existing accounts stay unchanged, even if their asset or rule differs.
    ///
    /// # Errors
    /// [`CallError`] if an account can't be created.
    pub(super) async fn ensure<'a>(
        &mut self,
        client: &Client,
        ids: impl IntoIterator<Item = &'a String>,
    ) -> Result<(), CallError> {
        if self.known.len() > KNOWN_MAX {
            self.known.clear();
        }
        // The service skips the accounts that exist. If the import looked up each account first, the service would count an error for each
        // account that does not exist yet. The calls keep the order of the file, so the same file always gives the same journal.
        for ids in self.unknown(ids).chunks(CREATE_ACCOUNTS_MAX) {
            let account = |id: &String| Account {
                id: id.clone(),
                asset: self.asset.clone(),
                balance_rule: proto::BalanceRule::from(self.rule).into(),
                ..Account::default()
            };
            let accounts = ids.iter().map(account).collect();
            self.created += client.create_missing_accounts(accounts).await?.len() as u64;
        }
        Ok(())
    }

    /// Returns the accounts that are not in `known`, in order, and adds them to `known`.
    fn unknown<'a>(&mut self, ids: impl IntoIterator<Item = &'a String>) -> Vec<String> {
        let known = &mut self.known;
        ids.into_iter()
            .filter(|id| !known.contains(*id) && known.insert((*id).clone()))
            .cloned()
            .collect()
    }
}
