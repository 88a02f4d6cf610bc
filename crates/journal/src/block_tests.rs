//! Tests of the block format.

use std::io::Write as _;

use super::*;

fn header() -> BlockHeader {
    BlockHeader {
        position: Position::new(2, 0x0102_0304),
        block_sequence: 0x1122_3344_5566_7788,
        first_entry: 1001,
        first_sequence: 2002,
        base_time_ns: 1_700_000_000_000_000_007,
        record_count: 3,
        body_bytes: 5,
        data_id: DataId::from_bytes(*b"0123456789abcdef"),
        previous_hash: BlockHash([0xee; 32]),
        body_crc: crc32c::crc32c(b"hello"),
        term: 0,
        writer: 0,
        kind: BlockKind::Data,
    }
}

#[test]
fn the_encoding_of_a_version_1_header_does_not_change() {
    let mut golden = Vec::new();
    golden.extend_from_slice(b"TLYB");
    golden.extend_from_slice(&[1, 0, 128, 0]);
    golden.extend_from_slice(&[0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
    golden.extend_from_slice(&[0xe9, 0x03, 0, 0, 0, 0, 0, 0]);
    golden.extend_from_slice(&[0xd2, 0x07, 0, 0, 0, 0, 0, 0]);
    golden.extend_from_slice(&[0x07, 0x00, 0x2a, 0x36, 0xfe, 0x9c, 0x97, 0x17]);
    golden.extend_from_slice(&[3, 0, 0, 0, 5, 0, 0, 0]);
    golden.extend_from_slice(&[4, 3, 2, 1, 2, 0, 0, 0]);
    golden.extend_from_slice(b"0123456789abcdef");
    golden.extend_from_slice(&[0xee; 32]);
    // CRC-32C of "hello".
    golden.extend_from_slice(&[0x4c, 0xbb, 0x71, 0x9a]);
    golden.extend_from_slice(&[0; 16]);
    golden.extend_from_slice(&[0x60, 0xe4, 0x49, 0x0a]);
    assert_eq!(header().encode().to_vec(), golden);
    assert_eq!(BlockHeader::decode(&golden.try_into().unwrap()), Ok(header()));
}

#[test]
fn term_writer_and_kind_are_at_the_end_of_the_header() {
    let stamped = BlockHeader {
        record_count: 0,
        term: 0x0807_0605_0403_0201,
        writer: 0x0c0b_0a09,
        kind: BlockKind::Claim,
        ..header()
    };
    let mut golden = header().encode();
    golden[40..44].copy_from_slice(&[0; 4]);
    golden[108..120].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    golden[120..124].copy_from_slice(&[2, 0, 0, 0]);
    golden[124..].copy_from_slice(&[0x37, 0xa9, 0xa3, 0x3d]);
    assert_eq!(stamped.encode(), golden);
    assert_eq!(BlockHeader::decode(&golden), Ok(stamped));
}

/// Changes an encoded header, with a correct checksum.
fn changed(header: &BlockHeader, change: impl FnOnce(&mut HeaderBytes)) -> HeaderBytes {
    let mut bytes = header.encode();
    change(&mut bytes);
    let checksum = checksum_before_last_field(&bytes);
    put::<124, 4, _>(&mut bytes, checksum.to_le_bytes());
    bytes
}

#[test]
fn a_header_with_an_impossible_stamp_is_a_defect_of_its_own() {
    let refused = |header: BlockHeader| BlockHeader::decode(&header.encode()).unwrap_err();
    for kind in [7, u32::MAX] {
        let bytes = changed(&header(), |bytes| put::<120, 4, _>(bytes, kind.to_le_bytes()));
        assert_eq!(BlockHeader::decode(&bytes), Err(HeaderDefect::Kind(kind)));
    }
    let bytes = changed(&header(), |bytes| put::<6, 2, _>(bytes, 136_u16.to_le_bytes()));
    assert_eq!(BlockHeader::decode(&bytes), Err(HeaderDefect::Length(136)));
    let (writer, kind) = (3, BlockKind::Data);
    assert_eq!(
        refused(BlockHeader { writer, ..header() }),
        HeaderDefect::NoTerm { writer, kind }
    );
    for kind in [
        BlockKind::Claim,
        BlockKind::Resign,
        BlockKind::End,
        BlockKind::Level,
    ] {
        let control = BlockHeader {
            kind,
            record_count: 0,
            ..header()
        };
        assert_eq!(refused(control), HeaderDefect::NoTerm { writer: 0, kind });
        let with_records = BlockHeader {
            term: 1,
            record_count: 2,
            ..control
        };
        assert_eq!(
            refused(with_records),
            HeaderDefect::Records {
                kind,
                record_count: 2
            }
        );
        let whole = BlockHeader { term: 1, ..control };
        assert_eq!(BlockHeader::decode(&whole.encode()), Ok(whole));
    }
}

#[test]
fn a_journal_contains_no_records_of_the_log() {
    let geometry = crate::JournalConfig::default().validate().unwrap();
    for kind in [BlockKind::Genesis, BlockKind::Halt] {
        let header = BlockHeader {
            kind,
            record_count: 0,
            ..header()
        };
        assert_eq!(
            geometry.decode_header(&header.encode(), header.data_id, header.position),
            Err(HeaderDefect::NotInJournal(kind))
        );
    }
}

#[test]
fn every_flipped_bit_of_a_header_is_detected() {
    let whole = header().encode();
    for bit in 0..HEADER_BYTES * 8 {
        let mut damaged = whole;
        damaged[bit / 8] ^= 1 << (bit % 8);
        let defect = BlockHeader::decode(&damaged).unwrap_err();
        let expected = if bit < 32 {
            HeaderDefect::Magic
        } else {
            HeaderDefect::Checksum
        };
        assert_eq!(defect, expected, "bit {bit}");
    }
    assert_eq!(BlockHeader::decode(&[0; HEADER_BYTES]), Err(HeaderDefect::Absent));
}

#[test]
fn an_undamaged_header_of_a_newer_version_is_reported_as_a_version_and_not_as_damage() {
    let mut bytes = header().encode();
    put::<4, 2, _>(&mut bytes, 2u16.to_le_bytes());
    let checksum = checksum_before_last_field(&bytes);
    put::<124, 4, _>(&mut bytes, checksum.to_le_bytes());
    assert_eq!(BlockHeader::decode(&bytes), Err(HeaderDefect::Version(2)));
}

#[test]
fn check_place_detects_another_directory_another_position_and_a_body_that_is_too_long() {
    let header = header();
    assert_eq!(header.check_place(header.data_id, header.position, 5), Ok(()));
    let elsewhere = Position::new(2, 8);
    let defect = |data_id, position, max| header.check_place(data_id, position, max).unwrap_err();
    assert_eq!(
        defect(DataId::from_bytes([0; 16]), header.position, 5),
        HeaderDefect::DataId
    );
    assert_eq!(
        defect(header.data_id, elsewhere, 5),
        HeaderDefect::Misplaced(header.position)
    );
    assert_eq!(
        defect(header.data_id, header.position, 4),
        HeaderDefect::BodyTooLong(5)
    );
}

#[test]
fn a_buffer_is_filled_sealed_and_used_again_without_new_memory() {
    let mut block = BlockBuffer::with_capacity(64);
    let capacity = block.capacity();
    block.push(b"he");
    block.append_with(|bytes| bytes.extend_from_slice(b"lloxx"));
    block.truncate(5);
    block.body_mut()[0] = b'H';
    assert_eq!(
        (block.body(), block.body_bytes(), block.is_empty()),
        (&b"Hello"[..], 5, false)
    );

    let hash = block.seal(&header());
    let mut whole = header().encode().to_vec();
    whole.extend_from_slice(b"Hello");
    assert_eq!(hash, BlockHash(*blake3::hash(&whole).as_bytes()));
    whole.extend_from_slice(&[0; 3]);
    block.with_padding(|bytes| assert_eq!(bytes, whole));
    assert_eq!(block.body(), b"Hello");

    block.clear();
    block.write_all(&[7; 64]).unwrap();
    assert_eq!((block.body_bytes(), block.capacity()), (64, capacity));
}

#[test]
#[should_panic(expected = "may only append")]
fn append_with_panics_if_the_closure_shortens_the_vector() {
    BlockBuffer::default().append_with(Vec::clear);
}

#[test]
fn the_hash_before_the_first_block_differs_between_directories() {
    let one = BlockHash::genesis(DataId::from_bytes([1; 16]));
    assert_ne!(one, BlockHash::genesis(DataId::from_bytes([2; 16])));
    assert_eq!(
        one.to_string(),
        "cbf7f039e59130dfa1fa2a72aea14a4c9cf7d5a6690c0c9a125d823a76949460"
    );
}
