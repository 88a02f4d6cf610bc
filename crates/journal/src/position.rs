//! Positions: the address of a byte in the journal.

use std::fmt;

/// A place in the journal: the segment's number in the high 32 bits, the byte offset in it in the low 32. Positions
/// order as blocks do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(u64);

// ===== impl Position =====

impl Position {
    /// The start of the journal.
    pub const START: Position = Position(0);

    /// `offset` bytes into segment `segment`.
    #[must_use]
    #[inline]
    pub const fn new(segment: u32, offset: u32) -> Self {
        Position(((segment as u64) << u32::BITS) | offset as u64)
    }

    /// The number of the segment.
    #[must_use]
    #[inline]
    pub const fn segment(self) -> u32 {
        (self.0 >> u32::BITS) as u32
    }

    /// The offset in the segment, in bytes.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the low half is what is asked for"
    )]
    #[inline]
    pub const fn offset(self) -> u32 {
        self.0 as u32
    }

    /// The place `bytes` further in the same segment, or `None` beyond 4 GiB.
    #[must_use]
    #[inline]
    pub const fn checked_add(self, bytes: u32) -> Option<Position> {
        match self.offset().checked_add(bytes) {
            Some(offset) => Some(Position::new(self.segment(), offset)),
            None => None,
        }
    }

    /// As one number, for storing.
    #[must_use]
    #[inline]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// From the number that [`Position::as_u64`] gave.
    #[must_use]
    #[inline]
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
    fn positions_order_by_segment_then_offset_and_survive_storing() {
        let position = Position::new(3, 4096);
        assert_eq!((position.segment(), position.offset()), (3, 4096));
        assert_eq!(position.to_string(), "3:4096");
        assert_eq!(Position::from_u64(position.as_u64()), position);
        assert!(Position::new(2, u32::MAX) < position && position < Position::new(3, 4097));
        assert_eq!(Position::new(1, u32::MAX).checked_add(1), None);
    }
}
