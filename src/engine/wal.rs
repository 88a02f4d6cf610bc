//! WAL: the thread that makes blocks durable and then gives the answers that waited for these blocks.

use std::{sync::Arc, task::Waker};

use tally_batch::Notifier;

use super::{
    health::{Condition, Health},
    pipeline::{CommitPipeline, PipelineStep},
};

/// The state of the thread.
#[derive(Debug)]
pub(super) struct Wal {
    pub(super) pipeline: Arc<CommitPipeline>,
    /// Wakes EXEC when a batch has left the pipeline.
    pub(super) exec: Notifier,
    pub(super) health: Arc<Health>,
}

// ===== impl Wal =====

impl Wal {
    /// Works until the pipeline is closed and empty.
    pub(super) fn run(self) {
        loop {
            match self.step() {
                PipelineStep::Worked => {}
                PipelineStep::Idle => self.pipeline.wait_for_work(),
                PipelineStep::Ended => break,
            }
        }
    }

    /// Does one piece of work, if there is any. Never waits.
    pub(super) fn step(&self) -> PipelineStep {
        let waker = Waker::from(Arc::clone(&self.pipeline));
        self.pipeline.step(&waker, || self.exec.notify())
    }
}

impl Drop for Wal {
    /// Wakes EXEC, so that EXEC does not wait for WAL after this thread has ended. After a panic, also abandons the
    /// pipeline.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.pipeline.abandon();
            self.health.fail(Condition::Panicked);
        }
        self.exec.notify();
    }
}
