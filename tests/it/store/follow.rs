//! Tests of a ledger that follows the blocks of another ledger, and then continues as the writer.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tally::{
    store::embedded::{
        DurablePoint, FollowError, FoundRecord, HistoryReader, JournaledLedger, OpenError, OpenStore,
        SealedBlock, StoppedDirectory,
        checkpoint::{ChunkStart, put_chunk},
        history::Order,
        open_journal, verify,
    },
    wall_clock::ManualWallClock,
};
use tally_journal::{
    BlockBuffer, BlockHeader, BlockKind, BlockSealer, BlockStamp, Genesis, HEADER_BYTES, Journal,
    JournalReader, parse_block,
};
use tally_ledger::{
    AccountIndex, AccountStatus, AccountUpdate, Amount, AmountRule, BalanceRule, Heading, Ledger, Metadata,
    Names, NewAccount, Phase, RecordKey, Side, TRANSFERS_MAX, Tags, Timestamp, TransactionView, Transfer,
    VelocityLimit, tag_index::tag, transaction::put_transaction,
};

use super::{CONFIG, Store, data};
use crate::support::sim_disk::SimDisk;

const ACCOUNTS: u64 = 12;
const SECOND: u64 = 1_000_000_000;

/// The random number generator `SplitMix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).unwrap()
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// One replica: a store on its own disk, with its own clock.
struct Replica {
    disk: SimDisk,
    clock: Arc<ManualWallClock>,
    opened: OpenStore,
    reader: JournalReader,
}

/// The history that the replicas write.
struct History {
    random: Random,
    /// The true time.
    now: u64,
    transactions: u64,
    updates: u64,
    holds: Vec<String>,
    posted: Vec<String>,
}

// ===== impl Replica =====

impl Replica {
    fn open(disk: SimDisk, genesis: Option<&Genesis>, clock: Arc<ManualWallClock>) -> Self {
        let journal = match genesis {
            Some(genesis) => Journal::create_replica(disk.handle(), &data(), genesis),
            None => Journal::open_replica(disk.handle(), &data()),
        };
        let journal = journal.unwrap();
        let reader = journal.reader();
        let opened = open_journal(journal, clock.clone()).unwrap();
        Replica {
            disk,
            clock,
            opened,
            reader,
        }
    }

    /// Stops the process, cleanly or not, and starts it again.
    fn reopen(self, clean: bool) -> Self {
        let Replica {
            disk,
            clock,
            mut opened,
            reader,
        } = self;
        if clean {
            opened.writer.finish().unwrap();
        }
        drop((opened, reader));
        disk.crash();
        Replica::open(disk, None, clock)
    }

    fn ledger(&mut self) -> &mut JournaledLedger {
        &mut self.opened.ledger
    }

    fn sealer(&self) -> BlockSealer {
        let directory = &self.opened.directory;
        BlockSealer::new(
            directory.data_id(),
            directory.geometry(),
            self.opened.writer.end(),
        )
    }

    fn append(&mut self, block: &SealedBlock) -> Vec<u8> {
        let bytes = block.buffer.sealed_bytes().to_vec();
        let receipt = self.opened.writer.append_sealed(&bytes).unwrap();
        self.opened.durable = DurablePoint::after(&receipt, block);
        self.opened.ledger.durable_to(receipt.end.position);
        bytes
    }

    /// Writes the open block as the writer.
    fn commit(&mut self) -> Vec<u8> {
        let mut block = self.opened.ledger.seal_even_if_empty(BlockBuffer::default());
        let mut sealer = self.sealer();
        sealer.seal(&block.meta, block.stamp, &mut block.buffer).unwrap();
        self.append(&block)
    }

    /// Writes a control block, and follows it.
    fn control(&mut self, stamp: BlockStamp, body: &[u8]) -> Vec<u8> {
        let meta = self.ledger().control_meta();
        let mut block = BlockBuffer::default();
        block.push(body);
        self.sealer().seal(&meta, stamp, &mut block).unwrap();
        let bytes = block.sealed_bytes().to_vec();
        self.follow(&bytes);
        bytes
    }

    fn claim(&mut self, term: u64, writer: u32) -> Vec<u8> {
        let kind = BlockKind::Claim;
        let bytes = self.control(BlockStamp { term, writer, kind }, b"the address of the writer");
        self.ledger().set_following(false);
        bytes
    }

