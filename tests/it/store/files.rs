//! Tests of opening a data directory with unreadable, damaged, missing or foreign files. Without a usable checkpoint or
//! id file, opening reads the journal instead. A damaged or missing segment is an error.

use std::collections::BTreeMap;

use tally::store::embedded::OpenError;
use tally_journal::JournalError;
use tally_ledger::Outcome;

use super::{Store, data, id_file_path, make_history, name, segment_path};
use crate::support::sim_disk::SimDisk;

/// Sends some of the transactions again, and checks that each is replayed.
fn assert_known(store: &mut Store, prefix: &str, count: usize) {
    for number in (0..count).step_by(97).chain([count - 1]) {
        let id = name(prefix, number);
        let outcome = store.pay(&id).unwrap();
        let is_replayed = matches!(
            outcome,
            Outcome::Committed { committed, replayed: true } if committed.sequence == number as u64 + 1
        );
        assert!(is_replayed, "{id} was not replayed: {outcome:?}");
    }
}

#[test]
fn an_id_file_of_another_history_is_replaced() {
    // Both directories continue from the same files, and differ only in the ids of their transactions. This can happen
    // if an operator restores a backup, runs the service on it, and later copies some of the old files back.
    let empty = SimDisk::new(1);
    let mut store = Store::open(&empty.handle()).unwrap();
    store.create_accounts();
    store.stop();
    let (one, _) = make_history(&empty.snapshot(), "one");
    let (two, count) = make_history(&empty.snapshot(), "two");
    let right = two.contents(&id_file_path(0));
    let stale = one.contents(&id_file_path(0));
    assert_ne!(right, stale);
    two.change(&id_file_path(0), |bytes| *bytes = stale);

    let mut store = Store::open(&two.handle()).unwrap();
    assert!(store.opened.report.checkpoint.is_some());
    assert_known(&mut store, "two", count);
    assert!(store.write_id_files() > 0);
    assert_eq!(two.contents(&id_file_path(0)), right);
    assert_eq!(store.write_id_files(), 0, "a valid id file is not written again");
}

#[test]
fn a_damaged_id_file_is_replaced_wherever_its_damage_is() {
    let (disk, count) = make_history(&BTreeMap::new(), "one");
    let path = id_file_path(0);
    let right = disk.contents(&path);
    for at in [0, right.len() / 3, right.len() / 2, right.len() - 1] {
        disk.change(&path, |bytes| bytes[at] ^= 1);
        let mut store = Store::open(&disk.handle()).unwrap();
        assert_known(&mut store, "one", count);
        assert!(
            store.write_id_files() > 0,
            "the file with damage at {at} was not replaced"
        );
        assert_eq!(disk.contents(&path), right);
        store.stop();
    }
}

#[test]
fn the_ids_of_an_unreadable_id_file_are_read_from_the_segment() {
    let (disk, count) = make_history(&BTreeMap::new(), "one");
    for number in [0, 1] {
        disk.fail_reads_of(&id_file_path(number));
    }
    let mut store = Store::open(&disk.handle()).unwrap();
    assert!(store.opened.report.checkpoint.is_some());
    assert_known(&mut store, "one", count);
}

#[test]
fn an_older_checkpoint_or_the_journal_replaces_an_unreadable_checkpoint() {
    let disk = SimDisk::new(1);
    let mut store = Store::open(&disk.handle()).unwrap();
    store.create_accounts();
    let numbers = ["first", "second"].map(|id| {
        store.pay(id).unwrap();
        store.commit();
        store.checkpoint()
    });
    let path = |number: u64| data().join("checkpoint").join(format!("{number:020}.ckpt"));
    let order = store.opened.ledger.order();
    store.stop();
    let mut expected = [Some(numbers[0]), None].into_iter();
    for number in numbers.into_iter().rev() {
        disk.fail_reads_of(&path(number));
        let store = Store::open(&disk.handle()).unwrap();
        assert_eq!(store.opened.report.checkpoint, expected.next().unwrap());
        assert_eq!(store.opened.ledger.order(), order);
        let accounts = store.opened.ledger.ledger().accounts();
        let balances = accounts.get(tally_ledger::AccountIndex(0)).unwrap().balances;
        assert_eq!(balances.debits_posted.minor_units(), 2);
    }
}

/// Checks that opening fails and changes nothing. Returns the error.
fn open_error(disk: &SimDisk) -> String {
    let before = disk.snapshot();
    let error = Store::open(&disk.handle()).map(|_| ()).unwrap_err();
    assert_eq!(
        disk.snapshot(),
        before,
        "a failed start must not change the directory"
    );
    let OpenError::Store(JournalError::Corrupt(corruption)) = &error else {
        let OpenError::Record(error) = &error else {
            panic!("{error}")
        };
        assert!(error.damage().is_some(), "{error}");
        return error.to_string();
    };
    corruption.to_string()
}

