use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::{layout::*, *};
use crate::error::Error;

const TIME: i64 = 1_700_000_000_123;

fn batch(values: &[&[u8]]) -> Vec<u8> {
    let values: Vec<Bytes> = values.iter().map(|value| Bytes::copy_from_slice(value)).collect();
    let encoded = encode(&values, TIME).unwrap();
    let bytes: BytesMut = encoded.pieces.iter().flatten().copied().collect();
    assert_eq!(bytes.len(), encoded.length);
    bytes.to_vec()
}

/// Sets the offset of a batch, as a broker does. The CRC does not cover this offset.
fn at(offset: i64, mut batch: Vec<u8>) -> Vec<u8> {
    batch[..8].copy_from_slice(&offset.to_be_bytes());
    batch
}

/// Changes bytes that the CRC covers, and corrects the CRC.
fn changed(mut batch: Vec<u8>, position: usize, bytes: &[u8]) -> Vec<u8> {
    batch[position..position + bytes.len()].copy_from_slice(bytes);
    let crc = crc32c::crc32c(&batch[CRC_START..]);
    batch[17..CRC_START].copy_from_slice(&crc.to_be_bytes());
    batch
}

/// Offsets with values, and the offset after them.
type Read = (Vec<(i64, Vec<u8>)>, i64);

fn read(bytes: &[u8], offset: i64) -> Result<Read, Error> {
    let (records, next) = decode(Bytes::copy_from_slice(bytes), offset)?;
    let records = records
        .into_iter()
        .map(|record| (record.offset, record.value.to_vec()));
    Ok((records.collect(), next))
}

fn is_corrupt<T>(outcome: &Result<T, Error>) -> bool {
    matches!(outcome, Err(Error::Corrupt { .. }))
}

/// The bytes come from the encoder of the crate `kafka-protocol` 0.18.
#[test]
fn a_batch_has_the_bytes_that_another_encoder_makes() {
    let expected = "000000000000000000000093ffffffff0223f8bf530000000000020000018bcfe5687b0000018bcfe5687bffffffffffffffffffff\
        ffffffff0000000316000000010a6669727374000c0000020100009a01000004018c0107070707070707070707070707070707070707070707070707\
        07070707070707070707070707070707070707070707070707070707070707070707070707070707070707070700";
    let actual: String = batch(&[b"first", b"", &[7; 70]])
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(actual, expected);
}

#[test]
fn a_large_value_is_not_copied() {
    let value = Bytes::from(vec![1; 100_000]);
    let encoded = encode(&[value.clone(), Bytes::from("small")], TIME).unwrap();
    assert!(
        encoded
            .pieces
            .iter()
            .any(|piece| piece.as_ptr() == value.as_ptr())
    );
}

proptest! {
    #[test]
    fn values_survive(
        sizes in prop::collection::vec(prop_oneof![0..100_usize, Just(8191), Just(8192), Just(8193), Just(20_000)], 1..20),
        offset in 0..i64::MAX / 2,
    ) {
        let values: Vec<Vec<u8>> = (0_u8..).zip(&sizes).map(|(byte, size)| vec![byte; *size]).collect();
        let slices: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        let bytes = at(offset, batch(&slices));
        let expected: Vec<(i64, Vec<u8>)> = (offset..).zip(values).collect();
        let next = offset + expected.len() as i64;
        prop_assert_eq!(read(&bytes, offset).unwrap(), (expected, next));
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), offset: i64) {
        let _ = read(&bytes, offset);
    }

    #[test]
    fn no_body_with_a_correct_crc_makes_the_decoder_panic(
        body in prop::collection::vec(any::<u8>(), 40..200),
        records in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let mut bytes = batch(&[&records]);
        let end = bytes.len().min(CRC_START + body.len());
        let part = body[..end - CRC_START].to_vec();
        bytes = changed(bytes, CRC_START, &part);
        let _ = read(&bytes, 0);
    }
}

#[test]
fn every_damaged_bit_is_noticed() {
    let good = at(5, batch(&[b"one", b"two"]));
    let expected = read(&good, 5).unwrap();
    for position in 0..good.len() {
        for bit in 0..8 {
            let mut damaged = good.clone();
            damaged[position] ^= 1 << bit;
            let outcome = read(&damaged, 5);
            match position {
                // The CRC does not cover the offset of the batch. With a smaller offset, the records before the
                // requested offset are left out, or the batch is refused. A larger offset looks like a gap in the log,
                // which the caller of the reader detects.
                0..8 => assert!(
                    outcome
                        .as_ref()
                        .map_or_else(|_| true, |(records, _)| records != &expected.0),
                    "byte {position}"
                ),
                // The leader epoch changes nothing.
                12..16 => assert_eq!(outcome, Ok(expected.clone()), "byte {position}"),
                _ => assert!(is_corrupt(&outcome), "byte {position} bit {bit}: {outcome:?}"),
            }
        }
    }
}