    fn parse(&self, bytes: &[u8]) -> BlockHeader {
        let directory = &self.opened.directory;
        parse_block(bytes, directory.data_id(), directory.geometry())
            .unwrap()
            .0
    }

    fn follow(&mut self, bytes: &[u8]) {
        let header = self.parse(bytes);
        self.ledger().set_following(true);
        let block = self
            .ledger()
            .follow(&header, &bytes[HEADER_BYTES..], BlockBuffer::default())
            .unwrap();
        assert_eq!(block.stamp, header.stamp());
        assert_eq!(self.append(&block), bytes);
        assert_eq!(self.ledger().settled_time(), self.ledger().order().last_time);
    }

    /// Returns all blocks of the journal.
    fn blocks(&self) -> Vec<Vec<u8>> {
        let mut blocks = Vec::new();
        let mut point = self.reader.start();
        let mut body = Vec::new();
        while !point.is_at(&self.opened.writer.end()) {
            let (header, next) = self.reader.read_next(&point, &mut body).unwrap();
            let mut block = BlockBuffer::default();
            block.fill_sealed(&header, &body);
            blocks.push(block.sealed_bytes().to_vec());
            point = next;
        }
        blocks
    }

    /// Returns the files that must be the same in all replicas.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let is_shared = |path: &Path| {
            path.ends_with("FORMAT") || path.extension().is_some_and(|extension| extension == "segment")
        };
        // The first segment without a block may be prepared or not.
        let end = self.opened.writer.end().position;
        let unused = end.segment() + u32::from(end.offset() > 0);
        let is_used = |path: &Path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap();
            name == "FORMAT" || *name < *format!("{unused:010}.segment")
        };
        let files = self.disk.snapshot().into_iter();
        files
            .filter(|(path, _)| is_shared(path) && is_used(path))
            .collect()
    }
}

// ===== impl History =====

impl History {
    fn new(seed: u64) -> Self {
        History {
            random: Random(seed),
            now: 1_700_000_000 * SECOND,
            transactions: 0,
            updates: 0,
            holds: Vec::new(),
            posted: Vec::new(),
        }
    }

    fn account(&mut self) -> String {
        format!("account-{}", self.random.below(ACCOUNTS))
    }

    /// Lets some time pass, and sets the clock of the writer, which is not exact.
    fn pass_time(&mut self, clock: &ManualWallClock) {
        self.now += self.random.below(2 * SECOND);
        let error = self.random.below(SECOND);
        clock.set(Timestamp::from_nanos(self.now - error));
    }

    /// Fills the open block of the writer.
    fn fill(&mut self, store: &mut OpenStore) {
        store.ledger.expire_holds(1024).unwrap();
        for _ in 0..self.random.below(120) {
            if self.random.one_in(20) {
                self.update(store);
            } else {
                self.transact(store);
            }
        }
    }

    fn update(&mut self, store: &mut OpenStore) {
        self.updates += 1;
        let update = AccountUpdate {
            id: self.account(),
            status: None,
            overdraft_limit: None,
            metadata: Some(Metadata::from([("update".into(), self.updates.to_string())])),
            velocity_limits: self.random.one_in(3).then(|| limits(10 + self.random.below(20))),
            expected_revision: None,
        };
        let _outcome = store.ledger.update_account(update);
    }

