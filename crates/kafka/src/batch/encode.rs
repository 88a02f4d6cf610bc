//! Encodes a batch.

use bytes::Bytes;

use super::layout::{CRC_START, HEADER_BYTES, MAGIC, NO_PRODUCER, PREFIX_BYTES};
use crate::wire::put_signed_varint;

/// Values up to this size are copied. A larger value becomes a separate piece without a copy, because the copy would
/// cost more.
const COPY_BYTES_MAX: usize = 8 * 1024;

/// An encoded batch.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// The batch, in pieces.
    pub(crate) pieces: Vec<Bytes>,
    /// The number of bytes of all pieces.
    pub(crate) length: usize,
}

/// Encodes one batch. Each value becomes a record without a key. Returns `None` if a length exceeds the format's 31
/// bits.
pub(crate) fn encode(values: &[Bytes], timestamp_ms: i64) -> Option<Encoded> {
    let mut pieces = Vec::new();
    let mut piece = vec![0; HEADER_BYTES];
    let mut prefix = Vec::with_capacity(32);
    for (delta, value) in values.iter().enumerate() {
        prefix.clear();
        put_signed_varint(&mut prefix, 0); // Attributes, one byte: no bit has a meaning. A varint of zero is the same byte.
        put_signed_varint(&mut prefix, 0); // Timestamp, relative to the batch.
        put_signed_varint(&mut prefix, i64::try_from(delta).ok()?);
        put_signed_varint(&mut prefix, -1); // No key.
        put_signed_varint(&mut prefix, i64::try_from(value.len()).ok()?);
        // One more byte: the number of headers.
        let length = prefix.len().checked_add(value.len())?.checked_add(1)?;
        put_signed_varint(&mut piece, i64::from(i32::try_from(length).ok()?));
        piece.extend(&prefix);
        if value.len() <= COPY_BYTES_MAX {
            piece.extend(value);
        } else {
            pieces.push(Bytes::from(std::mem::take(&mut piece)));
            pieces.push(value.clone());
        }
        piece.push(0);
    }
    pieces.push(Bytes::from(piece));
    let length = pieces.iter().map(Bytes::len).sum();
    // The header is completed last, because it contains the CRC of all bytes after the CRC field.
    let first = pieces.first_mut()?;
    let rest = first.split_off(HEADER_BYTES);
    let header = header(values.len(), length, timestamp_ms)?;
    let mut crc = crc32c::crc32c(header.get(CRC_START..)?);
    for piece in std::iter::once(&rest).chain(pieces.iter().skip(1)) {
        crc = crc32c::crc32c_append(crc, piece);
    }
    let mut header = header;
    header.get_mut(17..CRC_START)?.copy_from_slice(&crc.to_be_bytes());
    let mut all = Vec::with_capacity(pieces.len() + 1);
    all.push(Bytes::from(header));
    all.push(rest);
    all.extend(pieces.into_iter().skip(1));
    Some(Encoded { pieces: all, length })
}

/// Returns the header, with zero as the CRC.
fn header(records: usize, length: usize, timestamp_ms: i64) -> Option<Vec<u8>> {
    let count = i32::try_from(records).ok()?;
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend(0_i64.to_be_bytes());
    header.extend(
        i32::try_from(length.checked_sub(PREFIX_BYTES)?)
            .ok()?
            .to_be_bytes(),
    );
    header.extend((-1_i32).to_be_bytes());
    header.extend(MAGIC.to_be_bytes());
    header.extend([0; 4]);
    header.extend(0_i16.to_be_bytes());
    header.extend((count - 1).to_be_bytes());
    header.extend(timestamp_ms.to_be_bytes());
    header.extend(timestamp_ms.to_be_bytes());
    header.extend(i64::from(NO_PRODUCER).to_be_bytes());
    header.extend(i16::from(NO_PRODUCER).to_be_bytes());
    header.extend(i32::from(NO_PRODUCER).to_be_bytes());
    header.extend(count.to_be_bytes());
    Some(header)
}
