//! The section `breaker`: a preset, the values that differ from it, and those that differ for a single kind of call.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tally_breaker::{BreakerMode, CircuitBreakerConfig};

use super::{
    CallKind,
    circuits::{CircuitOptions, InitialMode, MethodCircuit, ThresholdSource},
};
use crate::settings::SettingError;

/// A set of values to start from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// Values for a disk: a call is slow from 50 ms.
    #[default]
    Default,
    /// The values that Tally started with: slow from 1 ms, 5 failures, 3 successes, 60 s open, 10 violations. 1 ms is less than
    /// one sync takes on most cloud disks.
    Seed,
}

/// The mode of the circuits at the start. An operator can change the mode while the service runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerModeSetting {
    /// The circuit decides.
    Auto,
    /// The circuit measures calls and changes its state, but admits every call.
    MetricsOnly,
    /// The circuit rejects every call.
    ForcedOpen,
    /// The circuit records nothing and admits every call.
    Disabled,
}

/// A slow threshold: a time, or `"auto"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlowThreshold {
    /// Measured at the start.
    Auto,
    /// This time.
    Fixed(Duration),
}

/// The section `breaker`. A key that is not set keeps the value of the preset. The bounds are those of
/// [`CircuitBreakerConfig`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerSettings {
    /// The set of values to start from.
    pub preset: Option<Preset>,
    /// The mode at the start. Not allowed for a single kind of call.
    pub mode: Option<BreakerModeSetting>,
    /// If true, the service does not start when healthy commits are as slow as a slow threshold; if false, it warns. Not allowed
    /// for a single kind of call.
    pub strict: Option<bool>,
    /// A call that takes this long or longer is slow. `"auto"`: 8 times the 99th percentile of a commit, measured at the start,
    /// between 5 ms and 1 s.
    pub slow_threshold: Option<SlowThreshold>,
    /// The circuit opens at this share of slow calls.
    pub slow_rate: Option<f64>,
    /// The circuit opens at this share of failed calls.
    pub failure_rate: Option<f64>,
    /// Fewest calls in the window for a decision by rate.
    pub min_calls: Option<u32>,
    /// Fewest slow or failed blocks in the window for a decision by rate.
    pub min_batches: Option<u32>,
    /// Calls that hang open the circuit when the oldest has been in flight for this many slow thresholds.
    pub overdue_rounds: Option<u32>,
    /// The circuit opens when this share of the calls admitted at about the same time hangs, however many fast calls came before.
    pub stall_rate: Option<f64>,
    /// Fewest overdue calls that open the circuit after `overdue_rounds`. Fewer overdue calls open it after `stall_after`.
    pub min_overdue: Option<u32>,
    /// The circuit opens when calls wait and none has been answered for this long, even if only one waits. Unset:
    /// `overdue_rounds` slow thresholds and 50 ms.
    #[serde(with = "humantime_serde")]
    pub stall_after: Option<Duration>,
    /// The circuit opens at this many failures in a row; 0 turns the rule off.
    pub consecutive_failures: Option<u32>,
    /// The circuit opens at this many slow calls in the window; 0 turns the rule off.
    pub violations: Option<u32>,
    /// The circuit opens when 1 % of the calls take this long or longer; `"0s"` turns the rule off.
    #[serde(with = "humantime_serde")]
    pub p99_threshold: Option<Duration>,
    /// Slices of the window.
    pub window_buckets: Option<u32>,
    /// Length of a slice.
    #[serde(with = "humantime_serde")]
    pub bucket: Option<Duration>,
    /// How long the circuit stays open the first time.
    #[serde(with = "humantime_serde")]
    pub open_base: Option<Duration>,
    /// The longest time that the circuit stays open.
    #[serde(with = "humantime_serde")]
    pub open_max: Option<Duration>,
    /// The share by which the open time varies at random.
    pub open_jitter: Option<f64>,
    /// If true, the service probes with empty commits; if false, callers' transactions are the probes.
    pub self_probe: Option<bool>,
    /// Probes that a half-open circuit admits.
    pub half_open_permits: Option<u32>,
    /// Successful probes that end the half-open state.
    pub half_open_ok_needed: Option<u32>,
    /// A probe that is in flight for this long counts as failed. Unset: twice the slow threshold.
    #[serde(with = "humantime_serde")]
    pub probe_timeout: Option<Duration>,
    /// How long a half-open circuit waits for its probes to decide.
    #[serde(with = "humantime_serde")]
    pub half_open_max_wait: Option<Duration>,
    /// How long the ramp takes after successful probes.
    #[serde(with = "humantime_serde")]
    pub ramp: Option<Duration>,
    /// The share of calls that the ramp admits at its beginning.
    pub ramp_min: Option<f64>,
    /// The curve of the ramp: 1 is linear, above 1 is faster at first.
    pub ramp_aggression: Option<f64>,
    /// After this long in the closed state, the next open time is `open_base` again.
    #[serde(with = "humantime_serde")]
    pub stable_for: Option<Duration>,
    /// The retry hint while an operator holds the circuit open.
    #[serde(with = "humantime_serde")]
    pub forced_open_retry_after: Option<Duration>,
    /// How often the circuits check the time. Not allowed for a single kind of call.
    #[serde(with = "humantime_serde")]
    pub tick_interval: Option<Duration>,
    /// Sets of counters over which the threads are spread.
    pub shards: Option<u32>,
    /// Settings of single kinds of calls: `ProcessTransaction`, `ProcessTransactions`, `StreamTransactions`,
    /// `CreateAccounts` (case does not matter). A kind inherits every key that it does not set from the keys above, except the
    /// slow threshold: for the last three kinds, it is 20 times that of the first.
    pub methods: BTreeMap<String, BreakerSettings>,
}

