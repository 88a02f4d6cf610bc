//! Verifies a data directory: all blocks of the journal, and all checkpoints and id files, which are made from the
//! blocks.

use std::{collections::BTreeMap, convert::Infallible, fmt::Display, path::Path, sync::Arc};

use tally_journal::{
    self as journal, BlockHash, ChainPoint, ChunkedFiles, Disk, Journal, JournalError, Position, ScanError,
};
use tally_ledger::{AccountIndex, AccountSnapshot, Balances, HoldTable, Ledger, tag_index::TagIndex};

use super::{
    checkpoint::{self, LoadedCheckpoint},
    error::OpenError,
    foreign::foreign_files,
    id_files::{self, BlockWalk},
    pending_check::pending_differences,
    point::OrderPoint,
    record_reader::RecordReader,
    replay::{Replay, replay, replay_before_damage},
};

/// The result of the verification of a data directory.
#[derive(Debug, Clone)]
pub struct DirectoryReport {
    /// The report on the journal: blocks, checksums and the hash chain.
    pub journal: journal::JournalReport,
    /// Number of accounts. If the journal is damaged, the number of accounts in the blocks before the first damage.
    pub accounts: usize,
    /// Number of committed transactions. If the journal is damaged, the number of committed transactions in the blocks
    /// before the first damage.
    pub last_sequence: u64,
    /// The totals of each asset. In a sound directory, debits equal credits. If the journal is damaged, the totals
    /// include only the blocks before the first damage.
    pub assets: BTreeMap<String, AssetTotals>,
    /// The checkpoints and id files that are damaged or differ from the blocks, at most [`DIFFERENCES_MAX`]. A service ignores
    /// such files and reads the blocks instead. If the journal is damaged, these files are not compared.
    pub differences: Vec<String>,
    /// The files in the directory's subdirectories that do not belong to it, as paths in the directory. They do no harm.
    pub foreign_files: Vec<String>,
    /// Whether one of the differences may mean that the journal lacks blocks at its end. If it is false and the journal is
    /// undamaged, only checkpoints and id files differ, and the journal has every transaction.
    pub may_lack_blocks: bool,
    /// The hashes of the blocks that the caller asked for, by the number of the block. A block that the journal does not have, or that
    /// is after a damage, is absent.
    pub block_hashes: BTreeMap<u64, BlockHash>,
}

/// The sum of the posted debits and the sum of the posted credits of all accounts with one asset, in minor units. A sum
/// is `None` if it exceeds 2^128 - 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AssetTotals {
    /// The sum of `debits_posted`.
    pub debits: Option<u128>,
    /// The sum of `credits_posted`.
    pub credits: Option<u128>,
}

// ===== impl DirectoryReport =====

impl DirectoryReport {
    /// Returns whether the directory is sound: the journal is undamaged, no file differs from the blocks, and the
    /// debits of each asset equal its credits. The remains of an incomplete write at the end of the journal are not
    /// damage, because a crash can leave such remains.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.journal.corruption.is_none()
            && self.differences.is_empty()
            && self.assets.values().all(|totals| totals.debits == totals.credits)
    }

    fn describe(&mut self, replayed: &Replay) {
        self.accounts = replayed.ledger.accounts().len();
        self.last_sequence = replayed.order.next_sequence - 1;
        self.assets = totals(&replayed.ledger);
    }

    /// Adds the differences of a file, up to [`DIFFERENCES_MAX`].
    fn differ(&mut self, file: &str, differences: impl IntoIterator<Item = String>) {
        for difference in differences {
            if self.differences.len() < DIFFERENCES_MAX {
                self.differences.push(format!("{file}: {difference}"));
            }
        }
    }
}

/// Maximum number of differences in a report.
pub const DIFFERENCES_MAX: usize = 16;

/// Verifies the data directory `dir` without changing it; the file system may be read-only.
///
/// Verifies all checksums and the hash chain of the journal. If the journal is undamaged, the function also replays the
/// journal from the first block and once from each checkpoint, and compares the resulting ledgers. It compares each id
/// file with the blocks of its segment. During the verification, it holds a shared lock on the directory, so no service
/// can open the directory.
///
/// # Errors
/// If the directory can't be opened, for example because a service has opened it ([`journal::JournalError::Locked`]), or the
/// disk can't be read. [`DirectoryReport::journal`] reports damage with which a service would not start. The rest of the report
/// then describes the ledger at the end of the last whole block before the damage.
pub fn verify(disk: &Arc<dyn Disk>, dir: &Path) -> Result<DirectoryReport, OpenError> {
    verify_blocks(disk, dir, &[])
}