#[test]
fn opening_detects_an_old_segment_that_is_missing_empty_cut_short_or_replaced() {
    let empty = SimDisk::new(1);
    let mut store = Store::open(&empty.handle()).unwrap();
    store.create_accounts();
    store.stop();
    let (one, _) = make_history(&empty.snapshot(), "one");
    let (two, _) = make_history(&empty.snapshot(), "two");
    let files = two.snapshot();
    for number in [0, 1] {
        let segment = format!("journal segment {number} ");
        let disk = SimDisk::holding(2, &files);
        let whole = disk.contents(&segment_path(number));
        // The segment is empty, cut to half of its length, full of zeros, or a copy of the other segment.
        let other = disk.contents(&segment_path(1 - number));
        for changed in [
            Vec::new(),
            whole[..whole.len() / 2].to_vec(),
            vec![0; whole.len()],
            other,
        ] {
            disk.change(&segment_path(number), |bytes| *bytes = changed);
            let error = open_error(&disk);
            assert!(error.contains(&segment), "{error}");
        }
        // The segment comes from the other directory, first without and then with its id file. In both cases, the hash
        // chain to the neighbouring segments is broken.
        disk.change(&segment_path(number), |bytes| {
            *bytes = one.contents(&segment_path(number));
        });
        for with_id_file in [false, true] {
            if with_id_file {
                disk.change(&id_file_path(number), |bytes| {
                    *bytes = one.contents(&id_file_path(number));
                });
            }
            let error = open_error(&disk);
            assert!(
                error.contains("does not contain the hash of the block before it"),
                "{error}"
            );
        }
        disk.handle().remove(&segment_path(number)).unwrap();
        let error = open_error(&disk);
        assert!(error.contains(&segment) && error.contains("missing"), "{error}");
    }
}

#[test]
fn a_checkpoint_of_a_later_backup_than_the_journal_is_reported_as_such() {
    let (later, _) = make_history(&BTreeMap::new(), "one");
    let mut files = later.snapshot();
    files.retain(|path, _| *path != segment_path(1) && *path != segment_path(2));
    let error = open_error(&SimDisk::holding(3, &files));
    assert!(error.contains("from different backups"), "{error}");
}

#[test]
fn a_checkpoint_with_changes_that_the_journal_does_not_contain_is_an_error() {
    let empty = SimDisk::new(1);
    let mut store = Store::open(&empty.handle()).unwrap();
    store.create_accounts();
    store.stop();
    // Both copies continue from the same files with one block. The block has three transactions in the first copy, and
    // one transaction in the second copy.
    let copies = [3, 1].map(|count| {
        let disk = SimDisk::holding(2, &empty.snapshot());
        let mut store = Store::open(&disk.handle()).unwrap();
        let start = store.opened.durable;
        for number in 0..count {
            store.pay(&name("of-the-copy", number)).unwrap();
        }
        store.commit();
        // The checkpoint was started before the block, and the accounts in it were copied after the block.
        let number = store.checkpoint_from(&start);
        store.stop();
        (disk, data().join("checkpoint").join(format!("{number:020}.ckpt")))
    });
    let [(one, path), (two, same_path)] = copies;
    assert_eq!(path, same_path);
    assert!(Store::open(&two.handle()).is_ok());
    let stale = one.contents(&path);
    two.change(&path, |bytes| *bytes = stale);
    let error = Store::open(&two.handle()).map(|_| ()).unwrap_err();
    assert!(
        matches!(error, OpenError::CheckpointAhead { found, end } if found >= end),
        "{error}"
    );
}

#[test]
fn after_a_crash_a_missing_or_cut_segment_does_not_count_as_a_torn_tail() {
    let disk = SimDisk::new(1);
    let mut store = Store::open(&disk.handle()).unwrap();
    store.create_accounts();
    let count = store.fill_to_segment(2, "one");
    assert_eq!(store.write_id_files(), count);
    store.pay("in-the-last-segment").unwrap();
    store.commit();
    assert!(store.opened.preparer.prepare_next().unwrap());
    // Without a checkpoint and a clean stop, only the journal and the id files show where the journal ended.
    drop(store);
    disk.restart();
    let files = disk.snapshot();
    let damaged = |damage: &dyn Fn(&SimDisk)| {
        let disk = SimDisk::holding(2, &files);
        damage(&disk);
        open_error(&disk)
    };
    let remove = |numbers: &'static [u32]| {
        move |disk: &SimDisk| {
            for number in numbers {
                disk.handle().remove(&segment_path(*number)).unwrap();
            }
        }
    };
    let cut = |number: u32, length: usize| {
        move |disk: &SimDisk| disk.change(&segment_path(number), |bytes| bytes.truncate(length))
    };
    assert!(Store::open(&SimDisk::holding(2, &files).handle()).is_ok());
    for (damage, expected) in [
        // Segment 3 was prepared. It exists in the first three cases, and is missing in the next three cases.
        (
            &remove(&[2]) as &dyn Fn(&SimDisk),
            "missing, but the later segment",
        ),
        (&remove(&[1, 2]), "missing, but the later segment"),
        (&remove(&[0, 1, 2]), "missing, but the later segment"),
        (
            &remove(&[3]),
            "missing, but the journal had segments up to number 3",
        ),
        (
            &remove(&[1, 2, 3]),
            "missing, but the journal had segments up to number 3",
        ),
        (
            &remove(&[0, 1, 2, 3]),
            "missing, but the journal had segments up to number 3",
        ),
        (&cut(2, 0), "but must have"),
        (&cut(2, 5000), "but must have"),
        (&cut(3, 4096), "but must have"),
    ] {
        let error = damaged(damage);
        assert!(error.contains(expected), "{expected}: {error}");
    }
}
