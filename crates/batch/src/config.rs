//! The settings of a batch processor, and their bounds.

use std::{fmt, ops::RangeInclusive, time::Duration};

use thiserror::Error;

/// The bounds of the queue, and the rules by which the executor forms batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchConfig {
    /// Maximum number of queued requests, 2 to 2^20.
    pub queue_requests_max: usize,
    /// Maximum number of queued bytes, 1 MiB to 1 TiB. A single request may exceed this maximum when the queue is
    /// empty.
    pub queue_bytes_max: usize,
    /// Maximum time that a batch waits for callers that are about to submit a request, at most 1 s. A batch never waits
    /// longer than half the average time of a commit. Zero: a batch never waits.
    pub max_linger: Duration,
    /// Minimum number of callers about to submit a request for which a batch waits, 1 to 2^20.
    pub siblings: usize,
    /// Maximum share of one client in a batch while other clients wait, in percent of the largest batch, 1 to 100.
    pub client_share_percent: u8,
    /// Maximum time from the moment at which the executor takes a batch's first request to the batch's replies, 1 µs to
    /// 1 h. A batch that takes longer is counted ([`BatchStats::over_budget`](super::BatchStats::over_budget)), and at
    /// most every 10 s a warning is logged. `None`: no batch is too slow. Only batches that waited for a commit count.
    pub latency_budget: Option<Duration>,
}

/// A field of [`BatchConfig`] or an argument of [`BatchThreadBuilder::new`](super::BatchThreadBuilder::new) is out of
/// bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("batch.{field} = {value}: must be {minimum} to {maximum}")]
pub struct BatchConfigError {
    /// The name of the field or argument.
    pub field: &'static str,
    /// The value that was set.
    pub value: BatchConfigValue,
    /// The smallest permitted value.
    pub minimum: BatchConfigValue,
    /// The largest permitted value.
    pub maximum: BatchConfigValue,
}

/// A value or a bound in a [`BatchConfigError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchConfigValue {
    /// A number of requests, bytes, callers, items or percent.
    Number(usize),
    /// A time.
    Time(Duration),
}

/// Maximum of [`BatchConfig::max_linger`].
const MAX_LINGER_MAX: Duration = Duration::from_secs(1);
/// Minimum of [`BatchConfig::latency_budget`].
const LATENCY_BUDGET_MIN: Duration = Duration::from_micros(1);
/// Maximum of [`BatchConfig::latency_budget`].
const LATENCY_BUDGET_MAX: Duration = Duration::from_secs(3600);

// ===== impl BatchConfig =====

impl BatchConfig {
    /// Checks the bounds of all fields.
    ///
    /// # Errors
    /// Returns the first field that is out of bounds.
    pub fn validate(&self) -> Result<(), BatchConfigError> {
        check("queue_requests_max", self.queue_requests_max, 2..=1 << 20)?;
        check("queue_bytes_max", self.queue_bytes_max, 1 << 20..=1 << 40)?;
        check("max_linger", self.max_linger, Duration::ZERO..=MAX_LINGER_MAX)?;
        check("siblings", self.siblings, 1..=1 << 20)?;
        check("client_share_percent", self.client_share_percent.into(), 1..=100)?;
        match self.latency_budget {
            Some(budget) => check("latency_budget", budget, LATENCY_BUDGET_MIN..=LATENCY_BUDGET_MAX),
            None => Ok(()),
        }
    }
}

impl Default for BatchConfig {
    fn default() -> Self {
        BatchConfig {
            queue_requests_max: 16 * 1024,
            queue_bytes_max: 256 << 20,
            // On most disks, half the time of a commit is shorter than 2 ms, so half the time of a commit is the limit.
            // When hundreds of callers wait, lingering saves a fifth of the blocks. A batch never waits for a single
            // caller (docs/performance.md).
            max_linger: Duration::from_millis(2),
            siblings: 4,
            client_share_percent: 50,
            latency_budget: None,
        }
    }
}

// ===== impl BatchConfigValue =====

impl From<usize> for BatchConfigValue {
    fn from(number: usize) -> Self {
        BatchConfigValue::Number(number)
    }
}

impl From<Duration> for BatchConfigValue {
    fn from(time: Duration) -> Self {
        BatchConfigValue::Time(time)
    }
}

impl fmt::Display for BatchConfigValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BatchConfigValue::Number(number) => number.fmt(f),
            BatchConfigValue::Time(time) => fmt::Debug::fmt(time, f),
        }
    }
}

/// Checks that the field's `value` is within `bounds`.
///
/// # Errors
/// [`BatchConfigError`] if `value` is out of bounds.
pub(super) fn check<T: Copy + PartialOrd + Into<BatchConfigValue>>(
    field: &'static str,
    value: T,
    bounds: RangeInclusive<T>,
) -> Result<(), BatchConfigError> {
    if bounds.contains(&value) {
        return Ok(());
    }
    let (minimum, maximum) = bounds.into_inner();
    Err(BatchConfigError {
        field,
        value: value.into(),
        minimum: minimum.into(),
        maximum: maximum.into(),
    })
}
