//! Checks a data directory from its first block to its last, and everything that follows from them.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use super::{
    error::OpenError,
    open::{Origin, StoreConfig, open_from},
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
    /// Accounts that the newest checkpoint and the blocks after it show otherwise than all blocks do, up to a bound.
    pub differences: Vec<String>,
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
        self.journal.corruption.is_none()
            && self.differences.is_empty()
            && self.assets.values().all(|totals| totals.debits == totals.credits)
    }
}

/// Differences that are told.
const DIFFERENCES_MAX: usize = 16;

/// Checks the data directory `dir`, which no service may have open: every checksum and the chain; then the ledger, made
/// from the newest checkpoint as a service would, and once more from the first block. Nothing is changed but a torn tail,
/// which is cut off as at any start.
///
/// # Errors
/// If it can't be opened; [`VerifyReport::journal`] tells of damage that a service would refuse to start with.
pub fn verify(disk: &Arc<dyn Disk>, dir: &Path) -> Result<VerifyReport, OpenError> {
    let journal = journal::verify(disk, dir)?;
    if journal.corruption.is_some() {
        let (assets, differences) = (BTreeMap::new(), Vec::new());
        return Ok(VerifyReport {
            journal,
            accounts: 0,
            last_sequence: 0,
            assets,
            differences,
        });
    }
    let book = |origin| {
        let clock = Arc::new(SystemWallClock);
        open_from(origin, Arc::clone(disk), dir, &StoreConfig::default(), clock).map(|store| store.book)
    };
    // One after the other: each holds the directory's lock while it is being opened.
    let started = book(Origin::Checkpoint)?;
    let replayed = book(Origin::FirstBlock)?;
    let mut differences = differences(started.ledger(), replayed.ledger());
    if started.order() != replayed.order() {
        differences.insert(
            0,
            format!("the order: {:?} and {:?}", started.order(), replayed.order()),
        );
    }
    if started.id_memory().0 != replayed.id_memory().0 {
        let (known, all) = (started.id_memory().0, replayed.id_memory().0);
        differences.insert(0, format!("transaction ids: {known} and {all}"));
    }
    Ok(VerifyReport {
        journal,
        accounts: replayed.ledger().accounts().len(),
        last_sequence: replayed.order().next_sequence - 1,
        assets: totals(replayed.ledger()),
        differences,
    })
}

fn differences(started: &Ledger, replayed: &Ledger) -> Vec<String> {
    let (started, replayed) = (started.accounts(), replayed.accounts());
    let last = started.len().max(replayed.len());
    (0..u32::try_from(last).unwrap_or(u32::MAX))
        .map(AccountIndex)
        .filter(|index| started.snapshot(*index) != replayed.snapshot(*index))
        .take(DIFFERENCES_MAX)
        .map(|index| {
            format!(
                "account {}: {:?} and {:?}",
                index.0,
                started.snapshot(index),
                replayed.snapshot(index)
            )
        })
        .collect()
}

/// The sums of all posted columns by asset.
fn totals(ledger: &Ledger) -> BTreeMap<String, AssetTotals> {
    let accounts = ledger.accounts();
    let mut assets = BTreeMap::new();
    for index in accounts.indexes_from(AccountIndex(0)) {
        let Some(account) = accounts.get(index) else {
            continue;
        };
        let name = accounts.asset(account.asset).unwrap_or_default().to_owned();
        let totals = assets.entry(name).or_insert(AssetTotals {
            debits: Some(0),
            credits: Some(0),
        });
        let add = |sum: Option<u128>, amount: u128| sum.and_then(|sum| sum.checked_add(amount));
        totals.debits = add(totals.debits, account.balances.debits_posted.minor_units());
        totals.credits = add(totals.credits, account.balances.credits_posted.minor_units());
    }
    assets
}
