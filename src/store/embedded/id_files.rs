//! The transaction ids of a full segment, written once, so that opening need not read the segment again.
//!
//! A file holds a hash and an offset for every transaction record of its segment: 12 bytes an id. It can always be made
//! again from the segment. It names the blocks that it was made from, by the places in the hash chain where its segment
//! starts and ends: a file of another history than that of the blocks beside it is not used.
//!
//! ```text
//! chunk 0..n: hash u64, offset u32, little endian, in the order of the records
//! last chunk: version | place in the chain at the start of the segment | place at its end
//! ```

use std::fmt;

use super::{
    book::{body_position, id_tag},
    checkpoint::malformed_at,
    error::BookError,
    recall::recalled,
};
use crate::{
    ledger::{codec::Reader, record::take_record, tag_index::TagIndex},
    store::journal::{
        CHAIN_POINT_BYTES, ChainPoint, ChunkedFileReader, ChunkedFiles, DataDirectory, JournalError,
        JournalReader, Position,
    },
};

const DIRECTORY: &str = "index";
const SUFFIX: &str = "ids";
/// Version of the layout above.
const VERSION: u8 = 1;
/// Bytes of the last chunk.
const IDENTITY_BYTES: usize = 1 + 2 * CHAIN_POINT_BYTES;
/// Bytes of an entry: the tag and the offset, little endian.
const ENTRY_BYTES: usize = 12;
/// How many entries ahead memory is asked for.
const PREFETCH_DISTANCE: usize = 16;
/// Most entries of a chunk: 768 KiB.
const CHUNK_ENTRIES: usize = 64 * 1024;

/// The family of id files of a data directory, numbered by segment.
///
/// # Errors
/// If the directory can't be made or read.
pub fn files(directory: &DataDirectory) -> Result<ChunkedFiles, JournalError> {
    ChunkedFiles::open(directory, DIRECTORY, "", SUFFIX)
}

/// As [`files`], and changes nothing.
#[must_use]
pub(super) fn files_read_only(directory: &DataDirectory) -> ChunkedFiles {
    ChunkedFiles::open_read_only(directory, DIRECTORY, "", SUFFIX)
}

/// Reads the blocks of a journal one after the other, along the hash chain.
#[derive(Debug, Clone)]
pub struct BlockWalk {
    reader: JournalReader,
    /// Keys the hash of ids.
    seed: u64,
}

/// A full segment: where it starts and ends in the chain. What it holds follows from that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FullSegment {
    /// Its first block.
    pub start: ChainPoint,
    /// The first block of the next segment.
    pub end: ChainPoint,
}

/// The ids of a segment, as its file holds them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SegmentIds {
    /// Entries, back to back.
    bytes: Vec<u8>,
}

/// Why an id file is not used.
#[derive(Debug)]
pub(super) enum Unusable {
    /// It can't be read, or is damaged.
    Store(JournalError),
    /// It was made from other blocks than those in the segment.
    OtherBlocks,
}

// ===== impl BlockWalk =====

impl BlockWalk {
    /// Walks the journal behind `reader`, in a data directory that keys the hash of ids with `seed`.
    #[must_use]
    pub const fn new(reader: JournalReader, seed: u64) -> Self {
        BlockWalk { reader, seed }
    }

    /// The full segment with that `number`, before `end`, the end of the journal or another place in it.
    ///
    /// # Errors
    /// If its first block, or that of the next segment, is missing or damaged.
    pub fn full_segment(&self, number: u32, end: &ChainPoint) -> Result<FullSegment, JournalError> {
        Ok(FullSegment {
            start: self.reader.segment_start(number, end)?,
            end: self.reader.segment_start(number.saturating_add(1), end)?,
        })
    }

    /// Where the segment with that `number` starts, which is before `end` or begins there.
    ///
    /// # Errors
    /// If its first block is missing or damaged.
    pub(super) fn segment_start(&self, number: u32, end: &ChainPoint) -> Result<ChainPoint, JournalError> {
        self.reader.segment_start(number, end)
    }

