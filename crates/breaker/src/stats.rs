//! What a breaker tells about itself: a coherent snapshot, the transitions, and a hook for those who want to hear of them.

use std::{fmt, time::Duration};

use super::{
    config::CircuitBreakerConfig,
    gate::{BreakerMode, CircuitState},
    histogram::{CELLS, middle_ns, upper_edge_ns},
};

/// Why a circuit changed its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransitionReason {
    /// Opened: the share of failed calls.
    FailureRate,
    /// Opened: the share of slow calls, by the completed ones alone.
    SlowRate,
    /// Opened: calls under way that hang, by their share of the calls or because nothing is answered.
    Overdue,
    /// Opened: failures in a row.
    Consecutive,
    /// Opened: the 99th percentile of the latency.
    P99,
    /// Opened: the number of slow calls.
    Violations,
    /// Opened: too many probes were slow or failed.
    ProbeFailed,
    /// Opened: too many probes were bad, the last of them because it did not end in time.
    ProbeTimeout,
    /// Opened: the probes did not decide within the longest wait.
    MaxWait,
    /// Opened: by an operator, for a given time.
    Forced,
    /// Half-open: the open time has passed.
    OpenElapsed,
    /// Ramp, or closed if there is none: enough good probes.
    ProbesPassed,
    /// Closed: the ramp is over.
    RampDone,
    /// Closed: by an operator.
    Reset,
}

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transition {
    /// When, by the breaker's clock, in nanoseconds.
    pub at_ns: u64,
    /// The generation that it began. Events may be delivered out of order by threads that overtake each other; this
    /// tells the order.
    pub generation: u32,
    /// The state before.
    pub from: CircuitState,
    /// The state after.
    pub to: CircuitState,
    /// Why.
    pub reason: TransitionReason,
    /// `failures / calls` in the window at that moment, 0 to 1.
    pub failure_rate: f64,
    /// `(slow + overdue) / (samples + overdue)` at that moment, 0 to 1.
    pub slow_rate: f64,
    /// Successes and failures in the window at that moment.
    pub calls: u64,
    /// Calls under way for the slow threshold or longer at that moment.
    pub overdue: u64,
    /// How long it stays open; zero unless `to` is open.
    pub open_for: Duration,
}

/// Hears of what a breaker does, to export it. Called by the thread that caused the change, after the change, with no lock
/// held: it must return soon.
pub trait TransitionObserver: Send + Sync + 'static {
    /// The circuit `key` changed its state.
    fn on_transition(&self, key: &str, transition: &Transition);

    /// An operator changed the mode of `key`.
    fn on_mode_change(&self, _key: &str, _from: BreakerMode, _to: BreakerMode) {}

    /// The process was held up for about `pause` (stopped, frozen or throttled): `key` judges the latency of the calls
    /// under way only from now on.
    fn on_self_throttled(&self, _key: &str, _pause: Duration) {}
}

/// Percentiles of a duration, each as the upper edge of its histogram cell: at most 25 % above the true value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LatencySummary {
    /// Number of measured durations.
    pub count: u64,
    /// Arithmetic mean, taken from the middles of the histogram's cells: within 12.5 % of the true mean, for durations of at
    /// least 4 µs. Zero if nothing was measured.
    pub mean: Duration,
    /// Half took no longer.
    pub p50: Duration,
    /// 90 % took no longer.
    pub p90: Duration,
    /// 99 % took no longer.
    pub p99: Duration,
    /// 99.9 % took no longer.
    pub p999: Duration,
    /// None took longer (67 s stands for everything above).
    pub max: Duration,
}

/// The sliding window of the present generation: at most `length`, and nothing from before the last transition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WindowStats {
    /// How far it looks back.
    pub length: Duration,
    /// Successes and failures.
    pub calls: u64,
    /// Calls whose latency counts.
    pub samples: u64,
    /// Distinct commit batches; a call without one is its own.
    pub batches: u64,
    /// Distinct commit batches with a slow or failed call.
    pub bad_batches: u64,
    /// Failed calls.
    pub failures: u64,
    /// Slow calls, failed or not.
    pub slow: u64,
    /// Slow calls that failed.
    pub slow_failures: u64,
    /// Calls whose outcome says nothing.
    pub neutral: u64,
    /// `failures / calls`, 0 to 1.
    pub failure_rate: f64,
    /// `(slow + overdue) / (samples + overdue)`, 0 to 1.
    pub slow_rate: f64,
    /// Whether there are enough calls for a verdict by rate.
    pub min_calls_met: bool,
    /// Whether there are enough batches for a verdict by rate.
    pub min_batches_met: bool,
    /// From admission to the answer.
    pub total: LatencySummary,
    /// From admission to being taken into a batch.
    pub queue_wait: LatencySummary,
    /// From being taken into a batch to being durable; each batch is measured once.
    pub commit: LatencySummary,
}

/// The probes of the half-open state; zeroes in other states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HalfOpenStats {
    /// How many a generation lets through.
    pub permits: u32,
    /// How many it has let through, without those withdrawn.
    pub issued: u32,
    /// How many were fast and successful.
    pub ok: u32,
    /// How many were slow, failed, or did not end in time.
    pub bad: u32,
}

