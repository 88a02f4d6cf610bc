//! The format of a block: a header of fixed length and a body whose content this crate does not interpret.
//!
//! CRC-32C checksums detect changes of the header and of the body. Each block also contains the BLAKE3 hash of the
//! block before it, so a scan detects a block that was replaced, removed or moved.
//!
//! The header, little endian:
//!
//! | offset | bytes | field |
//! |---:|---:|---|
//! | 0 | 4 | magic `TLYB` |
//! | 4 | 2 | format version |
//! | 6 | 2 | length of the header, in bytes |
//! | 8 | 8 | block sequence, from 1, without gaps |
//! | 16 | 8 | first entry |
//! | 24 | 8 | first transaction sequence |
//! | 32 | 8 | base time, nanoseconds since the Unix epoch |
//! | 40 | 4 | number of records |
//! | 44 | 4 | length of the body, in bytes |
//! | 48 | 8 | position of this block: detects a write to a wrong position |
//! | 56 | 16 | id of the data directory: detects a block of another directory, and bytes in a body that look like a block |
//! | 72 | 32 | hash of the block before this one |
//! | 104 | 4 | CRC-32C of the body |
//! | 108 | 8 | term; 0 in a block of an embedded store |
//! | 116 | 4 | writer: the number of the process that wrote the block; 0 in term 0 |
//! | 120 | 4 | kind: 0 data, 1 genesis, 2 claim, 3 resign, 4 end, 5 halt, 6 level ([`BlockKind`]) |
//! | 124 | 4 | CRC-32C of the first 124 bytes of the header |
//!
//! The hash of a block is BLAKE3 over its header and body. The hash does not cover the zeros that pad the block to a
//! multiple of 8 bytes.

use std::{fmt, io};

use thiserror::Error;

use crate::{
    layout::{checksum_before_last_field, field, put, write_hex},
    mutation::planted,
    position::Position,
    stamp::{BlockKind, BlockStamp},
};

/// The header of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockHeader {
    /// Where the block starts.
    pub position: Position,
    /// The number of the block: the first block has 1, and there are no gaps.
    pub block_sequence: u64,
    /// The number of the block's first entry. The caller defines this number; the crate only stores it.
    pub first_entry: u64,
    /// The sequence number of the block's first transaction. The caller defines this number; the crate only stores it.
    pub first_sequence: u64,
    /// The base of the times in the block's records, in nanoseconds since the Unix epoch.
    pub base_time_ns: u64,
    /// Number of records in the body. The caller defines this number; the crate only stores it.
    pub record_count: u32,
    /// Length of the body, in bytes.
    pub body_bytes: u32,
    /// The id of the data directory for which the block was written.
    pub data_id: DataId,
    /// Hash of the block before this one. The first block stores a hash that is derived from the id of the data
    /// directory.
    pub previous_hash: BlockHash,
    /// CRC-32C of the body.
    pub body_crc: u32,
    /// See [`BlockStamp::term`].
    pub term: u64,
    /// See [`BlockStamp::writer`].
    pub writer: u32,
    /// See [`BlockStamp::kind`].
    pub kind: BlockKind,
}

/// The part of a block's header that the caller passes to [`crate::JournalWriter::append`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockMeta {
    /// Where to write the block: the position that [`crate::BlockPlacement`] computed.
    pub position: Position,
    /// See [`BlockHeader::first_entry`].
    pub first_entry: u64,
    /// See [`BlockHeader::first_sequence`].
    pub first_sequence: u64,
    /// See [`BlockHeader::base_time_ns`].
    pub base_time_ns: u64,
    /// See [`BlockHeader::record_count`].
    pub record_count: u32,
}

/// A buffer in which a caller builds a block. It holds space for the header and then the body, so one write stores
/// both.
///
/// After an append, clear the buffer and fill it again. A cleared buffer keeps its memory.
pub struct BlockBuffer {
    /// At least [`HEADER_BYTES`] long.
    bytes: Vec<u8>,
}

/// The BLAKE3 hash of a block.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockHash(pub [u8; 32]);

/// The random id of a data directory.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DataId([u8; 16]);