/// Verifies the data directory `dir` as [`verify`] does, and reports the hashes of these `blocks`, which are numbered from 1.
///
/// # Errors
/// Those of [`verify`].
pub fn verify_blocks(disk: &Arc<dyn Disk>, dir: &Path, blocks: &[u64]) -> Result<DirectoryReport, OpenError> {
    let journal = Journal::open_read_only(Arc::clone(disk), dir)?;
    let seed = journal.directory().hash_seed();
    let mut report = DirectoryReport {
        journal: journal.verify()?,
        accounts: 0,
        last_sequence: 0,
        assets: BTreeMap::new(),
        differences: Vec::new(),
        foreign_files: foreign_files(&**disk, dir)?,
        may_lack_blocks: false,
        block_hashes: block_hashes(&journal, blocks)?,
    };
    let (Some(end), None) = (report.journal.end, &report.journal.corruption) else {
        let before_damage = replay_before_damage(&journal, LoadedCheckpoint::empty(journal.start(), seed))?;
        report.describe(&before_damage);
        return Ok(report);
    };
    if report.journal.marked && !report.journal.clean {
        let what =
            "the marker of a clean stop is damaged, or states another position than the end of the journal";
        report.differ("journal/CLEAN", [what.to_owned()]);
        report.may_lack_blocks = true;
    }
    let replayed = ledger_from(&journal, LoadedCheckpoint::empty(journal.start(), seed))?;
    let records = RecordReader::new(journal.reader(), journal.directory().geometry(), seed);
    let pending = pending_differences(&replayed.ledger, &records, DIFFERENCES_MAX)?;
    report.differ("the outstanding holds", pending);
    report.describe(&replayed);
    let checkpoints = checkpoint::files_read_only(journal.directory());
    for number in checkpoints.numbers()? {
        let loaded = checkpoints
            .open_checked(number)
            .and_then(|file| checkpoint::read(&file, seed));
        let differences = match loaded.map_err(OpenError::from) {
            Ok(loaded) => match ledger_from(&journal, loaded) {
                Ok(started) => differences(&started, &replayed),
                // The file is undamaged, but the journal does not contain the point that it names.
                Err(error) => {
                    report.may_lack_blocks = true;
                    vec![error.to_string()]
                }
            },
            Err(error) => vec![error.to_string()],
        };
        report.differ(&format!("checkpoint {number}"), differences);
    }
    let id_files = id_files::files_read_only(journal.directory());
    let walk = BlockWalk::new(journal.reader(), seed);
    for number in id_files.numbers()? {
        let difference = id_file_difference(&walk, &id_files, number, &end)?;
        report.may_lack_blocks |= number >= u64::from(end.position.segment());
        report.differ(&format!("id file {number}"), difference);
    }
    Ok(report)
}

/// Returns the hashes of `blocks`, up to the first damage.
fn block_hashes(journal: &Journal, blocks: &[u64]) -> Result<BTreeMap<u64, BlockHash>, OpenError> {
    let mut hashes = BTreeMap::new();
    if blocks.is_empty() {
        return Ok(hashes);
    }
    let mut note = |number: u64, hash: BlockHash| {
        if blocks.contains(&number) {
            hashes.insert(number, hash);
        }
    };
    let scanned = journal.scan(journal.start(), 0, |header, _, _| -> Result<(), Infallible> {
        // A block contains the hash of the block before it, and the scan has compared the two.
        note(header.block_sequence - 1, header.previous_hash);
        Ok(())
    });
    match scanned {
        Ok(tail) => note(tail.end.last_block_sequence(), tail.end.previous_hash),
        // The report on the journal describes the damage.
        Err(ScanError::Store(JournalError::Corrupt(_))) => {}
        Err(ScanError::Store(error)) => return Err(error.into()),
        Err(ScanError::Visitor(never)) => match never {},
    }
    Ok(hashes)
}

