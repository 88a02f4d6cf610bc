//! Damage that a crash cannot cause is an error that states segment, offset and block. Recovery then changes nothing.

use std::convert::Infallible;

use proptest::prelude::*;
use tally_journal::{
    BlockDefect, BlockHash, ChainPoint, Corruption, CorruptionKind, DataId, HEADER_BYTES, HeaderDefect,
    Journal, JournalError, Position, ScanError, Tail,
};

use super::{CONFIG, Running, Seen, body, data, scan, segment_path};
use crate::support::sim_disk::SimDisk;

/// Makes a journal of `count` blocks with bodies of 200 bytes, and kills its process. A block takes 328 bytes on disk,
/// and 22 blocks fill a segment. Returns the positions of the blocks and the end of the journal.
fn journal_of(count: u64) -> (SimDisk, Vec<Position>, ChainPoint) {
    let disk = SimDisk::new(count);
    let mut running = Running::open(&disk.handle()).unwrap();
    let positions = running.append_many(count, 200);
    let end = running.writer.end();
    drop(running);
    disk.restart();
    (disk, positions, end)
}

/// Opens the journal, checks that `open` reports damage and changes nothing, and returns the damage.
fn damage_of(disk: &SimDisk) -> Corruption {
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
    corruption
}

fn scan_from(
    disk: &SimDisk,
    from: ChainPoint,
    durable_through: u64,
) -> Result<(Vec<Seen>, Tail), JournalError> {
    let journal = Journal::open(disk.handle(), &data(), &CONFIG).unwrap();
    scan(&journal, from, durable_through)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_flipped_bit_in_any_block_except_the_last_is_detected_and_the_error_names_the_block(
        victim in 0_usize..29,
        bit in 0_u64..328 * 8,
    ) {
        let (disk, positions, _) = journal_of(30);
        let position = positions[victim];
        disk.flip_bit(&segment_path(position.segment()), u64::from(position.offset()) * 8 + bit);
        let corruption = damage_of(&disk);
        prop_assert_eq!((corruption.position, corruption.block_sequence), (position, victim as u64 + 1));
        let later = positions[victim + 1];
        let damaged = matches!(
            corruption.kind,
            CorruptionKind::DamagedBlock { later: found, .. } if found == later
        );
        prop_assert!(damaged, "{}", corruption);
    }

    #[test]
    fn missing_last_blocks_are_detected_with_a_checkpoint_or_a_known_sequence(lost in 1_usize..29) {
        let (disk, positions, end) = journal_of(30);
        // All blocks from `first_lost` on were durable and are now zeros.
        let first_lost = 30 - lost;
        for position in &positions[first_lost..] {
            let start = position.offset() as usize;
            disk.change(&segment_path(position.segment()), |bytes| {
                let end = bytes.len().min(start + 328);
                bytes[start..end].fill(0);
            });
        }
        let journal = Journal::open(disk.handle(), &data(), &CONFIG).unwrap();
        let (seen, _) = scan(&journal, journal.start(), first_lost as u64).unwrap();
        prop_assert_eq!(seen.len(), first_lost);
        let error = scan(&journal, journal.start(), first_lost as u64 + 1).unwrap_err();
        let JournalError::Corrupt(corruption) = error else { panic!("{error}") };
        prop_assert_eq!(corruption.position, positions[first_lost]);
        let too_short = matches!(corruption.kind, CorruptionKind::TooShort { .. });
        prop_assert!(too_short, "{}", corruption);
        let error = scan(&journal, end, 0).unwrap_err();
        let JournalError::Corrupt(corruption) = error else { panic!("{error}") };
        prop_assert_eq!(corruption.kind, CorruptionKind::CheckpointMismatch);
    }

    #[test]
    fn without_a_marker_a_flipped_bit_in_the_last_block_counts_as_a_torn_write(bit in 0_u64..328 * 8) {
        let (disk, positions, _) = journal_of(5);
        let last = positions[4];
        disk.flip_bit(&segment_path(0), u64::from(last.offset()) * 8 + bit);
        let mut running = Running::open(&disk.handle()).unwrap();
        prop_assert_eq!(running.seen.len(), 4);
        prop_assert!(running.tail.torn.is_some());
        running.append(b"shorter").unwrap();
        drop(running);
        disk.restart();
        prop_assert_eq!(scan_from(&disk, ChainPoint::from_bytes(&start(&disk).to_bytes()), 5).unwrap().0.len(), 5);
    }
}

