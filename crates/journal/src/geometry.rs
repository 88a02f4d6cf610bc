//! The sizes of a journal, and the computation of the position of the next block.
//!
//! A position is computed from sizes only, without I/O. So the position of a block is known before the block is
//! written.

use crate::{
    block::{BLOCK_ALIGNMENT, BlockHeader, DataId, HEADER_BYTES_U32, HeaderBytes, HeaderDefect},
    error::JournalError,
    position::Position,
    segment_file::segment_after,
};

/// The sizes of a new journal. A new data directory stores these sizes; an existing data directory keeps the sizes that
/// it has stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalConfig {
    /// Length of a segment file, in bytes: a multiple of 4 KiB, at most 1 GiB.
    pub segment_bytes: u32,
    /// Maximum length of a block's body, in bytes: from 256 to a quarter of `segment_bytes`.
    pub block_bytes_max: u32,
}

/// The sizes of a journal, as its data directory stores them. [`JournalConfig::validate`] has checked their bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    segment_bytes: u32,
    block_bytes_max: u32,
}

/// Computes the position of the next block, without I/O.
///
/// A block starts at the end of the block before it, rounded up to a multiple of [`BLOCK_ALIGNMENT`]. If the rest of
/// the segment is too short for the longest block, the block starts at the start of the next segment instead. So the
/// position of a block depends only on the blocks before it. A caller that builds a block knows the positions of its
/// records before the block is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockPlacement {
    geometry: Geometry,
    next: Position,
}

/// Default of [`JournalConfig::segment_bytes`].
pub const SEGMENT_BYTES_DEFAULT: u32 = 64 << 20;
/// Default of [`JournalConfig::block_bytes_max`].
pub const BLOCK_BYTES_MAX_DEFAULT: u32 = 4 << 20;
/// Largest [`JournalConfig::segment_bytes`]. The bound limits the duration of recovery, which may have to search all
/// bytes of a segment.
pub const SEGMENT_BYTES_MAX: u32 = 1 << 30;
/// [`JournalConfig::segment_bytes`] is a multiple of this number of bytes, the page size of most systems.
pub const SEGMENT_GRANULE_BYTES: u32 = 4096;
/// Smallest [`JournalConfig::block_bytes_max`].
pub const BLOCK_BYTES_MAX_LOWEST: u32 = 256;
/// A segment has space for at least this many blocks of the greatest length.
pub const BLOCKS_PER_SEGMENT_MIN: u32 = 4;

// ===== impl JournalConfig =====

impl Default for JournalConfig {
    fn default() -> Self {
        JournalConfig {
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            block_bytes_max: BLOCK_BYTES_MAX_DEFAULT,
        }
    }
}

impl JournalConfig {
    /// Checks the bounds of both sizes.
    ///
    /// # Errors
    /// [`JournalError::Config`] with the first setting that is out of bounds.
    pub fn validate(&self) -> Result<Geometry, JournalError> {
        let refuse = |field, value: u32, bound| {
            Err(JournalError::Config {
                field,
                value: u64::from(value),
                bound,
            })
        };
        let segment_bytes = self.segment_bytes;
        if segment_bytes == 0
            || segment_bytes > SEGMENT_BYTES_MAX
            || !segment_bytes.is_multiple_of(SEGMENT_GRANULE_BYTES)
        {
            let bound = format!("a multiple of {SEGMENT_GRANULE_BYTES} up to {SEGMENT_BYTES_MAX}");
            return refuse("segment_bytes", segment_bytes, bound);
        }
        let highest = segment_bytes / BLOCKS_PER_SEGMENT_MIN;
        if !(BLOCK_BYTES_MAX_LOWEST..=highest).contains(&self.block_bytes_max) {
            let bound = format!(
                "from {BLOCK_BYTES_MAX_LOWEST} to {highest} (a quarter of segment_bytes {segment_bytes})"
            );
            return refuse("block_bytes_max", self.block_bytes_max, bound);
        }
        Ok(Geometry {
            segment_bytes,
            block_bytes_max: self.block_bytes_max,
        })
    }
}

// ===== impl Geometry =====

impl Geometry {
    /// Returns the length of a segment file, in bytes.
    #[inline]
    #[must_use]
    pub const fn segment_bytes(&self) -> u32 {
        self.segment_bytes
    }

    /// Returns the longest body of a block, in bytes.
    #[inline]
    #[must_use]
    pub const fn block_bytes_max(&self) -> u32 {
        self.block_bytes_max
    }

    /// Returns the position of the block after a block at `position` with a body of `body_bytes`.
    ///
    /// # Panics
    /// If the body is longer than `block_bytes_max`, if no block may start at `position`, or if the number of the next
    /// segment would exceed 32 bits. With a wrong position, a block would overwrite another block.
    #[must_use]
    pub fn position_after(&self, position: Position, body_bytes: u32) -> Position {
        assert!(
            body_bytes <= self.block_bytes_max,
            "a body of {body_bytes} bytes is longer than the {} that a block may have",
            self.block_bytes_max
        );
        assert!(self.may_hold_block(position), "no block may start at {position}");
        // Cannot overflow: `may_hold_block` has checked that the longest block fits the segment, which has at most 1
        // GiB.
        let end = position.offset() + block_span_bytes(body_bytes);
        let rest = self.segment_bytes - end;
        if rest < self.block_span_bytes_max() {
            Position::new(segment_after(position.segment()), 0)
        } else {
            Position::new(position.segment(), end)
        }
    }