fn ledger_from(journal: &Journal, checkpoint: LoadedCheckpoint) -> Result<Replay, OpenError> {
    replay(journal, checkpoint, TagIndex::new()).map(|(replay, _)| replay)
}

/// Returns how the id file `number` differs from the blocks of its segment. Returns `None` if the ids are equal.
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
            "the journal ends before the end of this segment, but an id file exists only if its whole segment was durable: \
             acknowledged transactions are missing"
                .to_owned(),
        ));
    };
    let segment = walk.full_segment(number, end)?;
    let read = walk.read_segment(&segment)?;
    Ok(match walk.read_file(files, &segment) {
        Err(error) => Some(error.to_string()),
        Ok(found) if found == read => None,
        Ok(found) => Some(format!(
            "the {} ids of the file are not the {} ids of the segment",
            found.len(),
            read.len()
        )),
    })
}

/// Returns the differences between a replay from a checkpoint (`started`) and a replay from the first block
/// (`replayed`), at most [`DIFFERENCES_MAX`].
fn differences(started: &Replay, replayed: &Replay) -> Vec<String> {
    let order = order_differences(&started.order, &replayed.order);
    let holds = hold_differences(started.ledger.holds(), replayed.ledger.holds());
    let (started, replayed) = (started.ledger.accounts(), replayed.ledger.accounts());
    let longer = if started.len() > replayed.len() {
        started
    } else {
        replayed
    };
    let accounts = longer.indexes_from(AccountIndex(0)).filter_map(|index| {
        let pair = (started.snapshot(index), replayed.snapshot(index));
        let what = account_difference(pair.0.as_ref(), pair.1.as_ref())?;
        Some(format!("account number {}: {what}", index.0))
    });
    let all = order.into_iter().chain(accounts).chain(holds);
    all.take(DIFFERENCES_MAX).collect()
}

/// Returns the text of a value that differs.
fn differing(what: &str, started: impl Display, replayed: impl Display) -> String {
    format!(
        "{what} {started} after a replay from the checkpoint, but {replayed} after a replay from the first block"
    )
}

fn order_differences(started: &OrderPoint, replayed: &OrderPoint) -> Vec<String> {
    let mut differences = Vec::new();
    if started.next_entry != replayed.next_entry {
        let (started, replayed) = (started.next_entry, replayed.next_entry);
        differences.push(differing("the number of the next record is", started, replayed));
    }
    if started.next_sequence != replayed.next_sequence {
        let (started, replayed) = (started.next_sequence, replayed.next_sequence);
        differences.push(differing(
            "the sequence of the next transaction is",
            started,
            replayed,
        ));
    }
    if started.last_time != replayed.last_time {
        let (started, replayed) = (started.last_time, replayed.last_time);
        differences.push(differing(
            "the last time, in seconds since 1970, is",
            started,
            replayed,
        ));
    }
    differences
}

/// Returns how the outstanding holds differ.
fn hold_differences(started: &HoldTable, replayed: &HoldTable) -> Vec<String> {
    let sorted = |table: &HoldTable| {
        let (mut holds, _) = table.page(0, usize::MAX);
        holds.sort_unstable_by_key(|hold| hold.place);
        holds
    };
    let (started, replayed) = (sorted(started), sorted(replayed));
    if started == replayed {
        return Vec::new();
    }
    if started.len() != replayed.len() {
        let what = "the number of outstanding holds is";
        return vec![differing(what, started.len(), replayed.len())];
    }
    let pairs = started.iter().zip(&replayed).filter(|(a, b)| a != b);
    pairs
        .map(|(started, replayed)| {
            let at = |place| Position::from_u64(place);
            differing(
                &format!("the newest record of the hold at {} is at", at(replayed.place)),
                at(started.newest),
                at(replayed.newest),
            )
        })
        .take(DIFFERENCES_MAX)
        .collect()
}

