//! Two accounts, transfers between them, a rejection, a replay and a hold, with a transaction log in memory.
//!
//! Run it with `cargo run -p tally-ledger --example ledger`.

#![expect(clippy::print_stdout, reason = "an example prints what it does")]

use std::{collections::HashMap, error::Error};

use tally_ledger::{
    AccountOutcome, AccountStatus, Amount, AmountRule, BalanceRule, Committed, Heading, Ledger, Links,
    Malformed, Metadata, Names, NewAccount, NewRecord, Outcome, Phase, PlacedRecord, RecordKey,
    RecordedTransaction, Timestamp, TransactionKey, TransactionLog, TransactionView, Transfer,
    codec::Reader,
    record::{FramedRecord, Record, put_record, take_record},
    transaction::put_transaction,
};

/// A transaction log in memory. A real log writes each record to a disk.
#[derive(Default)]
struct MemoryLog {
    /// The encoded records. The place of a record is its offset.
    records: Vec<u8>,
    /// The places of the records by the hashes of their keys. A real log also compares the keys.
    places: HashMap<u64, u64>,
    /// Number of records.
    record_count: u64,
    /// Number of records with a sequence.
    sequence: u32,
}

/// Seed of the hashes.
const SEED: u64 = 7;

impl MemoryLog {
    /// The sequence and the time of a record that follows `before` records with a sequence.
    fn committed_after(before: u64) -> Committed {
        Committed {
            sequence: before + 1,
            time: Timestamp::from_nanos(before + 1),
        }
    }

    fn read(&self, place: u64) -> Result<FramedRecord<'_>, Malformed> {
        let start = usize::try_from(place).ok();
        let from = start.and_then(|start| self.records.get(start..));
        let mut reader = Reader::new(from.ok_or(Malformed { what: "a place" })?);
        take_record(&mut reader, place)
    }
}

impl TransactionLog for MemoryLog {
    type Error = Malformed;

    fn find(&mut self, key: TransactionKey<'_>) -> Result<Option<RecordedTransaction<'_>>, Malformed> {
        let Some(place) = self.places.get(&key.tag) else {
            return Ok(None);
        };
        let FramedRecord { record, ordinal, .. } = self.read(*place)?;
        let Some((transaction, rejection)) = record.transaction() else {
            return Ok(None);
        };
        let effects = match record {
            Record::Committed { effects, .. } => effects,
            Record::AccountCreated { .. }
            | Record::HoldExpired { .. }
            | Record::AccountUpdated { .. }
            | Record::Rejected { .. } => None,
        };
        Ok(Some(RecordedTransaction {
            transaction,
            effects,
            outcome: rejection.map_or(Ok(MemoryLog::committed_after(ordinal.into())), Err),
        }))
    }

    fn find_record(&mut self, key: RecordKey<'_>) -> Result<Option<PlacedRecord<'_>>, Malformed> {
        let place = self.places.get(&key.tag(SEED)).copied();
        place.map(|place| self.record_at(place)).transpose()
    }

    fn record_at(&mut self, place: u64) -> Result<PlacedRecord<'_>, Malformed> {
        let record = self.read(place)?.record;
        Ok(PlacedRecord { place, record })
    }

    fn next_entry(&self) -> u64 {
        self.record_count + 1
    }

    fn next_place(&self) -> u64 {
        self.records.len() as u64
    }

    fn next_committed(&self) -> Committed {
        MemoryLog::committed_after(self.sequence.into())
    }

    fn block_time(&self) -> Timestamp {
        self.next_committed().time
    }

    fn append(
        &mut self,
        key: Option<TransactionKey<'_>>,
        other: Option<RecordKey<'_>>,
        record: NewRecord<'_>,
        links: Links<'_>,
    ) -> Committed {
        let (committed, place) = (self.next_committed(), self.next_place());
        let own = key.map(|key| RecordKey::Transaction(key.id));
        for key in [own, other].into_iter().flatten() {
            let before = self.places.insert(key.tag(SEED), place);
            assert!(before.is_none(), "{key:?} is recorded twice");
        }
        let ordinal = self.sequence;
        put_record(
            &mut self.records,
            0,
            ordinal,
            place,
            record,
            links,
            &mut Vec::new(),
        );
        self.record_count += 1;
        self.sequence += u32::from(record.has_sequence());
        committed
    }
}

/// A transaction without metadata.
fn heading<'a>(id: &'a str, phase: Phase, names: Names<'a>, metadata: &'a Metadata) -> Heading<'a> {
    Heading {
        id: id.as_bytes(),
        phase,
        effective_time: None,
        metadata,
        names,
        keep_remaining: false,
        pending_timeout: None,
    }
}

