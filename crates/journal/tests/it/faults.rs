//! Tests with a disk that becomes full, fails a sync, or delays a sync.

use std::thread;

use tally_journal::{JournalError, Operation};

use super::{Running, body, data, segment_path};
use crate::support::sim_disk::{SimDisk, TraceEvent};

#[test]
fn a_failed_sync_poisons_the_writer_and_is_never_repeated() {
    let disk = SimDisk::new(1);
    let mut running = Running::open(&disk.handle()).unwrap();
    running.append(b"durable").unwrap();
    disk.fail_sync_after(0);
    let error = running.append(b"unknown").unwrap_err();
    assert!(
        matches!(&error, JournalError::Disk(error) if error.operation == Operation::Sync),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains("cannot sync /data/journal/0000000000.segment"),
        "{error}"
    );

    let trace = disk.trace();
    assert!(running.writer.is_poisoned());
    for _ in 0..3 {
        assert!(matches!(running.append(b"refused"), Err(JournalError::Poisoned)));
    }
    assert_eq!(disk.trace(), trace, "a poisoned writer must not use the disk");
    assert_eq!(running.writer.end().last_block_sequence(), 1);
}

#[test]
fn the_next_start_makes_a_block_durable_that_is_only_in_the_page_cache() {
    // After the failed sync, the second block is in the page cache but not on disk, and a restarted process still reads
    // it. If that process appended the third block without writing the second block again, a crash would remove the
    // second block and make the acknowledged third block unreachable.
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let mut running = Running::open(&disk.handle()).unwrap();
        running.append(&body(1, 900)).unwrap();
        disk.fail_sync_after(0);
        running.append(&body(2, 900)).unwrap_err();
        drop(running);
        disk.restart();

        let mut running = Running::open(&disk.handle()).unwrap();
        assert_eq!(running.seen.len(), 2);
        running.append(&body(3, 900)).unwrap();
        drop(running);
        disk.crash();
        let running = Running::open(&disk.handle()).unwrap();
        assert_eq!(
            running.bodies(),
            [body(1, 900), body(2, 900), body(3, 900)],
            "seed {seed}"
        );
    }
}

#[test]
fn a_full_disk_poisons_the_writer_and_loses_no_block() {
    let disk = SimDisk::new(3);
    let mut running = Running::open(&disk.handle()).unwrap();
    disk.set_free_bytes(500);
    let appended = (0..20)
        .take_while(|index| running.append(&body(*index, 1000)).is_ok())
        .count();
    // The first segment has its full length and has room for seven blocks. The disk has no space for the second
    // segment.
    assert_eq!(appended, 7);
    assert!(matches!(running.append(b"refused"), Err(JournalError::Poisoned)));
    drop(running);
    disk.restart();
    let mut running = Running::open(&disk.handle()).unwrap();
    assert_eq!(running.seen.len(), 7);
    assert!(running.tail.torn.is_none());
    running.append(b"the disk has space again").unwrap();
}

#[test]
fn a_full_disk_does_not_stop_appends_before_the_next_segment_is_needed() {
    let disk = SimDisk::new(4);
    let mut running = Running::open(&disk.handle()).unwrap();
    disk.set_free_bytes(5000);
    let error = running.preparer.prepare_next().unwrap_err();
    assert!(
        matches!(&error, JournalError::Disk(error) if error.is_storage_full()),
        "{error}"
    );
    assert!(
        !disk
            .snapshot()
            .keys()
            .any(|path| path.extension().is_some_and(|suffix| suffix == "tmp"))
    );
    running.append(b"goes on").unwrap();
    assert!(running.preparer.is_needed());
}

#[test]
fn a_segment_is_available_only_with_its_space() {
    let disk = SimDisk::new(7);
    let mut running = Running::open(&disk.handle()).unwrap();
    assert!(running.space.is_available(0));
    // The preparer or the builder of blocks finds the disk full. In either case, both learn of it.
    for (next, found_by_preparer) in [(1, true), (2, false)] {
        disk.set_free_bytes(5000);
        if found_by_preparer {
            running.preparer.prepare_next().unwrap_err();
        } else {
            assert!(!running.space.is_available(next));
        }
        assert!(running.space.is_full() && !running.space.is_available(next));
        assert!(running.space.is_available(next - 1));
        disk.clear_faults();
        // Only the preparer looks for space again.
        assert!(!running.space.is_available(next));
        assert!(running.preparer.prepare_next().unwrap());
        assert!(!running.space.is_full() && running.space.is_available(next));
        // Seven blocks fit a segment.
        running.append_many(8, 1000);
    }
    assert!(running.space.is_available(3), "the call makes the segment");
    assert!(!running.preparer.is_needed());
    disk.set_free_bytes(0);
    running.append_many(7, 1000);
    assert!(
        !disk
            .snapshot()
            .keys()
            .any(|path| path.extension().is_some_and(|suffix| suffix == "tmp"))
    );
}

#[test]
fn a_journal_that_ends_with_a_segment_starts_on_a_full_disk() {
    let disk = SimDisk::new(8);
    let mut running = Running::open(&disk.handle()).unwrap();
    running.append_many(7, 1000);
    drop(running);
    disk.restart();
    disk.set_free_bytes(100);
    let mut running = Running::open(&disk.handle()).unwrap();
    assert_eq!(running.seen.len(), 7);
    assert!(!running.space.is_available(1) && running.space.is_available(0));
    disk.clear_faults();
    assert!(running.preparer.prepare_next().unwrap());
    assert!(running.space.is_available(1));
    running.append(b"the disk has space again").unwrap();
    drop(running);
    disk.restart();
    assert_eq!(Running::open(&disk.handle()).unwrap().seen.len(), 8);
}

