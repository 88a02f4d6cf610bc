//! Id files: the transaction ids of full segments. With them, opening need not read the segments.
//!
//! A file holds the tag and the offset of each transaction record of its segment: 12 bytes for each. It can be made again
//! from the segment. The file identifies the blocks from which it was made, by the chain points at the start and the end of
//! its segment. So a file that was made from other blocks, for example from another backup, is not used.
//!
//! ```text
//! chunk 0..n: tag u64, offset u32, little endian, in the order of the records
//! last chunk: version | chain point at the start of the segment | chain point at its end
//! ```

use std::fmt;

use tally_journal::{
    CHAIN_POINT_BYTES, ChainPoint, ChunkedFileReader, ChunkedFiles, DataDirectory, JournalError,
    JournalReader, Position,
};
use tally_ledger::{codec::Reader, tag_index::TagIndex};

use super::{
    error::RecordError,
    record::{BlockRecords, id_tag, transaction_of},
};

const DIRECTORY: &str = "index";
const SUFFIX: &str = "ids";
/// Version of the layout above.
const VERSION: u8 = 1;
/// Length of the last chunk, in bytes.
const IDENTITY_BYTES: usize = 1 + 2 * CHAIN_POINT_BYTES;
/// Length of an entry, in bytes: the tag and the offset.
const ENTRY_BYTES: usize = 12;
/// Number of entries by which prefetching is ahead.
const PREFETCH_DISTANCE: usize = 16;
/// Maximum number of entries of a chunk: 768 KiB.
const CHUNK_ENTRIES: usize = 64 * 1024;

/// The id files of a data directory. A file has the number of its segment.
///
/// # Errors
/// If the directory of id files can't be made or read.
pub fn files(directory: &DataDirectory) -> Result<ChunkedFiles, JournalError> {
    ChunkedFiles::open(directory, DIRECTORY, "", SUFFIX)
}

/// The same as [`files`], but changes nothing.
#[must_use]
pub(super) fn files_read_only(directory: &DataDirectory) -> ChunkedFiles {
    ChunkedFiles::open_read_only(directory, DIRECTORY, "", SUFFIX)
}

/// Reads the blocks of a journal in order, and checks that the hash chain connects them.
#[derive(Debug, Clone)]
pub struct BlockWalk {
    reader: JournalReader,
    /// Seed of the hash of transaction ids.
    seed: u64,
}

/// A full segment, identified by the chain points at its start and end. These determine its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FullSegment {
    /// Its first block.
    pub start: ChainPoint,
    /// The first block of the next segment.
    pub end: ChainPoint,
}

/// The ids of a segment, encoded as in its id file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SegmentIds {
    /// The entries, one after the other.
    bytes: Vec<u8>,
}

/// Why an id file can't be used.
#[derive(Debug)]
pub(super) enum IdFileError {
    /// The file can't be read, or is damaged.
    Store(JournalError),
    /// The file was made from other blocks than those in the segment.
    OtherBlocks,
}

// ===== impl BlockWalk =====

impl BlockWalk {
    /// Creates a walk over the journal of `reader`. `seed` is the seed of the hash of transaction ids.
    #[must_use]
    pub const fn new(reader: JournalReader, seed: u64) -> Self {
        BlockWalk { reader, seed }
    }

    /// Returns the full segment with this `number`. The segment is before `end`, which is the end of the journal or an
    /// earlier point.
    ///
    /// # Errors
    /// If the first block of this or of the next segment is missing or damaged.
    ///
    /// # Panics
    /// If `number` is the last possible one: no segment follows it, so it is never full.
    pub fn full_segment(&self, number: u32, end: &ChainPoint) -> Result<FullSegment, JournalError> {
        let Some(next) = number.checked_add(1) else {
            panic!("segment {number} is the last possible one, and counts as full");
        };
        Ok(FullSegment {
            start: self.reader.segment_start(number, end)?,
            end: self.reader.segment_start(next, end)?,
        })
    }

    /// Returns the chain point at the start of the segment with this `number`. The segment starts before `end` or at `end`.
    ///
    /// # Errors
    /// If its first block is missing or damaged.
    pub(super) fn segment_start(&self, number: u32, end: &ChainPoint) -> Result<ChainPoint, JournalError> {
        self.reader.segment_start(number, end)
    }

    /// Calls `visit` with the position and the body of each block from `from` up to `to`. Returns the chain point at the end,
    /// after a check that it equals `to`. All of these blocks must be durable.
    fn blocks(
        &self,
        from: ChainPoint,
        to: &ChainPoint,
        mut visit: impl FnMut(Position, &[u8]) -> Result<(), RecordError>,
    ) -> Result<ChainPoint, RecordError> {
        let mut point = from;
        let mut body = Vec::new();
        while point.position < to.position {
            let (_, next) = self.reader.read_next(&point, &mut body)?;
            visit(point.position, &body)?;
            point = next;
        }
        if point.is_at(to) {
            Ok(point)
        } else {
            Err(self.reader.chain_broken(to).into())
        }
    }

