//! The reply slot: the executor stores the answer to one request in the slot, and the caller takes the answer out. If
//! the executor drops its end of the slot without an answer, the caller gets the error [`Lost`].
//!
//! ```text
//! QUEUED --claim--> CLAIMED --answer--> ANSWERED
//!    \--withdraw--> WITHDRAWN
//! ```
//!
//! The claim and the withdrawal are compare-and-swap operations on the state `QUEUED`, so exactly one of them succeeds.
//! After a claim, the request may have been executed. After a withdrawal, the request is never executed. So the caller
//! always knows whether the outcome is *not executed* or *unknown*.

use std::task::{Context, Poll, Waker};

use super::{
    mutation::planted,
    sync::{Arc, AtomicU8, AtomicWaker, Mutex, Ordering},
};

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

/// The executor's end of a slot. Dropping this end without an answer answers [`Lost`], so the caller does not wait
/// for ever.
pub(crate) struct Responder<R> {
    shared: Arc<Shared<R>>,
    answered: bool,
}

/// The caller's end of a slot. Dropping this end while the request is queued withdraws the request.
pub(crate) struct Receiver<R> {
    shared: Arc<Shared<R>>,
}

/// An unused slot, kept for reuse.
pub(crate) struct Spare<R> {
    shared: Arc<Shared<R>>,
}

/// The executor dropped the request without an answer. Whether the request was executed is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost;

struct Shared<R> {
    state: AtomicU8,
    /// The answer. The responder writes it before `state` becomes `ANSWERED`, and the receiver takes it afterwards. The
    /// lock is never contended; safe code needs it because the compiler can't prove this order.
    answer: Mutex<Option<R>>,
    waker: AtomicWaker,
}

// ===== impl Responder =====

impl<R> Responder<R> {
    /// Claims the request for execution. `false` if the caller has withdrawn the request; in that case, the
    /// request must not be executed.
    #[must_use]
    pub(crate) fn claim(&self) -> bool {
        // Release is not needed, because CLAIMED publishes no data to the caller.
        self.shared
            .state
            .compare_exchange(QUEUED, CLAIMED, Ordering::Acquire, Ordering::Acquire)
            .is_ok()
    }

    /// Whether the caller has withdrawn the request. If so, nobody waits for an answer.
    #[must_use]
    pub(crate) fn is_withdrawn(&self) -> bool {
        self.shared.state.load(Ordering::Acquire) == WITHDRAWN
    }

    /// Stores the answer and wakes the caller.
    pub(crate) fn answer(self, answer: R) {
        if let Some(waker) = self.answer_quietly(answer) {
            waker.wake();
        }
    }

    /// Stores the answer without waking the caller. Returns the caller's waker. The executor must use the waker soon,
    /// because the caller sleeps until then.
    #[must_use]
    pub(crate) fn answer_quietly(mut self, answer: R) -> Option<Waker> {
        self.finish(Some(answer))
    }

    fn finish(&mut self, answer: Option<R>) -> Option<Waker> {
        self.answered = true;
        *self.shared.answer.lock() = answer;
        // Release: a thread that reads ANSWERED also sees the answer.
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
    /// Withdraws the request. `false` if the request is already claimed or answered; in that case, the request
    /// may have been executed.
    #[must_use]
    pub(crate) fn withdraw(&self) -> bool {
        self.shared
            .state
            .compare_exchange(QUEUED, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Polls for the answer.
    ///
    /// # Errors
    /// [`Lost`] if the executor dropped the request.
    pub(crate) fn poll_answer(&self, context: &Context<'_>) -> Poll<Result<R, Lost>> {
        if let Some(answer) = self.take() {
            return Poll::Ready(answer);
        }
        self.shared.waker.register(context.waker());
        // The answer may have arrived between the first check and the registration.
        self.take().map_or(Poll::Pending, Poll::Ready)
    }

    /// Empties the slot, and returns it. The slot can be reused once this end is dropped. `None` if the request has no
    /// answer yet, because the executor still uses the slot.
    #[must_use]
    pub(crate) fn retire(&self) -> Option<Spare<R>> {
        if self.shared.state.load(Ordering::Acquire) != ANSWERED && !planted("reuse_reply_slot_early") {
            return None;
        }
        // An unused slot must not keep an answer or a task alive.
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
        // A claimed or answered request can't be withdrawn.
        let _withdrawn = self.withdraw();
    }
}

impl<R> std::fmt::Debug for Receiver<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}

// ===== impl Spare =====

impl<R> Spare<R> {
    /// Returns two new ends. `None` if an old end still exists, because an old end must not see the states of the new
    /// request.
    #[must_use]
    pub(crate) fn reuse(mut self) -> Option<(Responder<R>, Receiver<R>)> {
        // `get_mut` succeeds only if both old ends were dropped. All their memory accesses happen before this line.
        if !planted("reuse_reply_slot_early") {
            Arc::get_mut(&mut self.shared)?;
        }
        // Relaxed is enough: the push into the ring buffer publishes the state to the executor.
        self.shared.state.store(QUEUED, Ordering::Relaxed);
        Some(ends(self.shared))
    }
}

impl<R> std::fmt::Debug for Spare<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spare").finish_non_exhaustive()
    }
}
