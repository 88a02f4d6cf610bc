//! The circuits of the engine, one for each kind of call. This file makes their settings, chooses their slow
//! thresholds, and counts their state changes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tally_breaker::{
    BreakerMode, CircuitBreakerConfig, CircuitBreakerStats, Clock, ConfigError, LatencyCircuitBreaker,
    SystemClock, Transition, TransitionObserver, Work,
};
use tally_journal::{CommitTimes, CommitTrial};
use tokio::sync::watch;

use super::call_kind::CallKind;
use crate::telemetry::millis;

/// The settings of the circuits in addition to the base. The *base* is
/// [`EngineConfig::breaker`](crate::engine::EngineConfig::breaker), the settings that hold for every kind of call
/// unless this type sets others.
#[derive(Debug, Clone, Default)]
pub struct CircuitOptions {
    /// The source of the slow threshold of the base.
    pub threshold: ThresholdSource,
    /// The settings of each kind of call, in the order of [`CallKind::ALL`]; `None` for a kind that uses the base.
    pub methods: [Option<MethodCircuit>; CallKind::ALL.len()],
    /// The mode of all circuits at the start.
    pub mode: InitialMode,
    /// Whether the engine refuses to start if commits of a healthy disk exceed a slow threshold. If `false`, it only
    /// logs a warning.
    pub strict: bool,
    /// If true, the start skips the measurement of trial commits, by which slow thresholds are computed or checked. For the simulation,
    /// whose disk has simulated times.
    pub untimed: bool,
    /// The clock of the circuits; the system's clock if `None`.
    pub clock: Option<Arc<dyn Clock>>,
}

/// The mode of all circuits at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitialMode(pub BreakerMode);

/// The settings of the circuit of one kind of call.
#[derive(Debug, Clone)]
pub struct MethodCircuit {
    /// The settings. With [`ThresholdSource::Auto`], the start of the engine replaces the slow threshold by a measured
    /// one.
    pub settings: CircuitBreakerConfig,
    /// The source of the slow threshold.
    pub threshold: ThresholdSource,
}

/// The source of a slow threshold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ThresholdSource {
    /// The built-in default.
    #[default]
    Default,
    /// A preset of settings.
    Preset,
    /// The operator's configuration.
    Configured,
    /// A measurement at the start; the default if nothing could be measured. The threshold is [`AUTO_FACTOR`] times the 99th percentile of the time that a commit takes, within
    /// [`AUTO_MIN`] and [`AUTO_MAX`]. For kinds of calls with many transactions, the threshold is 20 times as long.
    Auto,
}

/// A consistent snapshot of one circuit, and the source of its slow threshold.
#[derive(Debug, Clone, PartialEq)]
pub struct CircuitReport {
    /// The snapshot.
    pub stats: CircuitBreakerStats,
    /// The source of `stats.config.slow_threshold`.
    pub threshold: ThresholdSource,
}

/// A kind of state change, with the labels that metrics use. Changes are counted by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TransitionKind {
    /// The name of the circuit.
    pub key: &'static str,
    /// The state before the change.
    pub from: &'static str,
    /// The state after the change.
    pub to: &'static str,
    /// The reason for the change.
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

/// Observes every change of every circuit: counts the state changes, and notifies the subscribers of state and mode
/// changes.
#[derive(Debug)]
pub(super) struct CircuitEvents {
    /// Increases with every change. A slow subscriber may miss values. The subscriber finds the missed changes in the history that each
    /// circuit keeps.
    version: watch::Sender<u64>,
    /// The number of state changes of each kind. There is at most one entry for each circuit, pair of states and
    /// reason.
    transitions: Mutex<BTreeMap<TransitionKind, u64>>,
}

/// A measured slow threshold is this many times the 99th percentile of the time of a commit.
pub const AUTO_FACTOR: u32 = 8;
/// The lowest measured slow threshold.
pub const AUTO_MIN: Duration = Duration::from_millis(5);
/// The highest measured slow threshold.
pub const AUTO_MAX: Duration = Duration::from_secs(1);
/// The commits that are timed to set a slow threshold. Their number is enough to estimate a 99th percentile.
const AUTO_TRIAL: CommitTrial = CommitTrial {
    commits_max: 200,
    time_max: Duration::from_secs(2),
};
/// The commits that are timed to check a configured slow threshold. Their number is enough to estimate a median.
const CHECK_TRIAL: CommitTrial = CommitTrial {
    commits_max: 15,
    time_max: Duration::from_millis(250),
};

