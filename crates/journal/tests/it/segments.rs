//! Tests of segments: the preparer makes a segment before its use, the writer makes a segment that is not prepared, and
//! readers read at any position.

use std::{path::Path, thread};

use tally_journal::{HEADER_BYTES, JournalError, OPEN_SEGMENTS_MAX, Position};

use super::{CONFIG, Running, append, body, segment_path};
use crate::support::sim_disk::{SimDisk, TraceEvent};

#[test]
fn one_spare_segment_is_prepared_and_appends_to_it_change_no_length() {
    let disk = SimDisk::new(1);
    let mut running = Running::open(&disk.handle()).unwrap();
    for segment in 0..5 {
        // Seven blocks of 1128 bytes fill a segment.
        let started: Vec<bool> = (0..7)
            .map(|index| running.append(&body(index, 1000)).unwrap().segment_started)
            .collect();
        assert_eq!(started, [segment > 0, false, false, false, false, false, false]);
        assert_eq!(
            running.placement.next_block_position(),
            Position::new(segment + 1, 0)
        );

        assert!(running.preparer.is_needed());
        assert!(running.preparer.prepare_next().unwrap());
        assert!(!running.preparer.is_needed());
        assert!(
            !running.preparer.prepare_next().unwrap(),
            "the preparer must make at most one spare segment"
        );
        assert_eq!(
            disk.contents(&segment_path(segment + 1)),
            vec![0; CONFIG.segment_bytes as usize]
        );
    }
    let is_segment = |path: &Path| path.extension().is_some_and(|suffix| suffix == "segment");
    let trace = disk.trace();
    let created = trace
        .iter()
        .filter(|event| matches!(event, TraceEvent::Created(path) if is_segment(path)));
    assert_eq!(
        created.count(),
        0,
        "every segment must be written under a temporary name and renamed"
    );
    let sizes: Vec<usize> = (0..6)
        .map(|number| disk.contents(&segment_path(number)).len())
        .collect();
    assert_eq!(sizes, [CONFIG.segment_bytes as usize; 6]);
}

#[test]
fn a_segment_that_the_writer_makes_has_its_full_length_and_reads_like_a_prepared_one() {
    let disk = SimDisk::new(2);
    let mut running = Running::open(&disk.handle()).unwrap();
    let positions = running.append_many(10, 1000);
    assert_eq!(
        disk.contents(&segment_path(1)).len(),
        CONFIG.segment_bytes as usize
    );
    let mut read = Vec::new();
    for (index, position) in (0..).zip(&positions) {
        let header = running.reader.read_block(*position, &mut read).unwrap();
        assert_eq!((header.block_sequence, &read), (index + 1, &body(index, 1000)));
    }
    // After the end of the journal, the segment contains zeros, like a prepared segment.
    let mut beyond = [7; 64];
    running
        .reader
        .read_at(running.writer.end().position, &mut beyond)
        .unwrap();
    assert_eq!(beyond, [0; 64]);

    drop(running);
    disk.crash();
    let running = Running::open(&disk.handle()).unwrap();
    assert_eq!(running.seen.len(), 10);
}

#[test]
fn a_segment_that_the_writer_makes_is_not_replaced_by_a_slower_preparer() {
    let disk = SimDisk::new(8);
    let mut running = Running::open(&disk.handle()).unwrap();
    disk.stall_syncs_of(&segment_path(1).with_extension("segment.tmp"));
    let Running {
        preparer,
        writer,
        placement,
        block,
        ..
    } = &mut running;
    thread::scope(|scope| {
        let preparing = scope.spawn(|| preparer.prepare_next());
        disk.wait_for_stalled_sync();
        for index in 0..8 {
            append(writer, placement, block, &body(index, 1000)).unwrap();
        }
        disk.release_syncs();
        assert!(
            !preparing.join().unwrap().unwrap(),
            "the preparer must discard its segment"
        );
    });
    assert!(
        !disk
            .snapshot()
            .keys()
            .any(|path| path.extension().is_some_and(|suffix| suffix == "tmp"))
    );
    assert!(
        running.preparer.prepare_next().unwrap(),
        "the preparer must prepare the segment after the new active segment"
    );
    drop(running);
    disk.crash();
    assert_eq!(Running::open(&disk.handle()).unwrap().seen.len(), 8);
}