/// Returns how an account differs; `None` if the two are equal.
fn account_difference(
    started: Option<&AccountSnapshot>,
    replayed: Option<&AccountSnapshot>,
) -> Option<String> {
    let (started, replayed) = match (started, replayed) {
        (Some(started), Some(replayed)) => (started, replayed),
        (None, None) => return None,
        (Some(only), None) => {
            let id = &only.account.id;
            return Some(format!(
                "account {id:?} exists only after a replay from the checkpoint"
            ));
        }
        (None, Some(only)) => {
            let id = &only.account.id;
            return Some(format!(
                "account {id:?} exists only after a replay from the first block"
            ));
        }
    };
    let (id, other) = (&started.account.id, &replayed.account.id);
    if id != other {
        return Some(differing("its id is", format!("{id:?}"), format!("{other:?}")));
    }
    let columns = |balances: &Balances| {
        [
            balances.debits_pending,
            balances.debits_posted,
            balances.credits_pending,
            balances.credits_posted,
        ]
    };
    let names = [
        "debits_pending",
        "debits_posted",
        "credits_pending",
        "credits_posted",
    ];
    let balances = columns(&started.balances)
        .into_iter()
        .zip(columns(&replayed.balances));
    let different = names
        .into_iter()
        .zip(balances)
        .find(|(_, (started, replayed))| started != replayed);
    match different {
        Some((name, (started, replayed))) => Some(differing(
            &format!("account {id:?}: {name} is"),
            started,
            replayed,
        )),
        None if started == replayed => None,
        None => Some(format!(
            "account {id:?} was created with other fields or at another time after a replay from the checkpoint than after a \
             replay from the first block"
        )),
    }
}

/// Sums the posted debits and credits of all accounts, by asset.
fn totals(ledger: &Ledger) -> BTreeMap<String, AssetTotals> {
    let accounts = ledger.accounts();
    let mut assets = BTreeMap::new();
    for index in accounts.indexes_from(AccountIndex(0)) {
        let account = accounts.get(index);
        let asset = account.and_then(|account| accounts.asset(account.asset));
        let (Some(account), Some(asset)) = (account, asset) else {
            panic!(
                "account number {} is in the list of accounts, but the account or its asset is not in the table",
                index.0
            );
        };
        let totals = assets.entry(asset.to_owned()).or_insert(AssetTotals {
            debits: Some(0),
            credits: Some(0),
        });
        let add = |sum: Option<u128>, amount: u128| sum.and_then(|sum| sum.checked_add(amount));
        totals.debits = add(totals.debits, account.balances.debits_posted.minor_units());
        totals.credits = add(totals.credits, account.balances.credits_posted.minor_units());
    }
    assets
}

#[cfg(test)]
mod tests {
    use tally_ledger::{AccountStatus, Amount, BalanceRule, Metadata, NewAccount, Timestamp};

    use super::*;

    fn account(id: &str, debits_posted: u128) -> AccountSnapshot {
        AccountSnapshot {
            account: NewAccount {
                id: id.to_owned(),
                asset: "EUR".to_owned(),
                rule: BalanceRule::Unlimited,
                overdraft_limit: Amount::default(),
                status: AccountStatus::Open,
                metadata: Metadata::default(),
                velocity_limits: Vec::new(),
            },
            balances: Balances {
                debits_posted: Amount::new(debits_posted),
                ..Balances::default()
            },
            available: None,
            create_time: Timestamp::from_nanos(1),
            revision: 0,
        }
    }

    #[test]
    fn a_difference_of_accounts_is_described_in_words() {
        let words = |started: Option<&AccountSnapshot>, replayed: Option<&AccountSnapshot>| {
            account_difference(started, replayed)
        };
        let (five, seven, other) = (account("a", 5), account("a", 7), account("b", 5));
        assert_eq!(words(Some(&five), Some(&five)), None);
        assert_eq!(
            words(Some(&five), Some(&seven)).unwrap(),
            "account \"a\": debits_posted is 5 after a replay from the checkpoint, but 7 after a replay from the first block"
        );
        assert_eq!(
            words(Some(&five), Some(&other)).unwrap(),
            "its id is \"a\" after a replay from the checkpoint, but \"b\" after a replay from the first block"
        );
        assert_eq!(
            words(None, Some(&five)).unwrap(),
            "account \"a\" exists only after a replay from the first block"
        );
        let mut later = account("a", 5);
        later.create_time = Timestamp::from_nanos(2);
        assert!(
            words(Some(&five), Some(&later))
                .unwrap()
                .contains("at another time")
        );
    }
}
