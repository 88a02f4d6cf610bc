//! What the protocol knows about a block: [`BlockFacts`]. The protocol does not use the content of a block.

/// The hash of a block's bytes, header included.
pub type BlockHash = [u8; 32];

/// The kind of a block, as its header states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlockKind {
    /// Records of the ledger, or an empty block (a heartbeat).
    Data,
    /// The first record of the log, at offset 0. It has number 0 and names the data that the log holds.
    Genesis,
    /// Begins a term: its writer is the leader from here on.
    Claim,
    /// The last block of a term whose leader stops. It names a successor.
    Resign,
    /// The last block of the log. It names the directory that continues the ledger without the log.
    End,
    /// Stops every reader. It is not part of the chain, and every reader obeys it at any place of the log.
    Halt,
    /// Raises the format level of the log.
    Level,
    /// A kind that this version does not know. A reader must halt, because the block may change how to read the log.
    Unknown(u32),
}

/// The fields of a block that decide whether readers accept it.
///
/// The caller has checked the checksums and the id of the data before it makes this value. A record that is not a
/// block with a valid checksum is a record without facts ([`Record::block`](crate::Record::block)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockFacts {
    /// The position in the chain: 1 for the first block after genesis.
    pub number: u64,
    /// The hash of this block.
    pub hash: BlockHash,
    /// The hash of the block before this one.
    pub previous: BlockHash,
    /// The term in which the block was written. Blocks that were written before the ledger was replicated have term 0.
    pub term: u64,
    /// The random number of the process that wrote the block. It is 0 in term 0.
    pub writer: u32,
    /// What the block is for.
    pub kind: BlockKind,
}

// ===== impl BlockKind =====

impl BlockKind {
    /// The kind with this number in a block header.
    #[must_use]
    pub const fn from_code(code: u32) -> Self {
        match code {
            0 => Self::Data,
            1 => Self::Genesis,
            2 => Self::Claim,
            3 => Self::Resign,
            4 => Self::End,
            5 => Self::Halt,
            6 => Self::Level,
            unknown => Self::Unknown(unknown),
        }
    }

    /// The number of the kind in a block header.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::Data => 0,
            Self::Genesis => 1,
            Self::Claim => 2,
            Self::Resign => 3,
            Self::End => 4,
            Self::Halt => 5,
            Self::Level => 6,
            Self::Unknown(code) => code,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::BlockKind;

    #[test]
    fn the_code_of_a_kind_is_the_code_it_was_made_from() {
        for code in (0..20).chain([u32::MAX]) {
            let kind = BlockKind::from_code(code);
            assert_eq!(kind.code(), code);
            assert_eq!(matches!(kind, BlockKind::Unknown(_)), code > 6);
        }
    }
}
