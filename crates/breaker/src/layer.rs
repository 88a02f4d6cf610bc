//! [`CircuitBreakerLayer`]: the breaker as a tower layer.

use tower_layer::Layer;

use super::{classify::ResultClassifier, handle::LatencyCircuitBreaker, service::CircuitBreaker};

/// Makes services that are guarded by one circuit. All these services and their clones share this circuit.
#[derive(Debug, Clone)]
pub struct CircuitBreakerLayer<C = ResultClassifier> {
    breaker: LatencyCircuitBreaker,
    classify: C,
}

// ===== impl CircuitBreakerLayer =====

impl CircuitBreakerLayer {
    /// Makes a layer that guards with `breaker`; every error counts as a failure.
    #[must_use]
    pub const fn new(breaker: LatencyCircuitBreaker) -> Self {
        Self::with_classifier(breaker, ResultClassifier)
    }
}

impl<C> CircuitBreakerLayer<C> {
    /// Makes a layer that guards with `breaker` and classifies results by `classify`, which is cloned for each call.
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