    /// Calls `visit` with the position and body of every block from `from` on that stands before `to`, and checks that they
    /// lead there. Returns the place, and where the last block is. All of these blocks must be durable.
    fn blocks(
        &self,
        from: ChainPoint,
        to: &ChainPoint,
        mut visit: impl FnMut(Position, &[u8]) -> Result<(), BookError>,
    ) -> Result<ChainPoint, BookError> {
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

    /// Adds the ids between two places of the journal to `ids`, from the blocks, which must lead from one to the other.
    ///
    /// # Errors
    /// If a block can't be read, or does not follow from the one before.
    pub(super) fn ids_between(
        &self,
        from: ChainPoint,
        to: &ChainPoint,
        ids: &mut TagIndex,
    ) -> Result<(), BookError> {
        self.blocks(from, to, |position, body| {
            block_ids(position, body, self.seed, |tag, at| ids.insert(tag, at.as_u64()))
        })?;
        Ok(())
    }

    /// Makes the ids of a full segment from its blocks, which must lead from its start to its end. They are held in memory:
    /// 12 bytes for each.
    pub(super) fn read_segment(&self, segment: &FullSegment) -> Result<SegmentIds, BookError> {
        let mut ids = SegmentIds::default();
        self.blocks(segment.start, &segment.end, |position, body| {
            block_ids(position, body, self.seed, |tag, at| ids.push(tag, at.offset()))
        })?;
        Ok(ids)
    }

    /// Writes the id file of `segment`, all of whose blocks are durable, unless there is a right one. Returns how many ids it
    /// wrote.
    ///
    /// # Errors
    /// If the disk refuses, or a block can't be read.
    pub fn write(&self, files: &ChunkedFiles, segment: &FullSegment) -> Result<usize, BookError> {
        let number = u64::from(segment.start.position.segment());
        let has_file = files
            .open_number(number)
            .is_ok_and(|file| read_identity(&file, segment).is_ok());
        if has_file {
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

    /// Adds the ids of a full segment: from its file, or, where there is none that can be used, from its blocks.
    ///
    /// # Errors
    /// If neither can be read, or the blocks don't lead from the start of the segment to its end.
    pub(super) fn load(
        &self,
        files: &ChunkedFiles,
        segment: &FullSegment,
        ids: &mut TagIndex,
    ) -> Result<(), BookError> {
        let number = segment.start.position.segment();
        let loaded = match self.read_file(files, segment) {
            Ok(loaded) => loaded,
            Err(why) => {
                if why.is_missing() {
                    tracing::debug!(segment = number, "no id file; reading the segment");
                } else {
                    tracing::warn!(segment = number, %why, "the id file can't be used; reading the segment");
                }
                self.ids_between(segment.start, &segment.end, ids)?;
                // Its blocks are whole, so it is the file that is not. While it is there, none is written.
                if !why.is_missing()
                    && let Err(error) = files.remove(u64::from(number))
                {
                    tracing::warn!(segment = number, %error, "the id file could not be removed");
                }
                return Ok(());
            }
        };
        // Reads the tags a second time, ahead: their places in the index are anywhere in memory.
        let mut ahead = loaded.entries().skip(PREFETCH_DISTANCE);
        for (tag, offset) in loaded.entries() {
            if let Some((tag, _)) = ahead.next() {
                ids.prefetch(tag);
            }
            ids.insert(tag, Position::new(number, offset).as_u64());
        }
        Ok(())
    }

    /// The highest block that an id file proves to have been durable, and 0 if none does: the file of a segment is written when
    /// all of its blocks are durable. Files that can't be read prove nothing.
    ///
    /// # Errors
    /// If the directory can't be read.
    pub(super) fn durable_through(&self, files: &ChunkedFiles) -> Result<u64, JournalError> {
        let newest = files.numbers()?.into_iter().rev().find_map(|number| {
            let file = files.open_checked(number).ok()?;
            read_points(&file).ok()
        });
        Ok(newest.map_or(0, |segment| segment.end.last_block_sequence()))
    }

    /// The ids of `segment` as its file has them, all of it checked.
    pub(super) fn read_file(
        &self,
        files: &ChunkedFiles,
        segment: &FullSegment,
    ) -> Result<SegmentIds, Unusable> {
        let number = segment.start.position.segment();
        let file = files.open_checked(u64::from(number))?;
        let end = read_identity(&file, segment)?;
        // The neighbours of the segment say that the file is right. Its last block says that the segment is: one that was
        // emptied, cut short or replaced must not hide behind its file.
        if !self.reader.contains_point(&end)? {
            return Err(Unusable::OtherBlocks);
        }
        let mut ids = SegmentIds::default();
        let mut chunk = Vec::new();
        for index in 0..file.chunks().saturating_sub(1) {
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

    /// How many there are.
    pub(super) const fn len(&self) -> usize {
        self.bytes.len() / ENTRY_BYTES
    }

    /// Tags and offsets, in the order of the records.
    fn entries(&self) -> impl Iterator<Item = (u64, u32)> {
        let (entries, _) = self.bytes.as_chunks::<ENTRY_BYTES>();
        entries.iter().map(|entry| {
            let [a, b, c, d, e, f, g, h, offset @ ..] = *entry;
            (
                u64::from_le_bytes([a, b, c, d, e, f, g, h]),
                u32::from_le_bytes(offset),
            )
        })
    }
}

// ===== impl Unusable =====

impl Unusable {
    fn is_missing(&self) -> bool {
        matches!(self, Unusable::Store(JournalError::Disk(error)) if error.is_not_found())
    }
}

impl From<JournalError> for Unusable {
    fn from(error: JournalError) -> Self {
        Unusable::Store(error)
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unusable::Store(error) => error.fmt(f),
            Unusable::OtherBlocks => f.write_str("it was made from other blocks than those in the segment"),
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

/// The end of `segment`, with the place of its last block, if the file was made from the segment's blocks.
fn read_identity(file: &ChunkedFileReader, segment: &FullSegment) -> Result<ChainPoint, Unusable> {
    let found = read_points(file)?;
    if found.start.is_at(&segment.start) && found.end.is_at(&segment.end) {
        Ok(found.end)
    } else {
        Err(Unusable::OtherBlocks)
    }
}

/// The segment that the file was made from.
fn read_points(file: &ChunkedFileReader) -> Result<FullSegment, JournalError> {
    let mut chunk = Vec::new();
    file.read_chunk(file.chunks().saturating_sub(1), &mut chunk)?;
    let malformed = || file.malformed("ids of a known version");
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

/// Calls `visit` for every transaction record in the body of the block at `block`.
fn block_ids(
    block: Position,
    body: &[u8],
    seed: u64,
    mut visit: impl FnMut(u64, Position),
) -> Result<(), BookError> {
    let start = body_position(block);
    let mut reader = Reader::new(body);
    while !reader.is_empty() {
        let offset = u32::try_from(body.len() - reader.rest().len()).unwrap_or(u32::MAX);
        let position = Position::new(start.segment(), start.offset() + offset);
        let framed = take_record(&mut reader, position.as_u64()).map_err(malformed_at(position))?;
        if let Some((transaction, _)) = recalled(&framed) {
            visit(id_tag(transaction.id_bytes(), seed), position);
        }
    }
    Ok(())
}
