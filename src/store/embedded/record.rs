//! Iterates over and decodes the records of the ledger in the blocks of the journal.

use tally_journal::{HEADER_BYTES, Position};
use tally_ledger::{
    Malformed, Record, RecordKey,
    codec::Reader,
    record::{FramedRecord, take_record},
    tag_index::TagIndex,
};

use super::error::RecordError;

/// Length of a block's header, in bytes.
#[expect(clippy::cast_possible_truncation, reason = "the header has 128 bytes")]
pub(super) const BLOCK_HEADER_BYTES: u32 = HEADER_BYTES as u32;

/// Iterates over the records of a block, with their positions. Returns an error for the first record that cannot be
/// decoded, and then ends.
#[derive(Debug)]
pub(super) struct BlockRecords<'a> {
    /// The position of the block's body.
    start: Position,
    body_bytes: usize,
    reader: Reader<'a>,
}

// ===== impl BlockRecords =====

impl<'a> BlockRecords<'a> {
    /// Makes an iterator over the records in `body`, which is the body of the block whose header is at `block`.
    pub(super) const fn new(block: Position, body: &'a [u8]) -> Self {
        BlockRecords {
            start: body_position(block),
            body_bytes: body.len(),
            reader: Reader::new(body),
        }
    }

    /// The number of bytes after the last record that was returned.
    pub(super) const fn rest_bytes(&self) -> usize {
        self.reader.rest().len()
    }
}

impl<'a> Iterator for BlockRecords<'a> {
    type Item = Result<(Position, FramedRecord<'a>), RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.is_empty() {
            return None;
        }
        let offset = self.body_bytes - self.reader.rest().len();
        let position = position_in(self.start, offset);
        let record = take_record(&mut self.reader, position.as_u64()).and_then(|framed| {
            if framed.back as usize == offset {
                Ok((position, framed))
            } else {
                Err(Malformed {
                    what: "the distance to the start of the block",
                })
            }
        });
        if record.is_err() {
            self.reader = Reader::new(&[]);
        }
        Some(record.map_err(|source| RecordError::Malformed { position, source }))
    }
}

/// Returns the position of the body of a block whose header is at `block`.
#[inline]
pub(super) const fn body_position(block: Position) -> Position {
    match block.checked_add(BLOCK_HEADER_BYTES) {
        Some(position) => position,
        None => panic!("a block's header extends beyond the end of its segment"),
    }
}

/// Returns the position `offset` bytes after `start`, in the same block.
///
/// # Panics
/// If `offset` is 4 GiB or more. The journal never makes a block of this length. The function panics, because with a
/// wrong position a lookup would not find the record.
#[inline]
pub(super) fn position_in(start: Position, offset: usize) -> Position {
    let position = u32::try_from(offset)
        .ok()
        .and_then(|offset| start.checked_add(offset));
    let Some(position) = position else {
        panic!("a record cannot be {offset} bytes after {start}: no block is that long");
    };
    position
}

/// Decodes the record at the start of `bytes`, which were read from `position`.
pub(super) fn parse_record(position: Position, bytes: &[u8]) -> Result<FramedRecord<'_>, RecordError> {
    take_record(&mut Reader::new(bytes), position.as_u64())
        .map_err(|source| RecordError::Malformed { position, source })
}

/// Returns whether `record`, which is at `position`, has this key. The index contains the position under `tag`, the tag of the key.
///
/// # Errors
/// [`RecordError::Malformed`] if no key of the record has this tag, because then the index or the journal is
/// wrong. The caller must not treat the id as new: the transaction of the id could be applied twice.
pub(super) fn has_key(
    position: Position,
    record: &Record<'_>,
    key: RecordKey<'_>,
    tag: u64,
    seed: u64,
) -> Result<bool, RecordError> {
    let keys = record.keys();
    if keys.contains(&Some(key)) {
        return Ok(true);
    }
    let mut tags = keys.iter().flatten().map(|key| key.tag(seed));
    if tags.any(|found| TagIndex::is_same_tag(found, tag)) {
        Ok(false)
    } else {
        Err(not_a_transaction(position))
    }
}

/// Makes the error that the record at `position` is not the expected transaction.
pub(super) const fn not_a_transaction(position: Position) -> RecordError {
    RecordError::Malformed {
        position,
        source: Malformed {
            what: "the transaction that was recorded here",
        },
    }
}
