//! [`ReplyPools`]: the pools from which requests take their reply slots. Each wake task has its own pool, and all other
//! callers share one pool.

use std::sync::Arc;

use crossbeam_utils::CachePadded;

use super::{pool::Pool, stats::Counters, submission::SlotContent, wake_tasks::WAKE_TASKS_MAX};

/// The pools of reply slots, and the counters that a caller's future updates.
pub(super) struct ReplyPools<R> {
    pub(super) counters: Arc<Counters>,
    of_wake_tasks: Box<[CachePadded<Pool<SlotContent<R>>>]>,
    of_others: Pool<SlotContent<R>>,
}

// ===== impl ReplyPools =====

impl<R> ReplyPools<R> {
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        ReplyPools {
            counters,
            of_wake_tasks: (0..WAKE_TASKS_MAX)
                .map(|_| CachePadded::new(Pool::new()))
                .collect(),
            of_others: Pool::new(),
        }
    }

    /// The pool for callers whose thread has the wake task with this index. `None`: the pool for callers without a wake
    /// task.
    #[inline]
    pub(super) fn of(&self, wake_task: Option<usize>) -> &Pool<SlotContent<R>> {
        wake_task
            .and_then(|index| self.of_wake_tasks.get(index))
            .map_or(&self.of_others, |pool| pool)
    }
}