/// Why bytes are not the header of a block at the position from which they were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HeaderDefect {
    /// The bytes are zeros: nothing was written there.
    #[error("nothing was written")]
    Absent,
    /// The bytes do not begin with the magic of a header.
    #[error("there is no header")]
    Magic,
    /// The checksum of the header is wrong.
    #[error("the checksum of the header is wrong")]
    Checksum,
    /// The checksum of the header is correct, but this program does not support its format version.
    #[error("the header has format version {0}")]
    Version(u16),
    /// The checksum of the header is correct, but the header length that it states is wrong.
    #[error("the header states its own length as {0} bytes")]
    Length(u16),
    /// The checksum of the header is correct, but this program does not know the kind of the block.
    #[error("the header states the kind of block {0}, which this program does not know")]
    Kind(u32),
    /// The checksum of the header is correct, but the term is 0, and a block of this kind or with a writer must have a term
    /// greater than 0.
    #[error("the header of a block of kind {kind} states the writer {writer}, but no term")]
    NoTerm {
        /// The writer in the header.
        writer: u32,
        /// The kind in the header.
        kind: BlockKind,
    },
    /// The checksum of the header is correct, but a block of this kind has no records.
    #[error("the header of a block of kind {kind} states {record_count} records, but such a block has none")]
    Records {
        /// The kind in the header.
        kind: BlockKind,
        /// The number of records in the header.
        record_count: u32,
    },
    /// The checksum of the header is correct, but a block of this kind is never in a journal.
    #[error("the header states the kind of block {0}, which no journal contains")]
    NotInJournal(BlockKind),
    /// The checksum of the header is correct, but no block has this number.
    #[error("the header states the block number {0}, which no block has")]
    Number(u64),
    /// The checksum of the header is correct, but the header belongs to another data directory.
    #[error("the header belongs to another data directory")]
    DataId,
    /// The checksum of the header is correct, but the header belongs to a block at another position, or no block may
    /// start at its position.
    #[error("the header belongs to a block at {0}")]
    Misplaced(Position),
    /// The checksum of the header is correct, but its body would be longer than `block_bytes_max`.
    #[error("the header states a body of {0} bytes, more than a block may have")]
    BodyTooLong(u32),
}

/// Length of a block's header, in bytes. The body follows the header directly.
pub const HEADER_BYTES: usize = 128;
#[expect(clippy::cast_possible_truncation, reason = "128 fits")]
pub(super) const HEADER_BYTES_U32: u32 = HEADER_BYTES as u32;
/// Version of the block format that this crate reads and writes.
pub const BLOCK_FORMAT_VERSION: u16 = 1;
/// A block starts at a multiple of this number of bytes.
pub const BLOCK_ALIGNMENT: u32 = 8;

pub(super) const BLOCK_MAGIC: [u8; 4] = *b"TLYB";
/// The context of BLAKE3's key derivation, which makes these hashes differ from all other uses of BLAKE3.
const GENESIS_CONTEXT: &str = "tally 2026 journal: hash before the first block of a data directory";

/// An encoded header.
pub(super) type HeaderBytes = [u8; HEADER_BYTES];

// ===== impl BlockHeader =====

