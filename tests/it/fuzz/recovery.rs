//! Damages a real data directory on the simulated disk, and opens it. Nothing panics, and no answer is wrong:
//!
//! - The store refuses to open the directory, or the accounts and the order are those after one of the blocks.
//! - Undamaged blocks before the first damage stay. Blocks may be missing only at the end, and only under three conditions: none of
//!   the missing blocks is undamaged, there is no undamaged marker of a clean stop, and no undamaged checkpoint or id file proves that
//!   they were durable.
//! - Each transaction is found with its content and outcome, or damage is reported. Transactions of missing blocks are not
//!   found.
//! - The store still works: a new transaction is executed once, and is found after another start.
//!
//! The sizes are the smallest that the store allows. With the feature `simulation`, as in the fuzz targets, blocks have 8 KiB.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use tally::{
    store::embedded::{
        BLOCK_BYTES_MIN, DurablePoint, OpenStore, RecordError, StoreConfig,
        checkpoint::{CheckpointWriter, ChunkStart, put_chunk},
        open, verify,
    },
    wall_clock::ManualWallClock,
};
use tally_journal::{BlockBuffer, HEADER_BYTES};
use tally_ledger::{
    AccountIndex, AccountSnapshot, AccountStatus, AmountRule, BalanceRule, Committed, Heading, Metadata,
    Names, NewAccount, Outcome, Phase, RecordKey, Rejection, TRANSFERS_MAX, Tags, Timestamp, TransactionView,
    Transfer, money::Amount, tag_index::tag, transaction::put_transaction,
};

use super::sim_disk::SimDisk;

const CONFIG: StoreConfig = StoreConfig {
    segment_bytes: 4 * BLOCK_BYTES_MIN,
    block_bytes_max: BLOCK_BYTES_MIN,
};
const ACCOUNTS: [&str; 4] = ["bank", "a", "b", "poor"];
/// Maximum number of damages of an input.
const DAMAGES_MAX: usize = 6;
/// Maximum number of transactions that are looked up after an opening.
const LOOKUPS_MAX: usize = 64;

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// The state after a block.
struct BlockEnd {
    /// The segment of the block, and the start and the end of its bytes.
    segment: u32,
    bytes: std::ops::Range<usize>,
    accounts: Vec<AccountSnapshot>,
    next_sequence: u64,
}

/// A transaction of the history.
struct Known {
    id: String,
    /// The number of its block, from 1.
    block: usize,
    /// The encoded request.
    request: Vec<u8>,
    outcome: Result<Committed, Rejection>,
}

/// A data directory with two full segments, id files, two checkpoints and some more blocks.
struct History {
    /// The files after a clean stop.
    stopped: Files,
    /// The files after a crash: all blocks are durable, and there is no marker of a clean stop.
    crashed: Files,
    /// The files after an earlier clean stop.
    earlier: Files,
    blocks: Vec<BlockEnd>,
    transactions: Vec<Known>,
    /// Files that prove that blocks were durable, and the number of the last of these blocks.
    witnesses: Vec<(PathBuf, usize)>,
}

/// Reads the numbers of an input; 0 after its end.
struct Numbers<'a>(&'a [u8]);

/// Checks an input. Its first byte selects the directory, the rest are damages.
pub(crate) fn check(input: &[u8]) {
    static HISTORY: OnceLock<History> = OnceLock::new();
    let history = HISTORY.get_or_init(History::make);
    let mut numbers = Numbers(input);
    let base = match numbers.byte() % 4 {
        0 => &history.stopped,
        1 => &history.crashed,
        2 => &without(&history.crashed, "checkpoint"),
        _ => &without(&history.crashed, "index"),
    };
    let mut files = base.clone();
    for _ in 0..DAMAGES_MAX {
        if numbers.0.is_empty() {
            break;
        }
        history.damage(&mut numbers, &mut files);
    }
    history.check_opened(base, &files);
}

/// Returns inputs with one damage of each kind.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![0], vec![1], vec![2], vec![3]];
    for base in 0..2 {
        for kind in 0..12 {
            seeds.push(vec![
                base,
                kind,
                kind * 3 + base,
                200 + kind,
                0,
                kind,
                1,
                40,
                0,
                3,
            ]);
        }
    }
    seeds
}

