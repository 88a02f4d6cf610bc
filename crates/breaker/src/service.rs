//! The breaker as a tower service.

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
/// `poll_ready` reserves nothing: it asks the inner service, and the circuit decides in `call`. A service that is ready
/// and not called therefore holds no permit. Readiness that the inner service reserved for a call that is then rejected
/// stays with it, for the next call.
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
    /// Guards `inner`; `classify` says what a result means. It is cloned for each call.
    #[must_use]
    pub const fn with_classifier(inner: S, breaker: LatencyCircuitBreaker, classify: C) -> Self {
        Self {
            inner,
            breaker,
            classify,
        }
    }

    /// The circuit.
    pub const fn breaker(&self) -> &LatencyCircuitBreaker {
        &self.breaker
    }

    /// The service behind it.
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
        // The permit first: the inner service must not see a request that is rejected.
        match self.breaker.try_acquire() {
            Ok(permit) => ResponseFuture::admitted(self.inner.call(request), permit, self.classify.clone()),
            Err(rejection) => ResponseFuture::rejected(rejection),
        }
    }
}
