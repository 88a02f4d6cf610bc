//! Compares the ledger with a simple model of its rules. Runs random sequences of requests, and checks all invariants
//! after each request.

// This condition is always true here. Without the attribute, clippy would not know that the helpers are test code.
#![cfg(test)]

mod generators;
mod memory_log;
mod model;

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
};

use generators::{Step, steps};
use memory_log::MemoryLog;
use model::{Content, Model, Verdict};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use tally_ledger::*;

/// Number of request sequences that `the_generator_reaches_every_outcome` runs.
const REACH_CASES: usize = 600;
const MAX: u128 = u128::MAX;

/// Copies of all accounts. The test copies a few accounts at a time, and transactions change accounts between the
/// copies.
#[derive(Debug)]
struct Checkpoint {
    first_entry: u64,
    accounts_at_start: usize,
    copies: Vec<(AccountSnapshot, Account)>,
}

/// A sum of amounts that can't overflow: the multiple of 2^128, and the remainder.
#[derive(Debug, Default, PartialEq)]
struct Sum(u32, u128);

/// The ledger, its log, the model, and the transactions sent so far.
struct World {
    ledger: Ledger,
    log: MemoryLog,
    model: Model,
    sent: Vec<Content>,
    checkpoint: Option<Checkpoint>,
    reached: BTreeSet<String>,
}

// ===== impl World =====

impl World {
    fn new() -> Self {
        World {
            ledger: Ledger::new(1),
            log: MemoryLog::new(),
            model: Model::default(),
            sent: Vec::new(),
            checkpoint: None,
            reached: BTreeSet::new(),
        }
    }

    fn run(&mut self, steps: Vec<Step>) -> Result<(), TestCaseError> {
        for step in steps {
            match step {
                Step::Create(new) => self.create(new)?,
                Step::Send(content) => self.send(content)?,
                Step::SendAgain(place) if !self.sent.is_empty() => {
                    self.send(place.get(&self.sent).clone())?;
                }
                Step::SendChanged(place, change) if !self.sent.is_empty() => {
                    self.send(place.get(&self.sent).clone().changed(change))?;
                }
                Step::SendAgain(_) | Step::SendChanged(..) => {}
                Step::NextBlock(later_by_nanos) => self.log.next_block(later_by_nanos),
                Step::Copy(count) => self.copy(count),
            }
            self.check_accounts()?;
            self.check_replay()?;
        }
        Ok(())
    }

    fn create(&mut self, new: Vec<NewAccount>) -> Result<(), TestCaseError> {
        let (entries, before) = (self.log.entries, self.accounts());
        let names = new.iter().map(|account| account.id.clone()).collect::<Vec<_>>();
        let expected = self.model.create(&new);
        let outcome = self.ledger.create_accounts(new, &mut self.log);
        let created = self.accounts().len() - before.len();
        prop_assert_eq!(self.log.entries - entries, created as u64);
        match (expected, outcome) {
            (Ok(()), AccountOutcome::Created(indexes)) => {
                prop_assert_eq!(indexes.len(), names.len());
                for (index, name) in indexes.into_iter().zip(&names) {
                    prop_assert_eq!(self.ledger.accounts().id(index), Some(name.as_str()));
                }
                let new = if created == names.len() {
                    "all new"
                } else {
                    "some known"
                };
                self.reached.insert(format!("accounts created, {new}"));
            }
            (Err(expected), AccountOutcome::Reused { place, .. }) => {
                prop_assert_eq!(place, expected);
                prop_assert_eq!(self.accounts(), before);
                self.reached.insert("account reused".to_owned());
            }
            (expected, outcome) => prop_assert!(false, "{outcome:?} instead of {expected:?}"),
        }
        Ok(())
    }

    fn send(&mut self, content: Content) -> Result<(), TestCaseError> {
        let (entries, before) = (self.log.entries, self.accounts());
        let next = self.log.next();
        let encoded = content.encode();
        let view = TransactionView::parse(&encoded).unwrap();
        let outcome = self.ledger.process(&view, &mut self.log).unwrap();
        self.sent.push(content.clone());

        let (expected, recorded) = match self.model.process(&content) {
            Verdict::First(Ok(())) => {
                prop_assert_eq!(next.sequence, self.model.committed + 1);
                self.model.remember(content, Ok(next));
                (committed(next, false), true)
            }
            Verdict::First(Err(rejection)) => {
                let recorded = model::is_recorded(rejection.reason);
                if recorded {
                    self.model.remember(content, Err(rejection));
                }
                (rejected(rejection, false), recorded)
            }
            Verdict::Again(Ok(earlier)) => (committed(earlier, true), false),
            Verdict::Again(Err(rejection)) => (rejected(rejection, true), false),
            Verdict::Reused(field) => (Outcome::Reused { field }, false),
        };
        prop_assert_eq!(outcome, expected);
        prop_assert_eq!(self.log.entries - entries, u64::from(recorded));
        if outcome != committed(next, false) {
            prop_assert_eq!(self.accounts(), before, "only a first commit changes accounts");
        }
        self.reached.insert(label(outcome));
        Ok(())
    }

