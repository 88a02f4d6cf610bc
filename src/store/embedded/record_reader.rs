//! Reads single records from the journal. Verifies the checksum of the record and of its block's header before it uses
//! their content.

use tally_journal::{BlockHeader, Geometry, JournalReader, Position};
use tally_ledger::{
    AccountIndex, Committed, Malformed, RecordKey, Rejection, Timestamp, TransactionView,
    codec::Reader,
    record::{FramedRecord, RECORD_BYTES_MAX},
};

use super::{
    error::RecordError,
    record::{BLOCK_HEADER_BYTES, has_key, not_a_transaction, parse_record},
};
use crate::mutation::planted;

/// Number of bytes that the first read of a record requests. Almost all records are shorter.
const FIRST_READ_BYTES: usize = 512;

/// Reads records at positions. Any thread may use a reader.
#[derive(Debug, Clone)]
pub struct RecordReader {
    journal: JournalReader,
    geometry: Geometry,
    /// Seed of the hash of transaction ids.
    seed: u64,
}

/// A record that [`RecordReader::find`] found.
#[derive(Debug)]
pub struct FoundRecord {
    /// The bytes of the record.
    bytes: Vec<u8>,
    position: Position,
    /// The sequence and the time of the record. For a rejected transaction, the sequence and the time that the
    /// next record of the block with a sequence would get.
    place: Committed,
}

// ===== impl RecordReader =====

impl RecordReader {
    /// Makes a reader of records in `journal`, whose sizes are `geometry`. `seed` is the hash seed of the data
    /// directory, for the tags of transaction ids.
    #[must_use]
    pub const fn new(journal: JournalReader, geometry: Geometry, seed: u64) -> Self {
        RecordReader {
            journal,
            geometry,
            seed,
        }
    }

    /// The reader of the journal.
    pub(super) const fn journal(&self) -> &JournalReader {
        &self.journal
    }

    /// Reads the record at `position` and some bytes after it. Returns the bytes, which start with the record.
    ///
    /// # Errors
    /// [`RecordError`] if the position is outside its segment, or the disk cannot be read.
    pub fn read<'a>(&self, position: Position, buffer: &'a mut Vec<u8>) -> Result<&'a [u8], RecordError> {
        let to_segment_end = self
            .geometry
            .segment_bytes()
            .checked_sub(position.offset())
            .ok_or_else(|| not_a_transaction(position))? as usize;
        buffer.clear();
        buffer.resize(FIRST_READ_BYTES.min(to_segment_end), 0);
        self.journal.read_at(position, buffer)?;
        // A record begins with its length, a varint of at most four bytes. Read again if the record is longer than the
        // buffer.
        if Reader::new(buffer).varint_u64().is_ok_and(|length| {
            length
                .checked_add(4)
                .is_none_or(|bytes| bytes > buffer.len() as u64)
        }) {
            buffer.resize(RECORD_BYTES_MAX.min(to_segment_end), 0);
            self.journal.read_at(position, buffer)?;
        }
        Ok(buffer)
    }

    /// Returns the sequence and the time of the first transaction in the block that contains the record at `position`.
    /// `back` is the distance from the start of the block's body to the record, in bytes.
    pub(super) fn block_start(&self, position: Position, back: u32) -> Result<Committed, RecordError> {
        let offset = back
            .checked_add(BLOCK_HEADER_BYTES)
            .and_then(|distance| position.offset().checked_sub(distance))
            .ok_or_else(|| not_in_a_block(position))?;
        let header = self
            .journal
            .read_header(Position::new(position.segment(), offset))?;
        if back >= header.body_bytes || !header.kind.is_data() {
            return Err(not_in_a_block(position));
        }
        Ok(Committed {
            sequence: header.first_sequence,
            time: Timestamp::from_nanos(header.base_time_ns),
        })
    }

    /// Returns the record at `position` if it has this key, otherwise `None`. The record must be durable.
    ///
    /// # Errors
    /// [`RecordError`] if the record cannot be read or is damaged ([`RecordError::damage`]).
    pub fn find(&self, position: Position, key: RecordKey<'_>) -> Result<Option<FoundRecord>, RecordError> {
        let mut bytes = Vec::new();
        self.read(position, &mut bytes)?;
        let framed = parse_record(position, &bytes)?;
        if !has_key(position, &framed.record, key, key.tag(self.seed), self.seed)? {
            return Ok(None);
        }
        let (back, ordinal) = (framed.back, framed.ordinal);
        self.found(position, back, ordinal, bytes).map(Some)
    }

    /// Returns the record at `position`, which must be the position of a durable record.
    ///
    /// # Errors
    /// [`RecordError`] if the record cannot be read or is damaged.
    pub fn at(&self, position: Position) -> Result<FoundRecord, RecordError> {
        let mut bytes = Vec::new();
        self.read(position, &mut bytes)?;
        let framed = parse_record(position, &bytes)?;
        let (back, ordinal) = (framed.back, framed.ordinal);
        self.found(position, back, ordinal, bytes)
    }

    fn found(
        &self,
        position: Position,
        back: u32,
        ordinal: u32,
        bytes: Vec<u8>,
    ) -> Result<FoundRecord, RecordError> {
        let start = self.block_start(position, back)?;
        let place = place_in_block(start, ordinal, position)?;
        Ok(FoundRecord {
            bytes,
            position,
            place,
        })
    }
}

