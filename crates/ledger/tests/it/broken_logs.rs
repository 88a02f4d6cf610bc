//! Logs that fail or break their contract, and requests that the program has encoded wrongly.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tally_ledger::*;

use super::{
    content::{Content, transfer},
    world::{World, state},
};

const MAX: u128 = u128::MAX;

/// An open account without limits.
pub(super) fn open(id: &str) -> NewAccount {
    NewAccount {
        id: id.to_owned(),
        asset: "EUR".to_owned(),
        rule: BalanceRule::Unlimited,
        overdraft_limit: Amount::ZERO,
        status: AccountStatus::Open,
        metadata: Metadata::new(),
        velocity_limits: Vec::new(),
    }
}

/// A ledger with two open accounts without limits.
fn world_of_two() -> World {
    let mut world = World::new();
    world.create(vec![open("a0"), open("a1")]);
    world
}

fn transfers_of(amount: u128, count: usize) -> Content {
    Content::posted("t", &vec![transfer("a0", "a1", amount); count])
}

fn whole_state(world: &World) -> impl PartialEq + std::fmt::Debug + use<> {
    state(&world.ledger, world.log.next().time)
}

#[test]
fn the_longest_transaction_is_applied_completely_or_undone_completely() {
    let mut world = world_of_two();
    world.send(transfers_of(1, TRANSFERS_MAX));
    assert!(world.reached.contains("posted"));

    let mut failing = transfers_of(1, TRANSFERS_MAX);
    failing.id = "failing".to_owned();
    failing.transfers[TRANSFERS_MAX - 1].amount = Amount::new(MAX);
    world.send(failing);
    assert!(world.reached.contains("BALANCE_OVERFLOW Debit later"));
    assert_eq!(
        world.ledger.account("a0").unwrap().balances.debits_posted,
        Amount::from(256)
    );
}

#[test]
fn an_unreadable_log_is_an_error_and_changes_nothing() {
    let mut world = world_of_two();
    world.send(Content::pending("hold", Some(1), &[transfer("a0", "a1", 5)]));
    let entries = world.log.entries;
    let before = whole_state(&world);
    world.log.unreadable = true;
    for content in [
        transfers_of(1, 1),
        Content::post("t", "hold", &[]),
        Content::void("t", "hold"),
        Content::reversal("t", "hold", &[]),
    ] {
        let encoded = content.encode();
        let view = TransactionView::parse(&encoded).unwrap();
        assert_eq!(world.ledger.process(&view, &mut world.log), Err("unreadable"));
    }
    world.log.next_block(1);
    assert_eq!(
        world.ledger.expire_due(9, &mut world.log, |_| true),
        Err("unreadable")
    );
    assert_eq!(whole_state(&world), before);
    assert_eq!(world.log.entries, entries);
}

/// The program itself encodes requests, so a transaction that can't be decoded is a bug. The ledger must panic before
/// the transaction gets into the log: the records of such a log could not be applied again.
#[test]
fn a_transaction_that_is_cut_short_is_never_recorded() {
    let encoded = transfers_of(1, 3).encode();
    for length in 0..encoded.len() {
        if let Ok(view) = TransactionView::parse(&encoded[..length]) {
            let mut world = world_of_two();
            let before = whole_state(&world);
            let processed = catch_unwind(AssertUnwindSafe(|| world.ledger.process(&view, &mut world.log)));
            assert!(processed.is_err(), "{processed:?}");
            assert_eq!(whole_state(&world), before);
            assert_eq!(world.log.entries, 2);
        }
    }
}

