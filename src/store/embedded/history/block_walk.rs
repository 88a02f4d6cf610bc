//! Reads the records of one block, one after the other, without the rest of the block: a block can have megabytes, and a page needs a few
//! records of it. Each record is checked by its own checksum.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use tally_journal::{BlockHeader, JournalReader, Position};
use tally_ledger::{
    Malformed,
    codec::Reader,
    record::{FramedRecord, RECORD_BYTES_MAX, take_record},
};

use super::cancellation::Cancellation;
use crate::store::embedded::{
    error::RecordError,
    record::{body_position, position_in},
    record_reader::FoundRecord,
};

/// Number of bytes of a block that are read at a time. Every record fits.
pub const CHUNK_BYTES: u32 = 64 << 10;
const _: () = assert!(CHUNK_BYTES as usize >= 2 * RECORD_BYTES_MAX);
/// Maximum number of blocks whose marks are kept. The marks of a block of 4 MiB take 512 bytes.
const BLOCKS_MAX: usize = 64;

/// Where the blocks of walks are. Clones share the marks and the count of bytes.
#[derive(Debug, Clone)]
pub(super) struct BlockSource {
    pub(super) journal: JournalReader,
    /// A cancellation ends the walks.
    pub(super) cancellation: Cancellation,
    marks: Arc<RecordMarks>,
    bytes_read: Arc<AtomicU64>,
}

/// Walks through the records of a block.
pub(super) struct BlockWalk<'a> {
    source: &'a BlockSource,
    header: BlockHeader,
    /// The distance of the next record from the start of the body.
    offset: u32,
    /// Bytes of the body from `start` on.
    chunk: Vec<u8>,
    start: u32,
}

/// A record of a block.
pub(super) struct WalkedRecord<'w> {
    pub(super) position: Position,
    pub(super) framed: FramedRecord<'w>,
    bytes: &'w [u8],
    header: &'w BlockHeader,
}

/// Marks some records of long blocks, so that a walk can begin near the record that it needs. The walks make the marks.
#[derive(Debug, Default)]
struct RecordMarks(Mutex<Vec<BlockMarks>>);

/// Marks of a block, in the order of their offsets, about [`CHUNK_BYTES`] apart.
#[derive(Debug)]
struct BlockMarks {
    block: Position,
    marks: Vec<RecordMark>,
}

/// Where a record begins in its block, and its ordinal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RecordMark {
    offset: u32,
    ordinal: u32,
}

// ===== impl BlockSource =====

impl BlockSource {
    pub(super) fn new(journal: JournalReader) -> Self {
        BlockSource {
            journal,
            cancellation: Cancellation::default(),
            marks: Arc::default(),
            bytes_read: Arc::default(),
        }
    }

    /// The number of bytes of blocks that walks have read.
    pub(super) fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }
}

// ===== impl BlockWalk =====

impl<'a> BlockWalk<'a> {
    /// Begins a walk at the first record of the block at `block`, or at a later one, but not later than the first record with this
    /// `ordinal`. Reads only the header of the block.
    ///
    /// # Errors
    /// [`RecordError`] if the journal can't be read.
    pub(super) fn begin(
        source: &'a BlockSource,
        block: Position,
        ordinal: impl FnOnce(&BlockHeader) -> u64,
    ) -> Result<Self, RecordError> {
        let header = source.journal.read_header(block)?;
        let offset = source.marks.before(block, ordinal(&header));
        Ok(BlockWalk {
            source,
            header,
            offset,
            chunk: Vec::new(),
            start: offset,
        })
    }

    pub(super) const fn header(&self) -> &BlockHeader {
        &self.header
    }

