//! Tests of the embedded store on a simulated disk, without the service. The data directories of some tests are damaged
//! or mixed from several backups. Other tests run the `tally` binary.

mod damage;
mod expect;
mod files;
mod follow;
mod invariants;
pub(crate) mod process;
mod verify;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use tally::{
    store::embedded::{
        DurablePoint, OpenError, OpenStore, RecordError, StoreConfig,
        checkpoint::{CheckpointWriter, ChunkStart, put_chunk},
        open,
    },
    wall_clock::{SystemWallClock, WallClock},
};
use tally_journal::{BlockBuffer, Disk};
use tally_ledger::{
    AccountIndex, AccountOutcome, AccountStatus, AmountRule, BalanceRule, Heading, Metadata, Names,
    NewAccount, Outcome, Phase, TRANSFERS_MAX, Tags, TransactionView, Transfer, id::check_id, money::Amount,
    tag_index::tag, transaction::put_transaction,
};

use crate::support::sim_disk::SimDisk;

/// Number of transactions in a block.
const BLOCK_TRANSACTIONS: usize = 1000;

/// A configuration with small segments, so that a few blocks fill a segment.
const CONFIG: StoreConfig = StoreConfig {
    segment_bytes: 8 << 20,
    block_bytes_max: 2 << 20,
};

/// An open store. The thread of the test does the work that EXEC, WAL and the maintenance thread do in the service.
struct Store {
    opened: OpenStore,
}

fn data() -> PathBuf {
    PathBuf::from("/data")
}

fn segment_path(number: u32) -> PathBuf {
    data().join("journal").join(format!("{number:010}.segment"))
}

fn id_file_path(number: u32) -> PathBuf {
    data().join("index").join(format!("{number:020}.ids"))
}

// ===== impl Store =====

impl Store {
    fn open(disk: &Arc<dyn Disk>) -> Result<Self, OpenError> {
        Store::open_with(disk, Arc::new(SystemWallClock))
    }

    fn open_with(disk: &Arc<dyn Disk>, clock: Arc<dyn WallClock>) -> Result<Self, OpenError> {
        let opened = open(Arc::clone(disk), &data(), &CONFIG, clock)?;
        Ok(Store { opened })
    }

    /// Creates the accounts `a` and `b`.
    fn create_accounts(&mut self) {
        let account = |id: &str| NewAccount {
            id: id.into(),
            asset: "EUR".into(),
            rule: BalanceRule::Unlimited,
            overdraft_limit: Amount::new(0),
            status: AccountStatus::Open,
            metadata: Metadata::new(),
            velocity_limits: Vec::new(),
        };
        let created = self
            .opened
            .ledger
            .create_accounts(vec![account("a"), account("b")]);
        assert_eq!(
            created,
            AccountOutcome::Created(vec![AccountIndex(0), AccountIndex(1)])
        );
        self.commit();
    }

    /// Transfers one unit from `a` to `b`, with 1000 bytes of metadata.
    fn pay(&mut self, id: &str) -> Result<Outcome, RecordError> {
        check_id(id).unwrap();
        let metadata = Metadata::from([("text".into(), "x".repeat(1000))]);
        let heading = Heading {
            id: id.as_bytes(),
            phase: Phase::Posted,
            effective_time: None,
            metadata: &metadata,
            names: Names::Nothing,
            keep_remaining: false,
            pending_timeout: None,
        };
        let transfer = Transfer {
            debit: b"a".as_slice(),
            credit: b"b".as_slice(),
            amount: Amount::new(1),
            code: 0,
            rule: AmountRule::Exact,
        };
        let mut bytes = Vec::new();
        put_transaction(&mut bytes, &heading, [transfer].into_iter());
        let seed = self.opened.directory.hash_seed();
        let tags = Tags {
            id: tag(id.as_bytes(), seed),
            named: None,
            accounts: &[],
        };
        self.opened.ledger.process(
            &TransactionView::parse(&bytes).unwrap(),
            tags,
            None,
            TRANSFERS_MAX,
        )
    }

    /// Seals the open block and makes it durable, if it has records.
    fn commit(&mut self) {
        if let Some(mut sealed) = self.opened.ledger.seal(BlockBuffer::default()) {
            let receipt = self
                .opened
                .writer
                .append(&sealed.meta, &mut sealed.buffer)
                .unwrap();
            self.opened.durable = DurablePoint::after(&receipt, &sealed);
            self.opened.ledger.durable_to(receipt.end.position);
        }
    }

    /// Commits the transactions `<prefix>-000000`, `<prefix>-000001` and so on, until the journal ends in segment `number`.
    /// Returns their number.
    fn fill_to_segment(&mut self, number: u32, prefix: &str) -> usize {
        let mut count = 0;
        while self.opened.durable.chain().position.segment() < number {
            for _ in 0..BLOCK_TRANSACTIONS {
                let outcome = self.pay(&name(prefix, count)).unwrap();
                assert!(matches!(outcome, Outcome::Committed { replayed: false, .. }));
                count += 1;
            }
            self.commit();
        }
        count
    }

    /// Writes a checkpoint of the ledger. All records must be durable. Returns the number of the checkpoint.
    fn checkpoint(&self) -> u64 {
        self.checkpoint_from(&self.opened.durable)
    }

    /// Does the same as [`Store::checkpoint`], for a checkpoint that was started when the journal was durable up to
    /// `start`.
    fn checkpoint_from(&self, start: &DurablePoint) -> u64 {
        let durable = self.opened.durable;
        let mut writer = CheckpointWriter::begin(&self.opened.checkpoints, start).unwrap();
        let mut from = Some(ChunkStart::Accounts(AccountIndex(0)));
        while let Some(start) = from {
            let mut chunk = Vec::new();
            from = put_chunk(self.opened.ledger.ledger(), start, &mut chunk);
            writer.chunk(&chunk).unwrap();
        }
        writer.finish(durable.chain().last_block_sequence()).unwrap();
        start.chain().block_sequence
    }

    /// Writes the id files of all full segments that have no valid id file. Returns the number of ids that were
    /// written.
    fn write_id_files(&self) -> usize {
        let durable = self.opened.durable.chain();
        (0..durable.position.segment())
            .map(|number| {
                let segment = self.opened.walk.full_segment(number, &durable).unwrap();
                self.opened.walk.write(&self.opened.id_files, &segment).unwrap()
            })
            .sum()
    }

    fn stop(mut self) {
        self.opened.writer.finish().unwrap();
    }
}

fn name(prefix: &str, number: usize) -> String {
    format!("{prefix}-{number:06}")
}

/// Makes a data directory on a new disk that contains the files in `before`. The store adds two full segments of
/// transactions `<prefix>-...`, their id files, a checkpoint after these segments, and one more transaction, and then
/// stops cleanly. Returns the disk and the number of transactions in the full segments.
fn make_history(before: &BTreeMap<PathBuf, Vec<u8>>, prefix: &str) -> (SimDisk, usize) {
    let disk = SimDisk::holding(1, before);
    let mut store = Store::open(&disk.handle()).unwrap();
    if before.is_empty() {
        store.create_accounts();
    }
    let count = store.fill_to_segment(2, prefix);
    // The next block is the first of the third segment, so all ids so far are in the full segments.
    assert_eq!(store.opened.durable.chain().position.offset(), 0);
    assert_eq!(store.write_id_files(), count);
    store.pay("before-the-checkpoint").unwrap();
    store.commit();
    store.checkpoint();
    store.pay("after-the-checkpoint").unwrap();
    store.commit();
    store.stop();
    disk.restart();
    (disk, count)
}