    /// Reads the blocks between two points of the journal, and adds their transaction ids to `ids`.
    ///
    /// # Errors
    /// If a block can't be read, or does not follow from the block before it.
    pub(super) fn ids_between(
        &self,
        from: ChainPoint,
        to: &ChainPoint,
        ids: &mut TagIndex,
    ) -> Result<(), RecordError> {
        self.blocks(from, to, |position, body| {
            block_ids(position, body, self.seed, |tag, at| ids.insert(tag, at.as_u64()))
        })?;
        Ok(())
    }

    /// Reads the transaction ids of a full segment from its blocks. They take 12 bytes of memory each.
    pub(super) fn read_segment(&self, segment: &FullSegment) -> Result<SegmentIds, RecordError> {
        let mut ids = SegmentIds::default();
        self.blocks(segment.start, &segment.end, |position, body| {
            block_ids(position, body, self.seed, |tag, at| ids.push(tag, at.offset()))
        })?;
        Ok(ids)
    }

    /// Writes the id file of `segment`, whose blocks are all durable, unless a valid one exists. Returns the number of ids that
    /// it wrote.
    ///
    /// # Errors
    /// If the disk fails, or a block can't be read.
    pub fn write(&self, files: &ChunkedFiles, segment: &FullSegment) -> Result<usize, RecordError> {
        let number = u64::from(segment.start.position.segment());
        let is_valid = files
            .open_number(number)
            .is_ok_and(|file| read_identity(&file, segment).is_ok());
        if is_valid {
            return Ok(0);
        }
        let mut file = files.create(number)?;
        let mut chunk = SegmentIds::default();
        let mut count = 0;
        let end = self.blocks(segment.start, &segment.end, |position, body| {
            block_ids(position, body, self.seed, |tag, at| chunk.push(tag, at.offset()))?;
            if chunk.len() >= CHUNK_ENTRIES {
                count += chunk.len();
                for piece in chunk.bytes.chunks(CHUNK_ENTRIES * ENTRY_BYTES) {
                    file.write_chunk(piece)?;
                }
                chunk.bytes.clear();
            }
            Ok(())
        })?;
        count += chunk.len();
        if chunk.len() > 0 {
            file.write_chunk(&chunk.bytes)?;
        }
        file.write_chunk(&identity(&segment.start, &end))?;
        file.finish()?;
        Ok(count)
    }

    /// Adds the ids of a full segment to `ids`. Reads them from the id file, or from the blocks if the file is missing or can't
    /// be used.
    ///
    /// # Errors
    /// If neither can be read, or the hash chain does not connect the blocks of the segment.
    pub(super) fn load(
        &self,
        files: &ChunkedFiles,
        segment: &FullSegment,
        ids: &mut TagIndex,
    ) -> Result<(), RecordError> {
        let number = segment.start.position.segment();
        let loaded = match self.read_file(files, segment) {
            Ok(loaded) => loaded,
            Err(error) => {
                if error.is_missing() {
                    tracing::debug!(
                        segment = number,
                        "read the ids from the segment: it has no id file"
                    );
                } else {
                    tracing::warn!(segment = number, %error, "read the ids from the segment: its id file can't be used");
                }
                self.ids_between(segment.start, &segment.end, ids)?;
                // The blocks are valid, so the file is wrong. It is removed, because a new one is written only if none exists.
                if !error.is_missing()
                    && let Err(error) = files.remove(u64::from(number))
                {
                    tracing::warn!(segment = number, %error, "the id file could not be removed");
                }
                return Ok(());
            }
        };
        // Prefetches the index for later tags, because their entries are at random places in memory.
        let mut ahead = loaded.entries().skip(PREFETCH_DISTANCE);
        for (tag, offset) in loaded.entries() {
            if let Some((tag, _)) = ahead.next() {
                ids.prefetch(tag);
            }
            ids.insert(tag, Position::new(number, offset).as_u64());
        }
        Ok(())
    }

    /// Returns the number of the last block of the newest readable id file; 0 without one. This block was durable, because an
    /// id file is written after all blocks of its segment are durable.
    ///
    /// # Errors
    /// If the directory of id files can't be read.
    pub(super) fn durable_through(&self, files: &ChunkedFiles) -> Result<u64, JournalError> {
        let newest = files.numbers()?.into_iter().rev().find_map(|number| {
            let file = files.open_checked(number).ok()?;
            read_points(&file).ok()
        });
        Ok(newest.map_or(0, |segment| segment.end.last_block_sequence()))
    }