    /// Reads the next record. `None` after the last one.
    ///
    /// # Errors
    /// [`RecordError`] if the journal can't be read.
    pub(super) fn next(&mut self) -> Result<Option<WalkedRecord<'_>>, RecordError> {
        // The body of a control block is not a sequence of records.
        if self.offset >= self.header.body_bytes || !self.header.kind.is_data() {
            return Ok(None);
        }
        let is_new = self.fill()?;
        let offset = self.offset;
        let position = position_in(body_position(self.header.position), offset as usize);
        let malformed = |source| RecordError::Malformed { position, source };
        let within = (offset - self.start) as usize;
        let rest = self.chunk.get(within..).map_or(&[][..], |rest| rest);
        let mut taken = Reader::new(rest);
        let framed = take_record(&mut taken, position.as_u64()).map_err(malformed)?;
        if framed.back != offset {
            let what = "the distance to the start of the block";
            return Err(malformed(Malformed { what }));
        }
        let length = rest.len() - taken.rest().len();
        let bytes = rest.get(..length).map_or(rest, |bytes| bytes);
        // No record is longer than a chunk.
        self.offset = u32::try_from(length).map_or(u32::MAX, |length| offset.saturating_add(length));
        if is_new && offset > 0 {
            let mark = RecordMark {
                offset,
                ordinal: framed.ordinal,
            };
            self.source.marks.note(self.header.position, mark);
        }
        Ok(Some(WalkedRecord {
            position,
            framed,
            bytes,
            header: &self.header,
        }))
    }

    /// Reads the next bytes of the block unless the next record has already been read. Returns whether this call has read bytes.
    fn fill(&mut self) -> Result<bool, RecordError> {
        let within = (self.offset - self.start) as usize;
        let rest = self.chunk.get(within..).map_or(&[][..], |rest| rest);
        let left = self.header.body_bytes - self.offset;
        // A record begins with its length, a varint of at most four bytes.
        let is_complete = Reader::new(rest)
            .varint_u64()
            .is_ok_and(|length| length.saturating_add(4) <= rest.len() as u64);
        if is_complete || (!rest.is_empty() && rest.len() == left as usize) {
            return Ok(false);
        }
        self.source.cancellation.check()?;
        let bytes = left.min(CHUNK_BYTES);
        self.chunk.clear();
        self.chunk.resize(bytes as usize, 0);
        let position = position_in(body_position(self.header.position), self.offset as usize);
        self.source.journal.read_at(position, &mut self.chunk)?;
        self.source
            .bytes_read
            .fetch_add(u64::from(bytes), Ordering::Relaxed);
        self.start = self.offset;
        Ok(true)
    }
}

// ===== impl WalkedRecord =====

impl WalkedRecord<'_> {
    /// Copies the record, with its place in the order.
    ///
    /// # Errors
    /// [`RecordError::Malformed`] if the sequence or the time is out of range.
    pub(super) fn to_found(&self) -> Result<FoundRecord, RecordError> {
        FoundRecord::of_block(
            self.bytes.to_vec(),
            self.position,
            self.header,
            self.framed.ordinal,
        )
    }
}

/// Reads the records of the block at `block` that have a sequence less than `to`, from the last one back to the first one, until `take`
/// returns `false`. Returns the header of the block, and whether `take` has taken all of them.
///
/// # Errors
/// [`RecordError`] if the journal can't be read.
pub(super) fn walk_back(
    source: &BlockSource,
    block: Position,
    to: u64,
    mut take: impl FnMut(FoundRecord) -> bool,
) -> Result<(BlockHeader, bool), RecordError> {
    let ordinals = |header: &BlockHeader| to.saturating_sub(header.first_sequence);
    let mut walk = BlockWalk::begin(source, block, ordinals)?;
    let end = ordinals(walk.header());
    // Walks forward to the end, which also makes the marks, and keeps the records of the last chunk.
    let mut stretch = Vec::new();
    let mut start = walk.offset;
    loop {
        let before = walk.start;
        let Some(record) = walk.next()? else { break };
        if u64::from(record.framed.ordinal) >= end {
            break;
        }
        let found = if record.framed.record.has_sequence() {
            Some(record.to_found()?)
        } else {
            None
        };
        if walk.start != before {
            stretch.clear();
            start = walk.start;
        }
        stretch.extend(found);
    }
    let header = *walk.header();
    loop {
        while let Some(found) = stretch.pop() {
            if !take(found) {
                return Ok((header, false));
            }
        }
        if start == 0 {
            return Ok((header, true));
        }
        let limit = start;
        start = source.marks.before_offset(block, limit);
        let mut walk = BlockWalk {
            source,
            header,
            offset: start,
            chunk: Vec::new(),
            start,
        };
        while walk.offset < limit
            && let Some(record) = walk.next()?
        {
            if record.framed.record.has_sequence() {
                stretch.push(record.to_found()?);
            }
        }
    }
}

