//! A latency circuit breaker: it watches how long calls take, those that have not ended yet included, and stops letting
//! them pass when too many are slow or fail.
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
//! The mode is orthogonal to the state: [`BreakerMode::Auto`] obeys the machine, [`BreakerMode::MetricsOnly`] runs it and
//! rejects nothing, [`BreakerMode::ForcedOpen`] rejects everything, [`BreakerMode::Disabled`] records nothing.
//!
//! * One atomic word holds mode, state, generation and deadline, and is the only authority (`gate`). A result counts only
//!   in the generation that admitted its call.
//! * The window is a ring of time slices for each shard of threads; recording is O(1), lock-free and loses nothing
//!   (`window`, `histogram`). A shard has one thread that writes, so that a call needs no locked instruction; the last one
//!   is shared by the threads that found no shard of their own (`writer`, `slots`, `threads`).
//! * Calls under way are counted by the moment of their admission (`inflight`), and judged by themselves (`hang`): calls
//!   that hang open the circuit though none has ended, and however many fast ones ended before.
//! * A call is slow if its latency is `>=` the threshold; the circuit opens if a rate is `>=` its own (`policy`).
//!
//! Nothing in here spawns a thread or a timer: the host calls [`LatencyCircuitBreaker::tick`] at regular intervals. The
//! module knows no protocol and imports nothing from the rest of the crate.
//!
//! ```
//! use tally_breaker::{CircuitBreakerConfig, CircuitBreakerError, LatencyCircuitBreaker};
//!
//! let breaker = LatencyCircuitBreaker::new(CircuitBreakerConfig::default())?;
//! let answer = breaker.execute_with_latency_check(|| Ok::<_, std::io::Error>(42));
//! match answer {
//!     Ok(value) => assert_eq!(value, 42),
//!     Err(CircuitBreakerError::Open(rejection)) => println!("come back in {:?}", rejection.retry_after),
//!     Err(CircuitBreakerError::Inner(error)) => return Err(error.into()),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod chronicle;
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
mod window;
mod writer;

pub use self::{
    chronicle::HISTORY_MAX,
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
};
