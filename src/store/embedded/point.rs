//! Places between two blocks: in the global order of transactions, and in the journal.

use tally_journal::{AppendReceipt, BlockBuffer, BlockMeta, ChainPoint};
use tally_ledger::Timestamp;

/// A place in the global order of records and transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderPoint {
    /// The number of the next record. The first record has number 1.
    pub next_entry: u64,
    /// The sequence of the next committed transaction. The first has sequence 1.
    pub next_sequence: u64,
    /// The last time that was given to a block or a transaction. All later times are greater, even if the clock goes back.
    pub last_time: Timestamp,
}

/// A block that is complete and not durable yet.
#[derive(Debug)]
pub struct SealedBlock {
    /// The number that the journal will give to the block.
    pub sequence: u64,
    /// The block's position and numbers.
    pub meta: BlockMeta,
    /// The block's bytes.
    pub buffer: BlockBuffer,
    /// The place in the order after the block.
    pub end: OrderPoint,
}

/// A place between two blocks, before which everything is durable. Only opening the store and the receipt of an append can
/// make one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DurablePoint {
    /// The place in the journal.
    pub(super) chain: ChainPoint,
    /// The place in the order.
    pub(super) order: OrderPoint,
}

// ===== impl OrderPoint =====

impl OrderPoint {
    /// The place before the first record.
    pub const START: OrderPoint = OrderPoint {
        next_entry: 1,
        next_sequence: 1,
        last_time: Timestamp::from_nanos(0),
    };
}

// ===== impl DurablePoint =====

impl DurablePoint {
    /// The place after `block`, which the journal has appended.
    ///
    /// # Panics
    /// If the journal gave the block another number than [`JournaledLedger`](super::journaled_ledger::JournaledLedger) did:
    /// replies would be sent that wait for another block.
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

    /// The place in the journal.
    #[must_use]
    pub const fn chain(&self) -> ChainPoint {
        self.chain
    }

    /// Whether the block with this number is durable. Number 0 means "before the first block", which is always durable.
    #[must_use]
    pub const fn covers(&self, block: u64) -> bool {
        block < self.chain.block_sequence
    }
}
