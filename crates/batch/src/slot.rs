//! The reply slot: where the executor leaves an answer and the caller finds it. It can't be dropped silently.
//!
//! ```text
//! QUEUED --claim--> CLAIMED --answer--> ANSWERED
//!    \--withdraw--> WITHDRAWN
//! ```
//!
//! The step out of `QUEUED` is one compare-and-swap that either side may win: the executor, by claiming the request
//! (from then on it may have been executed), or the caller, by withdrawing it (then it never is). So *not executed*
//! and *unknown* are never mixed up.

use std::task::{Context, Poll, Waker};

use super::sync::{Arc, AtomicU8, AtomicWaker, Mutex, Ordering};

const QUEUED: u8 = 0;
const CLAIMED: u8 = 1;
const ANSWERED: u8 = 2;
const WITHDRAWN: u8 = 3;

/// Makes the two ends of a slot.
#[must_use]
pub(crate) fn slot<R>() -> (Responder<R>, Receiver<R>) {
    ends(Arc::new(Shared {
        state: AtomicU8::new(QUEUED),
        answer: Mutex::new(None),
        waker: AtomicWaker::new(),
    }))
}

fn ends<R>(shared: Arc<Shared<R>>) -> (Responder<R>, Receiver<R>) {
    (
        Responder {
            shared: Arc::clone(&shared),
            answered: false,
        },
        Receiver { shared },
    )
}

/// The executor's end. Dropping it unanswered answers [`Lost`], so a caller never waits for ever.
pub(crate) struct Responder<R> {
    shared: Arc<Shared<R>>,
    answered: bool,
}

/// The caller's end. Dropping it while the request is queued withdraws the request.
pub(crate) struct Receiver<R> {
    shared: Arc<Shared<R>>,
}

/// A slot whose answer has been given, kept to be used again.
pub(crate) struct Spare<R> {
    shared: Arc<Shared<R>>,
}

/// The executor dropped the request after claiming it: whether it was executed is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost;

struct Shared<R> {
    state: AtomicU8,
    /// Written by the responder before `state` becomes `ANSWERED`, taken by the receiver after. The lock is never
    /// contended; it is there because that order is not visible to the compiler.
    answer: Mutex<Option<R>>,
    waker: AtomicWaker,
}

// ===== impl Responder =====

impl<R> Responder<R> {
    /// Takes the request for execution. `false` if its caller has withdrawn it: then it must not be executed.
    #[must_use]
    pub(crate) fn claim(&self) -> bool {
        // Release is not needed: the caller learns nothing from CLAIMED but that it is too late.
        self.shared
            .state
            .compare_exchange(QUEUED, CLAIMED, Ordering::Acquire, Ordering::Acquire)
            .is_ok()
    }

    /// Whether the caller has withdrawn the request. Nobody waits for an answer then.
    #[must_use]
    pub(crate) fn is_withdrawn(&self) -> bool {
        self.shared.state.load(Ordering::Acquire) == WITHDRAWN
    }

    /// Gives the answer and wakes the caller.
    pub(crate) fn answer(self, answer: R) {
        if let Some(waker) = self.answer_quietly(answer) {
            waker.wake();
        }
    }

    /// Gives the answer. The caller sleeps on until the returned waker is used, which must be soon.
    #[must_use]
    pub(crate) fn answer_quietly(mut self, answer: R) -> Option<Waker> {
        self.finish(Some(answer))
    }

    fn finish(&mut self, answer: Option<R>) -> Option<Waker> {
        self.answered = true;
        *self.shared.answer.lock() = answer;
        // Release: whoever sees ANSWERED sees the answer.
        self.shared.state.store(ANSWERED, Ordering::Release);
        self.shared.waker.take()
    }
}

impl<R> Drop for Responder<R> {
    fn drop(&mut self) {
        if !self.answered
            && !self.is_withdrawn()
            && let Some(waker) = self.finish(None)
        {
            waker.wake();
        }
    }
}

impl<R> std::fmt::Debug for Responder<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Responder")
            .field("answered", &self.answered)
            .finish_non_exhaustive()
    }
}

// ===== impl Receiver =====

impl<R> Receiver<R> {
    /// Takes the request back. `false` if it was claimed or answered before: then it may have been executed.
    #[must_use]
    pub(crate) fn withdraw(&self) -> bool {
        self.shared
            .state
            .compare_exchange(QUEUED, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// [`Lost`] if there will be none.
    pub(crate) fn poll_answer(&self, context: &Context<'_>) -> Poll<Result<R, Lost>> {
        if let Some(answer) = self.take() {
            return Poll::Ready(answer);
        }
        self.shared.waker.register(context.waker());
        // The answer may have come between the look and the registration.
        self.take().map_or(Poll::Pending, Poll::Ready)
    }

    /// The slot, emptied, to be used again once this end is dropped. `None` before the answer: the other end may be
    /// anywhere then.
    #[must_use]
    pub(crate) fn retire(&self) -> Option<Spare<R>> {
        if self.shared.state.load(Ordering::Acquire) != ANSWERED {
            return None;
        }
        // Neither an answer that nobody took nor a task that nobody wakes is kept alive by a spare.
        drop(self.shared.answer.lock().take());
        drop(self.shared.waker.take());
        Some(Spare {
            shared: Arc::clone(&self.shared),
        })
    }

    fn take(&self) -> Option<Result<R, Lost>> {
        let answered = self.shared.state.load(Ordering::Acquire) == ANSWERED;
        answered.then(|| self.shared.answer.lock().take().ok_or(Lost))
    }
}

impl<R> Drop for Receiver<R> {
    fn drop(&mut self) {
        let _too_late = self.withdraw();
    }
}

impl<R> std::fmt::Debug for Receiver<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}

// ===== impl Spare =====

impl<R> Spare<R> {
    /// Two new ends. `None` if one of the old ones is still there: it must not see the new request's states.
    #[must_use]
    pub(crate) fn reuse(mut self) -> Option<(Responder<R>, Receiver<R>)> {
        // Whoever had an end has dropped it, and all it did happens before this.
        Arc::get_mut(&mut self.shared)?;
        // Relaxed: the ring shows it to the executor.
        self.shared.state.store(QUEUED, Ordering::Relaxed);
        Some(ends(self.shared))
    }
}

impl<R> std::fmt::Debug for Spare<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spare").finish_non_exhaustive()
    }
}
