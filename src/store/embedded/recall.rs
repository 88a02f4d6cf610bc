//! Reads single records back from the journal. Nothing of a record or of its block's header is believed before its checksum
//! is found to be right.

use super::{book::id_tag, error::BookError};
use crate::{
    ledger::{
        AccountIndex, Committed, Malformed, Rejection, Timestamp, TransactionView,
        codec::Reader,
        record::{Framed, RECORD_BYTES_MAX, Record, take_record},
        tag_index::TagIndex,
    },
    store::journal::{Geometry, HEADER_BYTES, JournalReader, Position},
};

/// How much of a record is read at first: nearly all are shorter.
const FIRST_READ_BYTES: usize = 512;

/// Reads records by position, from any thread.
#[derive(Debug, Clone)]
pub struct RecordReader {
    journal: JournalReader,
    geometry: Geometry,
    /// Keys the hash of ids.
    seed: u64,
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
    /// Reads from `journal`, whose segments have this `geometry`, in a data directory that keys the hash of ids with `seed`.
    #[must_use]
    pub const fn new(journal: JournalReader, geometry: Geometry, seed: u64) -> Self {
        RecordReader {
            journal,
            geometry,
            seed,
        }
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
        let no_place = || BookError::Malformed {
            position,
            source: Malformed {
                what: "a place in a block",
            },
        };
        let distance = back.saturating_add(HEADER);
        let offset = position.offset().checked_sub(distance).ok_or_else(no_place)?;
        let header = self
            .journal
            .read_header(Position::new(position.segment(), offset))?;
        if back >= header.body_bytes {
            return Err(no_place());
        }
        Ok(Committed {
            sequence: header.first_sequence,
            time: Timestamp::from_nanos(header.base_time_ns),
        })
    }

    /// The transaction `id`, if the durable record at `position` is its.
    ///
    /// # Errors
    /// If the record can't be read, or is damaged ([`BookError::damage`]).
    pub fn find(&self, position: Position, id: &str) -> Result<Option<FoundTransaction>, BookError> {
        let mut bytes = Vec::new();
        self.read(position, &mut bytes)?;
        let tag = id_tag(id.as_bytes(), self.seed);
        let framed = match indexed_record(position, &bytes, tag, self.seed)? {
            (framed, found) if found == id.as_bytes() => framed,
            _ => return Ok(None),
        };
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
    /// Where its record stands.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }

    /// What was asked for, and what became of it.
    ///
    /// # Errors
    /// Never: the record was read, and checked, before.
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

/// Reads the record at the start of `bytes`, which stands at `position`, and checks it.
pub(super) fn parse_record(position: Position, bytes: &[u8]) -> Result<Framed<'_>, BookError> {
    take_record(&mut Reader::new(bytes), position.as_u64())
        .map_err(|source| BookError::Malformed { position, source })
}

/// Reads the record that the index has at `position` under `tag`, and its transaction's id. If it is not one that belongs
/// under the tag, the index or the journal is wrong: to take the id for a new one would apply its transaction twice, or
/// deny that it ever was.
pub(super) fn indexed_record(
    position: Position,
    bytes: &[u8],
    tag: u64,
    seed: u64,
) -> Result<(Framed<'_>, &[u8]), BookError> {
    let framed = parse_record(position, bytes)?;
    match recalled(&framed).map(|(transaction, _)| transaction.id_bytes()) {
        Some(id) if TagIndex::takes_for_same(id_tag(id, seed), tag) => Ok((framed, id)),
        Some(_) | None => Err(BookError::Malformed {
            position,
            source: Malformed {
                what: "the transaction that was recorded here",
            },
        }),
    }
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