#[test]
fn segments_that_do_not_own_their_space_are_a_full_disk() {
    for spare_exists in [false, true] {
        let disk = SimDisk::new(11);
        let mut running = Running::open(&disk.handle()).unwrap();
        running.append(b"one").unwrap();
        if spare_exists {
            running.preparer.prepare_next().unwrap();
        }
        drop(running);
        disk.restart();
        disk.set_sparse();
        disk.set_free_bytes(100);
        let mut running = Running::open(&disk.handle()).unwrap();
        assert_eq!(running.seen.len(), 1);
        assert!(running.space.is_full() && !running.space.is_available(0));
        running.preparer.prepare_next().unwrap_err();
        assert!(running.space.is_full() && !running.space.is_available(0));
        // There is space for one segment, and then for all. The first segment has a block of 136 bytes.
        disk.set_free_bytes(8192 - 136);
        assert!(running.preparer.prepare_next().unwrap());
        assert!(!running.space.is_full() && running.space.is_available(0));
        running.append(b"two").unwrap();
        running.preparer.prepare_next().unwrap_err();
        assert!(running.space.is_full() && running.space.is_available(0) && !running.space.is_available(1));
        disk.clear_faults();
        assert!(running.preparer.prepare_next().unwrap());
        assert!(!running.space.is_full() && running.space.is_available(1));
        assert!(!running.preparer.is_needed());
        running.append_many(8, 1000);
    }
}

#[test]
#[should_panic(expected = "a block in segment 2 can't be built yet: the writer is in segment 0")]
fn the_space_of_a_segment_far_ahead_is_not_asked_for() {
    let running = Running::open(&SimDisk::new(12).handle()).unwrap();
    let _ = running.space.is_available(2);
}

#[test]
fn after_a_failed_sync_of_the_directory_no_block_goes_to_the_new_segment() {
    let disk = SimDisk::new(5);
    let mut running = Running::open(&disk.handle()).unwrap();
    // The first sync is of the file of zeros, the second is of the directory.
    disk.fail_sync_after(1);
    running.preparer.prepare_next().unwrap_err();
    assert!(!running.preparer.prepare_next().unwrap());
    let appended = (0..20)
        .take_while(|index| running.append(&body(*index, 1000)).is_ok())
        .count();
    assert_eq!(appended, 7);
    assert!(running.writer.is_poisoned());
}

#[test]
fn an_append_returns_only_after_the_sync_of_its_block() {
    let disk = SimDisk::new(6);
    let mut running = Running::open(&disk.handle()).unwrap();
    running.append(b"before").unwrap();
    disk.stall_syncs();
    let appender = thread::spawn({
        let disk = disk.clone();
        move || {
            running.append(b"held up").unwrap();
            disk.mark("acknowledged");
        }
    });
    disk.wait_for_stalled_sync();
    disk.mark("stalled");
    disk.release_syncs();
    appender.join().unwrap();

    let trace = disk.trace();
    let last_four = &trace[trace.len() - 4..];
    assert_eq!(
        last_four,
        [
            TraceEvent::SyncBegan(segment_path(0)),
            TraceEvent::Mark("stalled".to_owned()),
            TraceEvent::Synced(segment_path(0)),
            TraceEvent::Mark("acknowledged".to_owned()),
        ]
    );
}

#[test]
fn an_append_makes_one_write_and_one_sync() {
    let disk = SimDisk::new(7);
    let mut running = Running::open(&disk.handle()).unwrap();
    let events = disk.trace().len();
    running.append(&body(1, 13)).unwrap();
    let path = segment_path(0);
    assert_eq!(
        disk.trace()[events..],
        [
            TraceEvent::Wrote {
                path: path.clone(),
                offset: 0,
                length: 144
            },
            TraceEvent::SyncBegan(path.clone()),
            TraceEvent::Synced(path),
        ]
    );
}

#[test]
fn a_block_that_is_too_long_is_rejected_and_poisons_the_writer() {
    let disk = SimDisk::new(8);
    let mut running = Running::open(&disk.handle()).unwrap();
    let error = running.append(&body(1, 1025)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a block's body has 1025 bytes, at most 1024 are allowed"
    );
    assert!(matches!(running.append(b"refused"), Err(JournalError::Poisoned)));
}

#[test]
#[should_panic(expected = "must be the end of the journal")]
fn append_panics_if_the_position_of_the_block_is_not_the_end_of_the_journal() {
    let disk = SimDisk::new(9);
    let mut running = Running::open(&disk.handle()).unwrap();
    running.placement.advance(8);
    let _ = running.append(b"misplaced");
}

#[test]
fn the_remains_of_a_torn_write_are_removed_durably_before_the_first_append() {
    let disk = SimDisk::new(10);
    let mut running = Running::open(&disk.handle()).unwrap();
    let end = running.append(&body(1, 200)).unwrap().end.position.offset();
    running.append(&body(2, 1000)).unwrap();
    drop(running);
    disk.restart();
    // The first 512 bytes of the block are zeros, the other bytes are on disk.
    let start = end as usize;
    disk.change(&segment_path(0), |contents| contents[start..start + 512].fill(0));
    let events = disk.trace().len();
    let running = Running::open(&disk.handle()).unwrap();
    assert_eq!(running.seen.len(), 1);
    assert!(
        disk.contents(&segment_path(0))[start..]
            .iter()
            .all(|byte| *byte == 0)
    );
    let path = segment_path(0);
    assert_eq!(
        disk.trace()[events..][..4],
        [
            TraceEvent::SyncedDir(data()),
            TraceEvent::Wrote {
                path: path.clone(),
                offset: u64::from(end),
                length: 1128
            },
            TraceEvent::SyncBegan(path.clone()),
            TraceEvent::Synced(path),
        ]
    );
}