    /// Returns whether a block may start at `position`: it is aligned, and the longest block fits the rest of the
    /// segment.
    pub(super) const fn may_hold_block(&self, position: Position) -> bool {
        let rest = self.segment_bytes.saturating_sub(position.offset());
        position.offset().is_multiple_of(BLOCK_ALIGNMENT) && rest >= self.block_span_bytes_max()
    }

    /// Decodes the header in `bytes`, which were read at `position` in the directory `data_id`. Checks that the header
    /// belongs to this directory and position, and that a block may start there.
    pub(super) fn decode_header(
        &self,
        bytes: &HeaderBytes,
        data_id: DataId,
        position: Position,
    ) -> Result<BlockHeader, HeaderDefect> {
        let header = BlockHeader::decode(bytes)?;
        if header.kind.is_only_in_log() {
            return Err(HeaderDefect::NotInJournal(header.kind));
        }
        header.check_place(data_id, position, self.block_bytes_max)?;
        if self.may_hold_block(position) {
            Ok(header)
        } else {
            Err(HeaderDefect::Misplaced(position))
        }
    }

    /// Returns the space that the longest block takes, in bytes.
    pub(super) const fn block_span_bytes_max(&self) -> u32 {
        block_span_bytes(self.block_bytes_max)
    }
}

/// Returns the space that a block with a body of `body_bytes` takes, in bytes: its header, its body, and the zeros up
/// to the alignment of the next block.
pub(super) const fn block_span_bytes(body_bytes: u32) -> u32 {
    (HEADER_BYTES_U32 + body_bytes).next_multiple_of(BLOCK_ALIGNMENT)
}

// ===== impl BlockPlacement =====

impl BlockPlacement {
    pub(super) const fn new(geometry: Geometry, next: Position) -> Self {
        BlockPlacement { geometry, next }
    }

    /// Returns the position of the next block. The body of that block starts [`crate::HEADER_BYTES`] later.
    #[inline]
    #[must_use]
    pub const fn next_block_position(&self) -> Position {
        self.next
    }

    /// Returns the longest body that the next block may have, in bytes.
    #[inline]
    #[must_use]
    pub const fn block_bytes_max(&self) -> u32 {
        self.geometry.block_bytes_max
    }

    /// Places a block with a body of `body_bytes` and returns its position.
    ///
    /// # Panics
    /// See [`Geometry::position_after`].
    pub fn advance(&mut self, body_bytes: u32) -> Position {
        let placed = self.next;
        self.next = self.geometry.position_after(placed, body_bytes);
        placed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(segment_bytes: u32, block_bytes_max: u32) -> Geometry {
        JournalConfig {
            segment_bytes,
            block_bytes_max,
        }
        .validate()
        .unwrap()
    }

    #[test]
    fn a_block_starts_at_the_aligned_end_of_the_block_before_it() {
        let mut placement = BlockPlacement::new(geometry(8192, 1024), Position::START);
        assert_eq!(placement.advance(3), Position::START);
        assert_eq!(placement.next_block_position(), Position::new(0, 136));
        assert_eq!(placement.advance(8), Position::new(0, 136));
        assert_eq!(placement.next_block_position(), Position::new(0, 272));
    }

    #[test]
    fn a_block_never_spans_segments() {
        let geometry = geometry(8192, 1024);
        let mut placement = BlockPlacement::new(geometry, Position::START);
        for _ in 0..100 {
            let position = placement.advance(1000);
            assert!(geometry.may_hold_block(position));
            assert!(position.offset() + block_span_bytes(1024) <= 8192);
        }
        // Each block takes 1128 bytes. The seventh block ends at offset 7896, and the rest of the segment is too short
        // for the longest block, which takes 1152 bytes.
        assert_eq!(
            placement.next_block_position(),
            Position::new(100 / 7, 100 % 7 * 1128)
        );
        // If the rest of the segment is exactly as long as the longest block, the block stays in the segment.
        assert_eq!(
            geometry.position_after(Position::new(0, 8192 - 2 * 1152), 1024),
            Position::new(0, 8192 - 1152)
        );
        assert_eq!(
            geometry.position_after(Position::new(0, 8200 - 2 * 1152), 1024),
            Position::new(1, 0)
        );
    }

    #[test]
    #[should_panic(expected = "no block may start at 0:4")]
    fn position_after_panics_if_the_position_is_not_aligned() {
        let _next = geometry(8192, 1024).position_after(Position::new(0, 4), 1);
    }

    #[test]
    #[should_panic(expected = "has used all")]
    fn position_after_panics_if_no_segment_number_is_left() {
        let geometry = geometry(8192, 1024);
        let last = Position::new(u32::MAX, 8192 - 1152);
        let _next = geometry.position_after(last, 1024);
    }

    #[test]
    #[should_panic(expected = "longer than the 1024 that a block may have")]
    fn advance_panics_if_the_body_is_too_long() {
        BlockPlacement::new(geometry(8192, 1024), Position::START).advance(1025);
    }

    #[test]
    fn validate_names_the_size_that_is_out_of_bounds() {
        let refused = |segment_bytes, block_bytes_max| {
            JournalConfig {
                segment_bytes,
                block_bytes_max,
            }
            .validate()
            .unwrap_err()
            .to_string()
        };
        assert_eq!(
            refused(5000, 1024),
            "segment_bytes is 5000, it must be a multiple of 4096 up to 1073741824"
        );
        assert_eq!(
            refused(8192, 2049),
            "block_bytes_max is 2049, it must be from 256 to 2048 (a quarter of segment_bytes 8192)"
        );
        assert!(refused(8192, 255).starts_with("block_bytes_max is 255"));
        assert!(JournalConfig::default().validate().is_ok());
    }
}