    fn transact(&mut self, store: &mut OpenStore) {
        self.transactions += 1;
        let metadata = Metadata::from([("text".into(), "x".repeat(self.random.index(900)))]);
        let id = format!("transaction-{}", self.transactions);
        let choice = self.random.below(10);
        let other = match choice {
            0..=1 => take(&mut self.random, &mut self.holds),
            2 => take(&mut self.random, &mut self.posted),
            _ => None,
        };
        let (phase, names) = match (&other, choice) {
            (Some(hold), 0) => (Phase::PostPending, Names::Hold(hold.as_bytes())),
            (Some(hold), 1) => (Phase::VoidPending, Names::Hold(hold.as_bytes())),
            (Some(posted), _) => (Phase::Posted, Names::Reversed(posted.as_bytes())),
            (None, 3..=5) => (Phase::Pending, Names::Nothing),
            (None, _) => (Phase::Posted, Names::Nothing),
        };
        let is_hold = phase == Phase::Pending;
        let heading = Heading {
            id: id.as_bytes(),
            phase,
            effective_time: None,
            metadata: &metadata,
            names,
            keep_remaining: false,
            pending_timeout: (is_hold && self.random.one_in(2)).then(|| SECOND * (1 + self.random.below(20))),
        };
        let (debit, credit) = (self.account(), self.account());
        let transfer = Transfer {
            debit: debit.as_bytes(),
            credit: credit.as_bytes(),
            amount: Amount::new(u128::from(1 + self.random.below(300))),
            code: 0,
            rule: AmountRule::Exact,
        };
        let transfers = (names == Names::Nothing).then_some(transfer);
        let mut bytes = Vec::new();
        put_transaction(&mut bytes, &heading, transfers.into_iter());
        let tags = Tags {
            id: tag(id.as_bytes(), store.directory.hash_seed()),
            named: None,
            accounts: &[],
        };
        let Ok(transaction) = TransactionView::parse(&bytes) else {
            // Debit and credit are the same account.
            return;
        };
        let _outcome = store
            .ledger
            .process(&transaction, tags, None, TRANSFERS_MAX)
            .unwrap();
        if is_hold {
            self.holds.push(id);
        } else if other.is_none() {
            self.posted.push(id);
        }
    }
}

fn accounts() -> Vec<NewAccount> {
    let account = |number: u64| NewAccount {
        id: format!("account-{number}"),
        asset: "EUR".into(),
        rule: if number.is_multiple_of(3) {
            BalanceRule::Unlimited
        } else {
            BalanceRule::CreditBalance
        },
        overdraft_limit: Amount::new(if number.is_multiple_of(3) { 0 } else { 2000 }),
        status: AccountStatus::Open,
        metadata: Metadata::new(),
        velocity_limits: if number % 4 == 1 { limits(20) } else { Vec::new() },
    };
    (0..ACCOUNTS).map(account).collect()
}

fn limits(max_count: u64) -> Vec<VelocityLimit> {
    vec![VelocityLimit {
        side: Side::Debit,
        window_nanos: 10 * SECOND,
        max_count,
        max_amount: Some(Amount::new(3000)),
        single_amount_max: None,
    }]
}

fn take(random: &mut Random, ids: &mut Vec<String>) -> Option<String> {
    let count = ids.len();
    (count > 0).then(|| ids.swap_remove(random.index(count)))
}

/// Returns everything that a checkpoint of the ledger contains. The holds are in the order of their places.
fn content(ledger: &Ledger) -> (Vec<u8>, Vec<tally_ledger::Hold>) {
    let mut accounts = Vec::new();
    let mut next = Some(ChunkStart::Accounts(AccountIndex(0)));
    while let Some(start @ ChunkStart::Accounts(_)) = next {
        next = put_chunk(ledger, start, &mut accounts);
    }
    let (mut holds, _) = ledger.holds().page(0, usize::MAX);
    holds.sort_unstable_by_key(|hold| hold.place);
    (accounts, holds)
}

fn assert_equal(a: &Replica, b: &Replica) {
    let (left, right) = (&a.opened, &b.opened);
    assert_eq!(left.durable, right.durable);
    assert_eq!(left.ledger.order(), right.ledger.order());
    assert_eq!(left.ledger.open_block(), right.ledger.open_block());
    assert_eq!(left.ledger.last_stamp(), right.ledger.last_stamp());
    assert_eq!(left.ledger.id_memory().0, right.ledger.id_memory().0);
    assert!(content(left.ledger.ledger()) == content(right.ledger.ledger()));
    assert!(a.files() == b.files(), "the journals differ");
}

/// Makes a directory with an embedded store, and then makes it a directory of the replicated store.
fn make_origin(history: &mut History, clock: &Arc<ManualWallClock>) -> (SimDisk, Genesis) {
    let disk = SimDisk::new(1);
    let mut store = Store::open_with(&disk.handle(), clock.clone()).unwrap();
    let _created = store.opened.ledger.create_accounts(accounts());
    for _ in 0..5 {
        history.pass_time(clock);
        history.fill(&mut store.opened);
        store.commit();
    }
    store.stop();
    disk.restart();
    let mut journal = Journal::open(disk.handle(), &data(), &CONFIG).unwrap();
    journal.make_replicated().unwrap();
    let genesis = journal.directory().genesis();
    drop(journal);
    disk.restart();
    (disk, genesis)
}

