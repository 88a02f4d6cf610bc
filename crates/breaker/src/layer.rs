//! The breaker as a tower layer.

use tower_layer::Layer;

use super::{classify::ResultClassifier, handle::LatencyCircuitBreaker, service::CircuitBreaker};

/// Wraps services in one circuit: all services made by a layer, and their clones, share it.
#[derive(Debug, Clone)]
pub struct CircuitBreakerLayer<C = ResultClassifier> {
    breaker: LatencyCircuitBreaker,
    classify: C,
}

// ===== impl CircuitBreakerLayer =====

impl CircuitBreakerLayer {
    /// Guards with `breaker`; every error counts as a failure.
    #[must_use]
    pub const fn new(breaker: LatencyCircuitBreaker) -> Self {
        Self::with_classifier(breaker, ResultClassifier)
    }
}

impl<C> CircuitBreakerLayer<C> {
    /// Guards with `breaker`; `classify` says what a result means. It is cloned for each call.
    #[must_use]
    pub const fn with_classifier(breaker: LatencyCircuitBreaker, classify: C) -> Self {
        Self { breaker, classify }
    }
}

impl<S, C> Layer<S> for CircuitBreakerLayer<C>
where
    C: Clone,
{
    type Service = CircuitBreaker<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        CircuitBreaker::with_classifier(inner, self.breaker.clone(), self.classify.clone())
    }
}