fn start(disk: &SimDisk) -> ChainPoint {
    Journal::open(disk.handle(), &data(), &CONFIG).unwrap().start()
}

#[test]
fn the_error_states_the_position_the_damage_and_the_remedy() {
    let (disk, positions, _) = journal_of(30);
    disk.flip_bit(
        &segment_path(1),
        8 * u64::from(positions[23].offset()) + 8 * HEADER_BYTES as u64,
    );
    assert_eq!(
        damage_of(&disk).to_string(),
        "journal segment 1 (/data/journal/0000000001.segment), offset 328, block 24: the checksum of the body is \
         wrong, but the later block 25 is at segment 1, offset 656. Nothing was changed. `tally verify` lists the \
         extent of the damage; restore the directory from a backup (docs/operations.md)"
    );
}

#[test]
fn a_missing_segment_in_the_middle_is_an_error() {
    let (disk, _, _) = journal_of(60);
    disk.handle().remove(&segment_path(1)).unwrap();
    let corruption = damage_of(&disk);
    assert_eq!(corruption.position, Position::new(1, 0));
    let missing = matches!(
        corruption.kind,
        CorruptionKind::DamagedBlock {
            defect: BlockDefect::NoSegment,
            later_sequence: 45,
            ..
        }
    );
    assert!(missing, "{corruption}");
}

#[test]
fn bytes_far_after_the_end_are_an_error() {
    let (disk, _, end) = journal_of(5);
    // The longest block takes 1152 bytes, so one interrupted write leaves at most 1152 bytes.
    let offset = u64::from(end.position.offset());
    disk.flip_bit(&segment_path(0), (offset + 1152) * 8);
    let corruption = damage_of(&disk);
    let first = Position::new(0, end.position.offset() + 1152);
    assert_eq!(
        (corruption.position, corruption.kind),
        (end.position, CorruptionKind::StrayBytes { first })
    );

    disk.flip_bit(&segment_path(0), (offset + 1152) * 8);
    disk.flip_bit(&segment_path(0), (offset + 1151) * 8);
    let running = Running::open(&disk.handle()).unwrap();
    assert_eq!(running.tail.torn.map(|torn| torn.remains_bytes), Some(1152));
}

#[test]
fn bytes_in_a_spare_segment_are_an_error() {
    let disk = SimDisk::new(1);
    let mut running = Running::open(&disk.handle()).unwrap();
    running.append(b"one").unwrap();
    running.preparer.prepare_next().unwrap();
    drop(running);
    disk.restart();
    disk.flip_bit(&segment_path(1), 4096 * 8);
    let first = Position::new(1, 4096);
    assert_eq!(damage_of(&disk).kind, CorruptionKind::StrayBytes { first });
}

#[test]
fn a_forged_block_with_correct_checksums_breaks_the_chain() {
    // The test replaces block 2 by a forged block with correct checksums. Block 3 contains the hash of the original
    // block 2.
    let (disk, positions, _) = journal_of(3);
    let forged = SimDisk::new(3);
    let mut running = Running::open(&forged.handle()).unwrap();
    running.append(&body(0, 200)).unwrap();
    running.append(&body(9, 200)).unwrap();
    drop(running);
    let bytes = forged.contents(&segment_path(0));
    let (start, end) = (positions[1].offset() as usize, positions[2].offset() as usize);
    disk.change(&segment_path(0), |contents| {
        contents[start..end].copy_from_slice(&bytes[start..end])
    });
    let corruption = damage_of(&disk);
    assert_eq!(
        (corruption.position, corruption.kind),
        (positions[2], CorruptionKind::ChainBroken)
    );
}

#[test]
fn a_block_of_another_directory_or_position_is_neither_accepted_nor_removed() {
    let (disk, positions, end) = journal_of(3);
    let foreign = SimDisk::new(77);
    let mut running = Running::open(&foreign.handle()).unwrap();
    running.append_many(4, 200);
    drop(running);
    let theirs = foreign.contents(&segment_path(0));
    let (start, length) = (end.position.offset() as usize, 328);
    disk.change(&segment_path(0), |contents| {
        contents[start..start + length].copy_from_slice(&theirs[start..start + length]);
    });
    let corruption = damage_of(&disk);
    let kind = CorruptionKind::NoBlock {
        defect: BlockDefect::Header(HeaderDefect::DataId),
    };
    assert_eq!((corruption.position, corruption.kind), (end.position, kind));

    disk.change(&segment_path(0), |contents| {
        contents.copy_within(0..length, start)
    });
    let corruption = damage_of(&disk);
    let kind = CorruptionKind::NoBlock {
        defect: BlockDefect::Header(HeaderDefect::Misplaced(positions[0])),
    };
    assert_eq!((corruption.position, corruption.kind), (end.position, kind));
}

