//! `Journal::verify` reports all damage and changes nothing.

use tally_journal::{
    BlockDefect, BlockRun, CorruptionKind, Disk, FURTHER_DAMAGES_MAX, Journal, JournalError, JournalReport,
};

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
    assert_eq!(runs(&report), [(1, 3), (6, 10), (12, 30)]);
    assert!(!report.stopped);
}

/// Returns the sequences of the first and the last block of each run.
fn runs(report: &JournalReport) -> Vec<(u64, u64)> {
    let ends = |run: &BlockRun| (run.first.block_sequence, run.last.block_sequence);
    report.runs.iter().map(ends).collect()
}

#[test]
fn blocks_after_a_block_of_another_place_are_found() {
    let disk = journal_of(30);
    // Blocks 2 and 3 are replaced by copies of block 1, whose header names another position.
    disk.change(&segment_path(0), |bytes| {
        let (first, rest) = bytes.split_at_mut(328);
        rest[..328].copy_from_slice(first);
        rest[328..656].copy_from_slice(first);
    });
    let report = report(&disk);
    let corruption = report.corruption.as_ref().unwrap();
    assert_eq!(corruption.block_sequence, 2);
    assert!(
        matches!(corruption.kind, CorruptionKind::NoBlock { .. }),
        "{corruption}"
    );
    assert_eq!(runs(&report), [(1, 1), (4, 30)]);
    assert!(report.further_damages.is_empty() && !report.stopped);
}

#[test]
fn each_segment_of_a_wrong_length_is_listed() {
    let disk = journal_of(70);
    for number in [0, 2] {
        disk.change(&segment_path(number), |bytes| bytes.push(0));
    }
    let report = report(&disk);
    let damages = report.corruption.iter().chain(&report.further_damages);
    let segments: Vec<u32> = damages.map(|damage| damage.position.segment()).collect();
    assert_eq!(segments, [0, 2]);
    assert_eq!((runs(&report), report.stopped), (vec![(1, 70)], false));
}

#[test]
fn the_check_stops_at_the_bound_of_damages_and_says_so() {
    let disk = journal_of(200);
    for block in (1..200_u64).step_by(2) {
        let (segment, place) = (u32::try_from(block / 22).unwrap(), block % 22);
        disk.flip_bit(&segment_path(segment), (place * 328 + 150) * 8);
    }
    let report = report(&disk);
    assert_eq!(report.further_damages.len(), FURTHER_DAMAGES_MAX);
    assert!(report.stopped && report.runs.len() == FURTHER_DAMAGES_MAX + 1);
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
    let error = verify(&disk.handle(), &data()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/data is not a Tally data directory (no FORMAT)"
    );
}
