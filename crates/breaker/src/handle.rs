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

/// A latency circuit breaker. Clones share one circuit; a clone costs a reference count.
#[derive(Debug, Clone)]
pub struct LatencyCircuitBreaker {
    shared: Arc<Shared>,
}

/// What the handles share.
#[derive(Debug)]
struct Shared {
    core: Arc<Core>,
    /// One lane for each shard of threads, including the shared shard; see [`Lane`].
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
    /// Makes a closed circuit on the system's monotonic clock, with the key [`DEFAULT_KEY`].
    ///
    /// # Errors
    /// A setting is out of bounds.
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
    /// [`CircuitBreakerError::Open`] if the operation was not run, [`CircuitBreakerError::Inner`] with the operation's
    /// error.
    pub fn execute_with_latency_check<F, R, E>(&self, operation: F) -> Result<R, CircuitBreakerError<E>>
    where
        F: FnOnce() -> Result<R, E>,
    {
        self.execute_classified(&ResultClassifier, operation)
    }

    /// Runs `operation` like [`execute_with_latency_check`](Self::execute_with_latency_check), with the caller's
    /// classifier.
    ///
    /// # Errors
    /// [`CircuitBreakerError::Open`] if the operation was not run, [`CircuitBreakerError::Inner`] with the operation's
    /// error.
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
        // The same thread ends the call, because this frame is on its stack.
        let access = core.shard_access();
        let mut call = BorrowedPermit::new(core);
        core.admit(access, call.ticket_mut())
            .map_err(CircuitBreakerError::Open)?;
        let result = operation();
        call.end(access, &classify.classify(result.as_ref()));
        result.map_err(CircuitBreakerError::Inner)
    }

    /// Guards a future. The circuit decides now whether the future may run, and its latency counts from now. `Ok`
    /// counts as a success, `Err` as a failure. A rejected future is dropped unpolled.
    pub fn execute_async<F, R, E>(&self, future: F) -> ResponseFuture<F, ResultClassifier>
    where
        F: Future<Output = Result<R, E>>,
    {
        self.execute_async_classified(ResultClassifier, future)
    }

    /// Guards a future like [`execute_async`](Self::execute_async), with the caller's classifier.
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
    /// The circuit rejects the call.
    #[inline]
    pub fn try_acquire(&self) -> Result<Permit, Rejection> {
        let access = self.shared.core.shard_access();
        let mut permit = Permit::new(self.lane(access));
        self.shared.core.admit(access, permit.ticket_mut())?;
        Ok(permit)
    }

    /// Returns a permit for a probe of the host. None if the circuit is neither half-open nor due to become half-open,
    /// or has no permit left. With [`CircuitBreakerConfig::self_probe`] only these probes decide.
    pub fn try_acquire_probe(&self) -> Option<Permit> {
        let access = self.shared.core.shard_access();
        let ticket = self.shared.core.admit_probe(access)?;
        let mut permit = Permit::new(self.lane(access));
        *permit.ticket_mut() = Some(ticket);
        Some(permit)
    }

    /// Makes the transitions that depend on time alone: opens for calls that hang, half-opens, ends ramps. Also notices
    /// that the process did not run. The host calls this every `tick_interval`. A breaker without ticks works, but
    /// notices a hang only when a call ends badly or the next time slice begins, and only if the window holds few fast
    /// calls.
    pub fn tick(&self) {
        self.shared.core.tick(None);
    }

    /// Like [`tick`](Self::tick), for a host that knows whether the work behind the calls makes progress. While the
    /// work makes progress, few waiting calls are not a hang. When the work has made no progress for `stall_after`, one
    /// call is enough to open the circuit, even if its caller gave up at once.
    pub fn tick_watching(&self, work: Work) {
        self.shared.core.tick(Some(work));
    }

    /// Changes the mode and keeps the state.
    pub fn set_mode(&self, mode: BreakerMode) {
        self.shared.core.set_mode(mode);
    }

    /// Closes the circuit from any state and discards the evidence. The mode stays.
    pub fn reset(&self) {
        self.shared.core.force(None);
    }

    /// Opens the circuit from any state for `duration` (rounded up to milliseconds, at most a year). Afterwards the
    /// circuit recovers by itself.
    pub fn open_for(&self, duration: Duration) {
        self.shared.core.force(Some(duration));
    }

    /// Takes a coherent snapshot. It allocates and is meant to be called a few times a second.
    #[must_use]
    pub fn stats(&self) -> CircuitBreakerStats {
        self.shared.core.stats()
    }

    /// Returns the state that a call would meet now.
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

    /// Returns the key: what the breaker guards.
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
        // There is a lane for every shard. A new lane would work as well, only slower.
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

    /// Uses another clock than the system's monotonic one.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Reports transitions to `observer`.
    pub fn observer(mut self, observer: Arc<dyn TransitionObserver>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Builds the breaker: closed and in mode [`BreakerMode::Auto`].
    ///
    /// # Errors
    /// A setting is out of bounds.
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
