//! Wake tasks: wake all callers of one runtime that are answered together with a single wake-up of the runtime.
//!
//! The executor answers a batch from its own thread. If this thread woke each caller separately, it would need a system
//! call per caller. In addition, a single-threaded runtime would alternate between callers and connections, and would
//! write each answer to its socket separately. A wake task avoids both costs. The answering thread appends the callers'
//! wakers to the list of the runtime's wake task, and wakes this task. The task wakes all callers from inside the
//! runtime. So all callers run before their connections run, and each connection writes all its answers at once.
//!
//! The same task also wakes the executor. A caller that submits a request asks the wake task to wake the executor. The
//! task wakes the executor after every caller that was ready has run. So a burst of requests causes one wake-up and
//! forms one batch. After a single request, the task runs immediately.

use std::{cell::Cell, future::poll_fn, task::Waker};

use super::waker_list::WakerList;

/// Maximum number of runtimes that can have a wake task. Callers on other runtimes are woken one by one.
pub const WAKE_TASKS_MAX: usize = 64;

thread_local! {
    /// The wake task of this thread's runtime: the batch processor that the task serves, and the task's index.
    static TASK: Cell<Option<(ProcessorId, usize)>> = const { Cell::new(None) };
    /// Whether the wake task has to wake the executor.
    static WAKE_EXECUTOR: Cell<bool> = const { Cell::new(false) };
}

/// Identifies a batch processor by the address of its lists. If a caller submits a request to a processor that its
/// runtime's wake task does not serve, the answering thread wakes this caller separately.
type ProcessorId = usize;

/// The wake tasks of one batch processor.
#[derive(Debug)]
pub(super) struct WakeTasks {
    lists: Box<[WakerList]>,
}

/// Removes the thread's wake task when dropped.
struct Registration;

/// Wakers that have not yet been appended to the lists of their wake tasks. Kept between batches, to reuse the memory.
#[derive(Debug)]
pub(super) struct PendingWakes {
    wakers: Box<[Vec<Waker>]>,
}

// ===== impl WakeTasks =====

impl WakeTasks {
    pub(super) fn new() -> Self {
        WakeTasks {
            lists: (0..WAKE_TASKS_MAX).map(|_| WakerList::new()).collect(),
        }
    }

    /// The index of the calling thread's wake task; `None` if the thread has no wake task for this processor.
    #[inline]
    pub(super) fn current(&self) -> Option<usize> {
        TASK.get()
            .filter(|(processor, _)| *processor == self.processor_id())
            .map(|(_, index)| index)
    }

    #[inline]
    fn processor_id(&self) -> ProcessorId {
        self.lists.as_ptr().addr()
    }

    /// Asks the calling thread's wake task to wake the executor. `false` if the thread has no wake task for this
    /// processor.
    #[inline]
    pub(super) fn wake_executor(&self) -> bool {
        let Some(list) = self.current().and_then(|index| self.lists.get(index)) else {
            return false;
        };
        WAKE_EXECUTOR.set(true);
        list.wake_task();
        true
    }

    /// Runs the wake task with this `index` on the calling thread. The future never ends. `wake_executor` wakes the
    /// executor. Returns at once if `index` is not below [`WAKE_TASKS_MAX`].
    pub(super) async fn run(&self, index: usize, wake_executor: impl Fn()) {
        let Some(list) = self.lists.get(index) else {
            return;
        };
        TASK.set(Some((self.processor_id(), index)));
        let _registration = Registration;
        let mut wakers = Vec::new();
        loop {
            poll_fn(|context| {
                // Only callers on this thread set the flag, so no caller sets it while this closure runs.
                if WAKE_EXECUTOR.take() {
                    wake_executor();
                }
                list.poll_take(context, &mut wakers)
            })
            .await;
            wakers.drain(..).for_each(Waker::wake);
            // The woken callers are now ahead of this task in the runtime's queue, so they run first.
            tokio::task::yield_now().await;
        }
    }

    /// Appends the wakers to the lists of their wake tasks. This takes one lock and one wake-up per wake task.
    #[inline]
    pub(super) fn wake_all(&self, pending: &mut PendingWakes) {
        for (list, wakers) in self.lists.iter().zip(&mut pending.wakers) {
            if !wakers.is_empty() {
                list.append(wakers);
            }
        }
    }
}

// ===== impl Registration =====

impl Drop for Registration {
    fn drop(&mut self) {
        TASK.set(None);
    }
}

// ===== impl PendingWakes =====

impl PendingWakes {
    pub(super) fn new() -> Self {
        PendingWakes {
            wakers: (0..WAKE_TASKS_MAX).map(|_| Vec::new()).collect(),
        }
    }

    /// Adds the waker of a caller whose runtime has the wake task `task`. Wakes a caller without a wake task at once.
    #[inline]
    pub(super) fn add(&mut self, task: Option<usize>, waker: Waker) {
        match task.and_then(|index| self.wakers.get_mut(index)) {
            Some(wakers) => wakers.push(waker),
            None => waker.wake(),
        }
    }
}
