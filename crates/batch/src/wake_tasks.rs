//! Wake tasks: one wake-up of a runtime for all of its callers that are answered together.
//!
//! The executor answers a batch from its own thread. Waking each caller by itself has two costs: a system call per caller, and
//! a single-threaded runtime that runs callers and connections by turns, so that each answer is written to its socket alone.
//! A wake task avoids both. The answering thread puts the callers' wakers into the list of their runtime's wake task, and wakes
//! that task. The task wakes all callers from inside the runtime, so all of them run before their connections do, and each
//! connection writes all of its answers at once.
//!
//! The same task works in the other direction: a caller that submits a request asks the wake task to wake the executor. The
//! task does so when every caller that was ready has run. A burst of requests therefore causes one wake-up and forms one
//! batch. For a single request the task runs immediately.

use std::{cell::Cell, future::poll_fn, task::Waker};

use super::waker_list::WakerList;

/// Maximum number of runtimes that can have a wake task. Callers on other runtimes are woken one by one.
pub const WAKE_TASKS_MAX: usize = 64;

thread_local! {
    /// The wake task of this thread's runtime: its processor, and its index.
    static TASK: Cell<Option<(ProcessorId, usize)>> = const { Cell::new(None) };
    /// Whether the wake task has to wake the executor.
    static WAKE_EXECUTOR: Cell<bool> = const { Cell::new(false) };
}

/// Identifies a processor by the address of its lists. A caller that submits to another processor than the one that its
/// runtime's wake task serves is woken by itself.
type ProcessorId = usize;

/// The wake tasks of one batch processor.
#[derive(Debug)]
pub(super) struct WakeTasks {
    lists: Box<[WakerList]>,
}

/// Removes the thread's wake task when dropped.
struct Registration;

/// Wakers that have not been handed to their wake tasks yet. Reused, to save allocations.
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

    /// The index of the calling thread's wake task.
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

    /// Asks the calling thread's wake task to wake the executor. `false` if there is no such task.
    #[inline]
    pub(super) fn wake_executor(&self) -> bool {
        let Some(list) = self.current().and_then(|index| self.lists.get(index)) else {
            return false;
        };
        WAKE_EXECUTOR.set(true);
        list.wake_task();
        true
    }

    /// Is the wake task with this `index` for the calling thread, for as long as the future is polled. `wake_executor` wakes the
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
                // Only callers on this thread set it, so never while this code runs.
                if WAKE_EXECUTOR.take() {
                    wake_executor();
                }
                list.poll_take(context, &mut wakers)
            })
            .await;
            wakers.drain(..).for_each(Waker::wake);
            // Now the callers stand before this task in the runtime's queue.
            tokio::task::yield_now().await;
        }
    }

    /// Hands the wakers to their wake tasks: one lock and one wake-up per runtime.
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
