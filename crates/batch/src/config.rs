//! Settings of a batch processor, and their bounds.

use std::{ops::RangeInclusive, time::Duration};

use thiserror::Error;

/// The bounds of the queue, and how batches are made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchConfig {
    /// Maximum number of queued requests, 2 to 2^20.
    pub queue_requests_max: usize,
    /// Maximum number of queued bytes, 1 MiB to 1 TiB. A single request may exceed it when the queue is empty.
    pub queue_bytes_max: usize,
    /// Maximum time that a batch waits for callers on their way, at most 1 s. A batch never waits longer than half a commit.
    /// Zero: a batch never waits.
    pub max_linger: Duration,
    /// Number of callers on their way for which a batch waits, 1 to 2^20.
    pub siblings: usize,
    /// Maximum share of one client in a batch while other clients wait, in percent of the largest batch, 1 to 100.
    pub client_share_percent: u8,
    /// Maximum time from the claim of a batch's first request to the batch's replies, at most 1 hour. A batch that takes longer is
    /// counted ([`BatchStats::over_budget`](super::BatchStats::over_budget)), and at most every 10 s a warning is logged.
    /// `None`: no batch is too slow. Only batches that waited for a commit count.
    pub latency_budget: Option<Duration>,
}

/// A value of [`BatchConfig`] that is out of bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("batch.{field} = {value}: must be {minimum} to {maximum}")]
pub struct BatchConfigError {
    /// The field.
    pub field: &'static str,
    /// The value that was set.
    pub value: usize,
    /// The smallest permitted value.
    pub minimum: usize,
    /// The largest permitted value.
    pub maximum: usize,
}

// ===== impl BatchConfig =====

impl BatchConfig {
    /// The bounds of [`BatchConfig::max_linger`].
    pub const MAX_LINGER_BOUNDS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(1);
    /// The bounds of [`BatchConfig::latency_budget`].
    pub const LATENCY_BUDGET_BOUNDS: RangeInclusive<Duration> =
        Duration::from_micros(1)..=Duration::from_secs(3600);

    /// Checks the bounds.
    ///
    /// # Errors
    /// Returns the first field that is out of bounds.
    pub fn validate(&self) -> Result<(), BatchConfigError> {
        check("queue_requests_max", self.queue_requests_max, 2, 1 << 20)?;
        check("queue_bytes_max", self.queue_bytes_max, 1 << 20, 1 << 40)?;
        check_micros("max_linger_us", self.max_linger, &Self::MAX_LINGER_BOUNDS)?;
        check("siblings", self.siblings, 1, 1 << 20)?;
        check("client_share_percent", self.client_share_percent.into(), 1, 100)?;
        match self.latency_budget {
            Some(budget) => check_micros("latency_budget_us", budget, &Self::LATENCY_BUDGET_BOUNDS),
            None => Ok(()),
        }
    }
}

impl Default for BatchConfig {
    fn default() -> Self {
        BatchConfig {
            queue_requests_max: 16 * 1024,
            queue_bytes_max: 256 << 20,
            // On most disks the limit of half a commit is the shorter one. Lingering saves a fifth of the blocks when hundreds of
            // callers wait, and a lone caller never waits for others (docs/performance.md).
            max_linger: Duration::from_millis(2),
            siblings: 4,
            client_share_percent: 50,
            latency_budget: None,
        }
    }
}

/// Checks that `value` is within its bounds, both inclusive.
///
/// # Errors
/// If it is not.
pub(super) const fn check(
    field: &'static str,
    value: usize,
    minimum: usize,
    maximum: usize,
) -> Result<(), BatchConfigError> {
    if minimum <= value && value <= maximum {
        Ok(())
    } else {
        Err(BatchConfigError {
            field,
            value,
            minimum,
            maximum,
        })
    }
}

/// As [`check`], in whole microseconds.
///
/// # Errors
/// If `time` is not within `bounds`.
pub(super) fn check_micros(
    field: &'static str,
    time: Duration,
    bounds: &RangeInclusive<Duration>,
) -> Result<(), BatchConfigError> {
    check(
        field,
        micros(time),
        micros(*bounds.start()),
        micros(*bounds.end()),
    )
}

/// Whole microseconds; the largest number stands for longer times.
fn micros(time: Duration) -> usize {
    usize::try_from(time.as_micros()).unwrap_or(usize::MAX)
}
