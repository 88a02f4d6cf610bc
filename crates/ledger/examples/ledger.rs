//! Two accounts, transfers between them, a rejection and a replay, with a transaction log in memory.
//!
//! Run it with `cargo run -p tally-ledger --example ledger`.

#![expect(clippy::print_stdout, reason = "an example prints what it does")]

use std::{collections::HashMap, error::Error};

use tally_ledger::{
    AccountOutcome, AccountStatus, Amount, BalanceRule, Committed, Heading, Ledger, Malformed, Metadata,
    NewAccount, NewRecord, Outcome, Phase, RecordedTransaction, Rejection, Timestamp, TransactionKey,
    TransactionLog, TransactionView, Transfer, transaction::put_transaction,
};

/// An encoded transaction and its outcome.
type Recorded = (Vec<u8>, Result<Committed, Rejection>);

/// A transaction log in memory. A real log writes each record to a disk.
#[derive(Default)]
struct MemoryLog {
    /// The recorded transactions, by id.
    transactions: HashMap<Vec<u8>, Recorded>,
    /// Number of records.
    records: u64,
    /// Number of committed transactions.
    committed: u64,
}

impl TransactionLog for MemoryLog {
    type Error = Malformed;

    fn find(&mut self, key: TransactionKey<'_>) -> Result<Option<RecordedTransaction<'_>>, Malformed> {
        let Some((content, outcome)) = self.transactions.get(key.id) else {
            return Ok(None);
        };
        Ok(Some(RecordedTransaction {
            transaction: TransactionView::parse(content)?,
            outcome: *outcome,
        }))
    }

    fn next_entry(&self) -> u64 {
        self.records + 1
    }

    fn append(&mut self, key: Option<TransactionKey<'_>>, record: NewRecord<'_>) -> Committed {
        self.records += 1;
        let next = Committed {
            sequence: self.committed + 1,
            time: Timestamp::from_nanos(self.records),
        };
        let (content, outcome) = match record {
            NewRecord::Committed { content } => (content, Ok(next)),
            NewRecord::Rejected { content, rejection } => (content, Err(rejection)),
            NewRecord::AccountCreated { .. } => return next,
        };
        self.committed += u64::from(outcome.is_ok());
        if let Some(key) = key {
            let before = self
                .transactions
                .insert(key.id.to_vec(), (content.to_vec(), outcome));
            assert!(before.is_none(), "a transaction id is recorded twice");
        }
        next
    }
}

/// Transfers `amount` cents from one account to another.
fn pay(
    ledger: &mut Ledger,
    log: &mut MemoryLog,
    id: &str,
    (debit, credit): (&str, &str),
    amount: u64,
) -> Result<Outcome, Malformed> {
    let heading = Heading {
        id: id.as_bytes(),
        phase: Phase::Posted,
        effective_time: None,
        metadata: &Metadata::new(),
    };
    let transfer = Transfer {
        debit,
        credit,
        amount: Amount::from(amount),
        code: 0,
    };
    let mut encoded = Vec::new();
    put_transaction(&mut encoded, &heading, [transfer].into_iter());
    ledger.process(&TransactionView::parse(&encoded)?, log)
}

fn main() -> Result<(), Box<dyn Error>> {
    let (mut ledger, mut log) = (Ledger::new(7), MemoryLog::default());
    let account = |id: &str, rule| NewAccount {
        id: id.to_owned(),
        asset: "EUR".to_owned(),
        rule,
        overdraft_limit: Amount::ZERO,
        status: AccountStatus::Open,
        metadata: Metadata::new(),
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
        pay(&mut ledger, &mut log, "t1", deposit, 500)?
    );
    println!(
        "purchase:   {:?}",
        pay(&mut ledger, &mut log, "t2", purchase, 120)?
    );
    // The wallet holds 380 cents, so this transaction is rejected.
    println!(
        "overdraft:  {:?}",
        pay(&mut ledger, &mut log, "t3", purchase, 381)?
    );
    // A retry with the same id and content gets the same outcome, and changes no balance.
    println!(
        "replay:     {:?}",
        pay(&mut ledger, &mut log, "t2", purchase, 120)?
    );
    // The same id with a different amount is an error of the caller.
    println!(
        "reused id:  {:?}",
        pay(&mut ledger, &mut log, "t2", purchase, 121)?
    );

    for id in ["bank", "wallet"] {
        let balances = ledger.account(id).ok_or("the account exists")?.balances;
        println!(
            "{id:<8} debits {:>4}  credits {:>4}",
            balances.debits_posted, balances.credits_posted
        );
    }
    Ok(())
}
