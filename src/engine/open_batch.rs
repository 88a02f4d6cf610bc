//! The data that belongs to the open block besides its records: the answers that wait for the block, and the trace
//! spans of its calls. The open block is the block that EXEC fills with records.

use tally_journal::BlockBuffer;

use super::pending::PendingAnswer;
use crate::{
    store::embedded::SealedBlock,
    telemetry::{LINKS_MAX, TraceLink},
};

/// Maximum number of items whose answers wait for one block. Items are transactions, accounts and single reads. The
/// maximum bounds the memory of reads that wait for the disk.
const ANSWER_ITEMS_MAX: usize = 16 * 1024;

/// The answers that wait for the open block or for an earlier block.
#[derive(Debug, Default)]
pub(super) struct OpenBatch {
    answers: Vec<PendingAnswer>,
    /// Number of items of the commands that `answers` belong to.
    items: usize,
    /// The trace spans of the calls in the open block, if spans are exported; at most [`LINKS_MAX`].
    links: Vec<TraceLink>,
    /// Whether a [`Command::Probe`](super::command::Command::Probe) waits for the open block. If so, the block is
    /// written even if it has no record.
    has_probe: bool,
    /// The buffer of the next block.
    spare: Option<BlockBuffer>,
}

/// A batch that takes no more answers. EXEC hands it over to the commit pipeline.
#[derive(Debug)]
pub(super) struct SealedBatch {
    /// The block to write. If this is `None`, the answers wait only for earlier blocks.
    pub(super) block: Option<SealedBlock>,
    /// The answers, in the order of the blocks that they depend on.
    pub(super) answers: Vec<PendingAnswer>,
    /// The trace spans of the calls in the block.
    pub(super) links: Vec<TraceLink>,
}

/// Memory of an earlier batch that the next batch reuses.
#[derive(Debug, Default)]
pub(super) struct Spare {
    pub(super) buffer: Option<BlockBuffer>,
    pub(super) answers: Vec<PendingAnswer>,
}

// ===== impl OpenBatch =====

impl OpenBatch {
    /// Counts the `items` of a command that is about to be executed.
    pub(super) const fn count(&mut self, items: usize) {
        self.items += items;
    }

    /// Adds the answer to a command that was counted.
    pub(super) fn push(&mut self, answer: PendingAnswer) {
        self.answers.push(answer);
    }

    /// Adds the trace span of a call, to which the span of the commit will be linked. Does nothing without a span, or
    /// after [`LINKS_MAX`] spans.
    pub(super) fn link(&mut self, link: Option<TraceLink>) {
        if self.links.len() < LINKS_MAX {
            self.links.extend(link);
        }
    }

    /// Records that a probe waits for the open block, so that the block is written even if it has no record.
    pub(super) const fn set_probe(&mut self) {
        self.has_probe = true;
    }

    /// Whether a probe waits for the open block.
    pub(super) const fn has_probe(&self) -> bool {
        self.has_probe
    }

    /// Whether the batch has no answer.
    pub(super) const fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// Whether the batch must be sealed before another command is executed.
    pub(super) const fn is_full(&self) -> bool {
        self.items >= ANSWER_ITEMS_MAX
    }

    /// Lets no answer join the batch after the one to the command that is being executed.
    pub(super) const fn fill(&mut self) {
        self.items = ANSWER_ITEMS_MAX;
    }

    /// Takes an empty buffer for the next block.
    pub(super) fn take_spare(&mut self) -> BlockBuffer {
        self.spare.take().unwrap_or_else(|| BlockBuffer::with_capacity(0))
    }

    /// Removes and returns the answers. Keeps their memory for the next answers.
    pub(super) fn drain(&mut self) -> std::vec::Drain<'_, PendingAnswer> {
        self.items = 0;
        self.has_probe = false;
        self.answers.drain(..)
    }

    /// Seals the batch with its `block`, if there is one to write. [`OpenBatch::reuse`] must follow.
    pub(super) fn seal(&mut self, block: Option<SealedBlock>) -> SealedBatch {
        self.items = 0;
        self.has_probe = false;
        SealedBatch {
            block,
            answers: std::mem::take(&mut self.answers),
            links: std::mem::take(&mut self.links),
        }
    }

    /// Takes the memory of an answered batch, for the next batch.
    pub(super) fn reuse(&mut self, spare: Spare) {
        self.answers = spare.answers;
        self.spare = spare.buffer;
    }
}

// ===== impl SealedBatch =====

impl SealedBatch {
    /// Returns the number of the block that must be durable before the last answer is given; 0 if there is none.
    pub(super) fn last_block(&self) -> u64 {
        let written = self.block.as_ref().map_or(0, |block| block.sequence);
        let awaited = self.answers.last().map_or(0, PendingAnswer::block);
        written.max(awaited)
    }
}