// ===== impl FoundRecord =====

impl FoundRecord {
    /// Makes a record from its `bytes` in a block that was read as a whole. `ordinal` is that of the record.
    ///
    /// # Errors
    /// [`RecordError::Malformed`] if the sequence or the time is out of range.
    pub(super) fn of_block(
        bytes: Vec<u8>,
        position: Position,
        block: &BlockHeader,
        ordinal: u32,
    ) -> Result<Self, RecordError> {
        let start = Committed {
            sequence: block.first_sequence,
            time: Timestamp::from_nanos(block.base_time_ns),
        };
        Ok(FoundRecord {
            bytes,
            position,
            place: place_in_block(start, ordinal, position)?,
        })
    }

    /// Returns the position of the record's block.
    ///
    /// # Errors
    /// Never returns an error, because the reader has checked the record.
    pub fn block_position(&self) -> Result<Position, RecordError> {
        let distance = self.framed()?.back.checked_add(BLOCK_HEADER_BYTES);
        let offset = distance.and_then(|distance| self.position.offset().checked_sub(distance));
        let offset = offset.ok_or_else(|| not_in_a_block(self.position))?;
        Ok(Position::new(self.position.segment(), offset))
    }

    /// Memory that the record takes, in bytes.
    #[must_use]
    pub const fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.bytes.capacity()
    }

    /// Returns the position of the record.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }

    /// Returns the sequence and the time of the record. For a rejected transaction, these are the sequence and the
    /// time that the next record of the block with a sequence would get.
    #[must_use]
    pub const fn place(&self) -> Committed {
        self.place
    }

    /// Returns the transaction of the record and its outcome.
    ///
    /// # Errors
    /// [`RecordError`] if the record is not that of a transaction.
    pub fn view(
        &self,
    ) -> Result<(TransactionView<'_, AccountIndex>, Result<Committed, Rejection>), RecordError> {
        let framed = self.framed()?;
        let (transaction, rejection) = framed
            .record
            .transaction()
            .ok_or_else(|| not_a_transaction(self.position))?;
        Ok((transaction, rejection.map_or(Ok(self.place), Err)))
    }

    /// Returns the record.
    ///
    /// # Errors
    /// Never returns an error, because [`RecordReader::find`] has already decoded the record.
    pub fn framed(&self) -> Result<FramedRecord<'_>, RecordError> {
        parse_record(self.position, &self.bytes)
    }
}

/// Returns the sequence and the time of a transaction. `start` is the sequence and the time of the first transaction in
/// its block, and `ordinal` is the number of committed transactions before it in the block.
///
/// # Errors
/// [`RecordError::Malformed`] if the sequence or the time is out of range.
pub(super) fn place_in_block(
    start: Committed,
    ordinal: u32,
    position: Position,
) -> Result<Committed, RecordError> {
    start
        .checked_after(if planted("repeat_gets_first_place") {
            0
        } else {
            ordinal
        })
        .ok_or_else(|| not_in_a_block(position))
}

const fn not_in_a_block(position: Position) -> RecordError {
    RecordError::Malformed {
        position,
        source: Malformed {
            what: "the position of a record in a block",
        },
    }
}