/// Transfers `amount` cents from one account to another, or reserves them.
fn pay(
    ledger: &mut Ledger,
    log: &mut MemoryLog,
    (id, phase): (&str, Phase),
    (debit, credit): (&str, &str),
    amount: u64,
) -> Result<Outcome, Malformed> {
    let transfer = Transfer {
        debit,
        credit,
        amount: Amount::from(amount),
        code: 0,
        rule: AmountRule::Exact,
    };
    let (mut encoded, metadata) = (Vec::new(), Metadata::new());
    let heading = heading(id, phase, Names::Nothing, &metadata);
    put_transaction(&mut encoded, &heading, [transfer].into_iter());
    ledger.process(&TransactionView::parse(&encoded)?, log)
}

/// Posts what a hold reserves.
fn post(ledger: &mut Ledger, log: &mut MemoryLog, id: &str, hold: &str) -> Result<Outcome, Malformed> {
    let (mut encoded, metadata) = (Vec::new(), Metadata::new());
    let heading = heading(id, Phase::PostPending, Names::Hold(hold.as_bytes()), &metadata);
    put_transaction(&mut encoded, &heading, std::iter::empty::<Transfer<&str>>());
    ledger.process(&TransactionView::parse(&encoded)?, log)
}

fn main() -> Result<(), Box<dyn Error>> {
    let (mut ledger, mut log) = (Ledger::new(SEED), MemoryLog::default());
    let account = |id: &str, rule| NewAccount {
        id: id.to_owned(),
        asset: "EUR".to_owned(),
        rule,
        overdraft_limit: Amount::ZERO,
        status: AccountStatus::Open,
        metadata: Metadata::new(),
        velocity_limits: Vec::new(),
    };
    // The wallet may spend only what it has received. The bank may have any balance.
    let accounts = vec![
        account("bank", BalanceRule::Unlimited),
        account("wallet", BalanceRule::CreditBalance),
    ];
    let created = ledger.create_accounts(accounts, &mut log);
    assert!(matches!(created, AccountOutcome::Created(_)));

    let deposit = ("bank", "wallet");
    let purchase = ("wallet", "bank");
    println!(
        "deposit:    {:?}",
        pay(&mut ledger, &mut log, ("t1", Phase::Posted), deposit, 500)?
    );
    println!(
        "purchase:   {:?}",
        pay(&mut ledger, &mut log, ("t2", Phase::Posted), purchase, 120)?
    );
    // The wallet holds 380 cents, so this transaction is rejected.
    println!(
        "overdraft:  {:?}",
        pay(&mut ledger, &mut log, ("t3", Phase::Posted), purchase, 381)?
    );
    // A retry with the same id and content gets the same outcome, and changes no balance.
    println!(
        "replay:     {:?}",
        pay(&mut ledger, &mut log, ("t2", Phase::Posted), purchase, 120)?
    );
    // The same id with a different amount is an error of the caller.
    println!(
        "reused id:  {:?}",
        pay(&mut ledger, &mut log, ("t2", Phase::Posted), purchase, 121)?
    );

    // A hold reserves 100 cents, and a second transaction posts them.
    let reserved = ("t4", Phase::Pending);
    println!(
        "hold:       {:?}",
        pay(&mut ledger, &mut log, reserved, purchase, 100)?
    );
    println!("post:       {:?}", post(&mut ledger, &mut log, "t5", "t4")?);

    for id in ["bank", "wallet"] {
        let balances = ledger.account(id).ok_or("the account exists")?.balances;
        println!(
            "{id:<8} debits {:>4}  credits {:>4}",
            balances.debits_posted, balances.credits_posted
        );
    }
    Ok(())
}
