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
#[should_panic(expected = "the durable position 0:0 must be between")]
fn durable_to_panics_if_the_position_moves_back() {
    store().opened.ledger.durable_to(Position::START);
}

#[test]
#[should_panic(expected = "the durable position 1:0 must be between")]
fn durable_to_panics_if_the_position_is_after_the_last_sealed_block() {
    let mut store = store();
    store.pay("open").unwrap();
    store.opened.ledger.durable_to(Position::new(1, 0));
}

#[test]
#[should_panic(expected = "the buffer for the next block must be empty")]
fn seal_panics_if_the_spare_buffer_is_not_empty() {
    let mut store = store();
    let (mut used, _) = append(&mut store, "first");
    store.pay("second").unwrap();
    used.buffer.push(b"leftover");
    let _sealed = store.opened.ledger.seal(used.buffer);
}

#[test]
#[should_panic(expected = "the caller did not check for room before an append")]
fn has_room_panics_if_the_open_block_is_too_long() {
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
