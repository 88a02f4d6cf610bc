//! Tests of the marker of a clean stop: with the marker, recovery distinguishes damage to the last block from a write
//! that a crash interrupted.

use std::{collections::BTreeMap, path::PathBuf};

use proptest::prelude::*;
use tally_journal::{CorruptionKind, Disk, JournalError, Position};

use super::{Running, body, data, segment_path, verify};
use crate::support::sim_disk::SimDisk;

fn marker() -> PathBuf {
    data().join("journal").join("CLEAN")
}

/// Makes a journal of `count` blocks of 200 bytes and stops it cleanly.
fn stopped(count: u64) -> (SimDisk, Vec<Position>) {
    let disk = SimDisk::new(count);
    let mut running = Running::open(&disk.handle()).unwrap();
    let positions = running.append_many(count, 200);
    running.writer.finish().unwrap();
    drop(running);
    disk.crash();
    (disk, positions)
}

/// Checks that `open` and `verify` report the same damage and change nothing. Returns the kind of the damage.
fn damage_of(disk: &SimDisk) -> CorruptionKind {
    let before = disk.snapshot();
    let error = Running::open(&disk.handle())
        .map(|running| running.seen.len())
        .unwrap_err();
    assert_eq!(
        disk.snapshot(),
        before,
        "opening a damaged journal must change nothing"
    );
    let JournalError::Corrupt(corruption) = error else {
        panic!("{error}")
    };
    let report = verify(&disk.handle(), &data()).unwrap();
    assert_eq!(report.corruption, Some(corruption.clone()));
    corruption.kind
}

/// Makes a disk that contains these files.
fn disk_of(files: &BTreeMap<PathBuf, Vec<u8>>) -> SimDisk {
    SimDisk::holding(1, files)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_flipped_bit_in_the_last_block_is_damage_after_a_clean_stop(bit in 0_u64..328 * 8) {
        let (disk, positions) = stopped(5);
        disk.flip_bit(&segment_path(0), u64::from(positions[4].offset()) * 8 + bit);
        let kind = damage_of(&disk);
        let too_short = matches!(kind, CorruptionKind::TooShort { durable_through: 5, .. });
        prop_assert!(too_short, "{kind:?}");
        disk.flip_bit(&segment_path(0), u64::from(positions[4].offset()) * 8 + bit);
        let running = Running::open(&disk.handle()).unwrap();
        prop_assert!(running.tail.clean);
        prop_assert_eq!(running.seen.len(), 5);
    }

    #[test]
    fn a_crash_at_any_operation_of_a_stop_or_a_start_loses_no_block(
        seed: u64,
        blocks in 0_u64..4,
        operations in 0_u64..14,
    ) {
        let disk = SimDisk::new(seed);
        let mut running = Running::open(&disk.handle()).unwrap();
        running.append_many(blocks, 200);
        disk.power_off_after(operations);
        let stopped = running.writer.finish().is_ok();
        // The next process appends one block, unless the power fails before the append.
        drop(running);
        let appended = Running::open(&disk.handle())
            .and_then(|mut running| running.append(&body(blocks, 200)))
            .is_ok();
        disk.crash();
        let mut running = Running::open(&disk.handle()).unwrap();
        let known = blocks + u64::from(appended);
        prop_assert!((known..=blocks + 1).contains(&(running.seen.len() as u64)), "{stopped} {appended}");
        running.append(b"goes on").unwrap();
        drop(running);
        disk.crash();
        let running = Running::open(&disk.handle()).unwrap();
        prop_assert!(!running.tail.clean);
        prop_assert_eq!(&running.seen.last().unwrap().body, b"goes on");
    }
}

#[test]
fn the_marker_stays_valid_if_the_next_process_appends_nothing() {
    let (disk, positions) = stopped(3);
    let running = Running::open(&disk.handle()).unwrap();
    assert!(running.tail.clean);
    drop(running);
    disk.crash();
    disk.flip_bit(&segment_path(0), u64::from(positions[2].offset() + 150) * 8);
    assert!(matches!(damage_of(&disk), CorruptionKind::TooShort { .. }));
}

