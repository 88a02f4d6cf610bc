//! Checks a data directory from its first block to its last, and everything that follows from them.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use super::{
    checkpoint::{self, Loaded},
    error::OpenError,
    id_files::{self, BlockWalk},
    open::{Replay, replay},
};
use crate::{
    ledger::{AccountIndex, Ledger, tag_index::TagIndex},
    store::journal::{self, ChainPoint, ChunkedFiles, Disk, Journal},
};

/// What the check found.
#[derive(Debug, Clone)]
pub struct VerifyReport {
    /// Blocks, checksums and the chain.
    pub journal: journal::JournalReport,
    /// Accounts.
    pub accounts: usize,
    /// Transactions committed.
    pub last_sequence: u64,
    /// Per asset: the sum of all debits and of all credits, which must be equal. `None` beyond 2^128 - 1.
    pub assets: BTreeMap<String, AssetTotals>,
    /// What checkpoints and id files show otherwise than the blocks do, or don't show since they are damaged, up to
    /// [`DIFFERENCES_MAX`]. A service passes such files over, and makes what is in them from the blocks.
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
    /// Whether nothing is wrong. A torn tail after a crash is not wrong: it is what a crash leaves.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.journal.corruption.is_none()
            && self.differences.is_empty()
            && self.assets.values().all(|totals| totals.debits == totals.credits)
    }

    /// Notes what is different about a file, within the bound.
    fn differ(&mut self, file: &str, differences: impl IntoIterator<Item = String>) {
        let room = DIFFERENCES_MAX.saturating_sub(self.differences.len());
        self.differences.extend(
            differences
                .into_iter()
                .take(room)
                .map(|difference| format!("{file}: {difference}")),
        );
    }
}

/// Most differences that a report lists.
pub const DIFFERENCES_MAX: usize = 16;

/// Checks the data directory `dir` without changing a byte of it, on a read-only file system too: every checksum and the
/// chain; then the ledger, made from every checkpoint as a service would, and once more from the first block; then every id
/// file against the blocks that it indexes. It shares a lock on the directory with other readers, so that no service starts
/// meanwhile.
///
/// # Errors
/// If it can't be opened, as while a service has it open ([`journal::JournalError::Locked`]); if the disk can't be read.
/// [`VerifyReport::journal`] tells of damage that a service would refuse to start with.
pub fn verify(disk: &Arc<dyn Disk>, dir: &Path) -> Result<VerifyReport, OpenError> {
    let journal = Journal::open_read_only(Arc::clone(disk), dir)?;
    let seed = journal.directory().hash_seed();
    let mut report = VerifyReport {
        journal: journal.verify()?,
        accounts: 0,
        last_sequence: 0,
        assets: BTreeMap::new(),
        differences: Vec::new(),
    };
    let Some(end) = report.journal.end else {
        // Damage hides the end, and nothing can be made from a part of the journal.
        return Ok(report);
    };
    if report.journal.corruption.is_some() {
        return Ok(report);
    }
    if report.journal.marked && !report.journal.clean {
        let what =
            "the marker of a clean stop is damaged, or tells of another place than the end of the journal";
        report.differ("journal/CLEAN", [what.to_owned()]);
    }
    let replayed = ledger_from(&journal, Loaded::nothing(journal.start(), seed))?;
    report.accounts = replayed.ledger.accounts().len();
    report.last_sequence = replayed.order.next_sequence - 1;
    report.assets = totals(&replayed.ledger);
    let checkpoints = checkpoint::files_read_only(journal.directory());
    for number in checkpoints.numbers()? {
        let loaded = checkpoints
            .open_checked(number)
            .and_then(|file| checkpoint::read(&file, seed));
        let differences = match loaded
            .map_err(OpenError::from)
            .and_then(|loaded| ledger_from(&journal, loaded))
        {
            Ok(started) => differences(&started, &replayed),
            Err(error) => vec![error.to_string()],
        };
        report.differ(&format!("checkpoint {number}"), differences);
    }
    let id_files = id_files::files_read_only(journal.directory());
    let walk = BlockWalk::new(journal.reader(), seed);
    for number in id_files.numbers()? {
        let difference = id_file_difference(&walk, &id_files, number, &end)?;
        report.differ(&format!("id file {number}"), difference);
    }
    Ok(report)
}

fn ledger_from(journal: &Journal, loaded: Loaded) -> Result<Replay, OpenError> {
    replay(journal, loaded, TagIndex::new()).map(|(replay, _)| replay)
}

/// How the id file with that `number` differs from the blocks of its segment, entry by entry; `None` if it does not.
fn id_file_difference(
    walk: &BlockWalk,
    files: &ChunkedFiles,
    number: u64,
    end: &ChainPoint,
) -> Result<Option<String>, OpenError> {
    let Some(number) = u32::try_from(number)
        .ok()
        .filter(|number| *number < end.position.segment())
    else {
        return Ok(Some(
            "the journal ends before the end of this segment, all of which was durable: acknowledged transactions are missing"
                .to_owned(),
        ));
    };
    let segment = walk.full_segment(number, end)?;
    let read = walk.read_segment(&segment)?;
    Ok(match walk.read_file(files, &segment) {
        Err(why) => Some(why.to_string()),
        Ok(found) if found == read => None,
        Ok(found) => Some(format!(
            "{} ids, of which not all are the {} of the segment",
            found.len(),
            read.len()
        )),
    })
}

fn differences(started: &Replay, replayed: &Replay) -> Vec<String> {
    let order = (started.order != replayed.order)
        .then(|| format!("the order: {:?} and {:?}", started.order, replayed.order));
    let (started, replayed) = (started.ledger.accounts(), replayed.ledger.accounts());
    let last = started.len().max(replayed.len());
    let accounts = (0..u32::try_from(last).unwrap_or(u32::MAX))
        .map(AccountIndex)
        .filter(|index| started.snapshot(*index) != replayed.snapshot(*index))
        .map(|index| {
            format!(
                "account {}: {:?} and {:?}",
                index.0,
                started.snapshot(index),
                replayed.snapshot(index)
            )
        });
    order.into_iter().chain(accounts).take(DIFFERENCES_MAX).collect()
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
