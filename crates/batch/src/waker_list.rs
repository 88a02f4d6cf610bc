//! The wakers that other threads leave for one wake task, and the task's own waker.

use std::task::{Context, Poll, Waker};

use super::sync::{AtomicWaker, Mutex};

/// Wakers for one wake task to wake.
#[derive(Debug)]
pub(crate) struct WakerList {
    /// At most one waker for each request that was answered and whose caller has not run since, so the queue and the batches
    /// bound the list.
    wakers: Mutex<Vec<Waker>>,
    /// The waker of the wake task itself.
    task: AtomicWaker,
}

// ===== impl WakerList =====

impl WakerList {
    /// An empty list.
    #[must_use]
    pub(crate) fn new() -> Self {
        WakerList {
            wakers: Mutex::new(Vec::new()),
            task: AtomicWaker::new(),
        }
    }

    /// Moves all of `wakers` into the list, and wakes the task.
    #[inline]
    pub(crate) fn append(&self, wakers: &mut Vec<Waker>) {
        self.wakers.lock().append(wakers);
        self.task.wake();
    }

    /// Wakes the task.
    #[inline]
    pub(crate) fn wake_task(&self) {
        self.task.wake();
    }

    /// For the task only: moves all wakers into `into`, which must be empty. Pending if there are none.
    pub(crate) fn poll_take(&self, context: &Context<'_>, into: &mut Vec<Waker>) -> Poll<()> {
        // Register first: a waker that is appended after the look below must wake the task.
        self.task.register(context.waker());
        std::mem::swap(&mut *self.wakers.lock(), into);
        if into.is_empty() {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }
}