// ===== impl RecordMarks =====

impl RecordMarks {
    /// Returns the offset of the last mark of a block whose record is not after the first one with this `ordinal`, or 0.
    fn before(&self, block: Position, ordinal: u64) -> u32 {
        self.last(block, |mark| u64::from(mark.ordinal) <= ordinal)
    }

    /// Returns the offset of the last mark of a block before this `offset`, or 0.
    fn before_offset(&self, block: Position, offset: u32) -> u32 {
        self.last(block, |mark| mark.offset < offset)
    }

    /// Returns the offset of the last mark for which `within` returns `true`, or 0. The marks have the same order by offset and by
    /// ordinal.
    fn last(&self, block: Position, within: impl Fn(&RecordMark) -> bool) -> u32 {
        let mut blocks = self.0.lock();
        let Some(at) = blocks.iter().rposition(|marks| marks.block == block) else {
            return 0;
        };
        let found = blocks.remove(at);
        let count = found.marks.partition_point(within);
        let mark = count.checked_sub(1).and_then(|last| found.marks.get(last));
        let offset = mark.map_or(0, |mark| mark.offset);
        blocks.push(found);
        offset
    }

    /// Keeps a mark, unless another mark is near it.
    fn note(&self, block: Position, mark: RecordMark) {
        let mut blocks = self.0.lock();
        if let Some(found) = blocks.iter_mut().rev().find(|marks| marks.block == block) {
            let last = found.marks.last().map_or(0, |mark| mark.offset);
            if mark.offset >= last + CHUNK_BYTES / 2 {
                found.marks.push(mark);
            }
            return;
        }
        if blocks.len() >= BLOCKS_MAX {
            blocks.remove(0);
        }
        blocks.push(BlockMarks {
            block,
            marks: vec![mark],
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u32, ordinal: u32) -> RecordMark {
        RecordMark { offset, ordinal }
    }

    #[test]
    fn marks_are_in_order_and_bounded() {
        let marks = RecordMarks::default();
        let block = Position::new(0, 0);
        assert_eq!(marks.before(block, 1000), 0);
        // The second mark is too near, and the last one is before the others.
        for mark in [
            at(CHUNK_BYTES, 100),
            at(CHUNK_BYTES + 10, 101),
            at(2 * CHUNK_BYTES, 200),
            at(3 * CHUNK_BYTES, 200),
            at(5, 1),
        ] {
            marks.note(block, mark);
        }
        for (ordinal, offset) in [
            (0, 0),
            (99, 0),
            (100, CHUNK_BYTES),
            (199, CHUNK_BYTES),
            (200, 3 * CHUNK_BYTES),
        ] {
            assert_eq!(marks.before(block, ordinal), offset, "{ordinal}");
        }
        assert_eq!(marks.before_offset(block, 3 * CHUNK_BYTES), 2 * CHUNK_BYTES);
        assert_eq!(marks.before_offset(block, CHUNK_BYTES), 0);
        for number in 1..1000 {
            marks.note(Position::new(number, 0), at(CHUNK_BYTES, 1));
            // A block that is in use stays.
            assert_eq!(marks.before(block, 100), CHUNK_BYTES);
        }
        assert_eq!(marks.0.lock().len(), BLOCKS_MAX);
    }
}