    /// Copies the next `count` accounts into the checkpoint. Starts a new checkpoint if none exists or the
    /// current checkpoint is complete.
    fn copy(&mut self, count: usize) {
        if self.checkpoint.as_ref().is_none_or(Checkpoint::is_complete) {
            self.checkpoint = Some(Checkpoint {
                first_entry: self.log.next_entry(),
                accounts_at_start: self.ledger.accounts().len(),
                copies: Vec::new(),
            });
        }
        let checkpoint = self.checkpoint.as_mut().unwrap();
        let table = self.ledger.accounts();
        let from = AccountIndex(u32::try_from(checkpoint.copies.len()).unwrap());
        for index in table.indexes_from(from).take(count) {
            checkpoint
                .copies
                .push((table.snapshot(index).unwrap(), *table.get(index).unwrap()));
        }
        if checkpoint.is_complete() && self.log.entries >= checkpoint.first_entry {
            self.reached.insert("checkpoint copied amid changes".to_owned());
        }
    }

    /// Checks that the balances equal those of the model, and that debits equal credits for each asset.
    fn check_accounts(&self) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.ledger.accounts().len(), self.model.accounts.len());
        let mut sums = BTreeMap::<&str, (Sum, Sum)>::new();
        for (name, expected) in &self.model.accounts {
            let found = self.ledger.account(name).unwrap();
            prop_assert_eq!(&found.account, &expected.new);
            let balances = Balances {
                debits_posted: Amount::new(expected.debits),
                credits_posted: Amount::new(expected.credits),
                ..Balances::default()
            };
            prop_assert_eq!(found.balances, balances);
            let (debits, credits) = sums.entry(&expected.new.asset).or_default();
            debits.add(found.balances.debits_posted);
            credits.add(found.balances.credits_posted);
        }
        for (asset, (debits, credits)) in sums {
            prop_assert_eq!(debits, credits, "asset {}", asset);
        }
        prop_assert_eq!(self.log.next().sequence, self.model.committed + 1);
        Ok(())
    }

    /// Checks that applying the records again gives the same accounts. Applies them to an empty ledger, to the same
    /// ledger a second time, and to a ledger that is restored from the checkpoint.
    fn check_replay(&mut self) -> Result<(), TestCaseError> {
        let mut fresh = Ledger::new(2);
        self.log.replay_into(&mut fresh, 1).unwrap();
        prop_assert_eq!(all(&fresh), all(&self.ledger));
        self.log.replay_into(&mut fresh, 1).unwrap();
        prop_assert_eq!(all(&fresh), all(&self.ledger));
        if let Some(checkpoint) = self.checkpoint.as_ref().filter(|copy| copy.is_complete()) {
            let mut restored = checkpoint.restore();
            self.log
                .replay_into(&mut restored, checkpoint.first_entry)
                .unwrap();
            prop_assert_eq!(all(&restored), all(&self.ledger));
        }
        Ok(())
    }

    fn accounts(&self) -> Vec<Account> {
        all(&self.ledger)
            .into_iter()
            .map(|(_, account)| account)
            .collect()
    }
}

// ===== impl Sum =====

impl Sum {
    fn add(&mut self, amount: Amount) {
        let (sum, carry) = self.1.overflowing_add(amount.minor_units());
        *self = Sum(self.0 + u32::from(carry), sum);
    }
}

// ===== impl Checkpoint =====

impl Checkpoint {
    fn is_complete(&self) -> bool {
        self.copies.len() >= self.accounts_at_start
    }

    fn restore(&self) -> Ledger {
        let mut ledger = Ledger::new(3);
        for (snapshot, account) in &self.copies {
            let table = ledger.accounts_mut();
            let index = table
                .push(snapshot.account.clone(), account.version, snapshot.create_time)
                .unwrap();
            table.get_mut(index).unwrap().balances = account.balances;
        }
        ledger
    }
}

