//! The circuits of the kinds of calls: their settings, where their slow thresholds come from, and who hears of changes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{CallKind, StartError};
use crate::{
    breaker::{
        BreakerMode, CircuitBreakerConfig, CircuitBreakerStats, Clock, ConfigError, LatencyCircuitBreaker,
        SystemClock, Transition, TransitionObserver, Work,
    },
    store::journal::{CommitTimes, CommitTrial},
};

/// How the circuits are set up, beyond [`EngineConfig::breaker`](super::EngineConfig::breaker).
#[derive(Debug, Clone, Default)]
pub struct CircuitOptions {
    /// Where the base's slow threshold comes from.
    pub threshold: ThresholdSource,
    /// Kinds of calls with settings of their own, in the order of [`CallKind::ALL`].
    pub methods: [Option<MethodCircuit>; CallKind::ALL.len()],
    /// The mode of all circuits at the start.
    pub mode: InitialMode,
    /// Whether a slow threshold that healthy commits reach is an error rather than a warning.
    pub strict: bool,
    /// The circuits' clock, if it is not the system's.
    pub clock: Option<Arc<dyn Clock>>,
}

/// The mode of circuits at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitialMode(pub BreakerMode);

/// The settings of one kind of call.
#[derive(Debug, Clone)]
pub struct MethodCircuit {
    /// All of them; with [`ThresholdSource::Auto`] the slow threshold is set at the start.
    pub settings: CircuitBreakerConfig,
    /// Where the slow threshold comes from.
    pub threshold: ThresholdSource,
}

/// Where a slow threshold comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ThresholdSource {
    /// The default.
    #[default]
    Default,
    /// A preset.
    Preset,
    /// The configuration.
    Configured,
    /// Measured at the start: [`AUTO_FACTOR`] times the 99th percentile of a commit.
    Auto,
}

/// A coherent snapshot of one circuit, and where its slow threshold comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct CircuitReport {
    /// The snapshot.
    pub stats: CircuitBreakerStats,
    /// Where `stats.config.slow_threshold` comes from.
    pub threshold: ThresholdSource,
}

/// A kind of change, as it is counted, in the notation of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TransitionKind {
    /// The circuit.
    pub key: &'static str,
    /// The state before.
    pub from: &'static str,
    /// The state after.
    pub to: &'static str,
    /// Why.
    pub reason: &'static str,
}

/// The circuits of an engine.
#[derive(Debug)]
pub(super) struct Circuits {
    /// One circuit for each kind of call, in the order of [`CallKind::ALL`].
    pub(super) breakers: [LatencyCircuitBreaker; CallKind::ALL.len()],
    pub(super) sources: [ThresholdSource; CallKind::ALL.len()],
    pub(super) events: Arc<CircuitEvents>,
}

/// Hears of every change of every circuit: counts it, and wakes those who watch.
#[derive(Debug)]
pub(super) struct CircuitEvents {
    /// Grows with every change. Watchers that were not quick enough see the latest only, with the history in it.
    version: watch::Sender<u64>,
    /// At most one entry for each circuit, pair of states and reason.
    transitions: Mutex<BTreeMap<TransitionKind, u64>>,
}

/// A measured slow threshold is so many times the 99th percentile of a commit, ...
pub const AUTO_FACTOR: u32 = 8;
/// ... but no less than this ...
pub const AUTO_MIN: Duration = Duration::from_millis(5);
/// ... and no more than this.
pub const AUTO_MAX: Duration = Duration::from_secs(1);
/// Commits that are timed to set a threshold: enough for a 99th percentile.
const AUTO_TRIAL: CommitTrial = CommitTrial {
    commits_max: 200,
    time_max: Duration::from_secs(2),
};
/// Commits that are timed to check a threshold that was given: enough for a median.
const CHECK_TRIAL: CommitTrial = CommitTrial {
    commits_max: 15,
    time_max: Duration::from_millis(250),
};

