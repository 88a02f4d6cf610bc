//! [`Rejection`] and [`CircuitBreakerError`] for rejected and failed calls, and [`ConfigError`] for settings out of
//! bounds.

use std::{fmt, time::Duration};

use super::gate::{BreakerMode, CircuitState};

/// The circuit rejected a call. No part of the call was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the circuit is {} (mode {}); retry after {retry_after:?}", state.as_str(), mode.as_str())]
pub struct Rejection {
    /// The state that rejected the call.
    pub state: CircuitState,
    /// The mode. With [`BreakerMode::ForcedOpen`], every call is rejected in any state.
    pub mode: BreakerMode,
    /// The time to wait before a retry, at least 1 ms: the time until a call may be admitted, plus a spread that
    /// differs for each rejection, so the callers do not all retry at the same moment.
    pub retry_after: Duration,
}

/// The error of a guarded call: a rejection by the breaker, or the unchanged error of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CircuitBreakerError<E> {
    /// The call was rejected and not executed.
    #[error(transparent)]
    Open(Rejection),
    /// The call was executed and failed.
    #[error("{0}")]
    Inner(#[source] E),
}

/// A field of a [`CircuitBreakerConfig`](super::CircuitBreakerConfig) that is out of bounds.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("breaker.{field} = {value}: must be {bound}{}", related_note(*related))]
#[non_exhaustive]
pub struct ConfigError {
    /// The field's name.
    pub field: &'static str,
    /// The field's value.
    pub value: ConfigValue,
    /// The bounds that the value violates, as figures.
    pub bound: String,
    /// The field whose value is one of the bounds.
    pub related: Option<&'static str>,
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
    /// Returns the rejection, if the call was rejected.
    #[inline]
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

/// Returns the end of an error text that names the field whose value is one of the bounds.
fn related_note(related: Option<&str>) -> String {
    related.map_or_else(String::new, |field| format!(" (breaker.{field})"))
}