/// All accounts of the ledger, in the order of creation.
fn all(ledger: &Ledger) -> Vec<(AccountSnapshot, Account)> {
    let table = ledger.accounts();
    table
        .indexes_from(AccountIndex(0))
        .map(|index| (table.snapshot(index).unwrap(), *table.get(index).unwrap()))
        .collect()
}

const fn committed(committed: Committed, replayed: bool) -> Outcome {
    Outcome::Committed { committed, replayed }
}

const fn rejected(rejection: Rejection, replayed: bool) -> Outcome {
    Outcome::Rejected { rejection, replayed }
}

/// The outcome as text, without its numbers.
fn label(outcome: Outcome) -> String {
    match outcome {
        Outcome::Committed { replayed: true, .. } => "committed, replayed".to_owned(),
        Outcome::Committed { .. } => "committed".to_owned(),
        Outcome::Rejected {
            rejection:
                Rejection {
                    reason,
                    side,
                    transfer,
                    ..
                },
            replayed,
        } => {
            let replayed = if replayed { ", replayed" } else { "" };
            let place = if transfer == 0 { "first" } else { "later" };
            format!("{reason} {side:?} {place}{replayed}")
        }
        Outcome::Reused { field } => field
            .to_string()
            .replace(|digit: char| digit.is_ascii_digit(), ""),
    }
}

// ===== tests =====

proptest! {
    #[test]
    fn the_ledger_agrees_with_the_model(steps in steps()) {
        World::new().run(steps)?;
    }
}

#[test]
fn the_generator_reaches_every_outcome() {
    let mut runner = TestRunner::deterministic();
    let mut reached = BTreeSet::new();
    for _ in 0..REACH_CASES {
        let mut world = World::new();
        world
            .run(steps().new_tree(&mut runner).unwrap().current())
            .unwrap();
        reached.append(&mut world.reached);
    }

    let mut expected = BTreeSet::new();
    for place in ["first", "later"] {
        for side in ["Debit", "Credit"] {
            expected.insert(format!("ACCOUNT_NOT_FOUND {side} {place}"));
            for reason in [
                "ACCOUNT_FROZEN",
                "ACCOUNT_CLOSED",
                "INSUFFICIENT_FUNDS",
                "BALANCE_OVERFLOW",
            ] {
                expected.insert(format!("{reason} {side} {place}"));
                expected.insert(format!("{reason} {side} {place}, replayed"));
            }
        }
        for reason in ["SAME_ACCOUNT", "ASSET_MISMATCH"] {
            expected.insert(format!("{reason} Credit {place}"));
        }
    }
    // `phase` can't differ, because only one phase exists.
    for other in [
        "committed",
        "committed, replayed",
        "effective_time",
        "metadata",
        "transfers",
        "transfers[].debit_account_id",
        "transfers[].credit_account_id",
        "transfers[].amount",
        "transfers[].code",
        "accounts created, all new",
        "accounts created, some known",
        "account reused",
        "checkpoint copied amid changes",
    ] {
        expected.insert(other.to_owned());
    }
    assert_eq!(reached, expected);
}

/// A ledger with two open accounts without limits.
fn world_of_two() -> World {
    let open = |id: &str| NewAccount {
        id: id.to_owned(),
        asset: "EUR".to_owned(),
        rule: BalanceRule::Unlimited,
        overdraft_limit: Amount::ZERO,
        status: AccountStatus::Open,
        metadata: Metadata::new(),
    };
    let mut world = World::new();
    world.create(vec![open("a0"), open("a1")]).unwrap();
    world
}

fn transfers_of(amount: u128, count: usize) -> Content {
    let transfer = Transfer {
        debit: "a0".to_owned(),
        credit: "a1".to_owned(),
        amount: Amount::new(amount),
        code: 0,
    };
    Content {
        id: "t".to_owned(),
        effective_time: None,
        metadata: Metadata::new(),
        transfers: vec![transfer; count],
    }
}

#[test]
fn the_longest_transaction_is_applied_completely_or_undone_completely() {
    let mut world = world_of_two();
    world.send(transfers_of(1, TRANSFERS_MAX)).unwrap();
    assert!(world.reached.contains("committed"));

    let mut failing = transfers_of(1, TRANSFERS_MAX);
    failing.id = "failing".to_owned();
    failing.transfers[TRANSFERS_MAX - 1].amount = Amount::new(MAX);
    world.send(failing).unwrap();
    assert!(world.reached.contains("BALANCE_OVERFLOW Debit later"));
    assert_eq!(
        world.ledger.account("a0").unwrap().balances.debits_posted,
        Amount::from(256)
    );
}

