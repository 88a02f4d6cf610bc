//! What a caller gets instead of an answer, and what is wrong with a configuration.

use std::{fmt, time::Duration};

use super::gate::{BreakerMode, CircuitState};

/// A call that was not let through. Nothing of it was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the circuit is {} (mode {}); retry after {retry_after:?}", state.as_str(), mode.as_str())]
pub struct Rejection {
    /// The state that rejected it.
    pub state: CircuitState,
    /// The mode; with [`BreakerMode::ForcedOpen`] the state did not matter.
    pub mode: BreakerMode,
    /// When to come back, at least 1 ms: the time that is left plus a spread, drawn anew for each rejection, so that
    /// those who obey do not all return at the same instant.
    pub retry_after: Duration,
}

/// The error of a guarded call: the breaker's, or the call's own, untouched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CircuitBreakerError<E> {
    /// The call was not let through.
    #[error(transparent)]
    Open(Rejection),
    /// The call was let through and failed.
    #[error("{0}")]
    Inner(#[source] E),
}

/// A field of a [`CircuitBreakerConfig`](super::CircuitBreakerConfig) that is out of bounds.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("breaker.{field} = {value}: must be {bound}")]
#[non_exhaustive]
pub struct ConfigError {
    /// The field's name.
    pub field: &'static str,
    /// Its value.
    pub value: ConfigValue,
    /// What it would have to be.
    pub bound: &'static str,
}

/// The value of a configuration field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ConfigValue {
    /// A count.
    Count(u64),
    /// A rate, a share or an exponent.
    Ratio(f64),
    /// A length of time.
    Time(Duration),
}

// ===== impl CircuitBreakerError =====

impl<E> CircuitBreakerError<E> {
    /// The rejection, if the call was not let through.
    pub const fn rejection(&self) -> Option<&Rejection> {
        match self {
            Self::Open(rejection) => Some(rejection),
            Self::Inner(_) => None,
        }
    }
}

// ===== impl ConfigValue =====

impl fmt::Display for ConfigValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Ratio(ratio) => write!(f, "{ratio}"),
            Self::Time(time) => write!(f, "{time:?}"),
        }
    }
}
