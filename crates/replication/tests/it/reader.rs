//! The reader of the log: resume points, and how it finds out that the log lost data.

use tally_replication::{
    Accepted, BlockFacts, BlockKind, HaltReason, LogReader, Record, Seen, SkipReason, Step, WrongField,
};

use crate::support::{after, genesis};

/// A log that contains a claim of term 1 and two blocks.
fn log() -> Vec<Record> {
    let mut accepted = Accepted::from_genesis(&genesis()).unwrap();
    let mut records = vec![record(0, 1, Some(genesis()))];
    for kind in [BlockKind::Claim, BlockKind::Data, BlockKind::Data] {
        let facts = after(&accepted, 1, 4, kind);
        accepted.accept(&facts, Ok(())).unwrap();
        records.push(record(records.len() as u64, 1, Some(facts)));
    }
    records
}

fn record(offset: u64, epoch: i32, block: Option<BlockFacts>) -> Record {
    Record { offset, epoch, block }
}

/// A reader that has judged the first `count` records of the log.
fn reader(log: &[Record], count: usize) -> LogReader {
    let genesis = log[0].block.unwrap();
    let mut reader = LogReader::new(Accepted::from_genesis(&genesis).unwrap(), 1, None);
    for record in &log[1..count] {
        assert_eq!(reader.next(record, |_| Ok(())), Ok(Step::Accepted));
    }
    reader
}

fn resume(reader: &LogReader) -> LogReader {
    LogReader::new(*reader.accepted(), reader.next_offset(), reader.last())
}

#[test]
fn a_reader_resumes_from_its_stored_point() {
    let log = log();
    for count in 1..=log.len() {
        let mut resumed = resume(&reader(&log, count));
        let from = resumed.restart();
        assert_eq!(from, count.saturating_sub(1).max(usize::from(count == 1)) as u64);
        for record in &log[from as usize..] {
            let expected = if record.offset < count as u64 {
                Step::Again
            } else {
                Step::Accepted
            };
            assert_eq!(resumed.next(record, |_| Ok(())), Ok(expected));
        }
        assert_eq!(resumed, reader(&log, log.len()));
    }
}

/// A resume point says which block was accepted last, and not that it is the end of the log.
#[test]
fn a_reader_that_resumes_at_the_end_of_the_log_accepts_nothing_after_it() {
    let mut log = log();
    let ended = after(reader(&log, 4).accepted(), 1, 4, BlockKind::End);
    log.push(record(4, 1, Some(ended)));
    let before = reader(&log, 5);
    let accepted = Accepted {
        ended: false,
        ..*before.accepted()
    };
    let mut resumed = LogReader::new(accepted, before.next_offset(), before.last());
    assert_eq!(resumed.next(&log[4], |_| Ok(())), Ok(Step::Again));
    assert_eq!(resumed.accepted(), before.accepted());
    let claim = after(before.accepted(), 2, 5, BlockKind::Claim);
    assert_eq!(
        resumed.next(&record(5, 1, Some(claim)), |_| Ok(())),
        Ok(Step::Skipped(SkipReason::AfterEnd))
    );
}

#[test]
fn other_bytes_at_a_known_offset_halt() {
    let log = log();
    let other = after(
        &Accepted::from_genesis(&genesis()).unwrap(),
        9,
        9,
        BlockKind::Claim,
    );
    let changed = [
        record(3, 1, Some(other)),
        record(3, 1, None),
        // The same block, but from another leading broker: a record before it may be another one.
        record(3, 2, log[3].block),
        // The record is missing.
        record(4, 1, None),
    ];
    for changed in changed {
        let mut resumed = resume(&reader(&log, 4));
        assert_eq!(resumed.restart(), 3);
        let lost = Err(HaltReason::LogLostData { offset: 3 });
        assert_eq!(resumed.next(&changed, |_| Ok(())), lost);
        assert!(!resumed.is_verified());
        // Each further call returns the same error.
        assert_eq!(resumed.next(&log[3], |_| Ok(())), lost);
    }
    let mut resumed = resume(&reader(&log, 4));
    assert_eq!(resumed.passed(4), Err(HaltReason::LogLostData { offset: 3 }));
}

#[test]
fn a_read_may_begin_before_the_last_record() {
    let log = log();
    let mut resumed = resume(&reader(&log, 3));
    for record in &log[..3] {
        assert!(!resumed.is_verified());
        assert_eq!(resumed.next(record, |_| Ok(())), Ok(Step::Again));
    }
    assert!(resumed.is_verified());
    assert_eq!(resumed.next(&log[3], |_| Ok(())), Ok(Step::Accepted));
}

#[test]
fn a_leader_that_starts_again_does_not_know_the_epoch_of_its_own_records() {
    let log = log();
    let before = reader(&log, 4);
    let last = Seen {
        epoch: None,
        ..before.last().unwrap()
    };
    let mut resumed = LogReader::new(*before.accepted(), before.next_offset(), Some(last));
    assert_eq!(
        resumed.next(&record(3, 8, log[3].block), |_| Ok(())),
        Ok(Step::Again)
    );
    assert_eq!(resumed.last().unwrap().epoch, Some(8));
}

#[test]
fn an_offset_out_of_range_is_never_reset() {
    let log = log();
    let mut shorter = reader(&log, 4);
    assert_eq!(shorter.out_of_range(0, 3), HaltReason::LogLostData { offset: 3 });
    let mut trimmed = reader(&log, 2);
    let reason = HaltReason::Trimmed { start: 3, next: 2 };
    assert_eq!(trimmed.out_of_range(3, 9), reason);
    assert_eq!(trimmed.next(&log[2], |_| Ok(())), Err(reason));
}

#[test]
fn records_that_are_no_blocks_and_offsets_without_records_are_passed_over() {
    let log = log();
    let mut reader = reader(&log, 3);
    assert_eq!(reader.next(&record(3, 1, None), |_| Ok(())), Ok(Step::Foreign));
    assert_eq!(reader.passed(9), Ok(()));
    assert_eq!(reader.passed(5), Ok(()));
    assert_eq!(reader.next_offset(), 9);
    let moved = record(9, 1, log[3].block);
    assert_eq!(reader.next(&moved, |_| Ok(())), Ok(Step::Accepted));
    assert_eq!(
        reader.next(&record(10, 1, log[3].block), |_| Ok(())),
        Ok(Step::Known)
    );
}

#[test]
fn only_a_block_that_continues_the_chain_has_its_fields_checked() {
    let log = log();
    let mut reader = reader(&log, 3);
    let wrong = |_: &BlockFacts| Err(WrongField("time"));
    let known = record(3, 1, log[2].block);
    assert_eq!(reader.next(&known, wrong), Ok(Step::Known));
    let next = record(4, 1, log[3].block);
    let reason = HaltReason::WrongField {
        number: 3,
        field: "time",
    };
    assert_eq!(reader.next(&next, wrong), Err(reason));
    assert_eq!(reader.halted(), Some(reason));
    assert_eq!(reader.passed(9), Err(reason));
}
