//! The letter box of one courier: wakers that other threads leave, and the courier's own, by which it is called.

use std::task::{Context, Poll, Waker};

use super::sync::{AtomicWaker, Mutex};

/// Where a courier finds its letters.
#[derive(Debug)]
pub(crate) struct LetterBox {
    /// At most one for each request that was answered and whose caller has not run since, so the ring and the batches
    /// bound it.
    letters: Mutex<Vec<Waker>>,
    courier: AtomicWaker,
}

// ===== impl LetterBox =====

impl LetterBox {
    /// Without letters.
    #[must_use]
    pub(crate) fn new() -> Self {
        LetterBox {
            letters: Mutex::new(Vec::new()),
            courier: AtomicWaker::new(),
        }
    }

    /// Leaves all that is in `bag`, and calls the courier.
    pub(crate) fn post(&self, bag: &mut Vec<Waker>) {
        self.letters.lock().append(bag);
        self.courier.wake();
    }

    /// Calls the courier.
    pub(crate) fn call(&self) {
        self.courier.wake();
    }

    /// The courier's: takes all letters out, into the empty `into`; pending if there are none.
    pub(crate) fn poll_empty(&self, context: &Context<'_>, into: &mut Vec<Waker>) -> Poll<()> {
        // First, for a letter that comes after the look must call.
        self.courier.register(context.waker());
        std::mem::swap(&mut *self.letters.lock(), into);
        if into.is_empty() {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }
}
