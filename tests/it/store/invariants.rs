//! Tests of the invariants of the store. A broken invariant must cause a panic, because the store would otherwise lose
//! a transaction or apply it twice.

use std::sync::Arc;

use tally::{
    store::embedded::{DurablePoint, SealedBlock},
    wall_clock::ManualWallClock,
};
use tally_journal::{AppendReceipt, BlockBuffer, Position};
use tally_ledger::{Outcome, Timestamp};

use super::Store;
use crate::support::sim_disk::SimDisk;

fn store() -> Store {
    let mut store = Store::open(&SimDisk::new(1).handle()).unwrap();
    store.create_accounts();
    store
}

/// Commits a block with one transaction.
fn append(store: &mut Store, id: &str) -> (SealedBlock, AppendReceipt) {
    store.pay(id).unwrap();
    let mut sealed = store.opened.ledger.seal(BlockBuffer::default()).unwrap();
    let receipt = store
        .opened
        .writer
        .append(&sealed.meta, &mut sealed.buffer)
        .unwrap();
    (sealed, receipt)
}

#[test]
#[should_panic(expected = "the journal and the ledger number blocks differently")]
fn a_receipt_does_not_make_another_block_durable() {
    let mut store = store();
    let (first, _) = append(&mut store, "first");
    let (_, receipt) = append(&mut store, "second");
    let _point = DurablePoint::after(&receipt, &first);
}

#[test]
#[should_panic(expected = "the journal is durable to 0:0, and not between")]
fn the_durable_point_does_not_move_back() {
    store().opened.ledger.durable_to(Position::START);
}

#[test]
#[should_panic(expected = "the journal is durable to 1:0, and not between")]
fn a_block_that_is_not_sealed_does_not_become_durable() {
    let mut store = store();
    store.pay("open").unwrap();
    store.opened.ledger.durable_to(Position::new(1, 0));
}

#[test]
#[should_panic(expected = "the next block would start with the bytes of another block")]
fn a_block_does_not_start_with_the_bytes_of_another_block() {
    let mut store = store();
    let (mut used, _) = append(&mut store, "first");
    store.pay("second").unwrap();
    used.buffer.push(b"leftover");
    let _sealed = store.opened.ledger.seal(used.buffer);
}

#[test]
#[should_panic(expected = "its records were appended without room")]
fn a_block_does_not_grow_beyond_its_bound() {
    let mut store = store();
    // A record has more than 1000 bytes, so 2100 records need more than the maximum of 2 MiB.
    for number in 0..2100 {
        store.pay(&format!("t{number}")).unwrap();
    }
    assert!(!store.opened.ledger.has_room(1));
}

#[test]
fn commit_times_increase_even_if_the_clock_goes_back() {
    let disk = SimDisk::new(1);
    let clock = Arc::new(ManualWallClock::new(Timestamp::from_nanos(1_000_000)));
    let mut last = Timestamp::default();
    for nanos in [1_000_000, 5, 2_000_000, 0] {
        clock.set(Timestamp::from_nanos(nanos));
        let mut store = Store::open_with(&disk.handle(), clock.clone()).unwrap();
        if store.opened.report.created {
            store.create_accounts();
        }
        for id in ["a", "b"] {
            let outcome = store.pay(&format!("{id}-{nanos}")).unwrap();
            let Outcome::Committed { committed, .. } = outcome else {
                panic!("{outcome:?}");
            };
            assert!(committed.time > last && committed.time.as_nanos() >= nanos);
            last = committed.time;
            store.commit();
        }
        store.stop();
    }
}