fn without(files: &Files, directory: &str) -> Files {
    let is_kept = |path: &PathBuf| path.parent() != Some(&data().join(directory));
    files
        .iter()
        .filter(|(path, _)| is_kept(path))
        .map(|(path, bytes)| (path.clone(), bytes.clone()))
        .collect()
}

fn data() -> PathBuf {
    PathBuf::from("/data")
}

fn segment_path(number: u32) -> PathBuf {
    data().join("journal").join(format!("{number:010}.segment"))
}

fn open_store(disk: &SimDisk) -> Result<OpenStore, String> {
    let clock = Arc::new(ManualWallClock::new(Timestamp::from_nanos(1)));
    open(disk.handle(), &data(), &CONFIG, clock).map_err(|error| error.to_string())
}

fn snapshots(store: &OpenStore) -> Vec<AccountSnapshot> {
    let accounts = store.ledger.ledger().accounts();
    accounts
        .indexes_from(AccountIndex(0))
        .map(|index| accounts.snapshot(index).expect("an account"))
        .collect()
}

/// Encodes a transaction of one or two transfers. Transactions that begin with `poor` are rejected.
fn request(id: &str, metadata_bytes: usize) -> Vec<u8> {
    let metadata = match metadata_bytes {
        0 => Metadata::new(),
        bytes => Metadata::from([("text".to_owned(), "x".repeat(bytes))]),
    };
    let heading = Heading {
        id: id.as_bytes(),
        phase: Phase::Posted,
        effective_time: None,
        metadata: &metadata,
        names: Names::Nothing,
        keep_remaining: false,
        pending_timeout: None,
    };
    let transfer = |debit: &'static str, credit: &'static str, units: u64| Transfer {
        debit: debit.as_bytes(),
        credit: credit.as_bytes(),
        amount: Amount::from(units),
        code: 3,
        rule: AmountRule::Exact,
    };
    let first = transfer(if id.starts_with("poor") { "poor" } else { "bank" }, "a", 5);
    let transfers = [first, transfer("a", "b", 2)];
    let mut bytes = Vec::new();
    put_transaction(&mut bytes, &heading, transfers.into_iter().take(1 + id.len() % 2));
    bytes
}

fn process(store: &mut OpenStore, request: &[u8]) -> Result<Outcome, RecordError> {
    let view = TransactionView::<'_, &[u8]>::parse(request).expect("a request");
    let tags = Tags {
        id: tag(view.id_bytes(), store.directory.hash_seed()),
        named: None,
        accounts: &[],
    };
    store.ledger.process(&view, tags, None, TRANSFERS_MAX)
}

fn commit(store: &mut OpenStore) {
    let mut sealed = store.ledger.seal(BlockBuffer::default()).expect("records");
    let receipt = store
        .writer
        .append(&sealed.meta, &mut sealed.buffer)
        .expect("an append");
    store.durable = DurablePoint::after(&receipt, &sealed);
    store.ledger.durable_to(receipt.end.position);
}

// ===== impl Numbers =====

impl Numbers<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn below(&mut self, bound: usize) -> usize {
        let number = usize::from(self.byte()) << 8 | usize::from(self.byte());
        number % bound.max(1)
    }
}

// ===== impl History =====

impl History {
    fn make() -> Self {
        let mut history = History {
            stopped: Files::new(),
            crashed: Files::new(),
            earlier: Files::new(),
            blocks: Vec::new(),
            transactions: Vec::new(),
            witnesses: Vec::new(),
        };
        let disk = SimDisk::new(7);
        let mut store = open_store(&disk).expect("a new directory");
        let account = |id: &&str| NewAccount {
            id: (*id).to_owned(),
            asset: "EUR".to_owned(),
            rule: if *id == "bank" {
                BalanceRule::Unlimited
            } else {
                BalanceRule::CreditBalance
            },
            overdraft_limit: Amount::ZERO,
            status: AccountStatus::Open,
            metadata: Metadata::new(),
            velocity_limits: Vec::new(),
        };
        store
            .ledger
            .create_accounts(ACCOUNTS.iter().map(account).collect());
        history.commit(&mut store);
        history.fill_to_segment(&mut store, 1);
        history.checkpoint(&store);
        history.add_block(&mut store, &["early-1", "poor-early", "early-22"]);
        store.writer.finish().expect("a clean stop");
        drop(store);
        disk.restart();
        history.earlier = disk.snapshot();

        let mut store = open_store(&disk).expect("the directory");
        history.fill_to_segment(&mut store, 2);
        history.add_block(&mut store, &["mid-1", "poor-mid", "mid-22"]);
        history.checkpoint(&store);
        history.add_block(&mut store, &["late-1", "poor-late"]);
        history.add_block(&mut store, &["last-1", "last-22"]);
        disk.restart();
        history.crashed = disk.snapshot();
        let mut store = open_store(&disk).expect("the directory");
        history.read_outcomes(&store);
        store.writer.finish().expect("a clean stop");
        history.stopped = disk.snapshot();
        for (path, _) in &history.witnesses {
            assert!(history.stopped.contains_key(path), "{}", path.display());
        }
        history
    }

