//! [`ResponseFuture`]: the future of one request. It resolves with the executor's answer, or with an error.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    error::BatchError,
    mutation::planted,
    reply_pools::ReplyPools,
    slot::{Lost, Receiver},
    submission::{Answer, SlotContent},
};

pin_project! {
    /// Resolves with the answer to one request, or with a [`BatchError`]. If this future is dropped while the request
    /// is queued, the request is withdrawn and never executed.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<R> {
        #[pin]
        state: State<R>,
        replies: Arc<ReplyPools<R>>,
        // The wake task of the caller's runtime. Each wake task has a pool of reply slots, and the slot returns to this
        // pool.
        wake_task: Option<usize>,
    }

    impl<R> PinnedDrop for ResponseFuture<R> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let StateProjection::Waiting { receiver } | StateProjection::WaitingUntil { receiver, .. } =
                this.state.project()
            {
                // Cancelled requests are counted here and not where the executor's claim fails, because that claim also
                // fails for expired requests, which are counted separately.
                if receiver.withdraw() {
                    this.replies.counters.cancelled();
                } else {
                    this.replies.of(*this.wake_task).give_back(receiver);
                }
            }
        }
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<R> {
        Rejected { error: BatchError },
        Waiting { receiver: Receiver<SlotContent<R>> },
        // A timer is costly, so only requests with a deadline have one.
        WaitingUntil { receiver: Receiver<SlotContent<R>>, #[pin] deadline: Sleep },
    }
}

// ===== impl ResponseFuture =====

impl<R> ResponseFuture<R> {
    pub(super) const fn rejected(error: BatchError, replies: Arc<ReplyPools<R>>) -> Self {
        ResponseFuture {
            state: State::Rejected { error },
            replies,
            wake_task: None,
        }
    }

    pub(super) fn waiting(
        receiver: Receiver<SlotContent<R>>,
        deadline: Option<Instant>,
        replies: Arc<ReplyPools<R>>,
        wake_task: Option<usize>,
    ) -> Self {
        let state = match deadline {
            None => State::Waiting { receiver },
            Some(deadline) => State::WaitingUntil {
                receiver,
                deadline: sleep_until(deadline),
            },
        };
        ResponseFuture {
            state,
            replies,
            wake_task,
        }
    }
}

impl<R> Future for ResponseFuture<R> {
    type Output = Result<Answer<R>, BatchError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let flatten = |answer: Result<SlotContent<R>, Lost>| {
            answer.unwrap_or_else(|Lost| {
                this.replies.counters.replies_missing();
                Err(BatchError::Lost)
            })
        };
        match this.state.project() {
            StateProjection::Rejected { error } => Poll::Ready(Err(*error)),
            StateProjection::Waiting { receiver } => receiver.poll_answer(context).map(flatten),
            StateProjection::WaitingUntil { receiver, deadline } => {
                if let Poll::Ready(answer) = receiver.poll_answer(context) {
                    return Poll::Ready(flatten(answer));
                }
                if deadline.poll(context).is_pending() {
                    return Poll::Pending;
                }
                if receiver.withdraw() {
                    this.replies.counters.expired();
                    return Poll::Ready(Err(BatchError::ExpiredInQueue));
                }
                // The request was claimed. Either the answer has arrived since the check above, or the request's
                // outcome is unknown.
                match receiver.poll_answer(context) {
                    Poll::Ready(answer) => Poll::Ready(flatten(answer)),
                    Poll::Pending if planted("not_executed_after_execution") => {
                        Poll::Ready(Err(BatchError::ExpiredInQueue))
                    }
                    Poll::Pending => Poll::Ready(Err(BatchError::ExpiredInExecution)),
                }
            }
        }
    }
}

impl<R> std::fmt::Debug for ResponseFuture<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
