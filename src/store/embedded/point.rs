//! Points between two records or blocks: in the global order of transactions, and in the journal.

use bytes::Bytes;
use tally_journal::{
    AppendReceipt, BlockBuffer, BlockHeader, BlockMeta, BlockStamp, ChainPoint, HEADER_BYTES, Position,
};
use tally_ledger::Timestamp;

/// A point in the global order of records and transactions: the numbers and the time that the next record gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderPoint {
    /// The number of the next record. The first record has number 1.
    pub next_entry: u64,
    /// The sequence of the next committed transaction. The first committed transaction has sequence 1.
    pub next_sequence: u64,
    /// The greatest time that a block or a transaction before this point has. All times after this point are greater,
    /// even if the clock goes back.
    pub last_time: Timestamp,
}

/// A block that is complete and not durable yet.
#[derive(Debug)]
pub struct SealedBlock {
    /// The number that the journal will give to the block.
    pub sequence: u64,
    /// The block's position and numbers.
    pub meta: BlockMeta,
    /// Who wrote the block, and what it contains.
    pub stamp: BlockStamp,
    /// The block's body. If the ledger has followed the block, also its header: see
    /// [`sealed_bytes`](BlockBuffer::sealed_bytes).
    pub buffer: BlockBuffer,
    /// Whether the ledger has [followed](super::JournaledLedger::follow) the block: a replicated log has accepted it already.
    pub is_accepted: bool,
    /// The point after the last record of the block, in the order of records.
    pub end: OrderPoint,
}

/// A point between two blocks. All blocks before this point are durable. Only a successful append or the opening of the
/// store makes such a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DurablePoint {
    /// The point in the journal.
    pub(super) chain: ChainPoint,
    /// The point in the order of records.
    pub(super) order: OrderPoint,
}

/// The point after the last block that a ledger has applied or sealed. This block may not be durable yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerEnd {
    /// The number of the last block; 0 if there is none.
    pub block: u64,
    /// Where the next block will be.
    pub position: Position,
    /// The point in the order of records.
    pub order: OrderPoint,
}

/// A block that a replicated log has accepted: the bytes and the header, which were checked against each other.
#[derive(Debug, Clone)]
pub struct AcceptedBlock {
    /// The header in the bytes.
    pub header: BlockHeader,
    /// Header and body, without padding.
    pub bytes: Bytes,
}

// ===== impl AcceptedBlock =====

impl AcceptedBlock {
    /// Returns the body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.bytes.split_at(HEADER_BYTES).1
    }

    /// Returns the length of header and body, in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns whether there are no bytes. Always `false`, because a block has a header.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

// ===== impl OrderPoint =====

impl OrderPoint {
    /// The point before the first record.
    pub const START: OrderPoint = OrderPoint {
        next_entry: 1,
        next_sequence: 1,
        last_time: Timestamp::from_nanos(0),
    };
}

// ===== impl DurablePoint =====

impl DurablePoint {
    /// Returns the point after `block`, which the journal has appended with this `receipt`.
    ///
    /// # Panics
    /// If the journal gave the block another number than [`JournaledLedger`](super::journaled_ledger::JournaledLedger)
    /// did. A reply waits for the number of its block, so with wrong numbers a reply could be sent before its block is
    /// durable.
    #[must_use]
    pub fn after(receipt: &AppendReceipt, block: &SealedBlock) -> Self {
        assert_eq!(
            receipt.block_sequence, block.sequence,
            "the journal and the ledger number blocks differently"
        );
        assert_eq!(
            receipt.end.block_sequence,
            block.sequence + 1,
            "the journal does not end after the block that was appended"
        );
        DurablePoint {
            chain: receipt.end,
            order: block.end,
        }
    }

    /// Returns the point after a block that was appended with this `receipt`. `order` is the point after its last record.
    #[must_use]
    pub const fn at(receipt: &AppendReceipt, order: OrderPoint) -> Self {
        DurablePoint {
            chain: receipt.end,
            order,
        }
    }

    /// Returns the point in the order of records.
    #[must_use]
    pub const fn order(&self) -> OrderPoint {
        self.order
    }

    /// Returns the point in the journal.
    #[must_use]
    pub const fn chain(&self) -> ChainPoint {
        self.chain
    }

    /// Returns whether the block with the number `block` is durable. The first block has number 1. For number 0, which
    /// means "no block", the result is always true.
    #[must_use]
    pub const fn covers(&self, block: u64) -> bool {
        block < self.chain.block_sequence
    }
}
