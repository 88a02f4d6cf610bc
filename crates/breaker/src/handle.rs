//! [`LatencyCircuitBreaker`]: the breaker as a library, without tower.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use super::{
    classify::{Classify, ResultClassifier, Verdict},
    clock::{Clock, SystemClock},
    config::CircuitBreakerConfig,
    error::{CircuitBreakerError, ConfigError, Rejection},
    future::ResponseFuture,
    gate::{BreakerMode, CircuitState},
    hang::Work,
    machine::{Core, Ticket},
    stats::{CircuitBreakerStats, TransitionObserver},
    sync::CachePadded,
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
    /// One for each shard of threads, the shared one included. A permit holds its thread's lane rather than the core
    /// itself, so that threads do not fight over one reference count, twice a call.
    lanes: Box<[Arc<Lane>]>,
}

/// A way to the core with a reference count of its own, on a cache line of its own.
#[derive(Debug)]
struct Lane {
    core: CachePadded<Arc<Core>>,
}

/// Makes a [`LatencyCircuitBreaker`] with more than its settings.
#[must_use]
pub struct LatencyCircuitBreakerBuilder {
    config: CircuitBreakerConfig,
    key: String,
    clock: Option<Arc<dyn Clock>>,
    observer: Option<Arc<dyn TransitionObserver>>,
}

/// An admitted call. Give it the verdict when the call has ended; dropping it instead means that the call was given up:
/// a probe's permit goes back, and nothing counts for or against, unless the call was overdue by then. Dropped by a
/// panic, it is a failure.
#[derive(Debug)]
#[must_use = "dropping a permit means that the call was given up"]
pub struct Permit {
    lane: Arc<Lane>,
    /// None for a call that passes unrecorded.
    ticket: Option<Ticket>,
    /// The verdict is in.
    ended: bool,
}

/// An admitted call that does not outlive its caller's hold on the breaker, so that no reference need be counted.
#[derive(Debug)]
struct Borrowed<'a> {
    core: &'a Core,
    /// None for a call that passes unrecorded.
    ticket: Option<Ticket>,
    /// The verdict is in.
    ended: bool,
}

/// The key of a breaker that was given none.
pub const DEFAULT_KEY: &str = "default";

// ===== impl LatencyCircuitBreaker =====

impl LatencyCircuitBreaker {
    /// A closed circuit on the system's monotonic clock, with the key [`DEFAULT_KEY`].
    ///
    /// # Errors
    /// A setting is out of bounds.
    pub fn new(config: CircuitBreakerConfig) -> Result<Self, ConfigError> {
        Self::builder(config).build()
    }

    /// For a breaker with a key, a clock or an observer of its own.
    pub fn builder(config: CircuitBreakerConfig) -> LatencyCircuitBreakerBuilder {
        LatencyCircuitBreakerBuilder {
            config,
            key: DEFAULT_KEY.to_owned(),
            clock: None,
            observer: None,
        }
    }

    /// Runs `operation` if the circuit lets it pass, and holds its latency against the slow threshold. `Ok` counts as a
    /// success, `Err` as a failure.
    ///
    /// # Errors
    /// [`CircuitBreakerError::Open`] if it was not run, [`CircuitBreakerError::Inner`] with its own error.
    pub fn execute_with_latency_check<F, R, E>(&self, operation: F) -> Result<R, CircuitBreakerError<E>>
    where
        F: FnOnce() -> Result<R, E>,
    {
        self.execute_classified(&ResultClassifier, operation)
    }

