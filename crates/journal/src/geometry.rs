//! Where blocks go: positions, segment files, and the placement that is known before a block is written.

use crate::{
    block::{BLOCK_ALIGNMENT, HEADER_BYTES_U32},
    error::JournalError,
    position::Position,
};

/// Sizes of the journal. They are persisted when the data directory is made; later values are not looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalConfig {
    /// Bytes of a segment file: a multiple of 4 KiB up to 1 GiB.
    pub segment_bytes: u32,
    /// Longest body of a block, in bytes: at most a quarter of a segment.
    pub block_bytes_max: u32,
}

/// Sizes of the journal as the data directory has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    segment_bytes: u32,
    block_bytes_max: u32,
}

/// Tells where the next block goes, without any I/O.
///
/// A block starts at the aligned end of the one before, unless the rest of the segment could not hold the longest
/// block: then at the start of the next segment. So the place of a block depends on the blocks before only, and whoever
/// builds a block can hand out the positions of its records before the block is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockPlacement {
    geometry: Geometry,
    next: Position,
}

/// Default of [`JournalConfig::segment_bytes`].
pub const SEGMENT_BYTES_DEFAULT: u32 = 64 << 20;
/// Default of [`JournalConfig::block_bytes_max`].
pub const BLOCK_BYTES_MAX_DEFAULT: u32 = 4 << 20;
/// Largest [`JournalConfig::segment_bytes`]: recovery may have to search one segment byte for byte.
pub const SEGMENT_BYTES_MAX: u32 = 1 << 30;
/// [`JournalConfig::segment_bytes`] is a multiple of this: the page size of most systems.
pub const SEGMENT_GRANULE_BYTES: u32 = 4096;
/// Smallest [`JournalConfig::block_bytes_max`].
pub const BLOCK_BYTES_MAX_LOWEST: u32 = 256;
/// A segment holds at least so many blocks of the longest kind.
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
    /// Checks the bounds.
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
    /// Bytes of a segment file.
    #[must_use]
    pub const fn segment_bytes(&self) -> u32 {
        self.segment_bytes
    }

    /// Longest body of a block, in bytes.
    #[inline]
    #[must_use]
    pub const fn block_bytes_max(&self) -> u32 {
        self.block_bytes_max
    }

    /// Where the block goes that follows one at `position` with a body of `body_bytes`.
    ///
    /// # Panics
    /// When the body is longer than `block_bytes_max`.
    #[must_use]
    pub fn position_after(&self, position: Position, body_bytes: u32) -> Position {
        assert!(
            body_bytes <= self.block_bytes_max,
            "a body of {body_bytes} bytes is beyond the bound"
        );
        let end = position.offset().saturating_add(block_span_bytes(body_bytes));
        let rest = self.segment_bytes.saturating_sub(end);
        if rest < self.block_span_bytes_max() {
            // 2^32 segments of 4 KiB are 16 TiB, of 64 MiB 256 PiB: the number does not run out.
            Position::new(position.segment().saturating_add(1), 0)
        } else {
            Position::new(position.segment(), end)
        }
    }

    /// Whether a block may start at `position`.
    pub(super) const fn may_hold_block(&self, position: Position) -> bool {
        let rest = self.segment_bytes.saturating_sub(position.offset());
        position.offset().is_multiple_of(BLOCK_ALIGNMENT) && rest >= self.block_span_bytes_max()
    }

    /// Bytes that the longest block takes up.
    pub(super) const fn block_span_bytes_max(&self) -> u32 {
        block_span_bytes(self.block_bytes_max)
    }
}

/// Bytes that a block takes up: header, body, and the zeros up to the alignment of the next one.
pub(super) const fn block_span_bytes(body_bytes: u32) -> u32 {
    HEADER_BYTES_U32
        .saturating_add(body_bytes)
        .next_multiple_of(BLOCK_ALIGNMENT)
}

// ===== impl BlockPlacement =====

impl BlockPlacement {
    pub(super) const fn new(geometry: Geometry, next: Position) -> Self {
        BlockPlacement { geometry, next }
    }

    /// Where the next block starts. Its body starts [`super::HEADER_BYTES`] further.
    #[inline]
    #[must_use]
    pub const fn next_block_position(&self) -> Position {
        self.next
    }

    /// Longest body that the next block may have, in bytes.
    #[inline]
    #[must_use]
    pub const fn block_bytes_max(&self) -> u32 {
        self.geometry.block_bytes_max
    }

    /// Closes the block at the next position, with a body of `body_bytes`, and says where it is.
    ///
    /// # Panics
    /// When the body is longer than [`BlockPlacement::block_bytes_max`].
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
    fn a_block_starts_at_the_aligned_end_of_the_one_before() {
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
        // 1128 bytes each: the seventh ends at 7896, where 1152 more do not fit.
        assert_eq!(
            placement.next_block_position(),
            Position::new(100 / 7, 100 % 7 * 1128)
        );
        // Room for exactly one longest block is room enough.
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
