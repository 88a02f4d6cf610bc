//! Tests of the segment note, which states the number of the last segment. A start and a verification check that all
//! segments up to this number exist. A crash never makes the note disagree with the segments.

use tally_journal::{CorruptionKind, JournalError};

use super::{Running, note_path, segment_path, verify};
use crate::support::sim_disk::SimDisk;

/// Makes a journal that ends in segment 2 with segment 3 prepared, and kills its process.
fn killed() -> SimDisk {
    let disk = SimDisk::new(1);
    let mut running = Running::open(&disk.handle()).unwrap();
    // Seven blocks fill a segment.
    for blocks in [7, 7, 2] {
        running.append_many(blocks, 1000);
        running.preparer.prepare_next().unwrap();
    }
    assert!(disk.snapshot().contains_key(&segment_path(3)));
    drop(running);
    disk.restart();
    disk
}

/// Checks that a start and a verification refuse the directory and change nothing. Returns the error of the start.
fn refused(disk: &SimDisk) -> JournalError {
    let before = disk.snapshot();
    let error = Running::open(&disk.handle()).map(|_| ()).unwrap_err();
    match verify(&disk.handle(), &super::data()) {
        Ok(report) => {
            assert!(
                report.corruption.is_some() && report.may_lack_last_blocks(),
                "{report:?}"
            );
        }
        Err(found) => assert_eq!(found.to_string(), error.to_string()),
    }
    assert_eq!(disk.snapshot(), before);
    error
}

#[test]
fn lost_last_segments_are_refused() {
    let whole = killed().snapshot();
    for first_lost in 0..=3 {
        let mut files = whole.clone();
        for number in first_lost..=3 {
            files.remove(&segment_path(number)).unwrap();
        }
        let error = refused(&SimDisk::holding(1, &files));
        let JournalError::Corrupt(corruption) = error else {
            panic!("{error}")
        };
        assert_eq!(corruption.path, segment_path(first_lost));
        assert_eq!(corruption.kind, CorruptionKind::SegmentLost { last: 3 });
        assert_eq!(
            corruption.to_string(),
            format!(
                "journal segment {first_lost} (/data/journal/000000000{first_lost}.segment): the segment file is missing, but the \
                 journal had segments up to number 3 (journal/SEGMENTS-0000000003). Nothing was changed. `tally verify` lists \
                 the extent of the damage; restore the directory from a backup (docs/operations.md)"
            )
        );
    }
}

#[test]
fn a_journal_that_ends_before_its_last_segment_but_one_is_refused() {
    let disk = killed();
    let zeros = vec![0; disk.contents(&segment_path(2)).len()];
    // An empty segment 2 before segment 3 is allowed: segment 3 was made while blocks were appended to segment 2, and a
    // crash during the first of these appends may have lost the block.
    disk.change(&segment_path(2), |bytes| bytes.clone_from(&zeros));
    assert_eq!(Running::open(&disk.handle()).unwrap().seen.len(), 14);
    let disk = killed();
    disk.change(&segment_path(2), |bytes| bytes.clone_from(&zeros));
    disk.change(&segment_path(1), |bytes| bytes[6 * 1128..].fill(0));
    let JournalError::Corrupt(corruption) = refused(&disk) else {
        panic!("not damage")
    };
    assert_eq!(corruption.kind, CorruptionKind::EndsEarly { later: 3 });
    assert!(
        corruption
            .to_string()
            .contains("segment 1 (/data/journal/0000000001.segment), offset 6768, block 14: the journal ends here, but segment 3 exists"),
        "{corruption}"
    );
}

#[test]
fn a_directory_without_its_note_is_refused() {
    let disk = killed();
    let mut files = disk.snapshot();
    files.remove(&note_path(3)).unwrap();
    let error = refused(&SimDisk::holding(1, &files));
    assert!(
        error.to_string().starts_with(
            "/data/journal has no file SEGMENTS-<number>, which states the last segment of the journal."
        ),
        "{error}"
    );
    files.insert(note_path(2), Vec::new());
    let running = Running::open(&SimDisk::holding(1, &files).handle()).unwrap();
    assert_eq!(running.seen.len(), 16);
}

#[test]
fn a_start_notes_a_segment_that_a_crash_left_without_a_note() {
    let mut files = killed().snapshot();
    files.remove(&note_path(3)).unwrap();
    files.insert(note_path(2), b"text".to_vec());
    let disk = SimDisk::holding(1, &files);
    drop(Running::open(&disk.handle()).unwrap());
    disk.crash();
    disk.handle().remove(&segment_path(3)).unwrap();
    assert!(matches!(refused(&disk), JournalError::Corrupt(_)));
}

#[test]
fn a_crash_while_a_segment_is_made_leaves_no_note_without_its_segment() {
    for operations in 0..12 {
        for seed in 0..30 {
            let disk = SimDisk::new(seed);
            let mut running = Running::open(&disk.handle()).unwrap();
            running.append_many(7, 1000);
            disk.power_off_after(operations);
            // The segment is made by the preparer, or by the writer.
            if seed % 2 == 0 {
                let _either = running.preparer.prepare_next();
            } else {
                let _either = running.append(b"the first of the segment");
            }
            drop(running);
            disk.crash();
            let mut running = Running::open(&disk.handle()).unwrap();
            running.append_many(8, 1000);
            drop(running);
            disk.crash();
            assert!(Running::open(&disk.handle()).unwrap().seen.len() >= 15);
        }
    }
}

#[test]
fn no_block_goes_into_a_segment_before_it_is_noted() {
    let disk = SimDisk::new(2);
    let mut running = Running::open(&disk.handle()).unwrap();
    running.append_many(7, 1000);
    disk.fail_for_ever(tally_journal::Operation::Rename, &note_path(0));
    running.preparer.prepare_next().unwrap_err();
    assert!(running.preparer.is_needed());
    running.append(b"refused").unwrap_err();
    drop(running);
    disk.restart();
    let mut running = Running::open(&disk.handle()).unwrap();
    assert_eq!(running.seen.len(), 7);
    running.append(b"one").unwrap();
    assert!(disk.snapshot().contains_key(&note_path(1)));
}

#[test]
fn an_interrupted_note_is_continued_without_another_segment() {
    let disk = SimDisk::new(3);
    let mut running = Running::open(&disk.handle()).unwrap();
    disk.fail_for_ever(tally_journal::Operation::Rename, &note_path(0));
    running.preparer.prepare_next().unwrap_err();
    assert!(disk.snapshot().contains_key(&segment_path(1)));
    disk.clear_faults();
    disk.set_free_bytes(0);
    assert!(running.preparer.prepare_next().unwrap());
    assert!(running.space.is_available(1) && !running.preparer.is_needed());
    assert!(disk.snapshot().contains_key(&note_path(1)));
}