#[test]
fn an_incomplete_last_batch_is_left_for_the_next_fetch() {
    let first = at(10, batch(&[b"a", b"b"]));
    let second = at(12, batch(&[b"c"]));
    let both = [first.clone(), second].concat();
    for length in first.len()..both.len() {
        let (records, next) = read(&both[..length], 10).unwrap();
        assert_eq!((records.len(), next), (2, 12), "{length} bytes");
    }
    // The first batch must be whole, otherwise a damaged length would look like an empty log.
    for length in 1..first.len() {
        assert!(is_corrupt(&read(&first[..length], 10)), "{length} bytes");
    }
    assert_eq!(read(&[], 10).unwrap(), (vec![], 10));
}

#[test]
fn records_before_the_offset_are_dropped() {
    let bytes = [at(10, batch(&[b"a", b"b", b"c"])), at(13, batch(&[b"d"]))].concat();
    let expected = vec![(12, b"c".to_vec()), (13, b"d".to_vec())];
    assert_eq!(read(&bytes, 12).unwrap(), (expected, 14));
}

#[test]
fn batches_out_of_order_are_corrupt() {
    let one = |offset| at(offset, batch(&[b"a", b"b"]));
    assert!(is_corrupt(&read(&one(3), 5)), "the batch ends before the offset");
    for second in [10, 11, 8, 0] {
        let bytes = [one(10), one(second)].concat();
        assert!(is_corrupt(&read(&bytes, 10)), "second batch at {second}");
    }
    let gap = [one(10), one(20)].concat();
    assert_eq!(read(&gap, 10).unwrap().1, 22);
}

#[test]
fn a_huge_claim_is_refused() {
    let good = batch(&[b"value"]);
    let max = i32::MAX.to_be_bytes();
    for (position, bytes, what) in [
        (57, &max[..], "number of records"),
        (57, &(-1_i32).to_be_bytes(), "negative number of records"),
        (57, &2_i32.to_be_bytes(), "one record too many"),
        (57, &0_i32.to_be_bytes(), "bytes after the last record"),
        (23, &(-1_i32).to_be_bytes(), "negative last offset"),
        (61, &[0xfe, 0xff, 0xff, 0xff, 0x0f], "length of the record"),
        (61, &[1], "negative length of the record"),
        (66, &[0xfe], "length of the value"),
    ] {
        let bytes = changed(
            good.clone(),
            position,
            &bytes[..bytes.len().min(good.len() - position)],
        );
        assert!(is_corrupt(&read(&bytes, 0)), "{what}");
    }
    for length in [i32::MAX, i32::MIN, -1, 0, 48] {
        let mut bytes = good.clone();
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        assert!(is_corrupt(&read(&bytes, 0)), "length {length}");
    }
    let mut overflow = at(i64::MAX, good);
    assert!(is_corrupt(&read(&overflow, 0)));
    overflow[..8].copy_from_slice(&(-1_i64).to_be_bytes());
    assert!(is_corrupt(&read(&overflow, 0)));
}

#[test]
fn a_record_outside_its_batch_is_corrupt() {
    let good = batch(&[b"a", b"b"]);
    let last_offset_too_small = changed(good.clone(), 23, &0_i32.to_be_bytes());
    assert!(is_corrupt(&read(&last_offset_too_small, 0)));
    // The offset of the first record, relative to the batch, is at byte 64: both records have offset 1.
    let same_offset_twice = changed(good, 64, &[2]);
    assert!(is_corrupt(&read(&same_offset_twice, 0)));
}

#[test]
fn a_batch_with_an_older_format_is_refused() {
    let mut bytes = batch(&[b"a"]);
    bytes[16] = 1;
    assert!(is_corrupt(&read(&bytes, 0)));
}

#[test]
fn control_batches_are_passed_and_compressed_ones_refused() {
    let attributes = |bits: i16| changed(at(7, batch(&[b"a"])), 21, &bits.to_be_bytes());
    assert_eq!(read(&attributes(0b11_0000), 7).unwrap(), (vec![], 8));
    let after = [attributes(0b10_0000), at(8, batch(&[b"b"]))].concat();
    assert_eq!(read(&after, 7).unwrap(), (vec![(8, b"b".to_vec())], 9));
    for (number, codec) in [
        (1, "gzip"),
        (2, "snappy"),
        (3, "lz4"),
        (4, "zstd"),
        (7, "an unknown codec"),
    ] {
        let expected = Error::Compressed { offset: 7, codec };
        assert_eq!(read(&attributes(number), 7), Err(expected));
    }
}

#[test]
fn the_timestamp_is_the_writers_or_the_brokers() {
    let time = |bytes: Vec<u8>| decode(Bytes::from(bytes), 0).unwrap().0[0].timestamp_ms;
    assert_eq!(time(batch(&[b"a"])), TIME);
    // The broker sets the bit and the newest timestamp.
    let stamped = changed(batch(&[b"a"]), 21, &0b1000_i16.to_be_bytes());
    assert_eq!(time(changed(stamped, 35, &99_i64.to_be_bytes())), 99);
}