/// A request for thousands of transactions is slow when it takes so many times the threshold of a single one.
const BULK_FACTOR: u32 = 20;
/// The highest threshold that a circuit takes.
const SLOW_THRESHOLD_MAX: Duration = Duration::from_secs(60);

// ===== impl CircuitOptions =====

impl CircuitOptions {
    /// How many commits have to be timed before the circuits can be made.
    pub(super) fn trial(&self) -> CommitTrial {
        if self.needs_times() {
            AUTO_TRIAL
        } else {
            CHECK_TRIAL
        }
    }

    /// Whether some threshold depends on how long commits take.
    pub(super) fn needs_times(&self) -> bool {
        let auto = |source| source == ThresholdSource::Auto;
        auto(self.threshold) || self.methods.iter().flatten().any(|method| auto(method.threshold))
    }
}

impl Default for InitialMode {
    fn default() -> Self {
        InitialMode(BreakerMode::Auto)
    }
}

// ===== impl ThresholdSource =====

impl ThresholdSource {
    /// The name on the wire: `default`, `preset`, `configured`, `auto`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            ThresholdSource::Default => "default",
            ThresholdSource::Preset => "preset",
            ThresholdSource::Configured => "configured",
            ThresholdSource::Auto => "auto",
        }
    }
}

/// The slow threshold of a disk whose commits take `p99` at the 99th percentile.
#[must_use]
pub fn auto_threshold(p99: Duration) -> Duration {
    p99.saturating_mul(AUTO_FACTOR).clamp(AUTO_MIN, AUTO_MAX)
}

// ===== impl CallKind =====

impl CallKind {
    /// The settings of this kind of call if it has none of its own: the base's, with a longer slow threshold for bulk.
    #[must_use]
    pub fn settings(self, base: &CircuitBreakerConfig) -> CircuitBreakerConfig {
        let mut config = base.clone();
        if self != CallKind::Unary {
            config.probe_timeout = None;
            config.stall_after = None;
            self.set_threshold(&mut config, base.slow_threshold);
        }
        config
    }

    /// Sets the slow threshold that follows from the one of a lone transaction.
    fn set_threshold(self, config: &mut CircuitBreakerConfig, unary: Duration) {
        let factor = if self == CallKind::Unary { 1 } else { BULK_FACTOR };
        config.slow_threshold = unary.saturating_mul(factor).min(SLOW_THRESHOLD_MAX);
        config.half_open_max_wait = config.half_open_max_wait.max(config.effective_probe_timeout());
    }
}

// ===== impl Circuits =====

impl Circuits {
    /// Makes the circuits. `times` is how long commits take here, if it could be measured.
    pub(super) fn new(
        base: &CircuitBreakerConfig,
        options: &CircuitOptions,
        times: Option<&CommitTimes>,
    ) -> Result<Self, StartError> {
        let events = Arc::new(CircuitEvents::new());
        let clock = options
            .clock
            .clone()
            .unwrap_or_else(|| Arc::new(SystemClock::new()));
        let observer: Arc<dyn TransitionObserver> = Arc::clone(&events) as _;
        let build = |kind: CallKind| -> Result<_, StartError> {
            let own = kind.of(&options.methods).as_ref();
            let source = own.map_or(options.threshold, |method| method.threshold);
            let mut config = own.map_or_else(|| kind.settings(base), |method| method.settings.clone());
            if let (ThresholdSource::Auto, Some(times)) = (source, times) {
                kind.set_threshold(&mut config, auto_threshold(times.quantile(0.99)));
            }
            if let Some(times) = times {
                check_floor(kind, &config, times, options.strict)?;
            }
            let breaker = LatencyCircuitBreaker::builder(config)
                .key(kind.key())
                .clock(Arc::clone(&clock))
                .observer(Arc::clone(&observer))
                .build()?;
            breaker.set_mode(options.mode.0);
            Ok((breaker, source))
        };
        let [unary, bulk, stream, accounts] = CallKind::ALL.map(build);
        let circuits = [unary?, bulk?, stream?, accounts?];
        let sources = circuits.each_ref().map(|(_, source)| *source);
        let breakers = circuits.map(|(breaker, _)| breaker);
        Ok(Circuits {
            breakers,
            sources,
            events,
        })
    }

