//! The section `breaker` of the configuration file: a preset, values that replace those of the preset, and values for
//! single kinds of calls.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tally_breaker::{BreakerMode, CircuitBreakerConfig, ConfigError, ConfigValue};

use super::{
    CallKind,
    circuits::{CircuitOptions, InitialMode, MethodCircuit, ThresholdSource},
};
use crate::settings::{SettingError, nearest};

/// A named set of values for the settings of the breaker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// Values for usual disks. A call that takes 50 ms or longer is slow.
    #[default]
    Default,
    /// The values of Tally's first version. A call that takes 1 ms or longer is slow. 5 failures in a row or 10 slow
    /// calls open the circuit, 3 successful probes end the half-open state, and the open time is 60 s. Most cloud disks
    /// need more than 1 ms for one sync.
    Seed,
    /// Values for a replicated store, and its default. A call that takes 2 s or longer is slow: when a broker of the log fails, appends
    /// wait until the log has elected another broker, which usually takes less than 2 s. The open time is 1 s at first.
    Replicated,
}

/// Of the preset `replicated`: the slow threshold. The log elects another broker in 1 to 2 s.
const REPLICATED_SLOW_THRESHOLD: Duration = Duration::from_secs(2);
/// Of the preset `replicated`: how long the circuit stays open the first time.
const REPLICATED_OPEN_BASE: Duration = Duration::from_secs(1);
/// Of the preset `replicated`: maximum time that the circuit stays open before it probes.
const REPLICATED_OPEN_MAX: Duration = Duration::from_secs(10);
/// Of the preset `replicated`: length of the ramp after successful probes.
const REPLICATED_RAMP: Duration = Duration::from_secs(2);

/// The mode of the circuits at the start. An operator can change the mode while the service runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerModeSetting {
    /// The circuit admits and rejects calls according to its state.
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
    /// The threshold is measured at the start.
    Auto,
    /// The threshold is this time.
    Fixed(Duration),
}

