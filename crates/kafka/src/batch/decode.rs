//! Decodes the batches of a fetch.

use bytes::Bytes;

use super::layout::{CRC_START, HEADER_BYTES, MAGIC, PREFIX_BYTES, RECORD_BYTES_MIN};
use crate::{
    error::{Error, Malformed},
    record::Record,
    wire::Decoder,
};

/// The names of the compressions, by their numbers.
const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];
/// The bits of the attributes that name the compression.
const COMPRESSION_BITS: i16 = 0b111;
/// The bit of the attributes that says that the broker set the timestamp.
const LOG_APPEND_TIME_BIT: i16 = 1 << 3;
/// The bit of the attributes of a batch that marks the end of a transaction.
const CONTROL_BIT: i16 = 1 << 5;

/// The header of a batch whose CRC is correct.
struct Header {
    leader_epoch: i32,
    base_offset: i64,
    attributes: i16,
    last_offset: i64,
    base_timestamp: i64,
    max_timestamp: i64,
    count: usize,
}

/// Decodes all whole batches of `bytes`, the answer to a fetch from `offset`. Returns the records from `offset` on, and
/// the offset after the last whole batch.
///
/// The last batch may be incomplete, because brokers cut the answer at a number of bytes. The first batch must be whole.
pub(crate) fn decode(bytes: Bytes, offset: i64) -> Result<(Vec<Record>, i64), Error> {
    let mut rest = bytes;
    let mut records = Vec::new();
    let mut next = offset;
    while !rest.is_empty() {
        let Some(batch) = whole(&mut rest).map_err(|Malformed(what)| corrupt(next, what))? else {
            if next == offset {
                return Err(corrupt(next, "the first batch is incomplete"));
            }
            break;
        };
        let (header, body) = header(batch).map_err(|Malformed(what)| corrupt(next, what))?;
        // The CRC does not cover the first offset of a batch, so this offset is compared with the offsets before it.
        let is_first = next == offset && records.is_empty();
        if header.last_offset < next || (!is_first && header.base_offset < next) {
            return Err(corrupt(
                next,
                "a batch begins before the end of the batch before it",
            ));
        }
        let codec = header.attributes & COMPRESSION_BITS;
        if codec != 0 {
            let name = usize::try_from(codec).ok().and_then(|codec| CODECS.get(codec));
            return Err(Error::Compressed {
                offset: header.base_offset,
                codec: name.copied().unwrap_or("an unknown codec"),
            });
        }
        if header.attributes & CONTROL_BIT == 0 {
            self::records(&header, body, offset, &mut records)
                .map_err(|Malformed(what)| corrupt(next, what))?;
        }
        next = header.last_offset + 1;
    }
    Ok((records, next))
}

fn corrupt(offset: i64, what: &'static str) -> Error {
    Error::Corrupt { offset, what }
}

/// Splits the next batch off; `None` if the batch is incomplete.
fn whole(rest: &mut Bytes) -> Result<Option<Bytes>, Malformed> {
    let Some(length) = rest.get(8..PREFIX_BYTES).and_then(|bytes| bytes.try_into().ok()) else {
        return Ok(None);
    };
    let length = usize::try_from(i32::from_be_bytes(length))
        .ok()
        .and_then(|length| length.checked_add(PREFIX_BYTES))
        .filter(|length| *length >= HEADER_BYTES)
        .ok_or(Malformed("a batch is shorter than its header"))?;
    if length > rest.len() {
        return Ok(None);
    }
    Ok(Some(rest.split_to(length)))
}

/// Checks the CRC and decodes the header.
fn header(batch: Bytes) -> Result<(Header, Decoder), Malformed> {
    let covered = batch
        .get(CRC_START..)
        .ok_or(Malformed("a batch is shorter than its header"))?;
    let actual = crc32c::crc32c(covered);
    let mut decoder = Decoder::new(batch, false);
    let base_offset = decoder.i64()?;
    let (_length, leader_epoch) = (decoder.i32()?, decoder.i32()?);
    if decoder.i8()? != MAGIC {
        return Err(Malformed("the format version of a batch is not 2"));
    }
    if decoder.u32()? != actual {
        return Err(Malformed("the CRC of a batch is wrong"));
    }
    let attributes = decoder.i16()?;
    let last_delta = decoder.i32()?;
    let (base_timestamp, max_timestamp) = (decoder.i64()?, decoder.i64()?);
    let (_producer_id, _producer_epoch, _sequence) = (decoder.i64()?, decoder.i16()?, decoder.i32()?);
    let count =
        usize::try_from(decoder.i32()?).map_err(|_| Malformed("the number of records is negative"))?;
    if base_offset < 0 || last_delta < 0 {
        return Err(Malformed("an offset is negative"));
    }
    let last_offset = base_offset
        .checked_add(i64::from(last_delta))
        .filter(|last| *last < i64::MAX)
        .ok_or(Malformed("an offset is too large"))?;
    let header = Header {
        leader_epoch,
        base_offset,
        attributes,
        last_offset,
        base_timestamp,
        max_timestamp,
        count,
    };
    Ok((header, decoder))
}

/// Decodes the records of a batch, and appends the records from `offset` on to `records`.
fn records(
    header: &Header,
    mut body: Decoder,
    offset: i64,
    records: &mut Vec<Record>,
) -> Result<(), Malformed> {
    if header.count > body.remaining() / RECORD_BYTES_MIN {
        return Err(Malformed("a batch has fewer records than it claims"));
    }
    records.reserve(header.count);
    let mut smallest = header.base_offset;
    for _ in 0..header.count {
        let record = record(header, &mut body)?;
        if record.offset < smallest || record.offset > header.last_offset {
            return Err(Malformed("the offset of a record is outside its batch"));
        }
        smallest = record.offset + 1;
        if record.offset >= offset {
            records.push(record);
        }
    }
    if body.remaining() > 0 {
        return Err(Malformed("a batch has bytes after its last record"));
    }
    Ok(())
}

fn record(header: &Header, body: &mut Decoder) -> Result<Record, Malformed> {
    let length = usize::try_from(body.signed_varint()?).map_err(|_| Malformed("a length is negative"))?;
    let mut fields = Decoder::new(body.take(length)?, false);
    let _attributes = fields.i8()?;
    let delta_ms = fields.signed_varint()?;
    let delta = fields.signed_varint()?;
    let _key = fields.record_bytes()?;
    let value = fields.record_bytes()?;
    // Each header has at least two bytes, so the bytes of the record bound the loop.
    for _ in 0..fields.signed_varint()? {
        let (_name, _value) = (fields.record_bytes()?, fields.record_bytes()?);
    }
    if fields.remaining() > 0 {
        return Err(Malformed("a record has bytes after its last header"));
    }
    let timestamp_ms = if header.attributes & LOG_APPEND_TIME_BIT == 0 {
        header.base_timestamp.saturating_add(delta_ms)
    } else {
        header.max_timestamp
    };
    Ok(Record {
        leader_epoch: header.leader_epoch,
        offset: header
            .base_offset
            .checked_add(delta)
            .ok_or(Malformed("an offset is too large"))?,
        timestamp_ms,
        value: value.unwrap_or_default(),
    })
}