#[test]
fn the_first_append_removes_the_marker_so_that_a_torn_write_is_not_damage() {
    let (disk, _) = stopped(3);
    let mut running = Running::open(&disk.handle()).unwrap();
    let position = running.append(&body(9, 200)).unwrap().end.previous_position;
    assert!(!disk.snapshot().contains_key(&marker()));
    drop(running);
    disk.crash();
    assert!(
        !disk.snapshot().contains_key(&marker()),
        "the marker must be removed durably"
    );
    disk.flip_bit(&segment_path(0), u64::from(position.offset() + 150) * 8);
    let running = Running::open(&disk.handle()).unwrap();
    assert!(running.tail.torn.is_some() && running.seen.len() == 3);
}

#[test]
fn a_finished_journal_accepts_no_more_blocks() {
    let disk = SimDisk::new(1);
    let mut running = Running::open(&disk.handle()).unwrap();
    running.append(b"one").unwrap();
    running.writer.finish().unwrap();
    assert!(matches!(running.append(b"two"), Err(JournalError::Poisoned)));
    assert!(matches!(running.writer.finish(), Err(JournalError::Poisoned)));
    drop(running);
    // After a failed sync, `finish` writes no marker, because it is unknown which blocks are durable.
    let mut running = Running::open(&disk.handle()).unwrap();
    disk.fail_sync_after(1);
    running.append(b"unknown").unwrap_err();
    assert!(matches!(running.writer.finish(), Err(JournalError::Poisoned)));
    assert!(!disk.snapshot().contains_key(&marker()));
}

#[test]
fn bytes_after_a_clean_stop_are_damage() {
    let (disk, positions) = stopped(3);
    let end = u64::from(positions[2].offset()) + 328;
    disk.flip_bit(&segment_path(0), (end + 77) * 8);
    assert!(matches!(
        damage_of(&disk),
        CorruptionKind::WrittenAfterStop { .. }
    ));
}

#[test]
fn a_marker_of_another_journal_is_rejected_and_an_older_marker_is_not() {
    let (disk, _) = stopped(3);
    let before = disk.snapshot();
    let histories = ["one", "two"].map(|name| {
        let disk = disk_of(&before);
        let mut running = Running::open(&disk.handle()).unwrap();
        running.append(name.as_bytes()).unwrap();
        running.writer.finish().unwrap();
        drop(running);
        disk.snapshot()
    });
    let [mut one, two] = histories;
    one.insert(marker(), two[&marker()].clone());
    assert_eq!(damage_of(&disk_of(&one)), CorruptionKind::CleanStopMismatch);
    // An older marker of the same journal, which names the point before the last block: no block is missing.
    one.insert(marker(), before[&marker()].clone());
    let disk = disk_of(&one);
    let mut running = Running::open(&disk.handle()).unwrap();
    assert_eq!((running.seen.len(), running.tail.clean), (4, false));
    running.append(b"goes on").unwrap();
    assert!(!disk.snapshot().contains_key(&marker()));
    // A newer marker, which names a point after the end of the journal: a block is missing.
    let mut shorter = before.clone();
    shorter.insert(marker(), two[&marker()].clone());
    let kind = damage_of(&disk_of(&shorter));
    assert!(
        matches!(
            kind,
            CorruptionKind::TooShort {
                durable_through: 4,
                ..
            }
        ),
        "{kind:?}"
    );
}

#[test]
fn an_unreadable_marker_still_shows_that_the_stop_was_clean() {
    for unreadable in [
        |disk: &SimDisk| disk.fail_reads_of(&marker()),
        |disk: &SimDisk| disk.flip_bit(&marker(), 8 * 90),
    ] {
        let (disk, _) = stopped(3);
        unreadable(&disk);
        let running = Running::open(&disk.handle()).unwrap();
        assert_eq!((running.seen.len(), running.tail.clean), (3, false));

        let (disk, positions) = stopped(3);
        unreadable(&disk);
        disk.flip_bit(&segment_path(0), u64::from(positions[2].offset() + 150) * 8);
        assert!(matches!(
            damage_of(&disk),
            CorruptionKind::WrittenAfterStop { .. }
        ));
    }
}

#[test]
fn the_marker_does_not_count_as_a_segment_or_an_unfinished_file() {
    let (disk, _) = stopped(30);
    let names = disk.list(&data().join("journal")).unwrap();
    assert_eq!(
        names,
        [
            "0000000000.segment",
            "0000000001.segment",
            "CLEAN",
            "SEGMENTS-0000000001"
        ]
    );
}
