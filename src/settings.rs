//! Shared by all sections of the configuration: the error of a setting that is out of bounds, and the checks that return this
//! error.
//!
//! Each section lives with the module that it configures (`store::settings`, `grpc::settings`, ...); `config` puts the sections
//! together.

use std::{fmt, ops::RangeInclusive, time::Duration};

use thiserror::Error;

/// A setting is out of bounds.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{key} = {value}: must be {bound}")]
pub struct SettingError {
    /// The key with its section, such as `server.drain`.
    pub key: String,
    /// The value, as the operator would write it.
    pub value: String,
    /// The values that are accepted, in words.
    pub bound: String,
}

/// One second.
pub const SECOND: Duration = Duration::from_secs(1);
/// One hour.
pub const HOUR: Duration = Duration::from_secs(60 * 60);
/// One day.
pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);

// ===== impl SettingError =====

impl SettingError {
    /// Creates the error that the setting `key` has `value`, which must be `bound`.
    pub fn new(key: impl Into<String>, value: impl fmt::Display, bound: impl Into<String>) -> Self {
        SettingError {
            key: key.into(),
            value: value.to_string(),
            bound: bound.into(),
        }
    }
}

/// Checks that `value` is in `range`. `bound` describes the range in words.
///
/// # Errors
/// [`SettingError`] for `key`.
pub fn check<T: PartialOrd + fmt::Display>(
    key: &str,
    value: T,
    range: &RangeInclusive<T>,
    bound: &str,
) -> Result<(), SettingError> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(SettingError::new(key, value, bound))
}

/// Checks that the time `value` is in `range`. `bound` describes the range in words.
///
/// # Errors
/// [`SettingError`] for `key`.
pub fn check_time(
    key: &str,
    value: Duration,
    range: &RangeInclusive<Duration>,
    bound: &str,
) -> Result<(), SettingError> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(SettingError::new(key, humantime::format_duration(value), bound))
}