// ===== impl BreakerSettings =====

impl BreakerSettings {
    /// The settings of every kind of call that `methods` does not name.
    ///
    /// # Errors
    /// [`SettingError`] for the first key that is out of bounds.
    pub fn config(&self) -> Result<CircuitBreakerConfig, SettingError> {
        let base = self
            .preset_values()
            .map_or_else(CircuitBreakerConfig::default, |(base, _)| base);
        let config = self.merged_into(&base);
        validate("breaker", &config)?;
        Ok(config)
    }

    /// The circuits of the kinds of calls. `base` is the result of [`BreakerSettings::config`].
    ///
    /// # Errors
    /// [`SettingError`] for the first key that is out of bounds.
    pub fn circuits(&self, base: &CircuitBreakerConfig) -> Result<CircuitOptions, SettingError> {
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
                let bound = format!("one of {names}");
                return Err(SettingError::new("breaker.methods", name, bound));
            };
            method.check_no_global_keys(&key)?;
            let inherited = match method.preset_values() {
                Some((values, _)) => values,
                None => kind.settings(base),
            };
            let settings = method.merged_into(&inherited);
            validate(&key, &settings)?;
            *place = Some(MethodCircuit {
                settings,
                threshold: method.threshold_source(threshold),
            });
        }
        Ok(options)
    }

    fn preset_values(&self) -> Option<(CircuitBreakerConfig, ThresholdSource)> {
        self.preset.map(|preset| match preset {
            Preset::Default => (CircuitBreakerConfig::default(), ThresholdSource::Default),
            Preset::Seed => (CircuitBreakerConfig::seed(), ThresholdSource::Preset),
        })
    }

    fn threshold_source(&self, inherited: ThresholdSource) -> ThresholdSource {
        match self.slow_threshold {
            Some(SlowThreshold::Auto) => ThresholdSource::Auto,
            Some(SlowThreshold::Fixed(_)) => ThresholdSource::Configured,
            None => self.preset_values().map_or(inherited, |(_, source)| source),
        }
    }

    /// `base` with the values that are set here.
    fn merged_into(&self, base: &CircuitBreakerConfig) -> CircuitBreakerConfig {
        let optional = |set: Option<u32>, inherited| match set {
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
            consecutive_failures: optional(self.consecutive_failures, base.consecutive_failures),
            violations: optional(self.violations, base.violations),
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
        // A longer slow threshold makes probes longer. An operator who sets only the threshold must not get an error for this key.
        if self.half_open_max_wait.is_none() {
            config.half_open_max_wait = config.half_open_max_wait.max(config.effective_probe_timeout());
        }
        config
    }

    /// Checks that a kind of call sets no key that holds for the whole breaker.
    fn check_no_global_keys(&self, key: &str) -> Result<(), SettingError> {
        for (field, is_set) in [
            ("mode", self.mode.is_some()),
            ("strict", self.strict.is_some()),
            ("tick_interval", self.tick_interval.is_some()),
            ("methods", !self.methods.is_empty()),
        ] {
            if is_set {
                let bound = "absent; set it for the whole breaker";
                return Err(SettingError::new(format!("{key}.{field}"), "set", bound));
            }
        }
        Ok(())
    }
}

fn validate(key: &str, config: &CircuitBreakerConfig) -> Result<(), SettingError> {
    config
        .validate()
        .map_err(|error| SettingError::new(format!("{key}.{}", error.field), error.value, error.bound))
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

/// The word for a measured threshold.
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
