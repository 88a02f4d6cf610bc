//! The address of a byte in the journal.

use std::fmt;

/// The address of a byte in the journal. The high 32 bits are the number of a segment, the low 32 bits are the offset
/// in the segment, in bytes. A later block has a greater position.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(u64);

// ===== impl Position =====

impl Position {
    /// The start of the journal.
    pub const START: Position = Position(0);

    /// Returns the position `offset` bytes after the start of segment `segment`.
    #[inline]
    #[must_use]
    pub const fn new(segment: u32, offset: u32) -> Self {
        Position(((segment as u64) << u32::BITS) | offset as u64)
    }

    /// Returns the number of the segment.
    #[inline]
    #[must_use]
    pub const fn segment(self) -> u32 {
        (self.0 >> u32::BITS) as u32
    }

    /// Returns the offset in the segment, in bytes.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the offset is the low half")]
    pub const fn offset(self) -> u32 {
        self.0 as u32
    }

    /// Returns the position `bytes` later in the same segment. Returns `None` if its offset would exceed 32 bits.
    #[inline]
    #[must_use]
    pub const fn checked_add(self, bytes: u32) -> Option<Position> {
        match self.offset().checked_add(bytes) {
            Some(offset) => Some(Position::new(self.segment(), offset)),
            None => None,
        }
    }

    /// Returns the position as one number, for storage.
    #[inline]
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Makes a position from a number that [`Position::as_u64`] returned.
    #[inline]
    #[must_use]
    pub const fn from_u64(value: u64) -> Self {
        Position(value)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.segment(), self.offset())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_order_by_segment_then_offset_and_convert_to_u64_and_back() {
        let position = Position::new(3, 4096);
        assert_eq!((position.segment(), position.offset()), (3, 4096));
        assert_eq!(position.to_string(), "3:4096");
        assert_eq!(Position::from_u64(position.as_u64()), position);
        assert!(Position::new(2, u32::MAX) < position && position < Position::new(3, 4097));
        assert_eq!(Position::new(1, u32::MAX).checked_add(1), None);
    }
}
