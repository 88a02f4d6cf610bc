//! Blocks for tests.

use tally_replication::{Accepted, BlockFacts, BlockHash, BlockKind};

/// A hash that depends on all other fields of a block, so that equal blocks have equal hashes.
pub(crate) fn hash_of(
    number: u64,
    previous: BlockHash,
    term: u64,
    writer: u32,
    kind: BlockKind,
) -> BlockHash {
    let mut hash = [0_u8; 32];
    let previous = u64::from_le_bytes(previous[..8].try_into().unwrap());
    let mut value = previous ^ 0x9e37_79b9_7f4a_7c15;
    for field in [number, term, u64::from(writer), u64::from(kind.code()) + 1] {
        value = (value ^ field).wrapping_mul(0xff51_afd7_ed55_8ccd);
        value ^= value >> 32;
    }
    hash[..8].copy_from_slice(&value.to_le_bytes());
    hash
}

/// A block with its hash.
pub(crate) fn block(number: u64, previous: BlockHash, term: u64, writer: u32, kind: BlockKind) -> BlockFacts {
    BlockFacts {
        number,
        hash: hash_of(number, previous, term, writer, kind),
        previous,
        term,
        writer,
        kind,
    }
}

/// The first record of each log.
pub(crate) fn genesis() -> BlockFacts {
    block(0, [0; 32], 0, 0, BlockKind::Genesis)
}

/// The block of `writer` in `term` after `accepted`.
pub(crate) fn after(accepted: &Accepted, term: u64, writer: u32, kind: BlockKind) -> BlockFacts {
    block(accepted.number + 1, accepted.hash, term, writer, kind)
}
