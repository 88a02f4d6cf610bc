//! Tests of blocks that are sealed before they are written, or that come from a replicated log.

use std::sync::Arc;

use proptest::prelude::*;
use tally_journal::{
    BlockBuffer, BlockHash, BlockKind, BlockMeta, BlockSealer, BlockStamp, ChainPoint, DataId, Disk,
    HEADER_BYTES, HeaderDefect, Journal, JournalConfig, JournalError, RawBlockDefect, parse_block,
};

use super::{CONFIG, Running, body, data, scan, verify};
use crate::support::sim_disk::SimDisk;

const TERM: u64 = 7;
const WRITER: u32 = 0xdead_0001;

const fn stamp(kind: BlockKind) -> BlockStamp {
    BlockStamp {
        term: TERM,
        writer: WRITER,
        kind,
    }
}

fn meta(point: &ChainPoint, record_count: u32) -> BlockMeta {
    BlockMeta {
        position: point.position,
        first_entry: point.block_sequence * 10,
        first_sequence: point.block_sequence * 100,
        base_time_ns: point.block_sequence * 1000,
        record_count,
    }
}

/// Makes a sealer at the end of the journal.
fn sealer(running: &Running) -> BlockSealer {
    let directory = &running.directory;
    BlockSealer::new(directory.data_id(), directory.geometry(), running.writer.end())
}

/// Seals a block and returns its bytes.
fn seal(sealer: &mut BlockSealer, stamp: BlockStamp, body: &[u8]) -> Vec<u8> {
    let mut block = BlockBuffer::default();
    block.push(body);
    let records = u32::from(stamp.kind.is_data());
    let next = sealer
        .seal(&meta(&sealer.end(), records), stamp, &mut block)
        .unwrap();
    assert_eq!(next, sealer.end());
    block.sealed_bytes().to_vec()
}

/// A body of another length for each index.
fn varied(index: u64) -> Vec<u8> {
    body(index, usize::try_from(100 * index % 1024).unwrap())
}

#[test]
fn sealed_blocks_are_the_same_bytes_on_disk_as_appended_ones() {
    let appended = SimDisk::new(1);
    let mut running = Running::open(&appended.handle()).unwrap();
    let before = appended.snapshot();
    for index in 0..20 {
        running.append(&varied(index)).unwrap();
        running.preparer.prepare_next().unwrap();
    }
    let copy = SimDisk::holding(1, &before);
    let mut following = Running::open(&copy.handle()).unwrap();
    let mut sealer = sealer(&following);
    for index in 0..20 {
        let bytes = seal(&mut sealer, BlockStamp::default(), &varied(index));
        let receipt = following.writer.append_sealed(&bytes).unwrap();
        following.preparer.prepare_next().unwrap();
        assert_eq!(receipt.end, sealer.end());
        assert_eq!(receipt.block_hash, sealer.end().previous_hash);
    }
    assert_eq!(following.writer.end(), running.writer.end());
    assert_eq!(copy.snapshot(), appended.snapshot());
}

#[test]
fn a_journal_contains_the_blocks_of_a_term_and_recovers_them() {
    let disk = SimDisk::new(2);
    let mut running = Running::open(&disk.handle()).unwrap();
    running.append(b"embedded").unwrap();
    let mut sealer = sealer(&running);
    let kinds = [
        BlockKind::Claim,
        BlockKind::Data,
        BlockKind::Level,
        BlockKind::Resign,
        BlockKind::End,
    ];
    for kind in kinds {
        let bytes = seal(&mut sealer, stamp(kind), kind.to_string().as_bytes());
        running.writer.append_sealed(&bytes).unwrap();
    }
    drop(running);
    disk.crash();
    let report = verify(&disk.handle(), &data()).unwrap();
    assert_eq!((report.blocks, report.records, report.claims), (6, 2, 1));
    let running = Running::open(&disk.handle()).unwrap();
    let seen: Vec<_> = running.seen.iter().map(|seen| seen.header.stamp()).collect();
    let expected: Vec<_> = [BlockStamp::default()]
        .into_iter()
        .chain(kinds.map(stamp))
        .collect();
    assert_eq!(seen, expected);
    assert_eq!(running.tail.end, sealer.end());
}

