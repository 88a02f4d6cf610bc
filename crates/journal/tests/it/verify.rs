//! `Journal::verify` reports all damage and changes nothing.

use tally_journal::{BlockDefect, CorruptionKind, Disk, Journal, JournalError, JournalReport};

use super::{Running, data, scan, segment_path, verify};
use crate::support::sim_disk::SimDisk;

fn journal_of(count: u64) -> SimDisk {
    let disk = SimDisk::new(count);
    Running::open(&disk.handle()).unwrap().append_many(count, 200);
    disk.restart();
    disk
}

fn report(disk: &SimDisk) -> JournalReport {
    let (files, trace) = (disk.snapshot(), disk.trace());
    let report = verify(&disk.handle(), &data()).unwrap();
    assert_eq!(
        (disk.snapshot(), disk.trace()),
        (files, trace),
        "verify must change nothing on disk"
    );
    report
}

#[test]
fn the_report_counts_the_blocks_and_records_of_an_undamaged_journal() {
    let report = report(&journal_of(30));
    assert!(report.is_intact());
    assert_eq!((report.blocks, report.bytes, report.records), (30, 30 * 328, 30));
    let sequences = [report.first, report.last].map(|block| block.unwrap().block_sequence);
    assert_eq!(sequences, [1, 30]);
    assert_eq!(report.end.map(|end| end.block_sequence), Some(31));
    assert_eq!(report.torn, None);
}

#[test]
fn an_empty_journal_has_no_damage() {
    let report = report(&journal_of(0));
    assert!(report.is_intact());
    assert_eq!((report.blocks, report.first, report.last), (0, None, None));
}

#[test]
fn the_remains_of_a_torn_write_are_not_damage_and_stay() {
    let disk = journal_of(3);
    disk.flip_bit(&segment_path(0), (2 * 328 + 200) * 8);
    for _ in 0..2 {
        let report = report(&disk);
        assert!(report.is_intact());
        assert_eq!(report.blocks, 2);
        assert_eq!(
            report.torn.map(|torn| torn.defect),
            Some(BlockDefect::BodyChecksum)
        );
    }
}

#[test]
fn all_damage_is_listed() {
    let disk = journal_of(30);
    for block in [3, 4, 10] {
        disk.flip_bit(&segment_path(0), (block * 328 + 150) * 8);
    }
    let report = report(&disk);
    let damages: Vec<_> = report.corruption.iter().chain(&report.further_damages).collect();
    let blocks: Vec<u64> = damages.iter().map(|damage| damage.block_sequence).collect();
    // The first block has number 1. The check accepts the previous hash that the block after a damaged block states.
    assert_eq!(blocks, [4, 5, 11]);
    assert_eq!(
        (report.blocks, report.end.map(|end| end.block_sequence)),
        (27, Some(31))
    );
    assert!(!report.is_intact());
}

#[test]
fn a_forged_block_is_reported_and_the_rest_is_checked() {
    let disk = journal_of(10);
    let forged = SimDisk::new(10);
    let mut running = Running::open(&forged.handle()).unwrap();
    running.append_many(4, 200);
    running.append(&[9; 200]).unwrap();
    drop(running);
    let bytes = forged.contents(&segment_path(0));
    disk.change(&segment_path(0), |contents| {
        contents[4 * 328..5 * 328].copy_from_slice(&bytes[4 * 328..5 * 328]);
    });
    let report = report(&disk);
    let corruption = report.corruption.unwrap();
    assert_eq!(
        (corruption.block_sequence, corruption.kind),
        (6, CorruptionKind::ChainBroken)
    );
    assert_eq!((report.blocks, report.further_damages.len()), (10, 0));
}

#[test]
fn readers_share_the_directory_and_exclude_the_writer() {
    let disk = journal_of(3);
    let running = Running::open(&disk.handle()).unwrap();
    let error = verify(&disk.handle(), &data()).unwrap_err();
    assert!(matches!(error, JournalError::Locked { .. }), "{error}");
    drop(running);
    let readers = [1, 2].map(|_| Journal::open_read_only(disk.handle(), &data()).unwrap());
    assert!(verify(&disk.handle(), &data()).unwrap().is_intact());
    let error = Running::open(&disk.handle()).map(|_| ()).unwrap_err();
    assert!(matches!(error, JournalError::Locked { .. }), "{error}");
    drop(readers);
    Running::open(&disk.handle()).unwrap();
}

#[test]
fn a_journal_that_is_open_for_reading_cannot_be_resumed() {
    let disk = journal_of(3);
    disk.flip_bit(&segment_path(0), (2 * 328 + 200) * 8);
    let files = disk.snapshot();
    let journal = Journal::open_read_only(disk.handle(), &data()).unwrap();
    let (seen, tail) = scan(&journal, journal.start(), 0).unwrap();
    assert!(seen.len() == 2 && tail.torn.is_some());
    let error = journal.resume(tail).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("read-only"), "{error}");
    assert_eq!(disk.snapshot(), files);
}

#[test]
fn a_directory_without_data_is_an_error() {
    let disk = SimDisk::new(1);
    let error = verify(&disk.handle(), &data()).unwrap_err();
    assert!(
        matches!(&error, JournalError::Disk(error) if error.is_not_found()),
        "{error}"
    );
    disk.create_dir_all(&data()).unwrap();
    assert!(matches!(
        verify(&disk.handle(), &data()),
        Err(JournalError::Format { .. })
    ));
}
