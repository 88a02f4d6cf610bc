//! What the driver of a replica asks of the engine.

use std::collections::VecDeque;

use tally_journal::BlockKind;

use super::{
    command::{Command, CommandReply},
    fault::EngineError,
    health::Condition,
    tally_engine::{TallyEngine, unexpected},
};
use crate::store::embedded::{AcceptedBlock, LedgerEnd};

// ===== impl TallyEngine =====

impl TallyEngine {
    /// Applies blocks that the log has accepted, and appends them to the journal. Returns the end of the journal, after the last of the
    /// blocks, or after an earlier block if the disk has no space for more.
    ///
    /// # Errors
    /// [`EngineError`]. `Err` inside `Ok` if a block does not fit the ledger: the state in memory must not be used any longer.
    pub async fn follow(
        &self,
        blocks: VecDeque<AcceptedBlock>,
    ) -> Result<Result<Box<LedgerEnd>, String>, EngineError> {
        let CommandReply::Followed(followed) = self.read(Command::Follow(blocks), None).await? else {
            return Err(unexpected());
        };
        Ok(followed)
    }

    /// Makes this replica the leader. Its claim must be the last block that it has followed.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn lead(&self) -> Result<(), EngineError> {
        let CommandReply::Leading = self.read(Command::Lead, None).await? else {
            return Err(unexpected());
        };
        Ok(())
    }

    /// Commits the open block, and then a control block of this `kind` with this body: a resignation, or the end of the log. From now on
    /// this replica follows.
    ///
    /// # Errors
    /// [`EngineError`]. If the outcome is unknown, the replica has stepped down or will step down.
    pub async fn stop_leading(&self, kind: BlockKind, body: Vec<u8>) -> Result<Box<LedgerEnd>, EngineError> {
        let CommandReply::StoppedLeading(end) = self.read(Command::StopLeading(kind, body), None).await?
        else {
            return Err(unexpected());
        };
        Ok(end)
    }

    /// Commits the open block even if it is empty, so that the other replicas see that this one leads.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn heartbeat(&self) -> Result<(), EngineError> {
        let CommandReply::Probed = self.read(Command::Probe, None).await? else {
            return Err(unexpected());
        };
        Ok(())
    }

    /// Reports that this replica can't continue, for a reason that the driver has logged.
    pub fn halt(&self, condition: Condition) {
        self.shared.health.fail(condition);
    }
}