/// Counts since the breaker was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LifetimeStats {
    /// Calls let through and recorded.
    pub admitted: u64,
    /// Calls that ended in time and well.
    pub successes: u64,
    /// Calls that failed.
    pub failures: u64,
    /// Calls whose outcome says nothing.
    pub neutral: u64,
    /// Calls that were slow, whatever their outcome.
    pub slow: u64,
    /// Calls refused while open or forced open.
    pub rejected_open: u64,
    /// Calls refused for want of a probe's permit.
    pub rejected_half_open: u64,
    /// Calls refused by the ramp.
    pub rejected_ramp: u64,
    /// Calls let through by [`BreakerMode::MetricsOnly`] that [`BreakerMode::Auto`] would have refused.
    pub would_reject: u64,
    /// Results of calls of an earlier generation; they changed nothing.
    pub stale_results: u64,
    /// Calls dropped without a result.
    pub cancelled: u64,
    /// Transitions to open.
    pub opens: u64,
    /// Transitions to half-open.
    pub half_opens: u64,
    /// Transitions to closed.
    pub closes: u64,
    /// Milliseconds that the process was held up, as far as the ticker noticed.
    pub self_throttled_ms: u64,
}

/// A coherent snapshot of one breaker: no transition happened while it was taken.
#[derive(Debug, Clone, PartialEq)]
pub struct CircuitBreakerStats {
    /// What the breaker guards.
    pub key: String,
    /// When it was taken, by the breaker's clock, in nanoseconds. Subtract `history`'s `at_ns` to get an age.
    pub taken_ns: u64,
    /// Who decides.
    pub mode: BreakerMode,
    /// The state as it was last written.
    pub state: CircuitState,
    /// The state by the clock: an idle circuit whose open time has passed is half-open though no call has come yet.
    pub effective_state: CircuitState,
    /// Grows by one with every transition; 22 bits.
    pub generation: u32,
    /// When the state was entered, by the breaker's clock, in nanoseconds.
    pub since_ns: u64,
    /// How long the state has been held.
    pub in_state: Duration,
    /// Why it opened last.
    pub reason_opened: Option<TransitionReason>,
    /// How many times in a row it has opened without staying closed for `stable_for`.
    pub open_attempt: u32,
    /// When it stops being open, by the breaker's clock, in milliseconds, if it is open.
    pub open_until_ms: Option<u64>,
    /// How long until the next probe may pass; zero unless open.
    pub next_probe_in: Duration,
    /// The hint that a rejection of this moment would carry, without its random spread; zero if none would be rejected.
    pub retry_hint: Duration,
    /// The sliding window.
    pub window: WindowStats,
    /// Calls under way.
    pub in_flight: u64,
    /// Calls of this generation in flight for the slow threshold or longer.
    pub overdue_in_flight: u64,
    /// Failures in a row in this generation: those since the last success. The failed calls of one batch count as one failure.
    pub consecutive_failures: u64,
    /// The probes.
    pub half_open: HalfOpenStats,
    /// The share of calls let through: below 1 in a ramp, 0 while open, else 1.
    pub ramp_weight: f64,
    /// Counts since the start.
    pub lifetime: LifetimeStats,
    /// The settings in force.
    pub config: CircuitBreakerConfig,
    /// The last transitions, oldest first; at most [`HISTORY_MAX`](super::HISTORY_MAX).
    pub history: Vec<Transition>,
}

// ===== impl TransitionReason =====

impl TransitionReason {
    /// The name in the notation of metrics and events.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FailureRate => "failure_rate",
            Self::SlowRate => "slow_rate",
            Self::Overdue => "overdue",
            Self::Consecutive => "consecutive_failures",
            Self::P99 => "p99",
            Self::Violations => "violations",
            Self::ProbeFailed => "probe_failed",
            Self::ProbeTimeout => "probe_timeout",
            Self::MaxWait => "max_wait",
            Self::Forced => "forced",
            Self::OpenElapsed => "open_elapsed",
            Self::ProbesPassed => "probes_passed",
            Self::RampDone => "ramp_done",
            Self::Reset => "reset",
        }
    }
}

impl fmt::Display for TransitionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// ===== impl LatencySummary =====

impl LatencySummary {
    pub(super) fn from_cells(cells: &[u64; CELLS]) -> Self {
        let count: u64 = cells.iter().sum();
        let at = |per_mille: u64| quantile(cells, (count * per_mille).div_ceil(1000));
        let sum_ns: u128 = cells
            .iter()
            .enumerate()
            .map(|(index, cell)| u128::from(*cell) * u128::from(middle_ns(index)))
            .sum();
        let mean_ns = sum_ns / u128::from(count.max(1));
        Self {
            count,
            // A mean is never above the largest middle, which fits.
            mean: Duration::from_nanos(u64::try_from(mean_ns).unwrap_or(u64::MAX)),
            p50: at(500),
            p90: at(900),
            p99: at(990),
            p999: at(999),
            max: at(1000),
        }
    }
}

/// The upper edge of the cell that holds the `rank`-th shortest duration, counted from 1; zero for rank 0.
fn quantile(cells: &[u64; CELLS], rank: u64) -> Duration {
    let mut seen = 0;
    for (index, cell) in cells.iter().enumerate() {
        seen += cell;
        if rank > 0 && seen >= rank {
            return Duration::from_nanos(upper_edge_ns(index));
        }
    }
    Duration::ZERO
}
