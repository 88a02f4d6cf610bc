//! Answers that wait until the journal holds what they say.
//!
//! **Durable before answered** rests on the types here. EXEC puts what it would like to say into a [`PendingAnswer`], with
//! the number of the block that it depends on. What callers get is an [`EngineReply`], and only [`PendingAnswer::release`]
//! makes one: from a [`DurablePoint`], which in turn only the receipt of an append makes, or opening the store. If the
//! point does not cover the block, the answer is replaced by the fault. Nobody who gives answers has to remember to look
//! whether the journal has failed, or when.

use super::{command::CommandReply, counters::EngineCounters, fault::StoreFault};
use crate::{batch, store::embedded::DurablePoint};

/// What EXEC answers: durable, or a fault.
#[derive(Debug)]
pub struct EngineReply {
    result: Result<CommandReply, StoreFault>,
    block: u64,
}

/// An answer in waiting.
#[derive(Debug)]
pub(super) struct PendingAnswer {
    to: batch::Reply<EngineReply>,
    result: Result<CommandReply, StoreFault>,
    /// The last block whose effects it tells. A command that spans blocks depends on all of them, and the last is durable
    /// only after the others.
    block: u64,
}

// ===== impl EngineReply =====

impl EngineReply {
    /// The answer.
    ///
    /// # Errors
    /// What the store did to the command.
    pub fn into_result(self) -> Result<CommandReply, StoreFault> {
        self.result
    }

    /// What the store did to the command, if it is a fault and not an answer.
    #[must_use]
    pub fn fault(&self) -> Option<StoreFault> {
        self.result.as_ref().err().copied()
    }

    /// The block that it depends on; of a fault, the one that it would have.
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

    /// What can be said when the journal is durable up to `durable`: the answer, if its block is. Otherwise its outcome is
    /// unknown, which is counted.
    ///
    /// # Panics
    /// If its block is not durable and the journal has not `failed`: it was released too early.
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
        // A fault is true whatever is durable.
        if result.is_ok() && !durable.covers(block) {
            assert!(
                failed,
                "an answer that depends on block {block} was released before it was written"
            );
            result = Err(StoreFault::WriteFailed);
        }
        if matches!(result, Err(StoreFault::WriteFailed)) {
            counters.unknown_outcome();
        }
        (to, EngineReply { result, block })
    }
}
