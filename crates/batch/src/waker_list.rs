//! [`WakerList`]: the list of callers that one wake task has to wake. Other threads append the callers' wakers to the
//! list and wake the wake task (see `wake_tasks.rs`).

use std::task::{Context, Poll, Waker};

use super::sync::{AtomicWaker, Mutex};

/// The wakers of the callers that one wake task has to wake.
#[derive(Debug)]
pub(crate) struct WakerList {
    /// Holds at most one waker for each answered request whose caller has not run since the answer. So the bounds of
    /// the queue and of a batch also bound this list.
    wakers: Mutex<Vec<Waker>>,
    /// The waker of the wake task itself.
    task: AtomicWaker,
}

// ===== impl WakerList =====

impl WakerList {
    /// Makes an empty list.
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

    /// Moves all wakers into `into`, which must be empty. Pending if the list is empty. Only the wake task may call
    /// this method.
    pub(crate) fn poll_take(&self, context: &Context<'_>, into: &mut Vec<Waker>) -> Poll<()> {
        // Register before the list is read: if a waker is appended after the read, the task must be woken.
        self.task.register(context.waker());
        std::mem::swap(&mut *self.wakers.lock(), into);
        if into.is_empty() {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }
}
