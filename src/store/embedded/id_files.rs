//! Id files: indexes of the transaction ids in full segments. A segment is full when the journal continues in the next
//! segment. With an id file, the opening of the store need not read the segment.
//!
//! The file contains an entry of 12 bytes for each [key](tally_ledger::RecordKey) of the records of its segment: the tag, which is a
//! hash of the key, and the offset of the record. The file can be made again from the segment. It also states the chain
//! points at the start and the end of the segment from which it was made. The hashes in these points differ if the file
//! was made from other blocks, for example from those of another backup. The store does not use such a file.
//!
//! ```text
//! chunk 0..n: tag u64, offset u32, little endian, in the order of the records
//! last chunk: version | chain point at the start of the segment | chain point at its end
//! ```

use std::fmt;

use tally_journal::{
    CHAIN_POINT_BYTES, ChainPoint, ChunkedFileReader, ChunkedFiles, DataDirectory, FileFamily, JournalError,
    JournalReader, Position,
};
use tally_ledger::{codec::Reader, tag_index::TagIndex};

use super::{error::RecordError, record::BlockRecords};
use crate::mutation::planted;

const DIRECTORY: &str = "index";
const SUFFIX: &str = "ids";
/// Version of the layout that the module documentation describes.
const VERSION: u8 = 2;
/// Length of the last chunk, in bytes.
const IDENTITY_BYTES: usize = 1 + 2 * CHAIN_POINT_BYTES;
/// Length of an entry, in bytes: the tag and the offset.
const ENTRY_BYTES: usize = 12;
/// Number of entries between the entry that is inserted into the index and the entry whose place in the index is
/// prefetched.
const PREFETCH_DISTANCE: usize = 16;
/// Maximum number of entries of a chunk. A chunk of this many entries has 768 KiB.
const CHUNK_ENTRIES: usize = 64 * 1024;

/// Opens the id files of a data directory. The number of a file is the number of its segment.
///
/// # Errors
/// [`JournalError::Disk`] if the directory of id files cannot be made or read.
pub fn files(directory: &DataDirectory) -> Result<ChunkedFiles, JournalError> {
    ChunkedFiles::open(directory, DIRECTORY, "", SUFFIX)
}

/// Opens the id files like [`files`], but changes nothing on disk.
#[must_use]
pub(super) fn files_read_only(directory: &DataDirectory) -> ChunkedFiles {
    ChunkedFiles::open_read_only(directory, DIRECTORY, "", SUFFIX)
}

/// The names of the id files.
pub(super) const FAMILY: FileFamily = FileFamily {
    subdirectory: DIRECTORY,
    prefix: "",
    suffix: SUFFIX,
};

/// Reads the blocks of a journal in order, and checks that each block contains the hash of the block before it.
#[derive(Debug, Clone)]
pub struct BlockWalk {
    reader: JournalReader,
    /// Seed of the hash that makes tags from transaction ids.
    seed: u64,
}

/// A full segment, identified by the chain points at its start and at its end. The hashes in these points identify all
/// blocks of the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FullSegment {
    /// The point before the first block of the segment.
    pub start: ChainPoint,
    /// The point before the first block of the next segment.
    pub end: ChainPoint,
}

/// The ids of a segment, encoded as in its id file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SegmentIds {
    /// The entries, one after the other.
    bytes: Vec<u8>,
}

/// Why an id file cannot be used.
#[derive(Debug)]
pub(super) enum IdFileError {
    /// The file does not exist, cannot be read, or is damaged.
    Store(JournalError),
    /// The file was made from other blocks than those in the segment.
    OtherBlocks,
}

// ===== impl BlockWalk =====

impl BlockWalk {
    /// Makes a walk over the journal of `reader`. `seed` is the hash seed of the data directory, for the tags of
    /// transaction ids.
    #[must_use]
    pub const fn new(reader: JournalReader, seed: u64) -> Self {
        BlockWalk { reader, seed }
    }

    /// Returns the full segment `number`. `end` must be after this segment; it is the end of the journal or an earlier
    /// point.
    ///
    /// # Errors
    /// [`JournalError`] if the header of the first block of this segment or of the next segment is missing or damaged.
    ///
    /// # Panics
    /// If `number` is the greatest segment number. No segment follows it, so it is never full.
    pub fn full_segment(&self, number: u32, end: &ChainPoint) -> Result<FullSegment, JournalError> {
        let Some(next) = number.checked_add(1) else {
            panic!("segment {number} has the greatest segment number and cannot be full");
        };
        Ok(FullSegment {
            start: self.reader.segment_start(number, end)?,
            end: self.reader.segment_start(next, end)?,
        })
    }

    /// Returns the chain point at the start of segment `number`. The segment must start before `end` or at `end`.
    ///
    /// # Errors
    /// [`JournalError`] if the header of its first block is missing or damaged.
    pub(super) fn segment_start(&self, number: u32, end: &ChainPoint) -> Result<ChainPoint, JournalError> {
        self.reader.segment_start(number, end)
    }