fn replicas(history: &mut History) -> [Replica; 2] {
    let clock = || Arc::new(ManualWallClock::new(Timestamp::from_nanos(history.now)));
    let clocks = [clock(), clock()];
    let (disk, genesis) = make_origin(history, &clocks[0]);
    let [first, second] = clocks;
    let origin = Replica::open(disk, None, first);
    let mut copy = Replica::open(SimDisk::new(2), Some(&genesis), second);
    for block in origin.blocks() {
        copy.follow(&block);
    }
    assert_equal(&origin, &copy);
    [origin, copy]
}

#[test]
fn a_ledger_follows_every_block_of_another_one_and_goes_on_as_the_writer() {
    for seed in 1..=4 {
        let mut history = History::new(seed);
        let [mut writer, mut reader] = replicas(&mut history);
        for term in 1..=6 {
            history.pass_time(&writer.clock);
            let claim = writer.claim(term, u32::try_from(history.random.below(1 << 32)).unwrap());
            reader.follow(&claim);
            for _ in 0..10 {
                history.pass_time(&writer.clock);
                history.fill(&mut writer.opened);
                let block = writer.commit();
                reader.follow(&block);
            }
            if history.random.one_in(2) {
                let kind = if history.random.one_in(2) {
                    BlockKind::Resign
                } else {
                    BlockKind::Level
                };
                let stamp = BlockStamp {
                    kind,
                    ..writer.ledger().last_stamp()
                };
                reader.follow(&writer.control(stamp, b"other bytes than records"));
            }
            assert_equal(&writer, &reader);
            let clean = history.random.one_in(2);
            reader = reader.reopen(clean);
            assert_equal(&writer, &reader);
            std::mem::swap(&mut writer, &mut reader);
        }
        assert!(history.transactions > 1000 && !history.holds.is_empty());
        check_readers(&mut writer, &history);
    }
}

/// Checks that all code that reads records skips control blocks.
fn check_readers(replica: &mut Replica, history: &History) {
    let opened = &replica.opened;
    let (end, next) = (opened.writer.end(), opened.ledger.order());
    let reader = HistoryReader::new(opened.records.clone());
    for order in [Order::OldestFirst, Order::NewestFirst] {
        let (mut from, mut to) = (1, next.next_sequence);
        let mut found = 0;
        loop {
            let page = reader
                .transactions((from, to), order, usize::MAX, end.position, &|_: &FoundRecord| {
                    true
                })
                .unwrap();
            found += page.records.len() as u64;
            match (page.next, order) {
                (None, _) => break,
                (Some(next), Order::OldestFirst) => from = next,
                (Some(next), Order::NewestFirst) => to = next + 1,
            }
        }
        assert_eq!(found, next.next_sequence - 1, "{order:?}");
    }
    for number in 1..=history.transactions {
        let id = format!("transaction-{number}");
        let key = RecordKey::Transaction(id.as_bytes());
        for position in opened.ledger.candidates(key) {
            opened.records.find(position, key).unwrap();
        }
    }
    let last = end.position.segment();
    for number in 0..last {
        let segment = opened.walk.full_segment(number, &end).unwrap();
        opened.walk.write(&opened.id_files, &segment).unwrap();
    }
    replica.opened.writer.finish().unwrap();
    let disk = SimDisk::holding(3, &replica.disk.snapshot());
    let report = verify(&disk.handle(), &data()).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.journal.claims, 6);
    assert_eq!(report.last_sequence, next.next_sequence - 1);
    let mut records = 0;
    let stopped = StoppedDirectory::open(disk.handle(), &data()).unwrap();
    let each = stopped.each_record(|_| -> Result<(), OpenError> {
        records += 1;
        Ok(())
    });
    each.unwrap();
    assert_eq!(records, next.next_entry - 1);
}

/// Returns the second of two replicas, and the next block of the first replica, which the second has not followed yet.
fn next_block() -> (Replica, BlockHeader, Vec<u8>) {
    let mut history = History::new(9);
    let [mut writer, mut reader] = replicas(&mut history);
    reader.follow(&writer.claim(3, 7));
    history.pass_time(&writer.clock);
    for _ in 0..20 {
        history.transact(&mut writer.opened);
    }
    let bytes = writer.commit();
    let header = reader.parse(&bytes);
    assert_eq!((header.term, header.writer, header.kind), (3, 7, BlockKind::Data));
    assert!(header.record_count > 0);
    (reader, header, bytes[HEADER_BYTES..].to_vec())
}

