//! WAL: the thread that makes blocks durable and gives the answers that waited for them.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{
    counters::EngineCounters,
    fault::StoreFault,
    handoff::{Handoff, Spare, Work},
    health::{Condition, Health},
};
use crate::{
    batch::{Answerer, Notifier},
    distribution::Distribution,
    store::{
        embedded::{DurablePoint, SealedBlock},
        journal::{BlockBuffer, DataDirectory, JournalWriter},
    },
    telemetry::commit_span,
};

/// Buffers larger than this are not kept for the next block.
const SPARE_BYTES_MAX: usize = 8 << 20;

/// The state of the thread.
#[derive(Debug)]
pub(super) struct Wal {
    pub(super) handoff: Arc<Handoff>,
    pub(super) committer: Arc<Mutex<Committer>>,
    /// Wakes EXEC when a block is done.
    pub(super) exec: Notifier,
    pub(super) health: Arc<Health>,
}

/// What makes blocks durable and gives their answers. Whoever holds the lock may, once [`Handoff`] says that it is busy on
/// their account: WAL with what was submitted to it, EXEC with a small block when nothing is under way.
#[derive(Debug)]
pub(super) struct Committer {
    pub(super) writer: JournalWriter,
    /// Holds the directory's lock until the last block is written.
    pub(super) _directory: Arc<DataDirectory>,
    pub(super) answerer: Answerer,
    pub(super) health: Arc<Health>,
    pub(super) sync_times: Arc<Distribution>,
    pub(super) counters: Arc<EngineCounters>,
    pub(super) durable: DurablePoint,
    pub(super) failed: bool,
}

// ===== impl Wal =====

impl Wal {
    /// Writes blocks until EXEC says that there are no more.
    pub(super) fn run(self) {
        while let Some(work) = self.handoff.next() {
            let spare = self
                .committer
                .lock()
                .commit(&self.handoff, work, || self.exec.notify());
            self.handoff.recycle(spare);
        }
    }
}

// ===== impl Committer =====

impl Committer {
    /// Writes a block and gives the answers that waited for it; `done` is called between the two.
    pub(super) fn commit(&mut self, handoff: &Handoff, work: Work, done: impl FnOnce()) -> Spare {
        let Work {
            mut block,
            mut answers,
            links,
        } = work;
        let records = block.as_ref().map_or(0, |block| block.meta.record_count);
        let _span = commit_span(&links, records);
        if let Some(block) = block.as_mut() {
            self.write(block);
        }
        handoff.finished(if self.failed {
            Err(StoreFault::WriteFailed)
        } else {
            Ok(self.durable)
        });
        // EXEC first: it closes the next block while the answers go out.
        done();
        let (durable, failed, counters) = (&self.durable, self.failed, &self.counters);
        let released = answers
            .drain(..)
            .map(|answer| answer.release(durable, failed, counters));
        self.answerer.answer_all(released);
        Spare {
            buffer: block.and_then(spare_buffer),
            answers,
        }
    }

    /// Marks that the journal ends here, in order. No more blocks are written. Without the mark the next start is as after a
    /// crash, so an error is only logged.
    pub(super) fn finish(&mut self) {
        if self.failed {
            return;
        }
        self.failed = true;
        if let Err(error) = self.writer.finish() {
            tracing::warn!(%error, "the clean stop could not be marked; the next start is as after a crash");
        }
    }

    /// Writes and syncs one block. After the first failure nothing is written any more and no sync is tried again: the
    /// kernel may have dropped the pages that it could not write.
    fn write(&mut self, block: &mut SealedBlock) {
        if self.failed {
            return;
        }
        match self.writer.append(&block.meta, &mut block.buffer) {
            Ok(receipt) => {
                self.sync_times
                    .record_duration(receipt.write_duration + receipt.sync_duration);
                self.durable = DurablePoint::after(&receipt, block);
            }
            Err(error) => {
                tracing::error!(%error, "the journal could not be written: no more transactions until the next start");
                self.failed = true;
                self.health.fail(Condition::StoreFailed);
            }
        }
    }
}

impl Drop for Wal {
    /// However the thread ends, EXEC must not wait for it.
    fn drop(&mut self) {
        self.handoff.abandon();
        self.exec.notify();
        if std::thread::panicking() {
            self.health.fail(Condition::Panicked);
        }
    }
}

fn spare_buffer(block: SealedBlock) -> Option<BlockBuffer> {
    let mut buffer = block.buffer;
    buffer.clear();
    (buffer.capacity() <= SPARE_BYTES_MAX).then_some(buffer)
}
