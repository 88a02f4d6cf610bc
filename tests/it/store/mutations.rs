//! Shows for the mutations (deliberate bugs) of the journal and the store that each of them has an effect: a scenario
//! passes without the mutation, and fails with it. The simulation must find them without such a scenario.

use std::{collections::BTreeMap, path::PathBuf, thread};

use tally::mutation::plant;
use tally_journal::{BlockBuffer, HEADER_BYTES};
use tally_ledger::{AccountIndex, Outcome};

use super::{Store, data, id_file_path, make_history, name, segment_path};
use crate::support::sim_disk::SimDisk;

/// Number of seeds of the disk with which a scenario runs that depends on what a crash keeps.
const SEEDS: u64 = 16;

/// Checks that `scenario` passes without a mutation, and fails with each of the `mutations`.
fn check(scenario: fn(), mutations: &[&'static str]) {
    let passes = |mutation: Option<&'static str>| {
        let run = move || {
            plant(mutation).unwrap();
            scenario();
        };
        thread::spawn(run).join().is_ok()
    };
    assert!(passes(None), "the scenario fails without a mutation");
    for mutation in mutations {
        assert!(!passes(Some(mutation)), "the scenario does not find {mutation}");
    }
}

fn reopen(disk: &SimDisk) -> Store {
    disk.restart();
    Store::open(&disk.handle()).unwrap()
}

fn assert_recorded(store: &mut Store, id: &str) {
    let outcome = store.pay(id).unwrap();
    assert!(
        matches!(outcome, Outcome::Committed { replayed: true, .. }),
        "{id}: {outcome:?}"
    );
}

/// Makes a store with two accounts and the transaction `first`.
fn begin(seed: u64) -> (SimDisk, Store) {
    let disk = SimDisk::new(seed);
    let mut store = Store::open(&disk.handle()).unwrap();
    store.create_accounts();
    store.pay("first").unwrap();
    store.commit();
    (disk, store)
}

/// Returns the debits of `a` and the credits of `b`.
fn balances(store: &Store) -> [u128; 2] {
    let accounts = store.opened.ledger.ledger().accounts();
    let [a, b] = [0, 1].map(|index| accounts.get(AccountIndex(index)).unwrap().balances);
    [a.debits_posted, b.credits_posted].map(|amount| amount.minor_units())
}

/// Commits `ids` as one block, and then cuts its body in half, as a crash can do during the write.
fn commit_torn(disk: &SimDisk, mut store: Store, ids: &[&str]) {
    let at = store.opened.durable.chain().position;
    for id in ids {
        store.pay(id).unwrap();
    }
    let body_bytes = store.opened.ledger.open_bytes();
    store.commit();
    drop(store);
    let cut = at.offset() as usize + HEADER_BYTES + body_bytes / 2;
    disk.change(&segment_path(at.segment()), |bytes| bytes[cut..].fill(0));
}

#[test]
fn an_acknowledged_block_survives_a_crash() {
    let scenario = || {
        for seed in 0..SEEDS {
            let (disk, store) = begin(seed);
            disk.crash();
            drop(store);
            assert_recorded(&mut reopen(&disk), "first");
        }
    };
    check(
        scenario,
        &["skip_fsync", "answer_before_sync", "drop_last_block_at_recovery"],
    );
}

#[test]
fn a_block_whose_sync_failed_is_not_acknowledged() {
    let scenario = || {
        for seed in 0..SEEDS {
            let (disk, mut store) = begin(seed);
            store.pay("second").unwrap();
            let mut sealed = store.opened.ledger.seal(BlockBuffer::default()).unwrap();
            disk.fail_sync_after(0);
            let acknowledged = store
                .opened
                .writer
                .append(&sealed.meta, &mut sealed.buffer)
                .is_ok();
            disk.crash();
            drop(store);
            if acknowledged {
                assert_recorded(&mut reopen(&disk), "second");
            }
        }
    };
    check(scenario, &["retry_failed_fsync"]);
}

#[test]
fn a_block_that_a_start_accepted_survives_a_crash_although_its_sync_had_failed() {
    let scenario = || {
        for seed in 0..SEEDS {
            let (disk, mut store) = begin(seed);
            store.pay("second").unwrap();
            let mut sealed = store.opened.ledger.seal(BlockBuffer::default()).unwrap();
            disk.fail_sync_after(0);
            store
                .opened
                .writer
                .append(&sealed.meta, &mut sealed.buffer)
                .unwrap_err();
            drop(store);
            let mut store = reopen(&disk);
            assert_recorded(&mut store, "second");
            disk.crash();
            drop(store);
            assert_recorded(&mut reopen(&disk), "second");
        }
    };
    check(scenario, &["trust_page_cache_at_start"]);
}

#[test]
fn a_new_segment_survives_a_crash() {
    let scenario = || {
        for seed in 0..4 {
            let (disk, mut store) = begin(seed);
            let count = store.fill_to_segment(1, "one");
            store.pay("second").unwrap();
            store.commit();
            disk.crash();
            drop(store);
            let mut store = reopen(&disk);
            assert_recorded(&mut store, &name("one", count - 1));
            assert_recorded(&mut store, "second");
        }
    };
    check(scenario, &["skip_directory_sync"]);
}

