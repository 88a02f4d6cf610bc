//! What EXEC does as a replica: it applies the blocks of another leader, becomes the leader, and stops being the leader.

use std::collections::VecDeque;

use tally_batch::FlushReason;
use tally_journal::BlockKind;

use super::{DISK_FULL, Exec, Mode};
use crate::{
    engine::{
        command::{Command, CommandReply},
        fault::LogEnd,
        health::Condition,
        suspended::{Executed, Rest, Until},
    },
    mutation::planted,
    store::embedded::{AcceptedBlock, SealedBlock},
};

// ===== impl Exec =====

impl Exec {
    /// Applies blocks that the log has accepted, and hands them over to the pipeline, which appends them to the local journal. If the
    /// disk does not have space for all blocks, applies only the first ones; the reply contains the point after the last applied
    /// block.
    ///
    /// # Panics
    /// If this replica leads, because the journal would then contain two different chains.
    pub(super) fn follow(&mut self, mut blocks: VecDeque<AcceptedBlock>) -> Executed {
        assert_eq!(
            self.mode,
            Mode::Following,
            "blocks of another leader are applied only by a replica that follows"
        );
        while let Some(block) = blocks.front() {
            let progress = self.catch_up();
            if let Some(end) = self.ended {
                return Executed::Done(Err(end.after_execution()));
            }
            if !progress.has_room {
                return Executed::Blocked(Rest::Whole(Command::Follow(blocks)), Until::Room);
            }
            if !self.has_space() {
                break;
            }
            let spare = self.open.take_spare();
            match self.book.follow(&block.header, block.body(), spare) {
                Ok(sealed) => self.hand_over(sealed),
                Err(error) => {
                    // A part of the block may be applied. Nobody may see this state, not even a checkpoint.
                    tracing::error!(%error, "an accepted block does not fit the ledger; nothing is executed until the next start");
                    self.ended = Some(LogEnd::Failed);
                    self.health.fail(Condition::StoreFailed);
                    return Executed::Done(Ok(CommandReply::Followed(Err(error.to_string()))));
                }
            }
            blocks.pop_front();
        }
        let end = Box::new(self.book.end());
        Executed::Done(Ok(CommandReply::Followed(Ok(end))))
    }

    /// Becomes the leader.
    pub(super) fn lead(&mut self) -> Executed {
        assert_eq!(
            self.mode,
            Mode::Following,
            "only a replica that follows becomes the leader"
        );
        self.mode = Mode::Leading;
        self.book.set_following(false);
        self.book.set_keeping_sent_blocks(true);
        // The driver sends blocks only after it has the answer. So the answer must not wait for a block, also if the next command needs one.
        if !planted("lead_with_first_block") {
            self.open.fill();
        }
        Executed::Done(Ok(CommandReply::Leading))
    }

    /// Commits the open block, and then the block that ends the leadership of this replica.
    pub(super) fn stop_leading(&mut self, kind: BlockKind, body: Vec<u8>) -> Executed {
        if !self.flush(FlushReason::Drain) || !self.catch_up().has_room {
            return Executed::Blocked(Rest::Whole(Command::StopLeading(kind, body)), Until::Room);
        }
        if let Some(end) = self.ended {
            return Executed::Done(Err(end.before_execution()));
        }
        if !self.has_space() {
            return Executed::Done(Err(DISK_FULL));
        }
        let spare = self.open.take_spare();
        let sealed = self.book.seal_control(kind, &body, spare);
        self.hand_over(sealed);
        self.mode = Mode::Following;
        self.book.set_following(true);
        self.book.set_keeping_sent_blocks(false);
        let end = Box::new(self.book.end());
        Executed::Done(Ok(CommandReply::StoppedLeading(end)))
    }

    /// Hands a block over to the pipeline, with the answers that wait for earlier blocks. The pipeline must have room.
    fn hand_over(&mut self, block: SealedBlock) {
        let batch = self.open.seal(Some(block));
        self.counters.publish(&self.book);
        let spare = self.pipeline.commit(batch);
        self.open.reuse(spare);
    }
}
