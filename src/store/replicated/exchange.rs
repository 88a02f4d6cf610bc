//! The exchange between the commit pipeline and the driver of a replica.
//!
//! The thread of the commit pipeline puts sealed blocks in, and the driver sends them to the log. The driver says up to which block the
//! log has accepted them, or why the log never will. No thread holds the lock while it waits.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tally_journal::{BlockHash, BlockHeader, HEADER_BYTES};
use tokio::sync::Notify;

use super::{fault::ReplicaFault, resume::ResumePoint};
use crate::mutation::planted;

/// A block that this replica has sealed as the leader.
#[derive(Debug, Clone)]
pub struct OwnBlock {
    /// The header in the bytes.
    pub header: BlockHeader,
    /// The hash of the block.
    pub hash: BlockHash,
    /// Header and body, without padding.
    pub bytes: Bytes,
}

/// The term and the writer number with which a leader stamps its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leadership {
    /// The term.
    pub term: u64,
    /// The random number of the writer.
    pub writer: u32,
}

/// Connects the commit pipeline with the driver. Clones are the same exchange.
#[derive(Debug, Clone, Default)]
pub struct Exchange(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Signalled when a block was put in.
    submitted: Notify,
}

#[derive(Debug, Default)]
struct State {
    leadership: Option<Leadership>,
    /// Blocks that the driver has not taken yet. At most [`LOG_DEPTH`](super::log::LOG_DEPTH).
    outbox: VecDeque<OwnBlock>,
    /// The log has accepted all blocks of this replica up to this number.
    accepted: u64,
    fault: Option<ReplicaFault>,
    waker: Option<Waker>,
    /// The newest resume point, until the maintenance takes it.
    resume: Option<ResumePoint>,
}

// ===== impl OwnBlock =====

impl OwnBlock {
    /// Returns the body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.bytes.split_at(HEADER_BYTES).1
    }
}

// ===== impl Exchange =====

impl Exchange {
    /// Makes the replica stamp its blocks from now on. The driver calls this before EXEC executes
    /// [`Command::Lead`](crate::engine::Command::Lead).
    pub fn begin_leading(&self, leadership: Leadership, accepted: u64) {
        let mut state = self.0.state.lock();
        assert!(
            state.outbox.is_empty(),
            "blocks of an earlier leadership were not sent"
        );
        state.leadership = Some(leadership);
        state.accepted = accepted;
    }

    /// Ends the leadership, after the block with which the replica resigned was accepted.
    pub fn end_leading(&self) {
        let mut state = self.0.state.lock();
        assert!(state.outbox.is_empty(), "a leader resigned with unsent blocks");
        state.leadership = None;
    }

    /// Reports that the log has accepted all blocks of this replica up to the number `through`.
    pub fn accept(&self, through: u64) {
        let waker = {
            let mut state = self.0.state.lock();
            assert!(
                state.accepted < through,
                "block {through} was accepted, but blocks up to {} were accepted before",
                state.accepted
            );
            state.accepted = through;
            state.waker.take()
        };
        wake(waker);
    }

    /// Reports that the log will never accept the blocks in flight. Only the first report counts.
    pub fn fail(&self, fault: ReplicaFault) {
        let waker = {
            let mut state = self.0.state.lock();
            state.fault.get_or_insert(fault);
            state.waker.take()
        };
        wake(waker);
    }

    /// Gives a resume point to the maintenance, which writes it when the journal is durable up to its block.
    pub fn set_resume(&self, resume: ResumePoint) {
        self.0.state.lock().resume = Some(resume);
    }

    /// Returns the newest resume point if its block is at most `durable_block`, and forgets it.
    #[must_use]
    pub fn take_resume(&self, durable_block: u64) -> Option<ResumePoint> {
        self.0
            .state
            .lock()
            .resume
            .take_if(|resume| resume.block <= durable_block || planted("resume_before_journal"))
    }

    /// Takes the blocks that were put in since the last call.
    #[must_use]
    pub fn take(&self) -> VecDeque<OwnBlock> {
        std::mem::take(&mut self.0.state.lock().outbox)
    }

    /// Waits until a block was put in since the last wait.
    pub async fn submitted(&self) {
        self.0.submitted.notified().await;
    }

    pub(super) fn leadership(&self) -> Option<Leadership> {
        self.0.state.lock().leadership
    }

    pub(super) fn put(&self, block: OwnBlock) -> Result<(), ReplicaFault> {
        let mut state = self.0.state.lock();
        if let Some(fault) = &state.fault {
            return Err(fault.clone());
        }
        state.outbox.push_back(block);
        drop(state);
        self.0.submitted.notify_one();
        Ok(())
    }

    /// Returns the number up to which the log has accepted blocks of this replica, if this number is at least `number`. Otherwise the
    /// waker of `context` is called when this number or the fault has changed.
    pub(super) fn poll_accepted(
        &self,
        number: u64,
        context: &mut Context<'_>,
    ) -> Poll<Result<u64, ReplicaFault>> {
        let mut state = self.0.state.lock();
        if state.accepted >= number {
            return Poll::Ready(Ok(state.accepted));
        }
        if let Some(fault) = &state.fault {
            return Poll::Ready(Err(fault.clone()));
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
