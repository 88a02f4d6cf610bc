//! Answers that wait until the log holds the blocks that they depend on.
//!
//! **Durable before answered** rests on the types here. EXEC puts the result of a command into a [`PendingAnswer`], with the
//! number of the block that it depends on. Callers get an [`EngineReply`], and only [`PendingAnswer::release`] makes one, from
//! a [`DurablePoint`], which in turn is made only by the receipt of an append or by opening the store. If the point does not
//! cover the block, the reply is a fault instead of the result. So no code that gives answers has to remember to check
//! whether the log has failed.

use tally_batch as batch;

use super::{command::CommandReply, counters::EngineCounters, fault::StoreFault};
use crate::store::embedded::DurablePoint;

/// The engine's reply to a command: a durable result, or a fault.
#[derive(Debug)]
pub struct EngineReply {
    result: Result<CommandReply, StoreFault>,
    block: u64,
}

/// The result of a command, which waits for its block.
#[derive(Debug)]
pub(super) struct PendingAnswer {
    to: batch::Reply<EngineReply>,
    result: Result<CommandReply, StoreFault>,
    /// The last block whose effects the result shows. A command that spans blocks depends on all of them, and the last one is
    /// durable only after the others.
    block: u64,
}

// ===== impl EngineReply =====

impl EngineReply {
    /// Returns the durable result.
    ///
    /// # Errors
    /// The fault that the store had.
    pub fn into_result(self) -> Result<CommandReply, StoreFault> {
        self.result
    }

    /// Returns the fault that the store had, if it had one.
    #[must_use]
    pub fn fault(&self) -> Option<StoreFault> {
        self.result.as_ref().err().copied()
    }

    /// The number of the block that the result depends on, or would depend on if there were no fault.
    #[must_use]
    pub const fn block(&self) -> u64 {
        self.block
    }
}

// ===== impl PendingAnswer =====

impl PendingAnswer {
    /// An answer that may be given once `block` is durable.
    pub(super) const fn new(
        to: batch::Reply<EngineReply>,
        result: Result<CommandReply, StoreFault>,
        block: u64,
    ) -> Self {
        PendingAnswer { to, result, block }
    }

    /// The number of the last block that the answer depends on; 0 if it depends on none.
    pub(super) const fn block(&self) -> u64 {
        self.block
    }

    /// Makes the reply when the log is durable up to `durable`: the result, if its block is durable. Otherwise the outcome is
    /// unknown, and is counted as such.
    ///
    /// # Panics
    /// If the block is not durable and the log has not `failed`: the answer was released too early.
    pub(super) fn release(
        self,
        durable: &DurablePoint,
        failed: bool,
        counters: &EngineCounters,
    ) -> (batch::Reply<EngineReply>, EngineReply) {
        let PendingAnswer {
            to,
            mut result,
            block,
        } = self;
        // A fault stays a fault, however far the log is durable.
        if result.is_ok() && !durable.covers(block) {
            assert!(
                failed,
                "an answer that depends on block {block} was released before the block was durable"
            );
            result = Err(StoreFault::WriteFailed);
        }
        if matches!(result, Err(StoreFault::WriteFailed)) {
            counters.unknown_outcome();
        }
        (to, EngineReply { result, block })
    }
}
