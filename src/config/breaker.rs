//! The breaker's section: a preset, what is set otherwise, and what is set otherwise for single kinds of calls.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::ConfigError;
use crate::{
    breaker::{BreakerMode, CircuitBreakerConfig},
    engine::{CallKind, CircuitOptions, InitialMode, MethodCircuit, ThresholdSource},
};

/// A set of figures to start from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// Fit for a disk: slow is 50 ms.
    #[default]
    Default,
    /// The figures Tally grew from: slow is 1 ms, 5 failures, 3 successes, 60 s, 10 violations. Below one sync of most
    /// cloud disks.
    Seed,
}

/// Who decides at the start; an operator can change it while the service runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerModeSetting {
    /// The breaker.
    Auto,
    /// The breaker keeps its books and rejects nothing.
    MetricsOnly,
    /// Everything is rejected.
    ForcedOpen,
    /// Nothing is recorded and nothing rejected.
    Disabled,
}

/// A slow threshold: a time, or `"auto"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlowThreshold {
    /// Measured at the start.
    Auto,
    /// As given.
    Fixed(Duration),
}

/// What is set otherwise than the preset has it. The bounds are those of [`CircuitBreakerConfig`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerSection {
    /// The set of figures to start from.
    pub preset: Option<Preset>,
    /// Who decides at the start. Not for single kinds of calls.
    pub mode: Option<BreakerModeSetting>,
    /// Whether a slow threshold that healthy commits reach keeps the service from starting. Not for single kinds of calls.
    pub strict: Option<bool>,
    /// A call that takes as long or longer is slow. `"auto"`: 8 times the 99th percentile of a commit, measured at the
    /// start, from 5 ms to 1 s.
    pub slow_threshold: Option<SlowThreshold>,
    /// Opens at this share of slow calls.
    pub slow_rate: Option<f64>,
    /// Opens at this share of failed calls.
    pub failure_rate: Option<f64>,
    /// No verdict by rate below so many calls.
    pub min_calls: Option<u32>,
    /// No verdict by rate below so many blocks.
    pub min_batches: Option<u32>,
    /// Calls that hang open it once the oldest has been under way for so many slow thresholds.
    pub overdue_rounds: Option<u32>,
    /// Opens when this share of the calls of a moment hangs, however many fast ones came before.
    pub stall_rate: Option<f64>,
    /// So many overdue calls are many; fewer open it only after `stall_after`.
    pub min_overdue: Option<u32>,
    /// Opens when calls wait and none is answered for so long, even if only one waits. Unset: `overdue_rounds` slow
    /// thresholds and 50 ms.
    #[serde(with = "humantime_serde")]
    pub stall_after: Option<Duration>,
    /// Opens at so many failures in a row; 0 turns the rule off.
    pub consecutive_failures: Option<u32>,
    /// Opens at so many slow calls in the window; 0 turns the rule off.
    pub violations: Option<u32>,
    /// Opens when 1 % of the calls take as long; `"0s"` turns the rule off.
    #[serde(with = "humantime_serde")]
    pub p99_threshold: Option<Duration>,
    /// Slices of the window.
    pub window_buckets: Option<u32>,
    /// Length of a slice.
    #[serde(with = "humantime_serde")]
    pub bucket: Option<Duration>,
    /// How long it stays open the first time.
    #[serde(with = "humantime_serde")]
    pub open_base: Option<Duration>,
    /// The longest it stays open.
    #[serde(with = "humantime_serde")]
    pub open_max: Option<Duration>,
    /// By which share of itself the open time varies.
    pub open_jitter: Option<f64>,
    /// Whether probes are the service's own empty commits rather than callers' transactions.
    pub self_probe: Option<bool>,
    /// Probes that are let through while half-open.
    pub half_open_permits: Option<u32>,
    /// Good probes that close it.
    pub half_open_ok_needed: Option<u32>,
    /// A probe under way for so long is bad. Unset: twice the slow threshold.
    #[serde(with = "humantime_serde")]
    pub probe_timeout: Option<Duration>,
    /// How long probes may take to decide.
    #[serde(with = "humantime_serde")]
    pub half_open_max_wait: Option<Duration>,
    /// How long the ramp takes.
    #[serde(with = "humantime_serde")]
    pub ramp: Option<Duration>,
    /// The share of calls at the ramp's beginning.
    pub ramp_min: Option<f64>,
    /// The ramp's curve: 1 is linear, above 1 is faster at first.
    pub ramp_aggression: Option<f64>,
    /// Closed for so long, it forgets how often it has opened.
    #[serde(with = "humantime_serde")]
    pub stable_for: Option<Duration>,
    /// The retry hint while an operator holds it open.
    #[serde(with = "humantime_serde")]
    pub forced_open_retry_after: Option<Duration>,
    /// How often the circuits look at the clock. Not for single kinds of calls.
    #[serde(with = "humantime_serde")]
    pub tick_interval: Option<Duration>,
    /// Sets of counters that threads are spread over.
    pub shards: Option<u32>,
    /// Settings of single kinds of calls: `ProcessTransaction`, `ProcessTransactions`, `StreamTransactions`,
    /// `CreateAccounts` (case does not matter). They go before those above, from which they inherit; without an own slow
    /// threshold the last three have 20 times the first one's.
    pub methods: BTreeMap<String, BreakerSection>,
}

