//! A block: a fixed header and an opaque body, checked by CRC-32C and chained by BLAKE3.
//!
//! The header, little endian:
//!
//! | offset | bytes | field |
//! |---:|---:|---|
//! | 0 | 4 | magic `TLYB` |
//! | 4 | 2 | format version |
//! | 6 | 2 | bytes of the header |
//! | 8 | 8 | block sequence, from 1, without gaps |
//! | 16 | 8 | first entry |
//! | 24 | 8 | first transaction sequence |
//! | 32 | 8 | base time, nanoseconds since the Unix epoch |
//! | 40 | 4 | number of records |
//! | 44 | 4 | bytes of the body |
//! | 48 | 8 | the position of this block: a misplaced write is no block |
//! | 56 | 16 | id of the data directory: what looks like a block inside a body, or comes from elsewhere, is none |
//! | 72 | 32 | hash of the block before |
//! | 104 | 4 | CRC-32C of the body |
//! | 108 | 16 | zero |
//! | 124 | 4 | CRC-32C of the 124 bytes before |
//!
//! A block's hash is BLAKE3 over header and body; the zeros up to the next 8-byte boundary belong to neither.

use std::{fmt, io};

use thiserror::Error;

use crate::{
    layout::{checksum_before_last_field, field, put, write_hex},
    position::Position,
};

/// What stands in front of a block's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockHeader {
    /// Where the block stands.
    pub position: Position,
    /// Its number, from 1, without gaps.
    pub block_sequence: u64,
    /// Number of its first entry; the ledger's business.
    pub first_entry: u64,
    /// Sequence of its first transaction; the ledger's business.
    pub first_sequence: u64,
    /// The time that its records count from, in nanoseconds since the Unix epoch.
    pub base_time_ns: u64,
    /// How many records the body has; the ledger's business.
    pub record_count: u32,
    /// Bytes of the body.
    pub body_bytes: u32,
    /// The data directory it was written for.
    pub data_id: DataId,
    /// Hash of the block before; derived from the data directory's id for the first one.
    pub previous_hash: BlockHash,
    /// CRC-32C of the body.
    pub body_crc: u32,
}

/// What the builder of a block knows of it; the rest of the header is the journal's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockMeta {
    /// Where it was placed.
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

/// A block in the making: room for the header, then the body, so that both go to disk in one write. It is meant to be
/// cleared and filled again.
pub struct BlockBuffer {
    /// Never shorter than the header.
    bytes: Vec<u8>,
}

/// BLAKE3 of a block.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockHash(pub [u8; 32]);

/// The random name of a data directory.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DataId([u8; 16]);

/// Why some bytes are no header of a block here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HeaderDefect {
    /// Zeros: nothing was written there.
    #[error("nothing was written")]
    Absent,
    /// They do not begin as a header does.
    #[error("there is no header")]
    Magic,
    /// The header's checksum is wrong.
    #[error("the checksum of the header is wrong")]
    Checksum,
    /// A whole header of a version that is not known here.
    #[error("the header has format version {0}")]
    Version(u16),
    /// A whole header, but of another data directory.
    #[error("the header belongs to another data directory")]
    DataId,
    /// A whole header, but of a block that belongs elsewhere.
    #[error("the header is that of the block at {0}")]
    Misplaced(Position),
    /// A whole header that tells a longer body than a block may have.
    #[error("the header tells a body of {0} bytes, which is beyond the bound")]
    BodyTooLong(u32),
}

/// Bytes of a block's header. The body follows it at once.
pub const HEADER_BYTES: usize = 128;
#[expect(clippy::cast_possible_truncation, reason = "128 fits")]
pub(super) const HEADER_BYTES_U32: u32 = HEADER_BYTES as u32;
/// Version of the block format.
pub const BLOCK_FORMAT_VERSION: u16 = 1;
/// Blocks start at multiples of this.
pub const BLOCK_ALIGNMENT: u32 = 8;

pub(super) const BLOCK_MAGIC: [u8; 4] = *b"TLYB";
/// Separates this use of BLAKE3 from every other one.
const GENESIS_CONTEXT: &str = "tally 2026 journal: hash before the first block of a data directory";

type HeaderBytes = [u8; HEADER_BYTES];

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
        let checksum = checksum_before_last_field(&bytes);
        put::<124, 4, _>(&mut bytes, checksum.to_le_bytes());
        bytes
    }

    /// The header in `bytes`, which is whole and of this version; whether it belongs here is checked by
    /// [`BlockHeader::check_place`].
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
        Ok(BlockHeader {
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
        })
    }

    /// Whether the block belongs to this directory, stands where it should, and has a length that it may have.
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
}

// ===== impl BlockHash =====

impl BlockHash {
    /// What the first block of a directory has for the hash of the block before.
    pub(super) fn genesis(data_id: DataId) -> Self {
        BlockHash(blake3::derive_key(GENESIS_CONTEXT, &data_id.0))
    }

    /// The hash of a block that stands in `block`: header and body, no padding.
    pub(super) fn of_block(block: &[u8]) -> Self {
        BlockHash(*blake3::hash(block).as_bytes())
    }

    /// As [`BlockHash::of_block`], of a block whose header and body are apart.
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
    /// The directory with that name.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        DataId(bytes)
    }

    /// The name.
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
    /// An empty block with room for a body of `body_bytes`.
    #[must_use]
    pub fn with_capacity(body_bytes: usize) -> Self {
        let room = HEADER_BYTES
            .saturating_add(body_bytes)
            .next_multiple_of(BLOCK_ALIGNMENT as usize);
        let mut bytes = Vec::with_capacity(room);
        bytes.resize(HEADER_BYTES, 0);
        BlockBuffer { bytes }
    }

    /// The body so far.
    #[inline]
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.bytes.get(HEADER_BYTES..).unwrap_or_default()
    }

    /// The body so far, to be corrected in place.
    #[must_use]
    pub fn body_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(HEADER_BYTES..).unwrap_or_default()
    }

    /// Bytes of the body so far. The next byte gets this offset from the end of the header.
    #[inline]
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        self.bytes.len().saturating_sub(HEADER_BYTES)
    }

    /// Whether the body has no bytes yet.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.body_bytes() == 0
    }

    /// Puts `bytes` behind the body.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Lets `append` put something behind the body, for encoders that write into a vector.
    ///
    /// # Panics
    /// When `append` made the vector shorter.
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

    /// Cuts the body down to `body_bytes`, for taking back what did not fit.
    pub fn truncate(&mut self, body_bytes: usize) {
        self.bytes.truncate(HEADER_BYTES.saturating_add(body_bytes));
    }

    /// Makes the body empty; the memory stays for the next block.
    #[inline]
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Bytes of body that fit without taking more memory.
    #[inline]
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.bytes.capacity().saturating_sub(HEADER_BYTES)
    }

    /// Gives back memory beyond a body of `body_bytes`, after an unusually long block.
    pub fn shrink_to(&mut self, body_bytes: usize) {
        self.bytes.shrink_to(HEADER_BYTES.saturating_add(body_bytes));
    }

    /// Puts the header in front of the body and gives back the block's hash. The caller has checked the length.
    pub(super) fn seal(&mut self, header: &BlockHeader) -> BlockHash {
        assert_eq!(
            self.body_bytes(),
            header.body_bytes as usize,
            "the header tells another body"
        );
        if let Some(room) = self.bytes.first_chunk_mut() {
            *room = header.encode();
        }
        BlockHash::of_block(&self.bytes)
    }

    /// Lends the sealed block to `write` as it goes to disk: with zeros up to the alignment of the next block.
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