    pub(super) fn get(&self, kind: CallKind) -> &LatencyCircuitBreaker {
        kind.of(&self.breakers)
    }

    /// The circuit called `key`, as an operator names it.
    pub(super) fn find(&self, key: &str) -> Option<&LatencyCircuitBreaker> {
        self.breakers.iter().find(|breaker| breaker.key() == key)
    }

    pub(super) fn reports(&self) -> Vec<CircuitReport> {
        let report = |(breaker, threshold): (&LatencyCircuitBreaker, &ThresholdSource)| CircuitReport {
            stats: breaker.stats(),
            threshold: *threshold,
        };
        self.breakers.iter().zip(&self.sources).map(report).collect()
    }

    /// `journal` is what the calls of every circuit wait for.
    pub(super) fn tick(&self, journal: Work) {
        for breaker in &self.breakers {
            breaker.tick_watching(journal);
        }
    }
}

/// A threshold that healthy commits reach would open the circuit for nothing.
fn check_floor(
    kind: CallKind,
    config: &CircuitBreakerConfig,
    times: &CommitTimes,
    strict: bool,
) -> Result<(), ConfigError> {
    let floor = times.quantile(0.5);
    match config.check_latency_floor(floor) {
        Err(error) if strict => Err(error),
        Err(error) => {
            let key = kind.key();
            tracing::warn!(key, %error, median_commit = ?floor, "healthy commits are slow by this threshold");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

// ===== impl CircuitEvents =====

impl CircuitEvents {
    fn new() -> Self {
        CircuitEvents {
            version: watch::Sender::new(0),
            transitions: Mutex::default(),
        }
    }

    /// Tells of every change from now on.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// How often each kind of change has happened.
    pub(super) fn transitions(&self) -> Vec<(TransitionKind, u64)> {
        let transitions = self.transitions.lock();
        transitions.iter().map(|(kind, count)| (*kind, *count)).collect()
    }

    fn changed(&self) {
        self.version
            .send_modify(|version| *version = version.wrapping_add(1));
    }
}

impl TransitionObserver for CircuitEvents {
    fn on_transition(&self, key: &str, transition: &Transition) {
        if let Some(kind) = CallKind::ALL.into_iter().find(|kind| kind.key() == key) {
            let change = TransitionKind {
                key: kind.key(),
                from: transition.from.as_str(),
                to: transition.to.as_str(),
                reason: transition.reason.as_str(),
            };
            *self.transitions.lock().entry(change).or_default() += 1;
        }
        self.changed();
    }

    fn on_mode_change(&self, _: &str, _: BreakerMode, _: BreakerMode) {
        self.changed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measured_threshold_is_eight_times_the_p99_within_bounds() {
        for (p99, expected) in [
            (Duration::from_micros(100), AUTO_MIN),
            (Duration::from_millis(2), Duration::from_millis(16)),
            (Duration::from_millis(500), AUTO_MAX),
        ] {
            assert_eq!(auto_threshold(p99), expected);
        }
    }

    #[test]
    fn bulk_kinds_take_longer_and_stay_valid() {
        let base = CircuitBreakerConfig::default();
        assert_eq!(CallKind::Unary.settings(&base), base);
        let bulk = CallKind::Bulk.settings(&base);
        assert_eq!(bulk.slow_threshold, Duration::from_secs(1));
        let slowest = CircuitBreakerConfig {
            slow_threshold: SLOW_THRESHOLD_MAX,
            half_open_max_wait: Duration::from_secs(120),
            ..base
        };
        CallKind::Bulk.settings(&slowest).validate().unwrap();
    }
}
