//! [`ResponseFuture`]: the future of a guarded call.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;

use super::{
    classify::Classify,
    error::{CircuitBreakerError, Rejection},
    permit::Permit,
};

pin_project! {
    /// The future of a guarded call: the inner future with its permit, or the rejection. If this future is dropped
    /// before it is ready, the caller gave up the call; see [`Permit`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, C> {
        #[pin]
        state: State<F, C>,
    }
}

pin_project! {
    #[project = StateProjection]
    #[derive(Debug)]
    enum State<F, C> {
        Admitted { #[pin] future: F, permit: Permit, classify: C },
        Rejected { rejection: Rejection },
    }
}

// ===== impl ResponseFuture =====

impl<F, C> ResponseFuture<F, C> {
    pub(super) const fn admitted(future: F, permit: Permit, classify: C) -> Self {
        Self {
            state: State::Admitted {
                future,
                permit,
                classify,
            },
        }
    }

    pub(super) const fn rejected(rejection: Rejection) -> Self {
        Self {
            state: State::Rejected { rejection },
        }
    }
}

impl<F, C, R, E> Future for ResponseFuture<F, C>
where
    F: Future<Output = Result<R, E>>,
    C: Classify<R, E>,
{
    type Output = Result<R, CircuitBreakerError<E>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Rejected { rejection } => {
                Poll::Ready(Err(CircuitBreakerError::Open(*rejection)))
            }
            StateProjection::Admitted {
                future,
                permit,
                classify,
            } => {
                let result = ready!(future.poll(cx));
                // `end` takes the permit by reference. To move the permit, the CPU would copy bytes that were just
                // written, and would wait for the end of the write before the copy.
                permit.end(&classify.classify(result.as_ref()));
                Poll::Ready(result.map_err(CircuitBreakerError::Inner))
            }
        }
    }
}