// ===== impl BreakerSection =====

impl BreakerSection {
    /// What holds for every kind of call.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key, the value and the bound.
    pub fn config(&self) -> Result<CircuitBreakerConfig, ConfigError> {
        let base = self
            .preset_figures()
            .map_or_else(CircuitBreakerConfig::default, |(base, _)| base);
        let config = self.over(&base);
        valid("breaker", &config)?;
        Ok(config)
    }

    /// The circuits of the kinds of calls, over `base`, which [`BreakerSection::config`] made.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key, the value and the bound.
    pub fn circuits(&self, base: &CircuitBreakerConfig) -> Result<CircuitOptions, ConfigError> {
        let threshold = self.threshold_source(ThresholdSource::Default);
        let mut options = CircuitOptions {
            threshold,
            mode: InitialMode(self.mode.map_or(BreakerMode::Auto, BreakerMode::from)),
            strict: self.strict.unwrap_or_default(),
            ..CircuitOptions::default()
        };
        for (name, method) in &self.methods {
            let key = format!("breaker.methods.{name}");
            let known = |(kind, _): &(CallKind, _)| kind.key().eq_ignore_ascii_case(name);
            let mut places = CallKind::ALL.into_iter().zip(&mut options.methods);
            let Some((kind, place)) = places.find(known) else {
                let names = CallKind::ALL.map(CallKind::key).join(", ");
                return Err(ConfigError::bound(
                    "breaker.methods",
                    name,
                    &format!("one of {names}"),
                ));
            };
            method.has_no_service_settings(&key)?;
            let inherited = match method.preset_figures() {
                Some((figures, _)) => figures,
                None => kind.settings(base),
            };
            let settings = method.over(&inherited);
            valid(&key, &settings)?;
            *place = Some(MethodCircuit {
                settings,
                threshold: method.threshold_source(threshold),
            });
        }
        Ok(options)
    }

    fn preset_figures(&self) -> Option<(CircuitBreakerConfig, ThresholdSource)> {
        self.preset.map(|preset| match preset {
            Preset::Default => (CircuitBreakerConfig::default(), ThresholdSource::Default),
            Preset::Seed => (CircuitBreakerConfig::seed(), ThresholdSource::Preset),
        })
    }

    fn threshold_source(&self, inherited: ThresholdSource) -> ThresholdSource {
        match self.slow_threshold {
            Some(SlowThreshold::Auto) => ThresholdSource::Auto,
            Some(SlowThreshold::Fixed(_)) => ThresholdSource::Configured,
            None => self.preset_figures().map_or(inherited, |(_, source)| source),
        }
    }