    /// Commits the open block, and remembers the state after it.
    fn commit(&mut self, store: &mut OpenStore) {
        let start = store.durable.chain().position;
        let bytes = store.ledger.open_bytes() + HEADER_BYTES;
        commit(store);
        self.blocks.push(BlockEnd {
            segment: start.segment(),
            bytes: start.offset() as usize..start.offset() as usize + bytes,
            accounts: snapshots(store),
            next_sequence: store.ledger.order().next_sequence,
        });
    }

    fn add(&mut self, store: &mut OpenStore, id: &str, metadata_bytes: usize) {
        let request = request(id, metadata_bytes);
        process(store, &request).expect("the journal is undamaged");
        self.transactions.push(Known {
            id: id.to_owned(),
            block: self.blocks.len() + 1,
            request,
            outcome: Ok(Committed {
                sequence: 0,
                time: Timestamp::from_nanos(0),
            }),
        });
    }

    fn add_block(&mut self, store: &mut OpenStore, ids: &[&str]) {
        for id in ids {
            self.add(store, id, 0);
        }
        self.commit(store);
    }

    fn fill_to_segment(&mut self, store: &mut OpenStore, number: u32) {
        while store.durable.chain().position.segment() < number {
            while store.ledger.has_room_for_bytes(1500) {
                let prefix = if self.transactions.len() % 5 == 3 {
                    "poor"
                } else {
                    "fill"
                };
                let id = format!("{prefix}-{}", self.transactions.len());
                self.add(store, &id, 1000);
            }
            self.commit(store);
        }
    }

    /// Writes a checkpoint, and the id files of the full segments.
    fn checkpoint(&mut self, store: &OpenStore) {
        let durable = store.durable.chain();
        let mut writer = CheckpointWriter::begin(&store.checkpoints, &store.durable).expect("a disk");
        let mut chunk = Vec::new();
        let mut next = Some(ChunkStart::FIRST);
        while let Some(from) = next {
            chunk.clear();
            next = put_chunk(store.ledger.ledger(), from, &mut chunk);
            writer.chunk(&chunk).expect("a disk");
        }
        writer.finish(durable.last_block_sequence()).expect("a disk");
        let path = data()
            .join("checkpoint")
            .join(format!("{:020}.ckpt", durable.block_sequence));
        self.witnesses.push((path, self.blocks.len()));
        for number in 0..durable.position.segment() {
            let segment = store.walk.full_segment(number, &durable).expect("a full segment");
            store.walk.write(&store.id_files, &segment).expect("a disk");
            let last = self
                .blocks
                .iter()
                .rposition(|block| block.segment == number)
                .expect("blocks")
                + 1;
            let path = data().join("index").join(format!("{number:020}.ids"));
            if !self.witnesses.iter().any(|(known, _)| *known == path) {
                self.witnesses.push((path, last));
            }
        }
    }

    /// Reads the outcomes of all transactions from the undamaged journal.
    fn read_outcomes(&mut self, store: &OpenStore) {
        for known in &mut self.transactions {
            let [position] = store
                .ledger
                .candidates(RecordKey::Transaction(known.id.as_bytes()))[..]
            else {
                panic!("one record of {}", known.id)
            };
            let found = store
                .records
                .find(position, RecordKey::Transaction(known.id.as_bytes()))
                .expect("no damage")
                .expect("the transaction");
            known.outcome = found.view().expect("no damage").1;
        }
    }