#[test]
fn a_restart_keeps_a_spare_segment_and_removes_an_unfinished_one() {
    let disk = SimDisk::new(3);
    let mut running = Running::open(&disk.handle()).unwrap();
    running.preparer.prepare_next().unwrap();
    drop(running);
    disk.restart();
    let mut running = Running::open(&disk.handle()).unwrap();
    assert!(!running.preparer.is_needed());
    running.append_many(8, 1000);
    assert!(running.preparer.is_needed());
    disk.power_off_after(1);
    running.preparer.prepare_next().unwrap_err();
    drop(running);
    disk.restart();
    let running = Running::open(&disk.handle()).unwrap();
    assert!(running.preparer.is_needed());
    let names = disk
        .snapshot()
        .into_keys()
        .map(|path| path.file_name().unwrap().to_owned());
    let names: Vec<_> = names.collect();
    assert_eq!(
        names,
        [
            "FORMAT",
            "0000000000.segment",
            "0000000001.segment",
            "SEGMENTS-0000000001"
        ]
    );
}

#[test]
fn a_segment_of_another_length_is_an_error_even_if_it_is_empty() {
    let disk = SimDisk::new(4);
    let mut running = Running::open(&disk.handle()).unwrap();
    running.preparer.prepare_next().unwrap();
    running.append(b"one").unwrap();
    drop(running);
    disk.restart();
    let whole = CONFIG.segment_bytes as usize;
    for length in [0, 100, whole - 1, whole + 1] {
        disk.change(&segment_path(1), |contents| contents.resize(length, 0));
        let error = Running::open(&disk.handle()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(&format!("has {length} bytes")), "{error}");
    }
    disk.change(&segment_path(1), |contents| contents.resize(whole, 0));
    assert!(Running::open(&disk.handle()).is_ok());
}

#[test]
fn a_part_of_a_block_can_be_read() {
    let disk = SimDisk::new(5);
    let mut running = Running::open(&disk.handle()).unwrap();
    running.append(b"first").unwrap();
    let position = running.append(b"hello, world").unwrap().end.previous_position;
    let at = position
        .checked_add(u32::try_from(HEADER_BYTES).unwrap() + 7)
        .unwrap();
    let mut word = [0; 5];
    running.reader.read_at(at, &mut word).unwrap();
    assert_eq!(&word, b"world");
    assert_eq!(running.reader.read_header(position).unwrap().block_sequence, 2);
}

#[test]
fn reads_outside_of_segments_and_blocks_are_errors() {
    let disk = SimDisk::new(6);
    let mut running = Running::open(&disk.handle()).unwrap();
    running.append(b"one").unwrap();
    let read = |segment, offset| {
        running
            .reader
            .read_at(Position::new(segment, offset), &mut [0; 16])
    };
    assert!(matches!(
        read(0, 8177),
        Err(JournalError::ReadPastEnd { length: 16, .. })
    ));
    let error = read(9, 0).unwrap_err();
    assert!(
        error.to_string().contains("the segment file is missing"),
        "{error}"
    );
    let error = running.reader.read_header(Position::new(0, 8)).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("offset 8: there is no block: there is no header"),
        "{error}"
    );

    drop(running);
    disk.restart();
    disk.flip_bit(&segment_path(0), (HEADER_BYTES as u64) * 8);
    // A recovery would treat the damaged block as the remains of an incomplete write. The reader must return an error
    // for this block.
    let journal = tally_journal::Journal::open(disk.handle(), &super::data(), &CONFIG).unwrap();
    let error = journal
        .reader()
        .read_block(Position::START, &mut Vec::new())
        .unwrap_err();
    assert!(
        error.to_string().contains("the checksum of the body is wrong"),
        "{error}"
    );
}

#[test]
fn more_segments_than_a_reader_keeps_open_can_be_read() {
    let disk = SimDisk::new(7);
    let mut running = Running::open(&disk.handle()).unwrap();
    let positions = running.append_many(7 * (OPEN_SEGMENTS_MAX as u64 + 6), 1000);
    let other = running.reader.clone();
    let mut read = Vec::new();
    let there = positions.iter().enumerate();
    let and_back = positions.iter().enumerate().rev().step_by(7);
    for (index, position) in there.chain(and_back) {
        other.read_block(*position, &mut read).unwrap();
        assert_eq!(read, body(index as u64, 1000));
    }
}