/// The section `breaker`. A key that is not set keeps the value of the preset. The bounds are those of
/// [`CircuitBreakerConfig`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerSettings {
    /// The preset whose values hold for the keys that are not set.
    pub preset: Option<Preset>,
    /// The mode at the start. Not allowed for a single kind of call.
    pub mode: Option<BreakerModeSetting>,
    /// Whether the service refuses to start when the median commit takes longer than a slow threshold allows. If false,
    /// it logs a warning. Not allowed for a single kind of call.
    pub strict: Option<bool>,
    /// A call that takes this long or longer is slow. With `"auto"`, the threshold is 8 times the 99th percentile of
    /// the time of a commit, measured at the start, but at least 5 ms and at most 1 s.
    pub slow_threshold: Option<SlowThreshold>,
    /// The circuit opens when at least this share of the calls in the window is slow, above 0 and at most 1.
    pub slow_rate: Option<f64>,
    /// The circuit opens when at least this share of the calls in the window has failed, above 0 and at most 1.
    pub failure_rate: Option<f64>,
    /// Minimum number of calls in the window before `slow_rate` and `failure_rate` can open the circuit.
    pub min_calls: Option<u32>,
    /// Minimum number of slow or failed blocks in the window before `slow_rate` and `failure_rate` can open the
    /// circuit.
    pub min_batches: Option<u32>,
    /// Calls that hang open the circuit when the oldest call in flight has taken this many times the slow threshold.
    pub overdue_rounds: Option<u32>,
    /// The circuit opens when this share of the calls that were admitted at about the same time hangs. Fast calls
    /// before them do not count.
    pub stall_rate: Option<f64>,
    /// Minimum number of overdue calls that open the circuit after `overdue_rounds`. A smaller number of overdue calls
    /// opens the circuit after `stall_after`. An overdue call has been in flight for at least the slow threshold.
    pub min_overdue: Option<u32>,
    /// The circuit opens when at least one call is in flight and no call has been answered for this time. If the key is
    /// not set, the time is `overdue_rounds` times the slow threshold, plus 50 ms.
    #[serde(with = "humantime_serde")]
    pub stall_after: Option<Duration>,
    /// The circuit opens at this many failures in a row; 0 turns the rule off.
    pub consecutive_failures: Option<u32>,
    /// The circuit opens at this many slow calls in the window; 0 turns the rule off.
    pub violations: Option<u32>,
    /// The circuit opens when 1 % of the calls take this long or longer; `"0s"` turns the rule off.
    #[serde(with = "humantime_serde")]
    pub p99_threshold: Option<Duration>,
    /// Number of slices of the sliding window over which calls are counted.
    pub window_buckets: Option<u32>,
    /// Length of a slice of the window.
    #[serde(with = "humantime_serde")]
    pub bucket: Option<Duration>,
    /// How long the circuit stays open the first time.
    #[serde(with = "humantime_serde")]
    pub open_base: Option<Duration>,
    /// Maximum time that the circuit stays open before it probes.
    #[serde(with = "humantime_serde")]
    pub open_max: Option<Duration>,
    /// The share by which the open time varies at random, so that many clients do not retry at the same time.
    pub open_jitter: Option<f64>,
    /// If true, the service commits empty blocks as probes; if false, calls of clients are the probes.
    pub self_probe: Option<bool>,
    /// Number of probes that a half-open circuit admits in total before it must decide.
    pub half_open_permits: Option<u32>,
    /// Number of successful probes that end the half-open state.
    pub half_open_ok_needed: Option<u32>,
    /// A probe that has been in flight for this long counts as failed. If the key is not set, the time is twice the
    /// slow threshold.
    #[serde(with = "humantime_serde")]
    pub probe_timeout: Option<Duration>,
    /// Maximum time that a half-open circuit takes to decide after it has admitted a probe.
    #[serde(with = "humantime_serde")]
    pub half_open_max_wait: Option<Duration>,
    /// Length of the ramp after successful probes. During the ramp, the circuit admits a growing share of the calls.
    #[serde(with = "humantime_serde")]
    pub ramp: Option<Duration>,
    /// The share of calls that the circuit admits at the beginning of the ramp.
    pub ramp_min: Option<f64>,
    /// The curve of the ramp: 1 is linear; with a value above 1, the share grows faster at first.
    pub ramp_aggression: Option<f64>,
    /// The open time grows each time that the circuit opens again. After this long in the closed state, the next open
    /// time is `open_base` again.
    #[serde(with = "humantime_serde")]
    pub stable_for: Option<Duration>,
    /// The time after which clients should retry, while an operator keeps the circuit open.
    #[serde(with = "humantime_serde")]
    pub forced_open_retry_after: Option<Duration>,
    /// How often the circuits check the time. Not allowed for a single kind of call.
    #[serde(with = "humantime_serde")]
    pub tick_interval: Option<Duration>,
    /// Number of sets of counters. Each thread uses one of the sets, so that threads seldom write to the same memory. If
    /// the key is not set, the number is the number of CPUs, but at most 8.
    pub shards: Option<u32>,
    /// Settings of single kinds of calls: `ProcessTransaction`, `ProcessTransactions`, `StreamTransactions`,
    /// `CreateAccounts` (case does not matter). A kind inherits every key that it does not set from the keys above. The
    /// exception is the slow threshold: the last three kinds inherit 20 times the slow threshold of the first kind.
    pub methods: BTreeMap<String, BreakerSettings>,
}

// ===== impl BreakerSettings =====

impl BreakerSettings {
    /// Checks the section, and returns the settings of every kind of call that `methods` does not name.
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

    /// Returns the settings of the circuits, with those of single kinds of calls. `base` is the result of
    /// [`BreakerSettings::config`].
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
                let names = CallKind::ALL.map(CallKind::key);
                let mut bound = format!("one of {}", names.join(", "));
                if let Some(meant) = nearest(name, names) {
                    bound.push_str(&format!("; did you mean {meant}?"));
                }
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