#[test]
fn an_unreadable_log_is_an_error_and_changes_nothing() {
    let mut world = world_of_two();
    let before = all(&world.ledger);
    world.log.unreadable = true;
    let encoded = transfers_of(1, 1).encode();
    let view = TransactionView::parse(&encoded).unwrap();
    assert_eq!(world.ledger.process(&view, &mut world.log), Err("unreadable"));
    assert_eq!(all(&world.ledger), before);
    assert_eq!(world.log.entries, 2);
}

/// The program itself encodes requests, so a transaction that can't be decoded is a bug. The ledger must panic before
/// the transaction gets into the log: the records of such a log could not be applied again.
#[test]
fn a_transaction_that_is_cut_short_is_never_recorded() {
    let encoded = transfers_of(1, 3).encode();
    for length in 0..encoded.len() {
        if let Ok(view) = TransactionView::parse(&encoded[..length]) {
            let mut world = world_of_two();
            let before = all(&world.ledger);
            let processed = catch_unwind(AssertUnwindSafe(|| world.ledger.process(&view, &mut world.log)));
            assert!(processed.is_err(), "{processed:?}");
            assert_eq!(all(&world.ledger), before);
            assert_eq!(world.log.entries, 2);
        }
    }
}

#[test]
fn a_record_that_does_not_follow_from_earlier_records_is_an_error() {
    let mut world = world_of_two();
    world.send(transfers_of(MAX, 1)).unwrap();
    let log = &world.log;

    // The record of the first account is missing.
    let error = log.replay_into(&mut Ledger::new(0), 2).unwrap_err();
    assert!(
        matches!(
            error,
            ReplayError::AccountGap {
                found: 1,
                expected: 0
            }
        ),
        "{error}"
    );
    // In this ledger, another account has the number of the first account.
    let mut other = Ledger::new(0);
    let snapshot = world.ledger.account("a1").unwrap();
    other
        .accounts_mut()
        .push(snapshot.account, 1, snapshot.create_time)
        .unwrap();
    let error = log.replay_into(&mut other, 1).unwrap_err();
    assert!(
        matches!(error, ReplayError::OtherAccount { account: 0, .. }),
        "{error}"
    );
    // The records of both accounts are missing.
    let error = log.replay_into(&mut Ledger::new(0), 3).unwrap_err();
    assert!(
        matches!(
            error,
            ReplayError::UnknownAccount {
                account: 0,
                accounts: 0,
                ..
            }
        ),
        "{error}"
    );
    // The balances already hold the maximum.
    let mut full = Ledger::new(0);
    log.replay_into(&mut full, 1).unwrap();
    for index in [0, 1].map(AccountIndex) {
        full.accounts_mut().get_mut(index).unwrap().version = 2;
    }
    let error = log.replay_into(&mut full, 3).unwrap_err();
    assert!(
        matches!(error, ReplayError::Overflow { account: 0, .. }),
        "{error}"
    );
}

/// A log that breaks its contract: it drops each record, so that the number of the next record never changes.
#[derive(Debug)]
struct ForgetfulLog;

impl TransactionLog for ForgetfulLog {
    type Error = &'static str;

    fn find(&mut self, _key: TransactionKey<'_>) -> Result<Option<RecordedTransaction<'_>>, Self::Error> {
        Ok(None)
    }

    fn next_entry(&self) -> u64 {
        3
    }

    fn append(&mut self, _key: Option<TransactionKey<'_>>, _record: NewRecord<'_>) -> Committed {
        Committed {
            sequence: 1,
            time: Timestamp::default(),
        }
    }
}

#[test]
#[should_panic(expected = "the log has not appended exactly one record")]
fn a_log_that_drops_a_record_stops_the_ledger() {
    let mut world = world_of_two();
    let encoded = transfers_of(1, 1).encode();
    let view = TransactionView::parse(&encoded).unwrap();
    world.ledger.process(&view, &mut ForgetfulLog).unwrap();
}

#[test]
#[should_panic(expected = "account number 0 has already been changed by record 4")]
fn a_log_that_reuses_a_record_number_stops_the_ledger() {
    let mut world = world_of_two();
    for id in ["t", "u"] {
        let content = Content {
            id: id.to_owned(),
            ..transfers_of(1, 1)
        };
        world.send(content).unwrap();
    }
    let encoded = transfers_of(1, 1).encode();
    let view = TransactionView::parse(&encoded).unwrap();
    world.ledger.process(&view, &mut ForgetfulLog).unwrap();
}
