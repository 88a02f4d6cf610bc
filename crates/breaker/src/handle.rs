//! [`LatencyCircuitBreaker`]: the breaker for closures and futures, without tower.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use super::{
    classify::{Classify, ResultClassifier},
    clock::{Clock, SystemClock},
    config::CircuitBreakerConfig,
    error::{CircuitBreakerError, ConfigError, Rejection},
    future::ResponseFuture,
    gate::{BreakerMode, CircuitState},
    hang::Work,
    machine::Core,
    permit::{BorrowedPermit, Lane, Permit},
    stats::{CircuitBreakerStats, TransitionObserver},
    writer::ShardAccess,
};

/// A latency circuit breaker. All clones share one circuit. A clone is cheap: it increments a reference count.
#[derive(Debug, Clone)]
pub struct LatencyCircuitBreaker {
    shared: Arc<Shared>,
}

/// The state that all handles of one breaker share.
#[derive(Debug)]
struct Shared {
    core: Arc<Core>,
    /// A reference to the core for each shard, including the shared shard; see [`Lane`].
    lanes: Box<[Arc<Lane>]>,
}

/// Builds a [`LatencyCircuitBreaker`] with a key, a clock or an observer.
#[must_use]
pub struct LatencyCircuitBreakerBuilder {
    config: CircuitBreakerConfig,
    key: String,
    clock: Option<Arc<dyn Clock>>,
    observer: Option<Arc<dyn TransitionObserver>>,
}

/// The key of a breaker that was built without a key.
pub const DEFAULT_KEY: &str = "default";

// ===== impl LatencyCircuitBreaker =====

impl LatencyCircuitBreaker {
    /// Makes a closed circuit that uses the system's monotonic clock and the key [`DEFAULT_KEY`].
    ///
    /// # Errors
    /// If a setting is out of bounds.
    pub fn new(config: CircuitBreakerConfig) -> Result<Self, ConfigError> {
        Self::builder(config).build()
    }

    /// Returns a builder, for a breaker with a key, a clock or an observer.
    pub fn builder(config: CircuitBreakerConfig) -> LatencyCircuitBreakerBuilder {
        LatencyCircuitBreakerBuilder {
            config,
            key: DEFAULT_KEY.to_owned(),
            clock: None,
            observer: None,
        }
    }

    /// Runs `operation` if the circuit admits it, and compares its latency with the slow threshold. `Ok` counts as a
    /// success, `Err` as a failure.
    ///
    /// # Errors
    /// [`CircuitBreakerError::Open`] if the circuit rejected the operation, [`CircuitBreakerError::Inner`] if the
    /// operation returned an error.
    pub fn execute_with_latency_check<F, R, E>(&self, operation: F) -> Result<R, CircuitBreakerError<E>>
    where
        F: FnOnce() -> Result<R, E>,
    {
        self.execute_classified(&ResultClassifier, operation)
    }

    /// Runs `operation` like [`execute_with_latency_check`](Self::execute_with_latency_check), but uses the classifier
    /// `classify`.
    ///
    /// # Errors
    /// [`CircuitBreakerError::Open`] if the circuit rejected the operation, [`CircuitBreakerError::Inner`] if the
    /// operation returned an error.
    pub fn execute_classified<C, F, R, E>(
        &self,
        classify: &C,
        operation: F,
    ) -> Result<R, CircuitBreakerError<E>>
    where
        C: Classify<R, E>,
        F: FnOnce() -> Result<R, E>,
    {
        let core = &*self.shared.core;
        // The thread that begins the call also ends the call, so the shard stays the same.
        let access = core.shard_access();
        let mut call = BorrowedPermit::new(core);
        core.admit(access, call.ticket_mut())
            .map_err(CircuitBreakerError::Open)?;
        let result = operation();
        call.end(access, &classify.classify(result.as_ref()));
        result.map_err(CircuitBreakerError::Inner)
    }

    /// Guards a future. This method decides whether the future may run; the latency of the future counts from this
    /// moment. `Ok` counts as a success, `Err` as a failure. If the circuit rejects the future, the future is dropped
    /// without being polled.
    pub fn execute_async<F, R, E>(&self, future: F) -> ResponseFuture<F, ResultClassifier>
    where
        F: Future<Output = Result<R, E>>,
    {
        self.execute_async_classified(ResultClassifier, future)
    }

    /// Guards a future like [`execute_async`](Self::execute_async), but uses the classifier `classify`.
    pub fn execute_async_classified<C, F, R, E>(&self, classify: C, future: F) -> ResponseFuture<F, C>
    where
        C: Classify<R, E>,
        F: Future<Output = Result<R, E>>,
    {
        match self.try_acquire() {
            Ok(permit) => ResponseFuture::admitted(future, permit, classify),
            Err(rejection) => ResponseFuture::rejected(rejection),
        }
    }