    /// Returns the section with the values that hold for the keys that are not set, except in `methods`. With the slow
    /// threshold `"auto"`, the keys that depend on the threshold stay unset, because their values are not known before
    /// the start.
    #[must_use]
    pub fn effective(&self) -> Self {
        let base = self
            .preset_values()
            .map_or_else(CircuitBreakerConfig::default, |(base, _)| base);
        let config = self.merged_into(&base);
        let is_auto = self.slow_threshold == Some(SlowThreshold::Auto);
        let known = |time: Duration| (!is_auto).then_some(time);
        BreakerSettings {
            preset: Some(self.preset.unwrap_or_default()),
            mode: Some(self.mode.unwrap_or(BreakerModeSetting::Auto)),
            strict: Some(self.strict.unwrap_or_default()),
            slow_threshold: Some(
                known(config.slow_threshold).map_or(SlowThreshold::Auto, SlowThreshold::Fixed),
            ),
            slow_rate: Some(config.slow_rate),
            failure_rate: Some(config.failure_rate),
            min_calls: Some(config.min_calls),
            min_batches: Some(config.min_batches),
            overdue_rounds: Some(config.overdue_rounds),
            stall_rate: Some(config.stall_rate),
            min_overdue: Some(config.min_overdue),
            stall_after: self.stall_after.or_else(|| known(config.effective_stall_after())),
            consecutive_failures: Some(config.consecutive_failures.unwrap_or_default()),
            violations: Some(config.violations.unwrap_or_default()),
            p99_threshold: Some(config.p99_threshold.unwrap_or_default()),
            window_buckets: Some(config.window_buckets),
            bucket: Some(config.bucket),
            open_base: Some(config.open_base),
            open_max: Some(config.open_max),
            open_jitter: Some(config.open_jitter),
            self_probe: Some(config.self_probe),
            half_open_permits: Some(config.half_open_permits),
            half_open_ok_needed: Some(config.half_open_ok_needed),
            probe_timeout: self
                .probe_timeout
                .or_else(|| known(config.effective_probe_timeout())),
            half_open_max_wait: self
                .half_open_max_wait
                .or_else(|| known(config.half_open_max_wait)),
            ramp: Some(config.ramp),
            ramp_min: Some(config.ramp_min),
            ramp_aggression: Some(config.ramp_aggression),
            stable_for: Some(config.stable_for),
            forced_open_retry_after: Some(config.forced_open_retry_after),
            tick_interval: Some(config.tick_interval),
            shards: Some(config.shards),
            methods: self.methods.clone(),
        }
    }

    fn preset_values(&self) -> Option<(CircuitBreakerConfig, ThresholdSource)> {
        self.preset.map(|preset| match preset {
            Preset::Default => (CircuitBreakerConfig::default(), ThresholdSource::Default),
            Preset::Seed => (CircuitBreakerConfig::seed(), ThresholdSource::Preset),
            Preset::Replicated => {
                let config = CircuitBreakerConfig {
                    slow_threshold: REPLICATED_SLOW_THRESHOLD,
                    open_base: REPLICATED_OPEN_BASE,
                    open_max: REPLICATED_OPEN_MAX,
                    ramp: REPLICATED_RAMP,
                    self_probe: true,
                    ..CircuitBreakerConfig::default()
                };
                (config, ThresholdSource::Preset)
            }
        })
    }

    fn threshold_source(&self, inherited: ThresholdSource) -> ThresholdSource {
        match self.slow_threshold {
            Some(SlowThreshold::Auto) => ThresholdSource::Auto,
            Some(SlowThreshold::Fixed(_)) => ThresholdSource::Configured,
            None => self.preset_values().map_or(inherited, |(_, source)| source),
        }
    }

    /// Returns `base` with the values of the keys that are set in this section.
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
        // The half-open state must last at least as long as a probe, and a longer slow threshold allows longer probes.
        // An operator who sets only the slow threshold must not get an error about `half_open_max_wait`.
        if self.half_open_max_wait.is_none() {
            config.half_open_max_wait = config.half_open_max_wait.max(config.effective_probe_timeout());
        }
        config
    }

    /// Checks that the settings of a kind of call contain no key that is allowed only for all kinds together. `key` is
    /// the path of these settings.
    fn check_no_global_keys(&self, key: &str) -> Result<(), SettingError> {
        let text = |value: Option<bool>| value.map(|value| value.to_string());
        let tick = self
            .tick_interval
            .map(|time| humantime::format_duration(time).to_string());
        for (field, value) in [
            (
                "mode",
                self.mode.map(|mode| BreakerMode::from(mode).as_str().to_owned()),
            ),
            ("strict", text(self.strict)),
            ("tick_interval", tick),
            (
                "methods",
                (!self.methods.is_empty()).then(|| "a table".to_owned()),
            ),
        ] {
            if let Some(value) = value {
                let bound = format!("set for all kinds of calls together, as breaker.{field}");
                return Err(SettingError::new(format!("{key}.{field}"), value, bound));
            }
        }
        Ok(())
    }
}

fn validate(key: &str, config: &CircuitBreakerConfig) -> Result<(), SettingError> {
    config.validate().map_err(|error| setting_error(key, error))
}

/// Converts the error of the breaker into the error of the setting in the table `key`.
#[must_use]
pub fn setting_error(key: &str, error: ConfigError) -> SettingError {
    let value = match error.value {
        ConfigValue::Time(time) => humantime::format_duration(time).to_string(),
        ConfigValue::Count(_) | ConfigValue::Ratio(_) => error.value.to_string(),
    };
    let bound = match error.related {
        Some(related) => format!("{} ({key}.{related})", error.bound),
        None => error.bound,
    };
    SettingError::new(format!("{key}.{}", error.field), value, bound)
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

/// The value of `slow_threshold` that stands for a measured threshold.
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