#[test]
fn a_body_that_is_too_long_is_not_sealed() {
    let disk = SimDisk::new(3);
    let running = Running::open(&disk.handle()).unwrap();
    let mut sealer = sealer(&running);
    let before = sealer.end();
    let mut block = BlockBuffer::default();
    block.push(&[1; 1025]);
    let sealed = sealer.seal(&meta(&before, 1), stamp(BlockKind::Data), &mut block);
    assert!(matches!(
        sealed,
        Err(JournalError::BlockTooLarge {
            body_bytes: 1025,
            block_bytes_max: 1024
        })
    ));
    assert_eq!(sealer.end(), before);
}

#[test]
#[should_panic(expected = "does not follow the block before it")]
fn append_sealed_panics_if_the_block_does_not_follow() {
    let disk = SimDisk::new(4);
    let mut running = Running::open(&disk.handle()).unwrap();
    let mut sealer = sealer(&running);
    let _first = seal(&mut sealer, BlockStamp::default(), b"first");
    let second = seal(&mut sealer, BlockStamp::default(), b"second");
    let _receipt = running.writer.append_sealed(&second);
}

#[test]
#[should_panic(expected = "the block to append must be undamaged: the checksum of the body is wrong")]
fn append_sealed_panics_if_the_block_is_damaged() {
    let disk = SimDisk::new(5);
    let mut running = Running::open(&disk.handle()).unwrap();
    let mut bytes = seal(&mut sealer(&running), BlockStamp::default(), b"first");
    *bytes.last_mut().unwrap() ^= 1;
    let _receipt = running.writer.append_sealed(&bytes);
}

#[test]
#[should_panic(expected = "the block is not sealed")]
fn a_block_that_was_never_sealed_has_no_bytes() {
    let mut block = BlockBuffer::default();
    block.push(b"open");
    let _bytes = block.sealed_bytes();
}

#[test]
fn a_failed_append_of_a_sealed_block_poisons_the_writer() {
    let disk = SimDisk::new(6);
    let mut running = Running::open(&disk.handle()).unwrap();
    let end = running.writer.end();
    let bytes = seal(&mut sealer(&running), BlockStamp::default(), b"first");
    disk.fail_sync_after(0);
    assert!(matches!(
        running.writer.append_sealed(&bytes),
        Err(JournalError::Disk(_))
    ));
    assert!(matches!(
        running.writer.append_sealed(&bytes),
        Err(JournalError::Poisoned)
    ));
    assert!(matches!(running.append(b"more"), Err(JournalError::Poisoned)));
    assert_eq!(running.writer.end(), end);
}

/// Returns a whole block, with the values against which it is checked.
fn whole() -> (Vec<u8>, DataId, tally_journal::Geometry, BlockHash) {
    let disk = SimDisk::new(7);
    let running = Running::open(&disk.handle()).unwrap();
    let mut sealer = sealer(&running);
    let _first = seal(&mut sealer, stamp(BlockKind::Claim), b"claim");
    let bytes = seal(&mut sealer, stamp(BlockKind::Data), b"some records");
    let directory = &running.directory;
    (
        bytes,
        directory.data_id(),
        directory.geometry(),
        sealer.end().previous_hash,
    )
}

