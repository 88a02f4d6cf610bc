//! Reads single records back from the journal.

use super::error::BookError;
use crate::{
    ledger::{
        AccountIndex, Committed, Malformed, Rejection, TransactionView,
        codec::Reader,
        record::{Framed, RECORD_BYTES_MAX, Record, take_record},
    },
    store::journal::{Geometry, HEADER_BYTES, JournalReader, Position},
    time::Timestamp,
};

/// How much of a record is read at first: nearly all are shorter.
const FIRST_READ_BYTES: usize = 512;

/// Reads records by position, from any thread.
#[derive(Debug, Clone)]
pub struct RecordReader {
    journal: JournalReader,
    geometry: Geometry,
}

/// A transaction that was found by its id.
#[derive(Debug)]
pub struct FoundTransaction {
    /// Its record's bytes.
    bytes: Vec<u8>,
    position: Position,
    /// Where it came in the order, or the next committed one if it was refused.
    place: Committed,
}

// ===== impl RecordReader =====

impl RecordReader {
    /// Reads from `journal`, whose segments have this `geometry`.
    #[must_use]
    pub const fn new(journal: JournalReader, geometry: Geometry) -> Self {
        RecordReader { journal, geometry }
    }

    /// The bytes from `position` on, at least to the end of the record that starts there.
    ///
    /// # Errors
    /// If the disk can't be read.
    pub fn read<'a>(&self, position: Position, buffer: &'a mut Vec<u8>) -> Result<&'a [u8], BookError> {
        let to_segment_end = self.geometry.segment_bytes().saturating_sub(position.offset()) as usize;
        buffer.clear();
        buffer.resize(FIRST_READ_BYTES.min(to_segment_end), 0);
        self.journal.read_at(position, buffer)?;
        // The length is behind at most four bytes of its own.
        if Reader::new(buffer)
            .varint_u64()
            .is_ok_and(|length| length.saturating_add(4) > buffer.len() as u64)
        {
            buffer.resize(RECORD_BYTES_MAX.min(to_segment_end), 0);
            self.journal.read_at(position, buffer)?;
        }
        Ok(buffer)
    }

    /// The sequence and time that the block counts from which holds the record at `position`, `back` bytes into it.
    pub(super) fn origin(&self, position: Position, back: u32) -> Result<Committed, BookError> {
        #[expect(clippy::cast_possible_truncation, reason = "128")]
        const HEADER: u32 = HEADER_BYTES as u32;
        let distance = back.saturating_add(HEADER);
        let offset = position.offset().checked_sub(distance);
        let offset = offset.ok_or(BookError::Malformed {
            position,
            source: Malformed {
                what: "a place in a block",
            },
        })?;
        let header = self
            .journal
            .read_header(Position::new(position.segment(), offset))?;
        Ok(Committed {
            sequence: header.first_sequence,
            time: Timestamp::from_nanos(header.base_time_ns),
        })
    }

    /// The transaction `id`, if the durable record at `position` is its.
    ///
    /// # Errors
    /// If the record can't be read.
    pub fn find(&self, position: Position, id: &str) -> Result<Option<FoundTransaction>, BookError> {
        let mut bytes = Vec::new();
        self.read(position, &mut bytes)?;
        let framed = parse_record(position, &bytes)?;
        if recalled(&framed).is_none_or(|(transaction, _)| transaction.id() != id) {
            return Ok(None);
        }
        let origin = self.origin(position, framed.back)?;
        let place = origin.after(framed.ordinal);
        Ok(Some(FoundTransaction {
            bytes,
            position,
            place,
        }))
    }
}

// ===== impl FoundTransaction =====

impl FoundTransaction {
    /// What was asked for, and what became of it.
    ///
    /// # Errors
    /// Never: the record was read before.
    pub fn view(
        &self,
    ) -> Result<(TransactionView<'_, AccountIndex>, Result<Committed, Rejection>), BookError> {
        let framed = parse_record(self.position, &self.bytes)?;
        let source = Malformed {
            what: "a transaction",
        };
        let (transaction, rejection) = recalled(&framed).ok_or(BookError::Malformed {
            position: self.position,
            source,
        })?;
        Ok((transaction, rejection.map_or(Ok(self.place), Err)))
    }
}

/// Reads the record at the start of `bytes`; `position` is for the error.
pub(super) fn parse_record(position: Position, bytes: &[u8]) -> Result<Framed<'_>, BookError> {
    take_record(&mut Reader::new(bytes)).map_err(|source| BookError::Malformed { position, source })
}

/// The transaction of a record, and why it was refused if it was.
pub(super) fn recalled<'a>(
    framed: &Framed<'a>,
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
