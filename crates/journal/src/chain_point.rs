//! A point of the hash chain: the boundary between two blocks.

use crate::{
    block::{BlockHash, BlockHeader, DataId},
    geometry::Geometry,
    layout::{field, put},
    position::Position,
};

/// A boundary between two blocks of the chain, with everything that an append or a scan needs to continue there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainPoint {
    /// Where the next block starts.
    pub position: Position,
    /// The sequence of the next block. The first block has 1.
    pub block_sequence: u64,
    /// Hash of the block before this point.
    pub previous_hash: BlockHash,
    /// Where the block before this point starts. At the start of the journal, no block is before the point, and this
    /// field has no meaning.
    pub previous_position: Position,
}

/// Length of an encoded [`ChainPoint`], in bytes.
pub const CHAIN_POINT_BYTES: usize = 56;

// ===== impl ChainPoint =====

impl ChainPoint {
    /// Returns the start of the journal in the directory `data_id`.
    pub(super) fn start(data_id: DataId) -> Self {
        ChainPoint {
            position: Position::START,
            block_sequence: 1,
            previous_hash: BlockHash::genesis(data_id),
            previous_position: Position::START,
        }
    }

    /// Returns the point after the block that starts at this point. `header` and `hash` are the header and the hash of
    /// that block.
    ///
    /// # Panics
    /// If the block does not belong at this point, because all later blocks would be stored at wrong positions.
    #[must_use]
    pub fn after(&self, header: &BlockHeader, hash: BlockHash, geometry: Geometry) -> Self {
        assert_eq!(
            (header.position, header.block_sequence, header.previous_hash),
            (self.position, self.block_sequence, self.previous_hash),
            "the block does not follow the block before it"
        );
        let Some(block_sequence) = self.block_sequence.checked_add(1) else {
            panic!("the journal has used all block sequences");
        };
        let position = geometry.position_after(header.position, header.body_bytes);
        assert!(
            position > self.position,
            "the journal must grow: {position} is not after {}",
            self.position
        );
        ChainPoint {
            position,
            block_sequence,
            previous_hash: hash,
            previous_position: header.position,
        }
    }

    /// Returns whether `other` is the same point of the same chain. Does not compare `previous_position`, because some
    /// callers do not know it.
    #[inline]
    #[must_use]
    pub fn is_at(&self, other: &ChainPoint) -> bool {
        self.position == other.position
            && self.block_sequence == other.block_sequence
            && self.previous_hash == other.previous_hash
    }

    /// Returns the sequence of the block before this point; 0 at the start of the journal.
    #[inline]
    #[must_use]
    pub const fn last_block_sequence(&self) -> u64 {
        // A point that was read from a damaged file can have the sequence 0. This method must not panic for such a
        // point, because the later check of the point returns an error.
        self.block_sequence.saturating_sub(1)
    }

    /// Encodes the point for storage: its fields in order, little endian.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; CHAIN_POINT_BYTES] {
        let mut bytes = [0; CHAIN_POINT_BYTES];
        put::<0, 8, _>(&mut bytes, self.position.as_u64().to_le_bytes());
        put::<8, 8, _>(&mut bytes, self.block_sequence.to_le_bytes());
        put::<16, 32, _>(&mut bytes, self.previous_hash.0);
        put::<48, 8, _>(&mut bytes, self.previous_position.as_u64().to_le_bytes());
        bytes
    }

    /// Decodes the bytes that [`ChainPoint::to_bytes`] returned. Does not check the point:
    /// [`crate::Journal::check_point`] checks whether the journal contains the point.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; CHAIN_POINT_BYTES]) -> Self {
        ChainPoint {
            position: Position::from_u64(u64::from_le_bytes(field::<0, 8, _>(bytes))),
            block_sequence: u64::from_le_bytes(field::<8, 8, _>(bytes)),
            previous_hash: BlockHash(field::<16, 32, _>(bytes)),
            previous_position: Position::from_u64(u64::from_le_bytes(field::<48, 8, _>(bytes))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlockKind, JournalConfig};

    /// Returns a point, the header of the block at that point, and the sizes of the journal.
    fn point_and_header() -> (ChainPoint, BlockHeader, Geometry) {
        let data_id = DataId::from_bytes([1; 16]);
        let point = ChainPoint::start(data_id);
        let header = BlockHeader {
            position: point.position,
            block_sequence: point.block_sequence,
            first_entry: 0,
            first_sequence: 0,
            base_time_ns: 0,
            record_count: 1,
            body_bytes: 3,
            data_id,
            previous_hash: point.previous_hash,
            body_crc: 0,
            term: 0,
            writer: 0,
            kind: BlockKind::Data,
        };
        (point, header, JournalConfig::default().validate().unwrap())
    }

    #[test]
    fn after_returns_the_next_point_and_a_point_decodes_from_its_bytes() {
        let (point, header, geometry) = point_and_header();
        let next = point.after(&header, BlockHash([7; 32]), geometry);
        assert_eq!((next.position, next.block_sequence), (Position::new(0, 136), 2));
        assert_eq!(next.last_block_sequence(), 1);
        assert_eq!(ChainPoint::from_bytes(&next.to_bytes()), next);
    }

    #[test]
    #[should_panic(expected = "does not follow the block before it")]
    fn after_panics_if_the_block_has_another_position() {
        let (point, mut header, geometry) = point_and_header();
        header.position = Position::new(0, 136);
        let _next = point.after(&header, BlockHash([7; 32]), geometry);
    }

    #[test]
    #[should_panic(expected = "does not follow the block before it")]
    fn after_panics_if_the_block_belongs_to_another_chain() {
        let (point, mut header, geometry) = point_and_header();
        header.previous_hash = BlockHash([8; 32]);
        let _next = point.after(&header, BlockHash([7; 32]), geometry);
    }
}