#[test]
fn a_whole_block_is_accepted_and_every_change_of_a_byte_is_found() {
    let (bytes, data_id, geometry, hash) = whole();
    let (header, found) = parse_block(&bytes, data_id, geometry).unwrap();
    assert_eq!(found, hash);
    assert_eq!(header.stamp(), stamp(BlockKind::Data));
    for index in 0..bytes.len() {
        for mask in [1, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[index] ^= mask;
            let defect = parse_block(&damaged, data_id, geometry).unwrap_err();
            let expected = match index {
                0..4 => RawBlockDefect::Header(HeaderDefect::Magic),
                4..HEADER_BYTES => RawBlockDefect::Header(HeaderDefect::Checksum),
                _ => RawBlockDefect::BodyChecksum,
            };
            assert_eq!(defect, expected, "byte {index}");
        }
    }
    for length in 0..bytes.len() {
        let expected = if length < HEADER_BYTES {
            RawBlockDefect::Short(length)
        } else {
            RawBlockDefect::Length {
                found: length,
                stated: bytes.len(),
            }
        };
        assert_eq!(parse_block(&bytes[..length], data_id, geometry), Err(expected));
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(parse_block(&longer, data_id, geometry).is_err());
    assert_eq!(
        parse_block(&bytes, DataId::from_bytes([9; 16]), geometry),
        Err(RawBlockDefect::Header(HeaderDefect::DataId))
    );
    let small = JournalConfig {
        segment_bytes: 4096,
        block_bytes_max: 256,
    };
    assert!(parse_block(&bytes, data_id, small.validate().unwrap()).is_ok());
}

/// Corrects the checksum of the header.
fn with_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    let checksum = crc32c::crc32c(&bytes[..124]);
    bytes[124..128].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

#[test]
fn a_block_that_no_block_can_follow_is_refused() {
    let (bytes, data_id, geometry, _) = whole();
    let refused = |at: usize, value: &[u8]| {
        let mut changed = bytes.clone();
        changed[at..at + value.len()].copy_from_slice(value);
        parse_block(&with_checksum(changed), data_id, geometry).unwrap_err()
    };
    for number in [0, u64::MAX] {
        assert_eq!(
            refused(8, &number.to_le_bytes()),
            RawBlockDefect::Header(HeaderDefect::Number(number))
        );
    }
    // Wrong positions: in the last segment, too close to the end of a segment for the longest block, and two that are
    // not aligned.
    for position in [u64::from(u32::MAX) << 32, 8192 - 128, 4, u64::MAX] {
        assert!(matches!(
            refused(48, &position.to_le_bytes()),
            RawBlockDefect::Header(HeaderDefect::Misplaced(_))
        ));
    }
    assert_eq!(
        refused(44, &1025_u32.to_le_bytes()),
        RawBlockDefect::Header(HeaderDefect::BodyTooLong(1025))
    );
    assert_eq!(
        refused(120, &7_u32.to_le_bytes()),
        RawBlockDefect::Header(HeaderDefect::Kind(7))
    );
}

proptest! {
    #[test]
    fn no_bytes_let_the_check_panic(
        random in proptest::collection::vec(any::<u8>(), 0..400),
        changes in proptest::collection::vec((0..124_usize, any::<u8>()), 0..6),
    ) {
        let (bytes, data_id, geometry, _) = whole();
        let _any = parse_block(&random, data_id, geometry);
        let mut header = random.clone();
        if header.len() >= HEADER_BYTES {
            header[..4].copy_from_slice(b"TLYB");
            header[4..8].copy_from_slice(&[1, 0, 128, 0]);
            let _any = parse_block(&with_checksum(header), data_id, geometry);
        }
        let mut changed = bytes;
        for (at, value) in changes {
            changed[at] = value;
        }
        let changed = with_checksum(changed);
        if let Ok((header, hash)) = parse_block(&changed, data_id, geometry)
            && !header.kind.is_only_in_log()
        {
            // A block that is accepted can be part of a chain.
            let point = ChainPoint {
                position: header.position,
                block_sequence: header.block_sequence,
                previous_hash: header.previous_hash,
                previous_position: header.position,
            };
            let next = point.after(&header, hash, geometry);
            prop_assert_eq!(next.previous_hash, hash);
        }
    }
}

#[test]
fn a_filled_buffer_has_the_bytes_of_the_block() {
    let (bytes, data_id, geometry, _) = whole();
    let (header, _) = parse_block(&bytes, data_id, geometry).unwrap();
    let mut block = BlockBuffer::default();
    block.fill_sealed(&header, &bytes[HEADER_BYTES..]);
    assert_eq!(block.sealed_bytes(), bytes);
}

#[test]
fn a_header_of_an_unknown_kind_in_a_journal_is_damage_and_not_a_torn_write() {
    let disk = SimDisk::new(8);
    let handle: Arc<dyn Disk> = disk.handle();
    let mut running = Running::open(&handle).unwrap();
    running.append(b"one").unwrap();
    drop(running);
    disk.restart();
    disk.change(&super::segment_path(0), |bytes| {
        bytes[120..124].copy_from_slice(&9_u32.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..124]);
        bytes[124..128].copy_from_slice(&checksum.to_le_bytes());
    });
    let journal = Journal::open(handle, &data(), &CONFIG).unwrap();
    let error = scan(&journal, journal.start(), 0).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the header states the kind of block 9, which this program does not know"),
        "{error}"
    );
}