    /// Admits one call, or rejects it.
    ///
    /// # Errors
    /// If the circuit rejects the call.
    #[inline]
    pub fn try_acquire(&self) -> Result<Permit, Rejection> {
        let access = self.shared.core.shard_access();
        let mut permit = Permit::new(self.lane(access));
        self.shared.core.admit(access, permit.ticket_mut())?;
        Ok(permit)
    }

    /// Returns a permit for a probe (a trial call) of the host. Returns None if no permit is left or the circuit
    /// admits no probes. The circuit admits probes if it is half-open, or if it is open and its open time is over. With
    /// [`CircuitBreakerConfig::self_probe`], only these probes are admitted while the circuit is half-open.
    pub fn try_acquire_probe(&self) -> Option<Permit> {
        let access = self.shared.core.shard_access();
        let ticket = self.shared.core.admit_probe(access)?;
        let mut permit = Permit::new(self.lane(access));
        *permit.ticket_mut() = Some(ticket);
        Some(permit)
    }

    /// Makes the transitions that need no call: opens the circuit if calls in flight hang, ends the open time and ends
    /// the ramp. Also detects that the process did not run. The host calls this method every `tick_interval`. Without
    /// ticks, the breaker still works, but it detects a hang only when a call fails or is slow or when the next
    /// time slice begins, and only if the window holds few fast calls.
    pub fn tick(&self) {
        self.shared.core.tick(None);
    }

    /// Does the same as [`tick`](Self::tick), for a host that knows whether the work behind the calls makes progress.
    /// While the work makes progress, waiting calls do not count as a standstill. When the work has made no progress
    /// for `stall_after`, a single call opens the circuit, even if the caller of this call gives up at once.
    pub fn tick_watching(&self, work: Work) {
        self.shared.core.tick(Some(work));
    }

    /// Changes the mode. The state stays the same. Returns the mode before the change.
    pub fn set_mode(&self, mode: BreakerMode) -> BreakerMode {
        self.shared.core.set_mode(mode)
    }

    /// Closes the circuit, whatever its state is, and discards the counts of the window. The mode stays the same.
    pub fn reset(&self) {
        self.shared.core.force(None);
    }

    /// Opens the circuit for `duration` (rounded up to milliseconds, at most one year), whatever its state is.
    /// Afterwards the circuit becomes half-open as usual.
    pub fn open_for(&self, duration: Duration) {
        self.shared.core.force(Some(duration));
    }

    /// Takes a coherent snapshot. A snapshot allocates memory, so do not take more than a few snapshots per second.
    #[must_use]
    pub fn stats(&self) -> CircuitBreakerStats {
        self.shared.core.stats()
    }

    /// Returns the state that a call would find now, even if no call and no tick has made the transition yet.
    #[must_use]
    pub fn state(&self) -> CircuitState {
        self.shared
            .core
            .effective_state(self.shared.core.gate.load(), self.shared.core.clock.now_ns())
    }

    /// Returns the mode.
    #[must_use]
    pub fn mode(&self) -> BreakerMode {
        self.shared.core.gate.load().mode()
    }

    /// Returns the key, which names what the breaker guards.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.shared.core.key
    }

    /// Returns the settings.
    #[must_use]
    pub fn config(&self) -> &CircuitBreakerConfig {
        &self.shared.core.config
    }

    pub(super) fn core(&self) -> &Core {
        &self.shared.core
    }

    /// The lane of the calling thread's shard.
    #[inline]
    fn lane(&self, access: ShardAccess) -> Arc<Lane> {
        let Shared { core, lanes } = &*self.shared;
        // Every shard has a lane, so the fallback is never used. A new lane would also be correct.
        lanes
            .get(access.shard)
            .map_or_else(|| Lane::new(core), Arc::clone)
    }
}

// ===== impl LatencyCircuitBreakerBuilder =====

impl LatencyCircuitBreakerBuilder {
    /// Sets the key that names what the breaker guards, for events and snapshots.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = key.into();
        self
    }

    /// Uses `clock` instead of the system's monotonic clock.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Reports transitions to `observer`.
    pub fn observer(mut self, observer: Arc<dyn TransitionObserver>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Builds the breaker. Its circuit is closed, and its mode is [`BreakerMode::Auto`].
    ///
    /// # Errors
    /// If a setting is out of bounds.
    pub fn build(self) -> Result<LatencyCircuitBreaker, ConfigError> {
        self.config.validate()?;
        let clock = self.clock.unwrap_or_else(|| Arc::new(SystemClock::new()));
        let core = Core::new(self.key.into_boxed_str(), self.config, clock, self.observer);
        let core = Arc::new(core);
        let lanes = core.counters.iter().map(|_| Lane::new(&core)).collect();
        Ok(LatencyCircuitBreaker {
            shared: Arc::new(Shared { core, lanes }),
        })
    }
}

impl fmt::Debug for LatencyCircuitBreakerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LatencyCircuitBreakerBuilder")
            .field("key", &self.key)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
