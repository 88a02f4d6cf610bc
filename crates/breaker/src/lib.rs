//! A circuit breaker that trips on latency. The breaker measures how long calls take, including calls that have not
//! ended yet. When too many calls are slow, fail or hang, the breaker rejects calls.
//!
//! Guard a tower service with [`CircuitBreakerLayer`], a future with [`LatencyCircuitBreaker::execute_async`], a
//! closure with [`LatencyCircuitBreaker::execute_with_latency_check`], and anything else with
//! [`LatencyCircuitBreaker::try_acquire`]. The states:
//!
//! ```text
//!            slow or failing rate · hang · failures in a row · p99
//!   ┌────────┐ ───────────────────────────────────────────────▶ ┌──────┐
//!   │ CLOSED │                                                  │ OPEN │◀──┐
//!   └────────┘ ◀──┐                              ┌───────────── └──────┘   │ too many bad probes,
//!        ▲        │ reset()                      │ deadline        ▲       │ a probe hangs,
//!        │        └── from any state             ▼                 │       │ or no decision in time:
//!        │                                  ┌───────────┐          │       │ open longer, up to a cap
//!        │ the ramp is over                 │ HALF_OPEN │──────────┼───────┘
//!        │                                  └───────────┘          │
//!   ┌────────┐       enough good probes           │                │
//!   │  RAMP  │ ◀──────────────────────────────────┘                │
//!   └────────┘ ────────────────────────────────────────────────────┘
//!                 the same rules as in CLOSED
//! ```
//!
//! The mode is independent of the state. [`BreakerMode::Auto`] follows the state machine. [`BreakerMode::MetricsOnly`]
//! runs the state machine and rejects nothing. [`BreakerMode::ForcedOpen`] rejects every call.
//! [`BreakerMode::Disabled`] records nothing.
//!
//! * One atomic word holds the mode, the state, the generation and the deadline of the state. Only this word decides
//!   whether a call is admitted (`gate`). A generation is the time between two transitions. A result counts only in the
//!   generation that admitted its call.
//! * The counters exist once per *shard* (a set of counters for one or several threads). Each shard has a sliding
//!   window of time slices. Recording takes constant time, uses no lock and loses no count (`window`, `histogram`). All
//!   shards but the last have a single writing thread, so recording needs no locked CPU instruction. All other threads
//!   share the last shard (`writer`, `slots`, `threads`).
//! * Calls in flight are counted by the time of their admission (`inflight`), and are judged separately from completed
//!   calls (`hang`). Therefore calls that hang open the circuit before they end, even after many fast calls.
//! * A call is slow if its latency is `>=` the threshold. The circuit opens if a rate is `>=` its threshold (`policy`).
//!
//! The crate starts no thread and no timer: the *host*, which is the program that uses the breaker, calls
//! [`LatencyCircuitBreaker::tick`] every [`CircuitBreakerConfig::tick_interval`]. The crate depends on no protocol: a
//! [`Classify`] decides what a result means.
//!
//! ```
//! use tally_breaker::{CircuitBreakerConfig, CircuitBreakerError, LatencyCircuitBreaker};
//!
//! let breaker = LatencyCircuitBreaker::new(CircuitBreakerConfig::default())?;
//! let answer = breaker.execute_with_latency_check(|| Ok::<_, std::io::Error>(42));
//! match answer {
//!     Ok(value) => assert_eq!(value, 42),
//!     Err(CircuitBreakerError::Open(rejection)) => println!("retry after {:?}", rejection.retry_after),
//!     Err(CircuitBreakerError::Inner(error)) => return Err(error.into()),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod classify;
mod clock;
mod config;
mod error;
mod future;
mod gate;
mod handle;
mod hang;
mod histogram;
mod inflight;
mod layer;
mod machine;
#[cfg(not(feature = "mutations"))]
mod mutation;
#[cfg(feature = "mutations")]
pub mod mutation;
mod permit;
mod policy;
mod service;
mod signals;
mod slots;
mod snapshot;
mod stats;
mod sync;
#[cfg(test)]
mod tests;
mod threads;
mod throttle;
mod transition_log;
mod window;
mod writer;

pub use self::{
    classify::{Classify, ClassifyFn, Outcome, ResultClassifier, Verdict, classify_fn},
    clock::{Clock, ManualClock, SystemClock},
    config::CircuitBreakerConfig,
    error::{CircuitBreakerError, ConfigError, ConfigValue, Rejection},
    future::ResponseFuture,
    gate::{BreakerMode, CircuitState},
    handle::{DEFAULT_KEY, LatencyCircuitBreaker, LatencyCircuitBreakerBuilder},
    hang::Work,
    layer::CircuitBreakerLayer,
    permit::Permit,
    service::CircuitBreaker,
    stats::{
        CircuitBreakerStats, HalfOpenStats, LatencySummary, LifetimeStats, Transition, TransitionObserver,
        TransitionReason, WindowStats,
    },
    transition_log::HISTORY_MAX,
};
