//! The transaction ids of a full segment, written once, so that opening need not read the segment again.
//!
//! A file holds a hash and an offset for every transaction record of its segment: 12 bytes an id. It can always be made
//! again from the segment.

use super::{
    book::{body_position, id_tag},
    checkpoint::malformed_at,
    error::BookError,
    recall::recalled,
};
use crate::{
    ledger::{Malformed, codec::Reader, record::take_record, tag_index::TagIndex},
    store::journal::{
        ChunkedFiles, ChunkedReader, DataDirectory, Geometry, JournalReader, Position, StoreError,
    },
};

/// Bytes of an entry: the tag and the offset, little endian.
const ENTRY_BYTES: usize = 12;
/// How many entries ahead memory is asked for.
const PREFETCH_DISTANCE: usize = 16;
/// Entries in a chunk: 768 KiB.
const CHUNK_ENTRIES: usize = 64 * 1024;

/// The family of id files of a data directory, numbered by segment.
///
/// # Errors
/// If the directory can't be made or read.
pub fn files(directory: &DataDirectory) -> Result<ChunkedFiles, StoreError> {
    ChunkedFiles::open(directory, "index", "", "ids")
}

/// Reads the blocks of a journal one after the other, by position.
#[derive(Debug, Clone)]
pub struct BlockWalk {
    reader: JournalReader,
    geometry: Geometry,
}

// ===== impl BlockWalk =====

impl BlockWalk {
    /// Walks the journal behind `reader`, whose segments have this `geometry`.
    #[must_use]
    pub const fn new(reader: JournalReader, geometry: Geometry) -> Self {
        BlockWalk { reader, geometry }
    }

    /// Calls `visit` with the hash and position of every transaction record from `from` up to `end`, within the segment
    /// of `from`. All of these blocks must be durable.
    ///
    /// # Errors
    /// If a block can't be read.
    pub fn ids(
        &self,
        from: Position,
        end: Position,
        seed: u64,
        mut visit: impl FnMut(u64, Position),
    ) -> Result<(), BookError> {
        let mut position = from;
        let mut body = Vec::new();
        while position < end && position.segment() == from.segment() {
            let header = self.reader.read_block(position, &mut body)?;
            block_ids(position, &body, seed, &mut visit)?;
            position = self.geometry.position_after(position, header.body_bytes);
        }
        Ok(())
    }

    /// Writes the id file of `segment`, all of whose blocks are durable.
    ///
    /// # Errors
    /// If the disk refuses, or a block can't be read.
    pub fn write(&self, files: &ChunkedFiles, segment: u32, seed: u64) -> Result<usize, BookError> {
        let end = Position::new(segment.saturating_add(1), 0);
        let mut file = files.create(u64::from(segment))?;
        let mut chunk = Vec::with_capacity(CHUNK_ENTRIES * ENTRY_BYTES);
        let mut count = 0;
        let mut written = Ok(());
        self.ids(Position::new(segment, 0), end, seed, |tag, position| {
            chunk.extend_from_slice(&tag.to_le_bytes());
            chunk.extend_from_slice(&position.offset().to_le_bytes());
            count += 1;
            if chunk.len() >= CHUNK_ENTRIES * ENTRY_BYTES {
                // After a failure the rest is read for nothing; the file is not finished, and so thrown away.
                if written.is_ok() {
                    written = file.write_chunk(&chunk);
                }
                chunk.clear();
            }
        })?;
        written?;
        if !chunk.is_empty() {
            file.write_chunk(&chunk)?;
        }
        file.finish()?;
        Ok(count)
    }

    /// Adds the ids of a full `segment`: from its file, or, where there is none that can be read, from its blocks.
    ///
    /// # Errors
    /// If neither can be read.
    pub fn load(
        &self,
        files: &ChunkedFiles,
        segment: u32,
        seed: u64,
        ids: &mut TagIndex,
    ) -> Result<(), BookError> {
        if let Ok(file) = files
            .open_number(u64::from(segment))
            .and_then(|file| file.verify().map(|()| file))
        {
            return load_file(&file, segment, ids);
        }
        tracing::debug!(segment, "no id file; reading the segment");
        let end = Position::new(segment.saturating_add(1), 0);
        self.ids(Position::new(segment, 0), end, seed, |tag, position| {
            ids.insert(tag, position.as_u64())
        })
    }
}

fn load_file(file: &ChunkedReader, segment: u32, ids: &mut TagIndex) -> Result<(), BookError> {
    let mut chunk = Vec::new();
    for number in 0..file.chunks() {
        file.read_chunk(number, &mut chunk)?;
        let mut reader = Reader::new(&chunk);
        // Reads the tags a second time, ahead: their places in the index are anywhere in memory.
        let mut ahead = chunk.chunks_exact(ENTRY_BYTES).skip(PREFETCH_DISTANCE);
        while !reader.is_empty() {
            if let Some(tag) = ahead.next().and_then(|entry| entry.first_chunk()) {
                ids.prefetch(u64::from_le_bytes(*tag));
            }
            let entry = take_entry(&mut reader).map_err(malformed_at(Position::new(segment, 0)))?;
            ids.insert(entry.0, Position::new(segment, entry.1).as_u64());
        }
    }
    Ok(())
}

fn take_entry(reader: &mut Reader<'_>) -> Result<(u64, u32), Malformed> {
    let short = Malformed { what: "an id entry" };
    let tag = reader.bytes(8)?.try_into().map_err(|_| short)?;
    let offset = reader.bytes(4)?.try_into().map_err(|_| short)?;
    Ok((u64::from_le_bytes(tag), u32::from_le_bytes(offset)))
}

/// Calls `visit` for every transaction record in the body of the block at `block`.
pub(super) fn block_ids(
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
        let framed = take_record(&mut reader).map_err(malformed_at(position))?;
        if let Some((transaction, _)) = recalled(&framed) {
            visit(id_tag(transaction.id_bytes(), seed), position);
        }
    }
    Ok(())
}
