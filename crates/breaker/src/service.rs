//! [`CircuitBreaker`]: a tower service behind a breaker.

use std::task::{Context, Poll};

use tower_service::Service;

use super::{
    classify::{Classify, ResultClassifier},
    error::CircuitBreakerError,
    future::ResponseFuture,
    handle::LatencyCircuitBreaker,
};

/// A service behind a circuit breaker.
///
/// `poll_ready` only polls the inner service, and `call` asks the circuit for a permit. Therefore a service that is
/// ready and is never called holds no permit. If the circuit rejects a call, the inner service stays ready for the next
/// call.
#[derive(Debug, Clone)]
pub struct CircuitBreaker<S, C = ResultClassifier> {
    inner: S,
    breaker: LatencyCircuitBreaker,
    classify: C,
}

// ===== impl CircuitBreaker =====

impl<S> CircuitBreaker<S> {
    /// Guards `inner`; every error counts as a failure.
    #[must_use]
    pub const fn new(inner: S, breaker: LatencyCircuitBreaker) -> Self {
        Self::with_classifier(inner, breaker, ResultClassifier)
    }
}

impl<S, C> CircuitBreaker<S, C> {
    /// Guards `inner` and classifies results by `classify`, which is cloned for each call.
    #[must_use]
    pub const fn with_classifier(inner: S, breaker: LatencyCircuitBreaker, classify: C) -> Self {
        Self {
            inner,
            breaker,
            classify,
        }
    }

    /// Returns the breaker.
    pub const fn breaker(&self) -> &LatencyCircuitBreaker {
        &self.breaker
    }

    /// Returns the guarded service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S, C, Request> Service<Request> for CircuitBreaker<S, C>
where
    S: Service<Request>,
    C: Classify<S::Response, S::Error> + Clone,
{
    type Response = S::Response;
    type Error = CircuitBreakerError<S::Error>;
    type Future = ResponseFuture<S::Future, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(CircuitBreakerError::Inner)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        // The permit comes first, because the inner service must not see a rejected request.
        match self.breaker.try_acquire() {
            Ok(permit) => ResponseFuture::admitted(self.inner.call(request), permit, self.classify.clone()),
            Err(rejection) => ResponseFuture::rejected(rejection),
        }
    }
}