    /// `base` with what is set here.
    fn over(&self, base: &CircuitBreakerConfig) -> CircuitBreakerConfig {
        let switch = |set: Option<u32>, inherited| match set {
            None => inherited,
            Some(0) => None,
            set => set,
        };
        let p99_threshold = match self.p99_threshold {
            None => base.p99_threshold,
            Some(Duration::ZERO) => None,
            set => set,
        };
        let slow_threshold = match self.slow_threshold {
            Some(SlowThreshold::Fixed(time)) => time,
            Some(SlowThreshold::Auto) | None => base.slow_threshold,
        };
        let mut config = CircuitBreakerConfig {
            slow_threshold,
            slow_rate: self.slow_rate.unwrap_or(base.slow_rate),
            failure_rate: self.failure_rate.unwrap_or(base.failure_rate),
            min_calls: self.min_calls.unwrap_or(base.min_calls),
            min_batches: self.min_batches.unwrap_or(base.min_batches),
            overdue_rounds: self.overdue_rounds.unwrap_or(base.overdue_rounds),
            stall_rate: self.stall_rate.unwrap_or(base.stall_rate),
            min_overdue: self.min_overdue.unwrap_or(base.min_overdue),
            stall_after: self.stall_after.or(base.stall_after),
            consecutive_failures: switch(self.consecutive_failures, base.consecutive_failures),
            violations: switch(self.violations, base.violations),
            p99_threshold,
            window_buckets: self.window_buckets.unwrap_or(base.window_buckets),
            bucket: self.bucket.unwrap_or(base.bucket),
            open_base: self.open_base.unwrap_or(base.open_base),
            open_max: self.open_max.unwrap_or(base.open_max),
            open_jitter: self.open_jitter.unwrap_or(base.open_jitter),
            self_probe: self.self_probe.unwrap_or(base.self_probe),
            half_open_permits: self.half_open_permits.unwrap_or(base.half_open_permits),
            half_open_ok_needed: self.half_open_ok_needed.unwrap_or(base.half_open_ok_needed),
            probe_timeout: self.probe_timeout.or(base.probe_timeout),
            half_open_max_wait: self.half_open_max_wait.unwrap_or(base.half_open_max_wait),
            ramp: self.ramp.unwrap_or(base.ramp),
            ramp_min: self.ramp_min.unwrap_or(base.ramp_min),
            ramp_aggression: self.ramp_aggression.unwrap_or(base.ramp_aggression),
            stable_for: self.stable_for.unwrap_or(base.stable_for),
            forced_open_retry_after: self
                .forced_open_retry_after
                .unwrap_or(base.forced_open_retry_after),
            tick_interval: self.tick_interval.unwrap_or(base.tick_interval),
            shards: self.shards.unwrap_or(base.shards),
            ..base.clone()
        };
        // A longer threshold means longer probes; whoever sets only the threshold does not mean to be refused for that.
        if self.half_open_max_wait.is_none() {
            config.half_open_max_wait = config.half_open_max_wait.max(config.effective_probe_timeout());
        }
        config
    }

    /// What holds for the whole service can't be set for one kind of call.
    fn has_no_service_settings(&self, key: &str) -> Result<(), ConfigError> {
        for (field, is_set) in [
            ("mode", self.mode.is_some()),
            ("strict", self.strict.is_some()),
            ("tick_interval", self.tick_interval.is_some()),
            ("methods", !self.methods.is_empty()),
        ] {
            if is_set {
                return Err(ConfigError::bound(
                    &format!("{key}.{field}"),
                    "set",
                    "absent; set it for the whole breaker",
                ));
            }
        }
        Ok(())
    }
}

fn valid(key: &str, config: &CircuitBreakerConfig) -> Result<(), ConfigError> {
    config
        .validate()
        .map_err(|error| ConfigError::bound(&format!("{key}.{}", error.field), error.value, error.bound))
}

// ===== impl BreakerModeSetting =====

impl From<BreakerModeSetting> for BreakerMode {
    fn from(setting: BreakerModeSetting) -> Self {
        match setting {
            BreakerModeSetting::Auto => BreakerMode::Auto,
            BreakerModeSetting::MetricsOnly => BreakerMode::MetricsOnly,
            BreakerModeSetting::ForcedOpen => BreakerMode::ForcedOpen,
            BreakerModeSetting::Disabled => BreakerMode::Disabled,
        }
    }
}

// ===== impl SlowThreshold =====

/// What stands for a measured threshold.
const AUTO: &str = "auto";

impl Serialize for SlowThreshold {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            SlowThreshold::Auto => serializer.serialize_str(AUTO),
            SlowThreshold::Fixed(time) => humantime_serde::serialize(time, serializer),
        }
    }
}

impl<'de> Deserialize<'de> for SlowThreshold {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = SlowThreshold;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time such as \"50ms\", or \"auto\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<SlowThreshold, E> {
                if text.eq_ignore_ascii_case(AUTO) {
                    return Ok(SlowThreshold::Auto);
                }
                humantime::parse_duration(text)
                    .map(SlowThreshold::Fixed)
                    .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}