    /// Damages the files once, as the numbers say.
    fn damage(&self, numbers: &mut Numbers<'_>, files: &mut Files) {
        let kind = numbers.byte() % 12;
        let Some(path) = nth_file(files, usize::from(numbers.byte())) else {
            return;
        };
        let at = self.place(numbers, files, &path);
        let length = numbers.below(1024);
        let other = nth_file(files, usize::from(numbers.byte())).expect("the first file exists");
        let other_bytes = files[&other].clone();
        let bytes = files.get_mut(&path).expect("the file exists");
        match kind {
            0 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << (length % 8);
                }
            }
            1 => bytes.truncate(at),
            2 => {
                let swapped = std::mem::replace(bytes, other_bytes);
                files.insert(other, swapped);
            }
            3 => *bytes = other_bytes,
            4 => drop(files.remove(&path)),
            5 => {
                let end = (at + length).min(bytes.len());
                bytes[at..end].fill(0);
            }
            6 => match self.earlier.get(&path) {
                Some(earlier) => earlier.clone_into(bytes),
                None => drop(files.remove(&path)),
            },
            7 => {
                for place in at..(at + length % 9).min(bytes.len()) {
                    bytes[place] = numbers.byte();
                }
            }
            8 => {
                let from = numbers.below(other_bytes.len());
                let count = (length * 8).min(other_bytes.len() - from).min(bytes.len() - at);
                bytes[at..at + count].copy_from_slice(&other_bytes[from..from + count]);
            }
            9 => drop(bytes.drain(at..(at + length).min(bytes.len()))),
            10 => {
                let number = u32::try_from(length % 6).expect("small");
                files.insert(segment_path(number), other_bytes);
            }
            _ => bytes.extend_from_slice(&other_bytes[..length.min(other_bytes.len())]),
        }
    }

    /// Returns a place in a file, at most its length: near the start of a block, or near the start or the end of the file.
    fn place(&self, numbers: &mut Numbers<'_>, files: &Files, path: &Path) -> usize {
        let length = files[path].len();
        let mut anchors = vec![0, length];
        for block in self
            .blocks
            .iter()
            .filter(|block| segment_path(block.segment) == path)
        {
            anchors.extend([block.bytes.start, block.bytes.end]);
        }
        let anchor = anchors[usize::from(numbers.byte()) % anchors.len()];
        let offset = numbers.byte().cast_signed();
        // Small offsets reach the fields of a header, large ones other blocks.
        let offset = isize::from(offset) * if offset % 4 == 0 { 64 } else { 1 };
        anchor.saturating_add_signed(offset).min(length)
    }

    /// Returns whether the bytes of block `number`, from 1, are those of the undamaged directory.
    fn is_intact(&self, files: &Files, number: usize) -> bool {
        let block = &self.blocks[number - 1];
        let path = segment_path(block.segment);
        let found = files.get(&path).and_then(|bytes| bytes.get(block.bytes.clone()));
        found == self.crashed[&path].get(block.bytes.clone())
    }

    fn check_opened(&self, base: &Files, files: &Files) {
        let disk = SimDisk::holding(3, files);
        let report = verify(&disk.handle(), &data());
        let is_sound = report.as_ref().is_ok_and(|report| report.is_sound());
        assert!(report.err().is_none_or(|error| !error.to_string().is_empty()));
        let store = match open_store(&disk) {
            Ok(store) => store,
            Err(error) => {
                assert!(!error.is_empty());
                assert!(
                    !is_sound,
                    "the verification finds no damage, but the store does not open: {error}"
                );
                return;
            }
        };
        if store.report.created {
            // All files were removed.
            assert!(
                files.is_empty(),
                "a new directory over the remains of another one"
            );
            return;
        }
        let count = usize::try_from(store.durable.chain().last_block_sequence()).expect("small");
        self.check_end(base, files, count);
        assert_eq!(
            snapshots(&store),
            self.accounts_after(count),
            "after {count} blocks"
        );
        assert_eq!(store.ledger.order().next_sequence, self.sequence_after(count));
        let any_damage = !(1..=count).all(|number| self.is_intact(files, number));
        self.check_transactions(&store, count, any_damage);
        self.check_goes_on(&disk, store, count, any_damage);
    }

    fn accounts_after(&self, count: usize) -> &[AccountSnapshot] {
        count
            .checked_sub(1)
            .map_or(&[], |last| &self.blocks[last].accounts)
    }

    fn sequence_after(&self, count: usize) -> u64 {
        count
            .checked_sub(1)
            .map_or(1, |last| self.blocks[last].next_sequence)
    }

    /// Checks that the journal may end after `count` blocks.
    fn check_end(&self, base: &Files, files: &Files, count: usize) {
        let all = self.blocks.len();
        assert!(count <= all);
        if count == all {
            return;
        }
        let intact = (count + 1..=all).find(|number| self.is_intact(files, *number));
        assert_eq!(
            intact, None,
            "the journal ends after block {count}, and this later block is undamaged"
        );
        let marker = data().join("journal").join("CLEAN");
        let is_same = |path: &PathBuf| base.get(path).is_some_and(|bytes| files.get(path) == Some(bytes));
        assert!(
            !is_same(&marker),
            "blocks after {count} are missing after a clean stop"
        );
        for (path, through) in self.witnesses.iter().filter(|(path, _)| is_same(path)) {
            assert!(
                *through <= count,
                "the journal ends after block {count}, but {} proves that block {through} was durable",
                path.display()
            );
        }
    }

    fn check_transactions(&self, store: &OpenStore, count: usize, any_damage: bool) {
        let step = self.transactions.len() / LOOKUPS_MAX + 1;
        let few = self.transactions.iter().rev().step_by(step);
        for known in few.chain(self.transactions.iter().rev().take(8)) {
            match find(store, &known.id) {
                Ok(found) if known.block > count => assert!(found.is_none(), "{} was removed", known.id),
                Ok(found) => assert_eq!(found, Some(known.outcome), "{}", known.id),
                Err(error) => {
                    assert!(any_damage, "{}: {error}", known.id);
                    assert!(error.damage().is_some(), "{}: {error}", known.id);
                }
            }
        }
    }

    /// Repeats a transaction, executes a new one, and opens the directory again.
    fn check_goes_on(&self, disk: &SimDisk, mut store: OpenStore, count: usize, any_damage: bool) {
        if count == 0 {
            // No account exists, and the rejection of a transaction without accounts is not recorded.
            return;
        }
        let is_before = |known: &&Known| known.block <= count;
        if let Some(known) = self.transactions.iter().rev().find(is_before) {
            match (process(&mut store, &known.request), known.outcome) {
                (
                    Ok(Outcome::Committed {
                        committed,
                        replayed: true,
                    }),
                    Ok(expected),
                ) => {
                    assert_eq!(committed, expected);
                }
                (
                    Ok(Outcome::Rejected {
                        rejection,
                        replayed: true,
                    }),
                    Err(expected),
                ) => {
                    assert_eq!(rejection, expected);
                }
                (Err(error), _) => assert!(any_damage && error.damage().is_some(), "{error}"),
                (other, _) => panic!("the repeated transaction {}: {other:?}", known.id),
            }
        }
        let outcome = process(&mut store, &request("new-after-damage", 0)).expect("the id has no record");
        let balances = snapshots(&store);
        let Outcome::Committed {
            committed,
            replayed: false,
        } = outcome
        else {
            panic!("{outcome:?}")
        };
        commit(&mut store);
        drop(store);
        disk.restart();
        match open_store(disk) {
            Ok(store) => {
                assert_eq!(snapshots(&store), balances);
                assert_eq!(
                    find(&store, "new-after-damage").expect("no damage"),
                    Some(Ok(committed))
                );
                self.check_transactions(&store, count, any_damage);
            }
            Err(error) => assert!(any_damage, "the second start fails: {error}"),
        }
    }
}

/// Returns the outcome of a transaction; `None` if the journal does not contain it.
fn find(store: &OpenStore, id: &str) -> Result<Option<Result<Committed, Rejection>>, RecordError> {
    let key = RecordKey::Transaction(id.as_bytes());
    for position in store.ledger.candidates(key) {
        if let Some(found) = store.records.find(position, key)? {
            return Ok(Some(found.view()?.1));
        }
    }
    Ok(None)
}

fn nth_file(files: &Files, number: usize) -> Option<PathBuf> {
    files.keys().nth(number.checked_rem(files.len())?).cloned()
}
