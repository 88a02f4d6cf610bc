//! A place between two blocks of the chain.

use crate::{
    block::{BlockHash, BlockHeader, DataId},
    geometry::Geometry,
    layout::{field, put},
    position::Position,
};

/// A place between two blocks: everything that is needed to go on from there, for appending and for scanning alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainPoint {
    /// Where the next block goes.
    pub position: Position,
    /// The sequence that it gets, from 1.
    pub block_sequence: u64,
    /// Hash of the block before.
    pub previous_hash: BlockHash,
    /// Where the block before starts. Without meaning at the start of the journal.
    pub previous_position: Position,
}

/// Bytes of a stored [`ChainPoint`].
pub const CHAIN_POINT_BYTES: usize = 56;

// ===== impl ChainPoint =====

impl ChainPoint {
    pub(super) fn start(data_id: DataId) -> Self {
        ChainPoint {
            position: Position::START,
            block_sequence: 1,
            previous_hash: BlockHash::genesis(data_id),
            previous_position: Position::START,
        }
    }

    /// The place behind the block with that header and hash.
    pub(super) fn after(&self, header: &BlockHeader, hash: BlockHash, geometry: Geometry) -> Self {
        ChainPoint {
            position: geometry.position_after(header.position, header.body_bytes),
            block_sequence: self.block_sequence.saturating_add(1),
            previous_hash: hash,
            previous_position: header.position,
        }
    }

    /// Whether `other` is the same place in the same chain. Where the block before starts is not compared: not everybody
    /// knows it.
    #[must_use]
    pub fn is_at(&self, other: &ChainPoint) -> bool {
        self.position == other.position
            && self.block_sequence == other.block_sequence
            && self.previous_hash == other.previous_hash
    }

    /// The highest block sequence before this place; 0 at the start.
    #[must_use]
    pub const fn last_block_sequence(&self) -> u64 {
        self.block_sequence.saturating_sub(1)
    }

    /// For storing, little endian, in the order of the fields.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; CHAIN_POINT_BYTES] {
        let mut bytes = [0; CHAIN_POINT_BYTES];
        put::<0, 8, _>(&mut bytes, self.position.as_u64().to_le_bytes());
        put::<8, 8, _>(&mut bytes, self.block_sequence.to_le_bytes());
        put::<16, 32, _>(&mut bytes, self.previous_hash.0);
        put::<48, 8, _>(&mut bytes, self.previous_position.as_u64().to_le_bytes());
        bytes
    }

    /// What [`ChainPoint::to_bytes`] stored. A scan checks it against the journal.
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
