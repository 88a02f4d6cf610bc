//! Answers that wait until the blocks that they depend on are durable.
//!
//! The types of this file enforce the rule "durable before answered". EXEC puts the result of a command into a
//! [`PendingAnswer`], with the number of the block that the result depends on. Callers get an [`EngineReply`]. Only
//! [`PendingAnswer::release`] makes an `EngineReply`, and it needs a [`DurablePoint`], which says how far the log is
//! durable. Only an append to the log and the opening of the store make a `DurablePoint`. If the point does not cover
//! the block, the reply is a fault instead of the result. So the code that gives answers does not have to check whether
//! the log has failed.

use tally_batch as batch;

use super::{command::CommandReply, counters::EngineCounters, fault::StoreFault};
use crate::{mutation::planted, store::embedded::DurablePoint};

/// The engine's reply to a command: a durable result, or a fault.
#[derive(Debug)]
pub struct EngineReply {
    result: Result<CommandReply, StoreFault>,
    block: u64,
}

/// The result of a command, which waits until the block is durable that the result depends on.
#[derive(Debug)]
pub(super) struct PendingAnswer {
    to: batch::Reply<EngineReply>,
    result: Result<CommandReply, StoreFault>,
    /// The number of the last block whose effects the result shows. The records of a command can be in several blocks.
    /// Blocks become durable in order, so it is enough to wait for the last block.
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

    /// Returns the fault that the store had, or `None`.
    #[must_use]
    pub fn fault(&self) -> Option<StoreFault> {
        self.result.as_ref().err().copied()
    }

    /// Returns the number of the block that the result depends on, or would depend on if there were no fault.
    #[must_use]
    pub const fn block(&self) -> u64 {
        self.block
    }
}

// ===== impl PendingAnswer =====

impl PendingAnswer {
    /// Makes an answer that may be given when `block` is durable.
    pub(super) const fn new(
        to: batch::Reply<EngineReply>,
        result: Result<CommandReply, StoreFault>,
        block: u64,
    ) -> Self {
        PendingAnswer { to, result, block }
    }

    /// Returns the number of the last block that the answer depends on; 0 if it depends on none.
    pub(super) const fn block(&self) -> u64 {
        self.block
    }

    /// The planted bugs `read_not_durable` and `checkpoint_not_durable`: gives the answer to a read or a checkpoint
    /// chunk at once, although the state that it shows may not be durable. Returns every other answer.
    #[cfg(feature = "mutations")]
    pub(super) fn unless_given_at_once(self, answerer: &mut batch::Answerer) -> Option<Self> {
        let is_planted = match &self.result {
            Ok(CommandReply::Account(_) | CommandReply::Accounts { .. }) => planted("read_not_durable"),
            Ok(CommandReply::CheckpointChunk { .. }) => planted("checkpoint_not_durable"),
            _ => false,
        };
        if !is_planted {
            return Some(self);
        }
        let PendingAnswer { to, result, block } = self;
        answerer.answer_untimed([(to, EngineReply { result, block })]);
        None
    }

    /// Makes the reply. `durable` says how far the log is durable. If the block is durable, the reply is the result.
    /// Otherwise the reply is a fault with an unknown outcome, and `counters` count the unknown outcome.
    ///
    /// # Panics
    /// If the block is not durable and the log has not `failed`, because the answer was released too early.
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
        // A fault needs no check: a reply that reports a fault promises no durable effect.
        if result.is_ok() && !durable.covers(block) && !planted("acknowledge_after_failure") {
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