#[test]
fn a_record_that_does_not_follow_from_earlier_records_is_an_error() {
    let mut world = world_of_two();
    world.send(transfers_of(MAX, 1));
    let log = &world.log;

    // The record of the first account is missing.
    let error = log.replay_into(&mut Ledger::new(0), 2).unwrap_err();
    let gap = matches!(
        error,
        ReplayError::AccountGap {
            found: 1,
            expected: 0
        }
    );
    assert!(gap, "{error}");
    // In this ledger, another account has the number of the first account.
    let mut other = Ledger::new(0);
    let snapshot = world.ledger.account("a1").unwrap();
    let table = other.accounts_mut();
    table.push(snapshot.account, 1, snapshot.create_time).unwrap();
    let error = log.replay_into(&mut other, 1).unwrap_err();
    assert!(
        matches!(error, ReplayError::OtherAccount { account: 0, .. }),
        "{error}"
    );
    // The records of both accounts are missing.
    let error = log.replay_into(&mut Ledger::new(0), 3).unwrap_err();
    let unknown = matches!(
        error,
        ReplayError::UnknownAccount {
            account: 0,
            accounts: 0,
            ..
        }
    );
    assert!(unknown, "{error}");
    // The balances already hold the maximum.
    let mut full = Ledger::new(0);
    log.replay_into(&mut full, 1).unwrap();
    for index in [0, 1].map(AccountIndex) {
        full.accounts_mut().get_mut(index).unwrap().head = 1;
    }
    let error = log.replay_into(&mut full, 3).unwrap_err();
    assert!(
        matches!(error, ReplayError::OutOfRange { account: 0, .. }),
        "{error}"
    );
}

/// The record of an update names an account that does not exist, and the record of a void releases an amount that is not
/// pending.
#[test]
fn a_record_of_an_update_or_a_void_that_does_not_follow_is_an_error() {
    let mut world = world_of_two();
    world.update(AccountUpdate {
        id: "a1".to_owned(),
        status: Some(AccountStatus::DebitsFrozen),
        ..AccountUpdate::default()
    });
    let error = world.log.replay_into(&mut Ledger::new(0), 3).unwrap_err();
    let unknown = matches!(error, ReplayError::UnknownAccount { account: 1, .. });
    assert!(unknown, "{error}");

    let mut world = world_of_two();
    world.send(Content::pending("hold", None, &[transfer("a0", "a1", 5)]));
    world.send(Content::void("void", "hold"));
    let mut without_hold = Ledger::new(0);
    for id in ["a0", "a1"] {
        let table = without_hold.accounts_mut();
        table.push(open(id), 1, Timestamp::default()).unwrap();
    }
    let error = world.log.replay_into(&mut without_hold, 4).unwrap_err();
    let out_of_range = matches!(error, ReplayError::OutOfRange { account: 0, .. });
    assert!(out_of_range, "{error}");
}

/// A log that breaks its contract: it drops each record, so that the number and the place of the next record never change.
#[derive(Debug)]
struct ForgetfulLog {
    place: u64,
}

impl TransactionLog for ForgetfulLog {
    type Error = &'static str;

    fn find(&mut self, _key: TransactionKey<'_>) -> Result<Option<RecordedTransaction<'_>>, Self::Error> {
        Ok(None)
    }

    fn find_record(&mut self, _key: RecordKey<'_>) -> Result<Option<PlacedRecord<'_>>, Self::Error> {
        Ok(None)
    }

    fn record_at(&mut self, _place: u64) -> Result<PlacedRecord<'_>, Self::Error> {
        Err("no record")
    }

    fn next_entry(&self) -> u64 {
        3
    }

    fn next_place(&self) -> u64 {
        self.place
    }

    fn next_committed(&self) -> Committed {
        Committed {
            sequence: 1,
            time: Timestamp::default(),
        }
    }

    fn block_time(&self) -> Timestamp {
        Timestamp::default()
    }

    fn append(
        &mut self,
        _key: Option<TransactionKey<'_>>,
        _other: Option<RecordKey<'_>>,
        _record: NewRecord<'_>,
        _links: Links<'_>,
    ) -> Committed {
        self.next_committed()
    }
}

#[test]
#[should_panic(expected = "the log has not appended exactly one record")]
fn a_log_that_drops_a_record_stops_the_ledger() {
    let mut world = world_of_two();
    let encoded = transfers_of(1, 1).encode();
    let view = TransactionView::parse(&encoded).unwrap();
    world
        .ledger
        .process(&view, &mut ForgetfulLog { place: 1 << 40 })
        .unwrap();
}

#[test]
#[should_panic(expected = "account number 0 has already been changed by the record at place")]
fn a_log_that_goes_back_to_an_earlier_place_stops_the_ledger() {
    let mut world = world_of_two();
    for id in ["t", "u"] {
        let content = Content {
            id: id.to_owned(),
            ..transfers_of(1, 1)
        };
        world.send(content);
    }
    let encoded = transfers_of(1, 1).encode();
    let view = TransactionView::parse(&encoded).unwrap();
    world
        .ledger
        .process(&view, &mut ForgetfulLog { place: 1 })
        .unwrap();
}
