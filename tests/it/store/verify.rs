//! Tests of `embedded::verify`, which must report each damaged or wrong file and change nothing.

use std::collections::BTreeMap;

use tally::store::embedded::{self, DirectoryReport, id_files};
use tally_journal::Journal;

use super::{CONFIG, Store, data, id_file_path, make_history, segment_path};
use crate::support::sim_disk::SimDisk;

/// Verifies the data directory twice. Checks that both reports are equal and that the disk has not changed.
fn verify(disk: &SimDisk) -> DirectoryReport {
    let (files, trace) = (disk.snapshot(), disk.trace());
    let reports = [1, 2].map(|_| embedded::verify(&disk.handle(), &data()).unwrap());
    assert_eq!(
        (disk.snapshot(), disk.trace()),
        (files, trace),
        "the verification has changed the disk"
    );
    let [first, second] = reports;
    assert_eq!(
        format!("{first:?}"),
        format!("{second:?}"),
        "two verifications differ"
    );
    first
}

#[test]
fn an_undamaged_directory_is_sound() {
    let (disk, count) = make_history(&BTreeMap::new(), "one");
    let report = verify(&disk);
    assert!(report.is_sound(), "{report:?}");
    assert!(report.journal.clean);
    assert_eq!((report.accounts, report.last_sequence), (2, count as u64 + 2));
}

#[test]
fn an_id_file_with_one_wrong_entry_is_reported() {
    let (disk, _) = make_history(&BTreeMap::new(), "one");
    {
        // All checksums of this file are valid, but one entry differs from the blocks.
        let journal = Journal::open(disk.handle(), &data(), &CONFIG).unwrap();
        let files = id_files::files(journal.directory()).unwrap();
        let reader = files.open_number(0).unwrap();
        let mut chunks = vec![Vec::new(); reader.chunks() as usize];
        for (index, chunk) in (0..).zip(&mut chunks) {
            reader.read_chunk(index, chunk).unwrap();
        }
        chunks[0][24] ^= 1;
        let mut writer = files.create(0).unwrap();
        for chunk in &chunks {
            writer.write_chunk(chunk).unwrap();
        }
        writer.finish().unwrap();
    }
    let report = verify(&disk);
    assert!(!report.is_sound());
    assert_eq!(report.differences.len(), 1, "{report:?}");
    assert!(report.differences[0].starts_with("id file 0: "), "{report:?}");
    assert!(!report.may_lack_blocks);
}

#[test]
fn a_damaged_marker_of_a_clean_stop_is_reported() {
    let (disk, _) = make_history(&BTreeMap::new(), "one");
    assert!(verify(&disk).is_sound());
    let marker = data().join("journal").join("CLEAN");
    for damage in [Vec::new(), vec![0; 128]] {
        disk.change(&marker, |bytes| *bytes = damage);
        let report = verify(&disk);
        assert!(!report.is_sound() && report.journal.marked && !report.journal.clean);
        assert!(report.differences[0].starts_with("journal/CLEAN: "), "{report:?}");
        assert!(report.may_lack_blocks);
    }
    disk.handle().remove(&marker).unwrap();
    let report = verify(&disk);
    assert!(report.is_sound() && !report.journal.marked, "{report:?}");
}

#[test]
fn each_checkpoint_and_id_file_that_is_damaged_or_belongs_to_other_blocks_is_reported() {
    let (disk, _) = make_history(&BTreeMap::new(), "one");
    let files = disk.snapshot();
    let checkpoint = files
        .keys()
        .find(|path| path.extension().is_some_and(|suffix| suffix == "ckpt"))
        .unwrap();
    for (path, words) in [
        (checkpoint.clone(), "checkpoint "),
        (id_file_path(0), "id file 0"),
        (id_file_path(1), "id file 1"),
    ] {
        let disk = SimDisk::holding(1, &files);
        disk.flip_bit(&path, 8 * 70);
        let report = verify(&disk);
        assert!(!report.is_sound());
        assert!(report.differences[0].starts_with(words), "{report:?}");
    }
    let mut swapped = files.clone();
    swapped.insert(id_file_path(7), files[&id_file_path(1)].clone());
    let report = verify(&SimDisk::holding(1, &swapped));
    assert!(report.may_lack_blocks);
    assert!(
        report.differences[0].contains("the journal ends before"),
        "{report:?}"
    );
}

#[test]
fn damage_after_a_clean_stop_is_distinguished_from_a_torn_tail_after_a_crash() {
    let disk = SimDisk::new(1);
    let mut store = Store::open(&disk.handle()).unwrap();
    store.create_accounts();
    store.pay("first").unwrap();
    store.commit();
    let last = store.opened.durable.chain().position;
    store.pay("last").unwrap();
    store.commit();
    let crashed = disk.snapshot();
    store.stop();
    disk.flip_bit(&segment_path(0), (u64::from(last.offset()) + 300) * 8);
    let report = verify(&disk);
    assert!(!report.is_sound() && report.journal.torn.is_none());
    let corruption = report.journal.corruption.unwrap().to_string();
    assert!(corruption.contains("was durable"), "{corruption}");
    // The report describes the ledger before the damaged block.
    assert_eq!((report.last_sequence, report.accounts), (1, 2));
    assert_eq!(report.assets["EUR"].debits, Some(1));

    let disk = SimDisk::holding(1, &crashed);
    disk.flip_bit(&segment_path(0), (u64::from(last.offset()) + 300) * 8);
    let report = verify(&disk);
    assert!(report.is_sound() && report.journal.torn.is_some());
    assert_eq!((report.last_sequence, report.journal.clean), (1, false));
}

#[test]
fn unfinished_files_of_an_earlier_process_are_not_changed() {
    let (disk, _) = make_history(&BTreeMap::new(), "one");
    let mut files = disk.snapshot();
    for name in [
        "journal/0000000003.segment.tmp",
        "index/00000000000000000001.ids.tmp",
        "checkpoint/x.tmp",
    ] {
        files.insert(data().join(name), vec![1, 2, 3]);
    }
    let disk = SimDisk::holding(1, &files);
    assert!(verify(&disk).is_sound());
    assert_eq!(disk.snapshot(), files);
}

#[test]
fn a_directory_that_a_service_has_opened_is_not_verified() {
    let (disk, _) = make_history(&BTreeMap::new(), "one");
    let store = Store::open(&disk.handle()).unwrap();
    let error = embedded::verify(&disk.handle(), &data()).unwrap_err();
    assert!(error.to_string().contains("in use by another process"), "{error}");
    drop(store);
    embedded::verify(&disk.handle(), &data()).unwrap();
    assert!(
        disk.handle()
            .list(&data())
            .unwrap()
            .iter()
            .all(|name| name != "LOCK")
    );
}