    /// The same, with a classifier of the caller's.
    ///
    /// # Errors
    /// [`CircuitBreakerError::Open`] if it was not run, [`CircuitBreakerError::Inner`] with its own error.
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
        // The thread's at the end, too: this frame is on its stack.
        let seat = core.seat();
        let mut call = Borrowed {
            core,
            ticket: None,
            ended: false,
        };
        core.admit(seat, &mut call.ticket)
            .map_err(CircuitBreakerError::Open)?;
        let result = operation();
        let verdict = classify.classify(result.as_ref());
        call.ended = true;
        if let Some(ticket) = &call.ticket {
            core.finish(seat, ticket, Some(&verdict));
        }
        result.map_err(CircuitBreakerError::Inner)
    }

    /// Guards a future: whether it may run is decided now, its latency counts from now. `Ok` counts as a success, `Err` as
    /// a failure. A rejected future is dropped unpolled.
    pub fn execute_async<F, R, E>(&self, future: F) -> ResponseFuture<F, ResultClassifier>
    where
        F: Future<Output = Result<R, E>>,
    {
        self.execute_async_classified(ResultClassifier, future)
    }

    /// The same, with a classifier of the caller's.
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

    /// Asks to let one call pass.
    ///
    /// # Errors
    /// The circuit does not let it pass.
    #[inline]
    pub fn try_acquire(&self) -> Result<Permit, Rejection> {
        let Shared { core, lanes } = &*self.shared;
        let seat = core.seat();
        // A thread's shard is always below their number; a lane made on the spot would do as well.
        let lane = lanes.get(seat.shard).map_or_else(|| Lane::new(core), Arc::clone);
        let mut permit = Permit {
            lane,
            ticket: None,
            ended: false,
        };
        core.admit(seat, &mut permit.ticket)?;
        Ok(permit)
    }

    /// Asks for a permit of the half-open state for a probe of the host's own; None if the circuit is not half-open (nor
    /// due to be) or has no permit left. With [`CircuitBreakerConfig::self_probe`] only these probes decide.
    pub fn try_acquire_probe(&self) -> Option<Permit> {
        let Shared { core, lanes } = &*self.shared;
        let seat = core.seat();
        let ticket = core.admit_probe(seat)?;
        let lane = lanes.get(seat.shard).map_or_else(|| Lane::new(core), Arc::clone);
        Some(Permit {
            lane,
            ticket: Some(ticket),
            ended: false,
        })
    }

    /// Does what is due though no call comes or goes: opens for calls that hang, half-opens, ends ramps, notices that the
    /// process was held up. The host calls it every `tick_interval`; a breaker without ticks works, but sees a hang only
    /// when some call ends badly or the next slice begins, and only if the window holds few fast calls.
    pub fn tick(&self) {
        self.shared.core.tick(None);
    }

    /// The same, for a host that knows whether the work behind the calls moves. While it does, a call that waits is not
    /// taken for one that hangs unless many do. When it has not for `stall_after`, one call is enough, be it that it was given
    /// up at once.
    pub fn tick_watching(&self, work: Work) {
        self.shared.core.tick(Some(work));
    }

    /// Changes the mode and keeps the state.
    pub fn set_mode(&self, mode: BreakerMode) {
        self.shared.core.set_mode(mode);
    }

    /// Closes the circuit with a clean slate, whatever its state; the mode stays.
    pub fn reset(&self) {
        self.shared.core.command(None);
    }

    /// Opens the circuit for `duration` (rounded up to milliseconds, at most a year), whatever
    /// its state; then it recovers by itself.
    pub fn open_for(&self, duration: Duration) {
        self.shared.core.command(Some(duration));
    }

    /// A coherent snapshot. Allocates; meant for people and scrapers, a few times a second.
    #[must_use]
    pub fn stats(&self) -> CircuitBreakerStats {
        self.shared.core.stats()
    }

    /// The state that a call would meet now.
    #[must_use]
    pub fn state(&self) -> CircuitState {
        self.shared
            .core
            .effective_state(self.shared.core.gate.load(), self.shared.core.clock.now_ns())
    }

    /// Who decides.
    #[must_use]
    pub fn mode(&self) -> BreakerMode {
        self.shared.core.gate.load().mode()
    }

    /// What it guards.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.shared.core.key
    }

    /// The settings in force.
    #[must_use]
    pub fn config(&self) -> &CircuitBreakerConfig {
        &self.shared.core.config
    }

    pub(super) fn core(&self) -> &Core {
        &self.shared.core
    }

    /// Whether nobody else holds this circuit, nor a permit of it.
    pub(super) fn is_unshared(&self) -> bool {
        let lanes = &self.shared.lanes;
        Arc::strong_count(&self.shared) == 1 && lanes.iter().all(|lane| Arc::strong_count(lane) == 1)
    }
}

// ===== impl LatencyCircuitBreakerBuilder =====

impl LatencyCircuitBreakerBuilder {
    /// Names what the breaker guards; for events and snapshots.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = key.into();
        self
    }

    /// Uses another clock than the system's monotonic one.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Tells `observer` of transitions.
    pub fn observer(mut self, observer: Arc<dyn TransitionObserver>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Makes the breaker, closed and in mode [`BreakerMode::Auto`].
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

// ===== impl Lane =====

impl Lane {
    fn new(core: &Arc<Core>) -> Arc<Self> {
        Arc::new(Self {
            core: CachePadded::new(Arc::clone(core)),
        })
    }
}

// ===== impl Permit =====

impl Permit {
    /// Ends the call with a verdict.
    #[inline]
    pub fn record(mut self, verdict: Verdict) {
        self.end(&verdict);
    }

    /// The same, where it is; only the first verdict counts.
    #[inline]
    pub(super) fn end(&mut self, verdict: &Verdict) {
        let ended = std::mem::replace(&mut self.ended, true);
        if let Some(ticket) = self.ticket.as_ref().filter(|_| !ended) {
            let core = &self.lane.core;
            core.finish(core.seat(), ticket, Some(verdict));
        }
    }

    /// When the call was admitted, by the breaker's clock, in nanoseconds; None if it passes unrecorded.
    #[must_use]
    pub fn admitted_ns(&self) -> Option<u64> {
        self.ticket.map(|ticket| ticket.admitted_ns)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.ended {
            give_up(&self.lane.core, self.ticket.as_ref());
        }
    }
}

// ===== impl Borrowed =====

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        if !self.ended {
            give_up(self.core, self.ticket.as_ref());
        }
    }
}

/// Ends a call that got no verdict.
#[cold]
fn give_up(core: &Core, ticket: Option<&Ticket>) {
    if let Some(ticket) = ticket {
        let verdict = std::thread::panicking().then(Verdict::failure);
        core.finish(core.seat(), ticket, verdict.as_ref());
    }
}
