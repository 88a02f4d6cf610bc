//! The breaker's section: a preset, and what is set otherwise.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use crate::breaker::CircuitBreakerConfig;

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

/// What is set otherwise than the preset has it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerSection {
    /// The set of figures to start from.
    pub preset: Preset,
    /// A call that takes as long or longer is slow.
    #[serde(with = "humantime_serde")]
    pub slow_threshold: Option<Duration>,
    /// Opens at this share of slow calls, 0 to 1.
    pub slow_rate: Option<f64>,
    /// Opens at this share of failed calls, 0 to 1.
    pub failure_rate: Option<f64>,
    /// No verdict by rate below so many calls.
    pub min_calls: Option<u32>,
    /// No verdict by rate below so many blocks.
    pub min_batches: Option<u32>,
    /// Opens at so many failures in a row.
    pub consecutive_failures: Option<u32>,
    /// How long it stays open the first time.
    #[serde(with = "humantime_serde")]
    pub open_base: Option<Duration>,
    /// The longest it stays open.
    #[serde(with = "humantime_serde")]
    pub open_max: Option<Duration>,
    /// Probes that are let through while half-open.
    pub half_open_permits: Option<u32>,
    /// Good probes that close it.
    pub half_open_ok_needed: Option<u32>,
    /// How long the ramp takes.
    #[serde(with = "humantime_serde")]
    pub ramp: Option<Duration>,
}

// ===== impl BreakerSection =====

impl BreakerSection {
    /// The breaker's own configuration.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key, the value and the bound.
    pub fn config(&self) -> Result<CircuitBreakerConfig, ConfigError> {
        let base = match self.preset {
            Preset::Default => CircuitBreakerConfig::default(),
            Preset::Seed => CircuitBreakerConfig::seed(),
        };
        let config = CircuitBreakerConfig {
            slow_threshold: self.slow_threshold.unwrap_or(base.slow_threshold),
            slow_rate: self.slow_rate.unwrap_or(base.slow_rate),
            failure_rate: self.failure_rate.unwrap_or(base.failure_rate),
            min_calls: self.min_calls.unwrap_or(base.min_calls),
            min_batches: self.min_batches.unwrap_or(base.min_batches),
            consecutive_failures: self.consecutive_failures.or(base.consecutive_failures),
            open_base: self.open_base.unwrap_or(base.open_base),
            open_max: self.open_max.unwrap_or(base.open_max),
            half_open_permits: self.half_open_permits.unwrap_or(base.half_open_permits),
            half_open_ok_needed: self.half_open_ok_needed.unwrap_or(base.half_open_ok_needed),
            ramp: self.ramp.unwrap_or(base.ramp),
            ..base
        };
        config
            .validate()
            .map_err(|error| ConfigError::Part(error.to_string()))?;
        Ok(config)
    }
}