impl BlockHeader {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the header's 128 bytes fit 16 bits"
    )]
    pub(super) fn encode(&self) -> HeaderBytes {
        let mut bytes = [0; HEADER_BYTES];
        put::<0, 4, _>(&mut bytes, BLOCK_MAGIC);
        put::<4, 2, _>(&mut bytes, BLOCK_FORMAT_VERSION.to_le_bytes());
        put::<6, 2, _>(&mut bytes, (HEADER_BYTES as u16).to_le_bytes());
        put::<8, 8, _>(&mut bytes, self.block_sequence.to_le_bytes());
        put::<16, 8, _>(&mut bytes, self.first_entry.to_le_bytes());
        put::<24, 8, _>(&mut bytes, self.first_sequence.to_le_bytes());
        put::<32, 8, _>(&mut bytes, self.base_time_ns.to_le_bytes());
        put::<40, 4, _>(&mut bytes, self.record_count.to_le_bytes());
        put::<44, 4, _>(&mut bytes, self.body_bytes.to_le_bytes());
        put::<48, 8, _>(&mut bytes, self.position.as_u64().to_le_bytes());
        put::<56, 16, _>(&mut bytes, self.data_id.0);
        put::<72, 32, _>(&mut bytes, self.previous_hash.0);
        put::<104, 4, _>(&mut bytes, self.body_crc.to_le_bytes());
        put::<108, 8, _>(&mut bytes, self.term.to_le_bytes());
        put::<116, 4, _>(&mut bytes, self.writer.to_le_bytes());
        put::<120, 4, _>(&mut bytes, self.kind.number().to_le_bytes());
        let checksum = checksum_before_last_field(&bytes);
        put::<124, 4, _>(&mut bytes, checksum.to_le_bytes());
        bytes
    }

    /// Decodes the header in `bytes` and checks its checksum and version. [`BlockHeader::check_place`] checks whether
    /// the header belongs to the position from which it was read.
    pub(super) fn decode(bytes: &HeaderBytes) -> Result<Self, HeaderDefect> {
        if field::<0, 4, _>(bytes) != BLOCK_MAGIC {
            let absent = bytes.iter().all(|byte| *byte == 0);
            return Err(if absent {
                HeaderDefect::Absent
            } else {
                HeaderDefect::Magic
            });
        }
        if u32::from_le_bytes(field::<124, 4, _>(bytes)) != checksum_before_last_field(bytes) {
            return Err(HeaderDefect::Checksum);
        }
        let version = u16::from_le_bytes(field::<4, 2, _>(bytes));
        if version != BLOCK_FORMAT_VERSION {
            return Err(HeaderDefect::Version(version));
        }
        let length = u16::from_le_bytes(field::<6, 2, _>(bytes));
        if usize::from(length) != HEADER_BYTES {
            return Err(HeaderDefect::Length(length));
        }
        let kind = u32::from_le_bytes(field::<120, 4, _>(bytes));
        let kind = BlockKind::from_number(kind).ok_or(HeaderDefect::Kind(kind))?;
        let header = BlockHeader {
            block_sequence: u64::from_le_bytes(field::<8, 8, _>(bytes)),
            first_entry: u64::from_le_bytes(field::<16, 8, _>(bytes)),
            first_sequence: u64::from_le_bytes(field::<24, 8, _>(bytes)),
            base_time_ns: u64::from_le_bytes(field::<32, 8, _>(bytes)),
            record_count: u32::from_le_bytes(field::<40, 4, _>(bytes)),
            body_bytes: u32::from_le_bytes(field::<44, 4, _>(bytes)),
            position: Position::from_u64(u64::from_le_bytes(field::<48, 8, _>(bytes))),
            data_id: DataId(field::<56, 16, _>(bytes)),
            previous_hash: BlockHash(field::<72, 32, _>(bytes)),
            body_crc: u32::from_le_bytes(field::<104, 4, _>(bytes)),
            term: u64::from_le_bytes(field::<108, 8, _>(bytes)),
            writer: u32::from_le_bytes(field::<116, 4, _>(bytes)),
            kind,
        };
        header.check_kind()?;
        Ok(header)
    }

    /// Returns who wrote the block, and what it contains.
    #[must_use]
    pub const fn stamp(&self) -> BlockStamp {
        BlockStamp {
            term: self.term,
            writer: self.writer,
            kind: self.kind,
        }
    }

    /// Returns the part of the header that the builder of the block knew.
    #[must_use]
    pub const fn meta(&self) -> BlockMeta {
        BlockMeta {
            position: self.position,
            first_entry: self.first_entry,
            first_sequence: self.first_sequence,
            base_time_ns: self.base_time_ns,
            record_count: self.record_count,
        }
    }

    /// Checks that term, writer and number of records are possible for the kind of the block.
    const fn check_kind(&self) -> Result<(), HeaderDefect> {
        let BlockHeader {
            term,
            writer,
            kind,
            record_count,
            ..
        } = *self;
        if term == 0 && (writer != 0 || kind.needs_term()) {
            return Err(HeaderDefect::NoTerm { writer, kind });
        }
        if !kind.is_data() && record_count != 0 {
            return Err(HeaderDefect::Records { kind, record_count });
        }
        Ok(())
    }

    /// Checks that the block belongs to the directory `data_id`, that `position` is the position in its header, and
    /// that its body has at most `body_bytes_max` bytes.
    pub(super) fn check_place(
        &self,
        data_id: DataId,
        position: Position,
        body_bytes_max: u32,
    ) -> Result<(), HeaderDefect> {
        if self.data_id != data_id {
            return Err(HeaderDefect::DataId);
        }
        if self.position != position {
            return Err(HeaderDefect::Misplaced(self.position));
        }
        if self.body_bytes > body_bytes_max {
            return Err(HeaderDefect::BodyTooLong(self.body_bytes));
        }
        Ok(())
    }

    /// Returns whether the block's body has the checksum in this header.
    pub(super) fn is_body(&self, body: &[u8]) -> bool {
        crc32c::crc32c(body) == self.body_crc || planted("ignore_block_crc") || planted("accept_torn_block")
    }
}

// ===== impl BlockHash =====

impl BlockHash {
    /// Returns the hash that the first block of a directory stores as the hash of the block before it.
    pub(super) fn genesis(data_id: DataId) -> Self {
        BlockHash(blake3::derive_key(GENESIS_CONTEXT, &data_id.0))
    }

    /// Returns the hash of a block. `block` contains its header and body, without padding.
    pub(super) fn of_block(block: &[u8]) -> Self {
        BlockHash(*blake3::hash(block).as_bytes())
    }

    /// Returns the same as [`BlockHash::of_block`], for a header and a body in two slices.
    pub(super) fn of_parts(header: &HeaderBytes, body: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(header).update(body);
        BlockHash(*hasher.finalize().as_bytes())
    }
}

impl fmt::Display for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// ===== impl DataId =====

impl DataId {
    /// Makes an id from its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        DataId(bytes)
    }

    /// Returns the bytes of the id.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for DataId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for DataId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// ===== impl BlockBuffer =====