#[test]
fn an_incomplete_block_leaves_nothing() {
    let scenario = || {
        let (disk, store) = begin(1);
        commit_torn(&disk, store, &["second", "third", "fourth"]);
        let mut store = reopen(&disk);
        let outcome = store.pay("second").unwrap();
        let Outcome::Committed {
            committed,
            replayed: false,
        } = outcome
        else {
            panic!("{outcome:?}");
        };
        assert_eq!(committed.sequence, 2);
        store.commit();
        store.stop();
        assert_recorded(&mut reopen(&disk), "second");
    };
    let mutations = [
        "accept_torn_block",
        "ignore_block_crc",
        "keep_torn_remains",
        "sequence_gap",
    ];
    check(scenario, &mutations);
}

#[test]
fn a_start_after_a_clean_stop_and_a_crash_in_the_first_write_succeeds() {
    let scenario = || {
        let (disk, store) = begin(1);
        store.stop();
        commit_torn(&disk, reopen(&disk), &["second"]);
        assert_recorded(&mut reopen(&disk), "first");
    };
    check(scenario, &["keep_clean_marker"]);
}

#[test]
fn every_id_is_known_after_a_start_with_a_checkpoint() {
    let scenario = || {
        let (disk, count) = make_history(&BTreeMap::new(), "one");
        let mut store = reopen(&disk);
        for id in [
            name("one", 0),
            name("one", count - 1),
            "before-the-checkpoint".into(),
        ] {
            assert_recorded(&mut store, &id);
        }
    };
    check(scenario, &["skip_segment", "forget_id_at_checkpoint"]);
}

#[test]
fn the_ids_of_a_segment_without_an_id_file_are_known() {
    let scenario = || {
        let (disk, count) = make_history(&BTreeMap::new(), "one");
        let handle = disk.handle();
        handle.remove(&id_file_path(1)).unwrap();
        assert_recorded(&mut reopen(&disk), &name("one", count - 1));
    };
    check(scenario, &["pass_over_segment_without_id_file"]);
}

#[test]
fn a_damaged_segment_before_the_checkpoint_prevents_the_start() {
    let scenario = || {
        let (disk, _) = make_history(&BTreeMap::new(), "one");
        disk.change(&segment_path(0), |bytes| bytes[8] ^= 1);
        assert!(Store::open(&disk.handle()).is_err());
    };
    check(scenario, &["pass_over_damaged_segment"]);
}

#[test]
fn a_start_from_a_checkpoint_has_the_balances_of_all_transactions() {
    let scenario = || {
        let (disk, mut store) = begin(1);
        store.checkpoint();
        let start = store.opened.durable;
        store.pay("second").unwrap();
        store.commit();
        store.checkpoint_from(&start);
        store.pay("third").unwrap();
        store.commit();
        store.stop();
        assert_eq!(balances(&reopen(&disk)), [3, 3]);
    };
    check(scenario, &["apply_twice_on_replay"]);

    let scenario = || {
        let (disk, mut store) = begin(1);
        for id in ["second", "third"] {
            store.checkpoint();
            store.pay(id).unwrap();
            store.commit();
        }
        store.stop();
        assert_eq!(balances(&reopen(&disk)), [3, 3]);
    };
    check(scenario, &["stale_checkpoint_for_newer"]);
}

#[test]
fn a_damaged_checkpoint_changes_no_balance() {
    let scenario = || {
        let (disk, store) = begin(1);
        let path: PathBuf = data()
            .join("checkpoint")
            .join(format!("{:020}.ckpt", store.checkpoint()));
        store.stop();
        let whole = disk.contents(&path);
        // The checkpoint ends with the table of three chunks and the trailer. The accounts are just before.
        let accounts_end = whole.len() - 64 - 3 * 8;
        for at in accounts_end - 16..accounts_end {
            let mut damaged = whole.clone();
            damaged[at] ^= 2;
            disk.change(&path, |bytes| *bytes = damaged);
            assert_eq!(balances(&reopen(&disk)), [1, 1]);
        }
    };
    check(scenario, &["ignore_chunk_crc"]);
}

#[test]
fn a_damaged_record_is_not_compared_with_a_repeated_transaction() {
    let scenario = || {
        let (disk, mut store) = begin(1);
        let at = store.opened.durable.chain().previous_position;
        disk.change(&segment_path(at.segment()), |bytes| {
            let text = at.offset() as usize + HEADER_BYTES + 500;
            assert_eq!(bytes[text], b'x', "the metadata of the record");
            bytes[text] = b'y';
        });
        assert!(store.pay("first").is_err());
    };
    check(scenario, &["ignore_record_crc"]);
}

#[test]
fn an_unknown_mutation_is_refused() {
    assert!(plant(Some("no_such_mutation")).is_err());
}