    /// Calls `visit` with the position and the body of each block of records between `from` and `to`. All of these blocks must be
    /// durable. Returns the chain point after the last of these blocks. Returns an error if this point differs from
    /// `to`.
    fn blocks(
        &self,
        from: ChainPoint,
        to: &ChainPoint,
        mut visit: impl FnMut(Position, &[u8]) -> Result<(), RecordError>,
    ) -> Result<ChainPoint, RecordError> {
        let mut point = from;
        let mut body = Vec::new();
        while point.position < to.position {
            let (header, next) = self.reader.read_next(&point, &mut body)?;
            if header.kind.is_data() {
                visit(point.position, &body)?;
            }
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
    /// [`RecordError`] if a block cannot be read, or does not contain the hash of the block before it.
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

    /// Reads the transaction ids of a full segment from its blocks. Each id takes 12 bytes of memory.
    pub(super) fn read_segment(&self, segment: &FullSegment) -> Result<SegmentIds, RecordError> {
        let mut ids = SegmentIds::default();
        self.blocks(segment.start, &segment.end, |position, body| {
            block_ids(position, body, self.seed, |tag, at| ids.push(tag, at.offset()))
        })?;
        Ok(ids)
    }

    /// Writes the id file of `segment`, unless a valid id file of the segment exists. All blocks of the segment must be
    /// durable. Returns the number of ids that it wrote.
    ///
    /// # Errors
    /// [`RecordError`] if the disk fails, or a block cannot be read.
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

    /// Adds the ids of a full segment to `ids`. Reads the ids from the id file, or from the blocks if the file is
    /// missing or unusable.
    ///
    /// # Errors
    /// [`RecordError`] if the id file is unusable and a block cannot be read or does not contain the hash of the block
    /// before it.
    pub(super) fn load(
        &self,
        files: &ChunkedFiles,
        segment: &FullSegment,
        ids: &mut TagIndex,
    ) -> Result<(), RecordError> {
        let number = segment.start.position.segment();
        let loaded = match self.read_file(files, segment) {
            Ok(loaded) => loaded,
            Err(error) if error.is_missing() && planted("pass_over_segment_without_id_file") => return Ok(()),
            Err(error) => {
                if error.is_missing() {
                    tracing::debug!(
                        segment = number,
                        "reading the ids from the segment, because the segment has no id file"
                    );
                } else {
                    tracing::warn!(segment = number, %error, "reading the ids from the segment, because its id file is unusable");
                }
                self.ids_between(segment.start, &segment.end, ids)?;
                // The blocks are valid, so the id file is wrong. Remove the file, so that AUX writes a new one.
                if !error.is_missing()
                    && let Err(error) = files.remove(u64::from(number))
                {
                    tracing::warn!(segment = number, %error, "could not remove the unusable id file");
                }
                return Ok(());
            }
        };
        // Prefetches the index entries of later tags, because the entries are at random addresses and would miss the
        // cache.
        let mut ahead = loaded.entries().skip(PREFETCH_DISTANCE);
        for (tag, offset) in loaded.entries() {
            if let Some((tag, _)) = ahead.next() {
                ids.prefetch(tag);
            }
            ids.insert(tag, Position::new(number, offset).as_u64());
        }
        Ok(())
    }

    /// Returns the number of the last block in the segment of the newest undamaged id file; 0 if no such file exists.
    /// This block was durable, because an id file is written after all blocks of its segment are durable.
    ///
    /// # Errors
    /// [`JournalError::Disk`] if the directory of id files cannot be read.
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
        // The id file belongs to this segment. Also check the last block of the segment, because a valid id file must
        // not hide that the segment is empty, truncated or replaced.
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

    /// Returns the number of ids.
    pub(super) const fn len(&self) -> usize {
        self.bytes.len() / ENTRY_BYTES
    }

    /// Returns the tags and the offsets, in the order of the records.
    fn entries(&self) -> impl Iterator<Item = (u64, u32)> {
        let (entries, rest) = self.bytes.as_chunks::<ENTRY_BYTES>();
        assert!(rest.is_empty(), "the last entry of a segment's ids is incomplete");
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
                f.write_str("the file was made from other blocks than those in the segment")
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

/// Checks that the id file was made from the blocks of `segment`. Returns the chain point at the end of the segment.
fn read_identity(file: &ChunkedFileReader, segment: &FullSegment) -> Result<ChainPoint, IdFileError> {
    let found = read_points(file)?;
    if found.start.is_at(&segment.start) && found.end.is_at(&segment.end) {
        Ok(found.end)
    } else {
        Err(IdFileError::OtherBlocks)
    }
}

/// Reads the chain points of the segment from which the id file was made.
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

/// Calls `visit` with the tag and the position of each key of each record in the block at `block`.
fn block_ids(
    block: Position,
    body: &[u8],
    seed: u64,
    mut visit: impl FnMut(u64, Position),
) -> Result<(), RecordError> {
    for record in BlockRecords::new(block, body) {
        let (position, framed) = record?;
        for key in framed.record.keys().iter().flatten() {
            visit(key.tag(seed), position);
        }
    }
    Ok(())
}