#[test]
fn bytes_of_a_foreign_block_inside_a_torn_body_do_not_count_as_a_later_block() {
    // A client can store the bytes of a block as its own data. If the write of this data is torn, the scan must not
    // treat these bytes as a later block and report damage.
    let donor = SimDisk::new(77);
    let mut running = Running::open(&donor.handle()).unwrap();
    running.append_many(6, 200);
    drop(running);
    let block_5 = donor.contents(&segment_path(0))[4 * 328..5 * 328].to_vec();

    let disk = SimDisk::new(1);
    let mut running = Running::open(&disk.handle()).unwrap();
    running.append(b"one").unwrap();
    let end = running.append(&block_5).unwrap().end;
    drop(running);
    disk.restart();
    disk.flip_bit(&segment_path(0), 8 * u64::from(end.previous_position.offset()));
    let running = Running::open(&disk.handle()).unwrap();
    assert_eq!(running.seen.len(), 1);
    assert!(running.tail.torn.is_some());
}

#[test]
fn a_scan_can_begin_at_any_point_of_the_chain() {
    let disk = SimDisk::new(1);
    let mut running = Running::open(&disk.handle()).unwrap();
    let ends: Vec<ChainPoint> = (0..30)
        .map(|index| running.append(&body(index, 200)).unwrap().end)
        .collect();
    drop(running);
    disk.restart();
    for (index, end) in ends.iter().enumerate() {
        let stored = ChainPoint::from_bytes(&end.to_bytes());
        let (seen, tail) = scan_from(&disk, stored, end.last_block_sequence()).unwrap();
        assert_eq!(
            (seen.len(), tail.end, tail.blocks),
            (29 - index, ends[29], 29 - index as u64)
        );
        assert_eq!(seen.last().map(|block| block.header), tail.last);
    }
}

#[test]
fn a_point_that_does_not_belong_to_the_journal_is_an_error() {
    let (disk, positions, end) = journal_of(5);
    let hash = BlockHash([7; 32]);
    for foreign in [
        ChainPoint {
            previous_hash: hash,
            ..end
        },
        ChainPoint {
            block_sequence: 7,
            ..end
        },
        ChainPoint {
            position: positions[4],
            ..end
        },
        ChainPoint {
            previous_position: positions[3],
            ..end
        },
        ChainPoint {
            previous_position: Position::new(5, 0),
            ..end
        },
        ChainPoint {
            block_sequence: 1,
            ..end
        },
        ChainPoint {
            previous_hash: hash,
            ..start(&disk)
        },
    ] {
        let error = scan_from(&disk, foreign, 0).unwrap_err();
        let JournalError::Corrupt(corruption) = error else {
            panic!("{error}")
        };
        assert_eq!(corruption.kind, CorruptionKind::CheckpointMismatch);
    }
}

#[test]
fn a_block_of_a_newer_version_is_an_error_and_not_removed() {
    let (disk, positions, _) = journal_of(2);
    disk.change(&segment_path(0), |contents| {
        let header = &mut contents[positions[1].offset() as usize..][..HEADER_BYTES];
        header[4] = 2;
        let checksum = crc32c::crc32c(&header[..124]);
        header[124..].copy_from_slice(&checksum.to_le_bytes());
    });
    let before = disk.snapshot();
    let error = Running::open(&disk.handle()).map(|_| ()).unwrap_err();
    assert!(
        matches!(
            error,
            JournalError::UnsupportedVersion {
                found: 2,
                supported: 1,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(disk.snapshot(), before);
}

#[test]
fn an_error_of_the_visitor_ends_the_scan() {
    let (disk, _, _) = journal_of(3);
    let journal = Journal::open(disk.handle(), &data(), &CONFIG).unwrap();
    let stopped = journal.scan(journal.start(), 0, |header, _, _| {
        if header.block_sequence == 2 {
            Err("no")
        } else {
            Ok(())
        }
    });
    assert!(matches!(stopped, Err(ScanError::Visitor("no"))));
    let all = journal.scan(journal.start(), 0, |_, _, _| Ok::<(), Infallible>(()));
    assert_eq!(all.unwrap().blocks, 3);
    assert_ne!(journal.directory().data_id(), DataId::from_bytes([0; 16]));
}