    /// Reads the ids of `segment` from its id file, and verifies the whole file.
    pub(super) fn read_file(
        &self,
        files: &ChunkedFiles,
        segment: &FullSegment,
    ) -> Result<SegmentIds, IdFileError> {
        let number = segment.start.position.segment();
        let file = files.open_checked(u64::from(number))?;
        let end = read_identity(&file, segment)?;
        // The chain points show that the file is right. The last block of the segment must exist, too: a valid id file must
        // not hide that a segment is empty, cut short or replaced.
        if !self.reader.contains_point(&end)? {
            return Err(IdFileError::OtherBlocks);
        }
        let mut ids = SegmentIds::default();
        let mut chunk = Vec::new();
        let last = file
            .chunks()
            .checked_sub(1)
            .ok_or_else(|| file.malformed("chunks"))?;
        for index in 0..last {
            file.read_chunk(index, &mut chunk)?;
            if !chunk.len().is_multiple_of(ENTRY_BYTES) {
                return Err(file.malformed("ids").into());
            }
            ids.bytes.extend_from_slice(&chunk);
        }
        Ok(ids)
    }
}

// ===== impl SegmentIds =====

impl SegmentIds {
    fn push(&mut self, tag: u64, offset: u32) {
        self.bytes.extend_from_slice(&tag.to_le_bytes());
        self.bytes.extend_from_slice(&offset.to_le_bytes());
    }

    /// The number of ids.
    pub(super) const fn len(&self) -> usize {
        self.bytes.len() / ENTRY_BYTES
    }

    /// The tags and offsets, in the order of the records.
    fn entries(&self) -> impl Iterator<Item = (u64, u32)> {
        let (entries, rest) = self.bytes.as_chunks::<ENTRY_BYTES>();
        assert!(rest.is_empty(), "the last entry of a segment's ids is cut short");
        entries.iter().map(|entry| {
            let [a, b, c, d, e, f, g, h, offset @ ..] = *entry;
            (
                u64::from_le_bytes([a, b, c, d, e, f, g, h]),
                u32::from_le_bytes(offset),
            )
        })
    }
}

// ===== impl IdFileError =====

impl IdFileError {
    fn is_missing(&self) -> bool {
        matches!(self, IdFileError::Store(JournalError::Disk(error)) if error.is_not_found())
    }
}

impl From<JournalError> for IdFileError {
    fn from(error: JournalError) -> Self {
        IdFileError::Store(error)
    }
}

impl fmt::Display for IdFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IdFileError::Store(error) => error.fmt(f),
            IdFileError::OtherBlocks => {
                f.write_str("it was made from other blocks than those in the segment")
            }
        }
    }
}

// ===== the identity =====

fn identity(start: &ChainPoint, end: &ChainPoint) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&start.to_bytes());
    bytes.extend_from_slice(&end.to_bytes());
    bytes
}

/// Checks that the file was made from the blocks of `segment`. Returns the chain point at the end of the segment.
fn read_identity(file: &ChunkedFileReader, segment: &FullSegment) -> Result<ChainPoint, IdFileError> {
    let found = read_points(file)?;
    if found.start.is_at(&segment.start) && found.end.is_at(&segment.end) {
        Ok(found.end)
    } else {
        Err(IdFileError::OtherBlocks)
    }
}

/// Reads the identity of the segment from which the file was made.
fn read_points(file: &ChunkedFileReader) -> Result<FullSegment, JournalError> {
    let malformed = || file.malformed("ids of a known version");
    let last = file.chunks().checked_sub(1).ok_or_else(malformed)?;
    let mut chunk = Vec::new();
    file.read_chunk(last, &mut chunk)?;
    let mut reader = Reader::new(&chunk);
    if chunk.len() != IDENTITY_BYTES || reader.u8().ok() != Some(VERSION) {
        return Err(malformed());
    }
    let mut point = || {
        let bytes = reader.bytes(CHAIN_POINT_BYTES).ok()?.first_chunk()?;
        Some(ChainPoint::from_bytes(bytes))
    };
    Ok(FullSegment {
        start: point().ok_or_else(malformed)?,
        end: point().ok_or_else(malformed)?,
    })
}

/// Calls `visit` with the tag and the position of each transaction record in a block.
fn block_ids(
    block: Position,
    body: &[u8],
    seed: u64,
    mut visit: impl FnMut(u64, Position),
) -> Result<(), RecordError> {
    for record in BlockRecords::new(block, body) {
        let (position, framed) = record?;
        if let Some((transaction, _)) = transaction_of(&framed) {
            visit(id_tag(transaction.id_bytes(), seed), position);
        }
    }
    Ok(())
}