#[test]
fn a_block_that_does_not_follow_is_refused_with_the_field_that_differs() {
    type Change = fn(&mut BlockHeader);
    let changes: [(&str, Change); 6] = [
        ("number", |header| header.block_sequence += 1),
        ("position", |header| {
            header.position = tally_journal::Position::START
        }),
        ("first_entry", |header| header.first_entry += 1),
        ("first_sequence", |header| header.first_sequence -= 1),
        ("base_time", |header| header.base_time_ns = 1),
        ("record_count", |header| header.record_count += 1),
    ];
    for (expected, change) in changes {
        let (mut reader, mut header, body) = next_block();
        change(&mut header);
        let error = reader
            .ledger()
            .follow(&header, &body, BlockBuffer::default())
            .unwrap_err();
        assert!(
            matches!(error, FollowError::Order { field, .. } if field == expected),
            "{expected}: {error}"
        );
    }
    let stamps: [Change; 3] = [
        |header| header.term = 2,
        |header| header.writer = 8,
        |header| (header.term, header.writer) = (0, 0),
    ];
    for change in stamps {
        let (mut reader, mut header, body) = next_block();
        let order = reader.ledger().order();
        change(&mut header);
        let error = reader
            .ledger()
            .follow(&header, &body, BlockBuffer::default())
            .unwrap_err();
        assert!(matches!(error, FollowError::Stamp { .. }), "{error}");
        assert_eq!(reader.ledger().order(), order);
    }
}

#[test]
#[should_panic(expected = "the open block must be sealed before")]
fn a_ledger_with_records_of_its_own_follows_no_block() {
    let (mut reader, header, body) = next_block();
    let mut other = History::new(10);
    other.transactions = 1 << 40;
    while reader.ledger().open_records() == 0 {
        other.transact(&mut reader.opened);
    }
    let _block = reader.ledger().follow(&header, &body, BlockBuffer::default());
}

#[test]
fn a_journal_in_which_a_term_begins_without_a_claim_is_refused() {
    let mut history = History::new(11);
    let [mut origin, _] = replicas(&mut history);
    let meta = origin.ledger().control_meta();
    let stamp = BlockStamp {
        term: 4,
        writer: 5,
        kind: BlockKind::Data,
    };
    let mut block = BlockBuffer::default();
    origin.sealer().seal(&meta, stamp, &mut block).unwrap();
    origin.opened.writer.append_sealed(block.sealed_bytes()).unwrap();
    let Replica { disk, opened, .. } = origin;
    drop(opened);
    disk.restart();
    let journal = Journal::open_replica(disk.handle(), &data()).unwrap();
    let error = open_journal(journal, Arc::new(ManualWallClock::new(Timestamp::default()))).unwrap_err();
    assert!(
        matches!(error, OpenError::Block(FollowError::Stamp { .. })),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains("data of term 4, writer 5, which can't follow data of term 0, writer 0"),
        "{error}"
    );
}

#[test]
fn after_the_end_of_the_log_one_directory_goes_on_in_the_embedded_store() {
    let mut history = History::new(12);
    let [mut writer, _] = replicas(&mut history);
    writer.claim(1, 2);
    let stamp = BlockStamp {
        kind: BlockKind::End,
        ..writer.ledger().last_stamp()
    };
    writer.control(stamp, b"this directory");
    let Replica { disk, opened, .. } = writer;
    drop(opened);
    disk.crash();
    let error = Store::open(&disk.handle()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("tally replica detach"), "{error}");
    let mut journal = Journal::open_replica(disk.handle(), &data()).unwrap();
    journal.make_embedded().unwrap();
    drop(journal);
    disk.crash();
    for _ in 0..2 {
        let mut store = Store::open(&disk.handle()).unwrap();
        assert_eq!(
            store.opened.ledger.last_stamp().next_data(),
            BlockStamp::default()
        );
        history.transact(&mut store.opened);
        store.commit();
        store.stop();
        disk.restart();
    }
    assert!(verify(&disk.handle(), &data()).unwrap().is_sound());
}
