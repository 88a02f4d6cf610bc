//! Finds and decodes the records of the ledger in blocks of the journal.

use tally_journal::{HEADER_BYTES, Position};
use tally_ledger::{
    AccountIndex, Malformed, Rejection, TransactionView,
    codec::Reader,
    record::{FramedRecord, Record, take_record},
    tag_index::{TagIndex, tag},
};

use super::error::RecordError;

/// Length of a block's header, in bytes.
#[expect(clippy::cast_possible_truncation, reason = "the header has 128 bytes")]
pub(super) const BLOCK_HEADER_BYTES: u32 = HEADER_BYTES as u32;

/// Iterates over the records of a block, with their positions. Ends with the first record that can't be decoded.
#[derive(Debug)]
pub(super) struct BlockRecords<'a> {
    /// The position of the block's body.
    start: Position,
    body_bytes: usize,
    reader: Reader<'a>,
}

// ===== impl BlockRecords =====

impl<'a> BlockRecords<'a> {
    /// Iterates over the records in `body`, the body of the block whose header is at `block`.
    pub(super) const fn new(block: Position, body: &'a [u8]) -> Self {
        BlockRecords {
            start: body_position(block),
            body_bytes: body.len(),
            reader: Reader::new(body),
        }
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

/// The position of the body of a block whose header is at `block`.
pub(super) const fn body_position(block: Position) -> Position {
    match block.checked_add(BLOCK_HEADER_BYTES) {
        Some(position) => position,
        None => panic!("a block's header reaches beyond the end of its segment"),
    }
}

/// The position `offset` bytes after `start`, in the same block.
///
/// # Panics
/// If the offset is 4 GiB or more: the journal never makes such a block, and a wrong position would lose the record.
pub(super) fn position_in(start: Position, offset: usize) -> Position {
    let position = u32::try_from(offset)
        .ok()
        .and_then(|offset| start.checked_add(offset));
    let Some(position) = position else {
        panic!("a record {offset} bytes after {start}, which no block can hold");
    };
    position
}

/// The tag of a transaction id, by which the index finds it. `seed` is the secret seed of the data directory.
pub(super) fn id_tag(id: &[u8], seed: u64) -> u64 {
    tag(id, seed)
}

/// Decodes the record at the start of `bytes`, which were read from `position`.
pub(super) fn parse_record(position: Position, bytes: &[u8]) -> Result<FramedRecord<'_>, RecordError> {
    take_record(&mut Reader::new(bytes), position.as_u64())
        .map_err(|source| RecordError::Malformed { position, source })
}

/// Decodes the record that the index holds at `position` under `tag`. Returns the record and its transaction id.
///
/// # Errors
/// [`RecordError::Malformed`] if the record does not belong under the tag. Then the index or the journal is wrong, and the
/// id must not count as new: its transaction could be applied twice.
pub(super) fn indexed_record(
    position: Position,
    bytes: &[u8],
    tag: u64,
    seed: u64,
) -> Result<(FramedRecord<'_>, &[u8]), RecordError> {
    let framed = parse_record(position, bytes)?;
    match transaction_of(&framed).map(|(transaction, _)| transaction.id_bytes()) {
        Some(id) if TagIndex::is_same_tag(id_tag(id, seed), tag) => Ok((framed, id)),
        Some(_) | None => Err(not_a_transaction(position)),
    }
}

/// The transaction of a record, with the rejection if it was rejected. `None` if the record is not about a transaction.
pub(super) fn transaction_of<'a>(
    framed: &FramedRecord<'a>,
) -> Option<(TransactionView<'a, AccountIndex>, Option<Rejection>)> {
    match framed.record {
        Record::AccountCreated { .. } => None,
        Record::Committed { transaction } => Some((transaction, None)),
        Record::Rejected {
            transaction,
            rejection,
        } => Some((transaction, Some(rejection))),
    }
}

/// The error that the record at `position` is not the expected transaction.
pub(super) const fn not_a_transaction(position: Position) -> RecordError {
    RecordError::Malformed {
        position,
        source: Malformed {
            what: "the transaction that was recorded here",
        },
    }
}
