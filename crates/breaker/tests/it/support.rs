//! A breaker on a manual clock, and calls that take as long as they are told to.

use std::{sync::Arc, time::Duration};

use tally_breaker::{
    CircuitBreakerConfig, CircuitBreakerStats, CircuitState, LatencyCircuitBreaker, ManualClock, Permit,
    Rejection, TransitionReason, Verdict,
};

/// Well below the slow threshold of the default settings.
pub(crate) const FAST: Duration = Duration::from_millis(1);
/// Well above it, and below the probe timeout.
pub(crate) const SLOW: Duration = Duration::from_millis(60);

/// A breaker whose time stands still between steps.
#[derive(Debug, Clone)]
pub(crate) struct Rig {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) breaker: LatencyCircuitBreaker,
}

impl Rig {
    /// On one shard and without jitter, so that every figure is exact.
    pub(crate) fn new(change: impl FnOnce(&mut CircuitBreakerConfig)) -> Self {
        let mut config = CircuitBreakerConfig {
            open_jitter: 0.0,
            shards: 1,
            ..CircuitBreakerConfig::default()
        };
        change(&mut config);
        let clock = Arc::new(ManualClock::new(0));
        let built = LatencyCircuitBreaker::builder(config)
            .clock(clock.clone())
            .build();
        let breaker = built.unwrap_or_else(|error| panic!("{error}"));
        Self { clock, breaker }
    }

    pub(crate) fn with_defaults() -> Self {
        Self::new(|_| {})
    }

    pub(crate) fn advance(&self, step: Duration) {
        self.clock.advance(step);
    }

    pub(crate) fn advance_ms(&self, ms: u64) {
        self.clock.advance(Duration::from_millis(ms));
    }

    /// Moves time on with a tick every 10 ms, as a host does.
    pub(crate) fn tick_for_ms(&self, ms: u64) {
        for _ in 0..ms / 10 {
            self.advance_ms(10);
            self.breaker.tick();
        }
    }

    pub(crate) fn admit(&self) -> Permit {
        self.breaker
            .try_acquire()
            .unwrap_or_else(|rejection| panic!("{rejection}"))
    }

    pub(crate) fn reject(&self) -> Rejection {
        self.breaker
            .try_acquire()
            .err()
            .unwrap_or_else(|| panic!("the circuit let the call pass"))
    }

    /// One call after the other, each taking `latency`.
    pub(crate) fn calls(&self, count: usize, latency: Duration, verdict: Verdict) {
        for _ in 0..count {
            let permit = self.admit();
            self.advance(latency);
            permit.record(verdict);
        }
    }

    /// Calls until the first rejection, at most `count`; tells how many were let through.
    pub(crate) fn calls_until_open(&self, count: usize, latency: Duration, verdict: Verdict) -> usize {
        for done in 0..count {
            let Ok(permit) = self.breaker.try_acquire() else {
                return done;
            };
            self.advance(latency);
            permit.record(verdict);
        }
        count
    }

    pub(crate) fn stats(&self) -> CircuitBreakerStats {
        self.breaker.stats()
    }

    /// The state as written, not by the clock.
    pub(crate) fn state(&self) -> CircuitState {
        self.stats().state
    }

    pub(crate) fn reason_opened(&self) -> Option<TransitionReason> {
        self.stats().reason_opened
    }

    /// Opens it by 20 failures in a row.
    pub(crate) fn trip(&self) {
        self.calls(20, FAST, Verdict::failure());
        assert_eq!(self.state(), CircuitState::Open);
    }

    /// Opens it and waits until the deadline has passed.
    pub(crate) fn trip_and_wait(&self) {
        self.trip();
        self.advance(self.stats().next_probe_in);
        assert_eq!(self.stats().effective_state, CircuitState::HalfOpen);
    }
}
