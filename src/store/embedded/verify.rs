//! Checks a data directory from its first block to its last, and everything that follows from them.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use super::{
    error::OpenError,
    open::{OpenStore, StoreConfig, open},
};
use crate::{
    ledger::{AccountIndex, Ledger},
    store::journal::{self, Disk},
    time::SystemWallClock,
};

/// What the check found.
#[derive(Debug, Clone)]
pub struct VerifyReport {
    /// Blocks, checksums and the chain.
    pub journal: journal::VerifyReport,
    /// Accounts.
    pub accounts: usize,
    /// Transactions committed.
    pub last_sequence: u64,
    /// Per asset: the sum of all debits and of all credits, which must be equal. `None` beyond 2^128 - 1.
    pub assets: BTreeMap<String, AssetTotals>,
}

/// What was debited and credited of one asset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AssetTotals {
    /// The sum of `debits_posted`.
    pub debits: Option<u128>,
    /// The sum of `credits_posted`.
    pub credits: Option<u128>,
}

// ===== impl VerifyReport =====

impl VerifyReport {
    /// Whether nothing is wrong. A torn tail is not wrong: it is what a crash leaves, and was never acknowledged.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.journal.corruption.is_none() && self.assets.values().all(|totals| totals.debits == totals.credits)
    }
}

/// Checks the data directory `dir`, which no service may have open. Nothing in it is changed but a torn tail, which is
/// cut off as at any start.
///
/// # Errors
/// If it can't be opened; [`VerifyReport::journal`] tells of damage that a service would refuse to start with.
pub fn verify(disk: Arc<dyn Disk>, dir: &Path) -> Result<VerifyReport, OpenError> {
    let journal = journal::verify(&disk, dir)?;
    if journal.corruption.is_some() {
        return Ok(VerifyReport { journal, accounts: 0, last_sequence: 0, assets: BTreeMap::new() });
    }
    let OpenStore { book, .. } = open(disk, dir, &StoreConfig::default(), Arc::new(SystemWallClock))?;
    Ok(VerifyReport {
        journal,
        accounts: book.ledger().accounts().len(),
        last_sequence: book.order().next_sequence - 1,
        assets: totals(book.ledger()),
    })
}

/// The sums of all posted columns by asset.
fn totals(ledger: &Ledger) -> BTreeMap<String, AssetTotals> {
    let accounts = ledger.accounts();
    let mut assets = BTreeMap::new();
    for index in accounts.indexes_from(AccountIndex(0)) {
        let Some(account) = accounts.get(index) else { continue };
        let name = accounts.asset(account.asset).unwrap_or_default().to_owned();
        let totals =
            assets.entry(name).or_insert(AssetTotals { debits: Some(0), credits: Some(0) });
        let add = |sum: Option<u128>, amount: u128| sum.and_then(|sum| sum.checked_add(amount));
        totals.debits = add(totals.debits, account.balances.debits_posted.minor_units());
        totals.credits = add(totals.credits, account.balances.credits_posted.minor_units());
    }
    assets
}