impl BlockBuffer {
    /// Makes an empty block with memory for a body of `body_bytes`.
    #[must_use]
    pub fn with_capacity(body_bytes: usize) -> Self {
        let capacity = HEADER_BYTES
            .saturating_add(body_bytes)
            .next_multiple_of(BLOCK_ALIGNMENT as usize);
        let mut bytes = Vec::with_capacity(capacity);
        bytes.resize(HEADER_BYTES, 0);
        BlockBuffer { bytes }
    }

    /// Returns the body.
    #[inline]
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.bytes.split_at(HEADER_BYTES).1
    }

    /// Returns the body. The caller may change its bytes.
    #[inline]
    #[must_use]
    pub fn body_mut(&mut self) -> &mut [u8] {
        self.bytes.split_at_mut(HEADER_BYTES).1
    }

    /// Returns the length of the body, in bytes. The next appended byte gets this offset in the body.
    #[inline]
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        self.body().len()
    }

    /// Returns whether the body is empty.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.body().is_empty()
    }

    /// Appends `bytes` to the body.
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Calls `append` with the vector of the block, for encoders that write into a vector. `append` may only append to
    /// the vector.
    ///
    /// # Panics
    /// If `append` makes the vector shorter.
    #[inline]
    pub fn append_with<R>(&mut self, append: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let length_before = self.bytes.len();
        let result = append(&mut self.bytes);
        assert!(
            self.bytes.len() >= length_before,
            "an encoder may only append to a block"
        );
        result
    }

    /// Shortens the body to `body_bytes`, to remove a record that did not fit. A shorter body is not changed.
    #[inline]
    pub fn truncate(&mut self, body_bytes: usize) {
        self.bytes.truncate(HEADER_BYTES.saturating_add(body_bytes));
    }

    /// Makes the body empty and keeps the memory for the next block.
    #[inline]
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Returns the length, in bytes, to which the body can grow without an allocation.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.bytes.capacity() - HEADER_BYTES
    }

    /// Frees the memory that a body of `body_bytes` does not need, after an unusually long block.
    pub fn shrink_to(&mut self, body_bytes: usize) {
        self.bytes.shrink_to(HEADER_BYTES.saturating_add(body_bytes));
    }

    /// Writes the header in front of the body and returns the hash of the block.
    ///
    /// # Panics
    /// If the length in the header is not the length of the body in this buffer, or if the encoded header does not
    /// decode to `header`. A reader would find such a block damaged.
    pub(super) fn seal(&mut self, header: &BlockHeader) -> BlockHash {
        assert_eq!(
            self.body_bytes(),
            header.body_bytes as usize,
            "the header states another length than the body has"
        );
        let encoded = header.encode();
        assert_eq!(
            BlockHeader::decode(&encoded),
            Ok(*header),
            "the encoded header must decode to the header"
        );
        self.bytes.split_at_mut(HEADER_BYTES).0.copy_from_slice(&encoded);
        BlockHash::of_block(&self.bytes)
    }

    /// Fills the empty buffer with a block that was sealed elsewhere.
    ///
    /// # Panics
    /// If the buffer is not empty, or if the length in the header is not the length of `body`.
    pub fn fill_sealed(&mut self, header: &BlockHeader, body: &[u8]) {
        assert!(self.is_empty(), "the buffer for a sealed block must be empty");
        assert_eq!(
            body.len(),
            header.body_bytes as usize,
            "the header states another length than the body has"
        );
        self.bytes
            .split_at_mut(HEADER_BYTES)
            .0
            .copy_from_slice(&header.encode());
        self.push(body);
    }

    /// Returns the header and the body of a sealed block, without padding. The caller has sealed the block with
    /// [`BlockSealer`](crate::BlockSealer), and has not changed its body since.
    ///
    /// # Panics
    /// If no block was ever sealed in this buffer.
    #[must_use]
    pub fn sealed_bytes(&self) -> &[u8] {
        assert!(self.bytes.starts_with(&BLOCK_MAGIC), "the block is not sealed");
        &self.bytes
    }

    /// Calls `write` with the bytes that are written to disk: the sealed block, padded with zeros to a multiple of
    /// [`BLOCK_ALIGNMENT`].
    pub(super) fn with_padding<R>(&mut self, write: impl FnOnce(&[u8]) -> R) -> R {
        let block_bytes = self.bytes.len();
        self.bytes
            .resize(block_bytes.next_multiple_of(BLOCK_ALIGNMENT as usize), 0);
        let result = write(&self.bytes);
        self.bytes.truncate(block_bytes);
        result
    }
}

impl Default for BlockBuffer {
    fn default() -> Self {
        BlockBuffer::with_capacity(0)
    }
}

impl fmt::Debug for BlockBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockBuffer")
            .field("body_bytes", &self.body_bytes())
            .finish_non_exhaustive()
    }
}

impl io::Write for BlockBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "block_tests.rs"]
mod tests;
