//! The sizes of a journal, and the position of the next block, which is known before a block is written.

use crate::{
    block::{BLOCK_ALIGNMENT, BlockHeader, DataId, HEADER_BYTES_U32, HeaderBytes, HeaderDefect},
    error::JournalError,
    position::Position,
    segment_file::segment_after,
};

/// The sizes of a new journal. They are stored when the data directory is made; a directory that exists keeps its own sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalConfig {
    /// Length of a segment file, in bytes: a multiple of 4 KiB, at most 1 GiB.
    pub segment_bytes: u32,
    /// Longest body of a block, in bytes: from 256 to a quarter of `segment_bytes`.
    pub block_bytes_max: u32,
}

/// The sizes of a journal, checked, as its data directory stores them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    segment_bytes: u32,
    block_bytes_max: u32,
}

/// Computes where the next block goes, without I/O.
///
/// A block starts at the end of the block before it, rounded up to the alignment. If the rest of the segment could not hold
/// the longest block, the block starts at the start of the next segment instead. So the position of a block depends only on
/// the blocks before it, and the builder of a block knows the positions of its records before the block is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockPlacement {
    geometry: Geometry,
    next: Position,
}

/// Default of [`JournalConfig::segment_bytes`].
pub const SEGMENT_BYTES_DEFAULT: u32 = 64 << 20;
/// Default of [`JournalConfig::block_bytes_max`].
pub const BLOCK_BYTES_MAX_DEFAULT: u32 = 4 << 20;
/// Largest [`JournalConfig::segment_bytes`]: recovery may have to search all bytes of one segment.
pub const SEGMENT_BYTES_MAX: u32 = 1 << 30;
/// [`JournalConfig::segment_bytes`] is a multiple of this: the page size of most systems.
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

    /// Returns where the block goes that follows a block at `position` with a body of `body_bytes`.
    ///
    /// # Panics
    /// If the body is longer than `block_bytes_max`, no block may start at `position`, or the number of the next segment
    /// would not fit 32 bits: a wrong position would let a block overwrite another one.
    #[must_use]
    pub fn position_after(&self, position: Position, body_bytes: u32) -> Position {
        assert!(
            body_bytes <= self.block_bytes_max,
            "a body of {body_bytes} bytes is longer than the {} that a block may have",
            self.block_bytes_max
        );
        assert!(self.may_hold_block(position), "no block may start at {position}");
        // Cannot overflow: may_hold_block leaves space for the longest block, and a segment has at most 1 GiB.
        let end = position.offset() + block_span_bytes(body_bytes);
        let rest = self.segment_bytes - end;
        if rest < self.block_span_bytes_max() {
            Position::new(segment_after(position.segment()), 0)
        } else {
            Position::new(position.segment(), end)
        }
    }

    /// Returns whether a block may start at `position`: it is aligned, and the longest block fits the rest of the segment.
    pub(super) const fn may_hold_block(&self, position: Position) -> bool {
        let rest = self.segment_bytes.saturating_sub(position.offset());
        position.offset().is_multiple_of(BLOCK_ALIGNMENT) && rest >= self.block_span_bytes_max()
    }

    /// Decodes the header in `bytes`, which were read at `position` in the directory `data_id`, and checks that a block with
    /// this header may be there.
    pub(super) fn decode_header(
        &self,
        bytes: &HeaderBytes,
        data_id: DataId,
        position: Position,
    ) -> Result<BlockHeader, HeaderDefect> {
        let header = BlockHeader::decode(bytes)?;
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

/// Returns the space that a block with a body of `body_bytes` takes, in bytes: its header, its body, and the zeros up to the
/// alignment of the next block.
pub(super) const fn block_span_bytes(body_bytes: u32) -> u32 {
    (HEADER_BYTES_U32 + body_bytes).next_multiple_of(BLOCK_ALIGNMENT)
}

// ===== impl BlockPlacement =====

impl BlockPlacement {
    pub(super) const fn new(geometry: Geometry, next: Position) -> Self {
        BlockPlacement { geometry, next }
    }

    /// Returns where the next block starts. Its body starts [`crate::HEADER_BYTES`] later.
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
    /// As [`Geometry::position_after`].
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
        // 1128 bytes each: the seventh block ends at 7896, and the longest block, of 1152 bytes, does not fit the rest.
        assert_eq!(
            placement.next_block_position(),
            Position::new(100 / 7, 100 % 7 * 1128)
        );
        // A rest of exactly the longest block is enough.
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
    fn a_position_off_the_alignment_is_never_passed_on() {
        let _next = geometry(8192, 1024).position_after(Position::new(0, 4), 1);
    }

    #[test]
    #[should_panic(expected = "has used all")]
    fn a_position_never_stops_growing_silently() {
        let geometry = geometry(8192, 1024);
        let last = Position::new(u32::MAX, 8192 - 1152);
        let _next = geometry.position_after(last, 1024);
    }

    #[test]
    #[should_panic(expected = "longer than the 1024 that a block may have")]
    fn a_body_beyond_the_bound_is_never_placed() {
        BlockPlacement::new(geometry(8192, 1024), Position::START).advance(1025);
    }

    #[test]
    fn refuses_sizes_out_of_bounds_and_names_them() {
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
