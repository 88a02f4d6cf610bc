//! [`Rig`]: a breaker with a manual clock, for calls with chosen latencies.

use std::{sync::Arc, time::Duration};

use tally_breaker::{
    CircuitBreakerConfig, CircuitBreakerStats, CircuitState, LatencyCircuitBreaker, ManualClock, Permit,
    Rejection, TransitionReason, Verdict,
};

/// Well below the slow threshold of the default settings.
pub(crate) const FAST: Duration = Duration::from_millis(1);
/// Well above the slow threshold of the default settings, and below the probe timeout.
pub(crate) const SLOW: Duration = Duration::from_millis(60);

/// A breaker whose clock moves only when the test moves it.
#[derive(Debug, Clone)]
pub(crate) struct Rig {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) breaker: LatencyCircuitBreaker,
}

impl Rig {
    /// Makes a breaker with one exclusive shard and without jitter, so that every figure is exact.
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

    /// Advances the time by `ms`, and ticks the breaker every 10 ms as a host does.
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
            .unwrap_or_else(|| panic!("the circuit admitted the call"))
    }

    /// Makes `count` calls one after the other. Each call takes the time `latency`.
    pub(crate) fn calls(&self, count: usize, latency: Duration, verdict: Verdict) {
        for _ in 0..count {
            let permit = self.admit();
            self.advance(latency);
            permit.record(verdict);
        }
    }

    /// Makes at most `count` calls, until the first rejection. Returns the number of admitted calls.
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

    /// Returns the state that the last transition set, even if the state's deadline has passed.
    pub(crate) fn state(&self) -> CircuitState {
        self.stats().state
    }

    pub(crate) fn reason_opened(&self) -> Option<TransitionReason> {
        self.stats().reason_opened
    }

    /// Opens the circuit by 20 consecutive failures.
    pub(crate) fn trip(&self) {
        self.calls(20, FAST, Verdict::failure());
        assert_eq!(self.state(), CircuitState::Open);
    }

    /// Opens the circuit and waits until the open time has passed.
    pub(crate) fn trip_and_wait(&self) {
        self.trip();
        self.advance(self.stats().next_probe_in);
        assert_eq!(self.stats().effective_state, CircuitState::HalfOpen);
    }
}