/// The slow threshold of a request with many transactions or accounts is this many times the slow threshold of a single
/// transaction.
const BULK_FACTOR: u32 = 20;
/// The highest slow threshold that a circuit accepts.
const SLOW_THRESHOLD_MAX: Duration = Duration::from_secs(60);

// ===== impl CircuitOptions =====

impl CircuitOptions {
    /// Returns how many commits to time before the circuits are made.
    pub(super) fn trial(&self) -> CommitTrial {
        if self.needs_times() {
            AUTO_TRIAL
        } else {
            CHECK_TRIAL
        }
    }

    /// Returns whether a slow threshold is measured, so that the start depends on the times of commits.
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
    /// Returns the name of the source in gRPC messages: `default`, `preset`, `configured` or `auto`.
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

/// Returns the slow threshold for a disk whose commits take `p99` at the 99th percentile.
#[must_use]
pub fn auto_threshold(p99: Duration) -> Duration {
    p99.saturating_mul(AUTO_FACTOR).clamp(AUTO_MIN, AUTO_MAX)
}

// ===== impl CallKind =====

impl CallKind {
    /// Returns the settings that a kind of call has if the operator configured none for this kind. These settings are the base, with a
    /// longer slow threshold for the kinds with many transactions or accounts.
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

    /// Sets the slow threshold of this kind. `unary` is the slow threshold of a single transaction.
    fn set_threshold(self, config: &mut CircuitBreakerConfig, unary: Duration) {
        let factor = if self == CallKind::Unary { 1 } else { BULK_FACTOR };
        config.slow_threshold = unary.saturating_mul(factor).min(SLOW_THRESHOLD_MAX);
        config.half_open_max_wait = config.half_open_max_wait.max(config.effective_probe_timeout());
    }
}

// ===== impl Circuits =====

impl Circuits {
    /// Makes the circuits. `times` are the measured times of commits; `None` if they could not be measured.
    pub(super) fn new(
        base: &CircuitBreakerConfig,
        options: &CircuitOptions,
        times: Option<&CommitTimes>,
    ) -> Result<Self, ConfigError> {
        let events = Arc::new(CircuitEvents::new());
        let clock = options
            .clock
            .clone()
            .unwrap_or_else(|| Arc::new(SystemClock::new()));
        let observer: Arc<dyn TransitionObserver> = Arc::clone(&events) as _;
        let build = |kind: CallKind| -> Result<_, ConfigError> {
            let own = kind.select(&options.methods).as_ref();
            let mut source = own.map_or(options.threshold, |method| method.threshold);
            let mut config = own.map_or_else(|| kind.settings(base), |method| method.settings.clone());
            match (source, times) {
                (ThresholdSource::Auto, Some(times)) => {
                    kind.set_threshold(&mut config, auto_threshold(times.quantile(0.99)));
                }
                (ThresholdSource::Auto, None) => source = ThresholdSource::Default,
                _ => {}
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
        kind.select(&self.breakers)
    }

    /// Returns the circuit with the name `key`.
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

    /// Advances the time of the circuits. `journal` is the progress of the commits, which calls of every circuit wait
    /// for.
    pub(super) fn tick(&self, journal: Work) {
        for breaker in &self.breakers {
            breaker.tick_watching(journal);
        }
    }
}

/// Checks that the median commit is faster than the slow threshold. Otherwise the calls on a healthy disk would be slow
/// and would open the circuit.
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
            let median_commit_ms = millis(floor);
            tracing::warn!(key, %error, median_commit_ms, "healthy commits take longer than the slow threshold");
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

    /// Returns a receiver whose value changes with every later change of a state or mode.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Returns each kind of state change that has happened, with its count.
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
    fn a_measured_slow_threshold_is_eight_times_the_99th_percentile_within_bounds() {
        for (p99, expected) in [
            (Duration::from_micros(100), AUTO_MIN),
            (Duration::from_millis(2), Duration::from_millis(16)),
            (Duration::from_millis(500), AUTO_MAX),
        ] {
            assert_eq!(auto_threshold(p99), expected);
        }
    }

    #[test]
    fn kinds_with_many_transactions_get_longer_and_valid_slow_thresholds() {
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
