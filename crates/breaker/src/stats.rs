//! The reports of a breaker: snapshots, transitions, and the observer trait.

use std::{fmt, time::Duration};

use super::{
    config::CircuitBreakerConfig,
    gate::{BreakerMode, CircuitState},
    histogram::{CELLS, middle_ns, upper_edge_ns},
};

/// The reason of a transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransitionReason {
    /// Opened: the share of failed calls.
    FailureRate,
    /// Opened: the share of slow calls among the completed calls.
    SlowRate,
    /// Opened: calls in flight hang, by their share of the calls or because no call is answered.
    Overdue,
    /// Opened: failures in a row.
    Consecutive,
    /// Opened: the 99th percentile of the latency.
    P99,
    /// Opened: the number of slow calls.
    Violations,
    /// Opened: too many probes were slow or failed.
    ProbeFailed,
    /// Opened: too many probes were bad, and the last bad probe did not end in time.
    ProbeTimeout,
    /// Opened: the probes did not decide within the longest wait.
    MaxWait,
    /// Opened: by an operator, for a given time.
    Forced,
    /// Half-open: the open time has passed.
    OpenElapsed,
    /// Ramp, or closed if the ramp is zero: enough good probes.
    ProbesPassed,
    /// Closed: the ramp is over.
    RampDone,
    /// Closed: by an operator.
    Reset,
}

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transition {
    /// Time of the transition, in nanoseconds of the breaker's clock.
    pub at_ns: u64,
    /// The generation that began with this transition. Threads may deliver events out of order; the generation gives
    /// the order.
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
    /// Calls in flight for the slow threshold or longer at that moment.
    pub overdue: u64,
    /// How long the circuit stays open; zero unless `to` is open.
    pub open_for: Duration,
}

/// Receives the events of a breaker, to export them. The thread that caused a change calls the observer after the
/// change and without a lock, so the observer must return soon.
pub trait TransitionObserver: Send + Sync + 'static {
    /// The circuit `key` changed its state.
    fn on_transition(&self, key: &str, transition: &Transition);

    /// An operator changed the mode of `key`.
    fn on_mode_change(&self, _key: &str, _from: BreakerMode, _to: BreakerMode) {}

    /// The process did not run for about `pause` (it was stopped, frozen or throttled). The circuit `key` measures the
    /// latency of the calls in flight from now on.
    fn on_self_throttled(&self, _key: &str, _pause: Duration) {}
}

/// Percentiles of a duration, each as the upper edge of its histogram cell: at most 25 % above the true value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LatencySummary {
    /// Number of measured durations.
    pub count: u64,
    /// Arithmetic mean, taken from the middles of the histogram's cells: within 12.5 % of the true mean, for durations
    /// of at least 4 µs. Zero if nothing was measured.
    pub mean: Duration,
    /// 50 % of the durations are not longer.
    pub p50: Duration,
    /// 90 % of the durations are not longer.
    pub p90: Duration,
    /// 99 % of the durations are not longer.
    pub p99: Duration,
    /// 99.9 % of the durations are not longer.
    pub p999: Duration,
    /// No duration is longer. 67 s means 67 s or longer.
    pub max: Duration,
}

/// The sliding window of the current generation: the last `length`, without the time before the last transition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WindowStats {
    /// Length of the window.
    pub length: Duration,
    /// Successes and failures.
    pub calls: u64,
    /// Calls whose latency counts.
    pub samples: u64,
    /// Distinct commit batches. A call without a batch is a batch by itself.
    pub batches: u64,
    /// Distinct commit batches with a slow or failed call.
    pub bad_batches: u64,
    /// Failed calls.
    pub failures: u64,
    /// Slow calls, failed or not.
    pub slow: u64,
    /// Slow calls that failed.
    pub slow_failures: u64,
    /// Calls with a neutral outcome.
    pub neutral: u64,
    /// `failures / calls`, 0 to 1.
    pub failure_rate: f64,
    /// `(slow + overdue) / (samples + overdue)`, 0 to 1.
    pub slow_rate: f64,
    /// Whether the window holds enough calls for a rate to open the circuit.
    pub min_calls_met: bool,
    /// Whether the window holds enough batches for a rate to open the circuit.
    pub min_batches_met: bool,
    /// Durations from admission to the end of the call, of the calls whose latency counts.
    pub total: LatencySummary,
    /// Durations from admission until the call is taken into a batch.
    pub queue_wait: LatencySummary,
    /// Durations from taking a batch until it is durable; each batch is measured once.
    pub commit: LatencySummary,
}

/// The probes of the half-open state; zeroes in other states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HalfOpenStats {
    /// Number of probes that a generation admits.
    pub permits: u32,
    /// Number of probes admitted, without the probes withdrawn.
    pub issued: u32,
    /// Number of fast and successful probes.
    pub ok: u32,
    /// Number of probes that were slow, failed, or did not end in time.
    pub bad: u32,
}

/// Counts since the breaker was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LifetimeStats {
    /// Calls that were admitted and recorded.
    pub admitted: u64,
    /// Calls that succeeded, slow ones included.
    pub successes: u64,
    /// Calls that failed.
    pub failures: u64,
    /// Calls with a neutral outcome.
    pub neutral: u64,
    /// Slow calls, of any outcome.
    pub slow: u64,
    /// Calls rejected while open or forced open.
    pub rejected_open: u64,
    /// Calls rejected because no permit for a probe was left.
    pub rejected_half_open: u64,
    /// Calls rejected by the ramp.
    pub rejected_ramp: u64,
    /// Calls admitted by [`BreakerMode::MetricsOnly`] that [`BreakerMode::Auto`] would have rejected.
    pub would_reject: u64,
    /// Results of calls that an earlier generation admitted. They are not counted otherwise.
    pub stale_results: u64,
    /// Calls dropped without a result.
    pub cancelled: u64,
    /// Transitions to open.
    pub opens: u64,
    /// Transitions to half-open.
    pub half_opens: u64,
    /// Transitions to closed.
    pub closes: u64,
    /// Milliseconds for which the process did not run, as far as the breaker noticed.
    pub self_throttled_ms: u64,
}

/// A coherent snapshot of one breaker: no transition happened while it was taken.
#[derive(Debug, Clone, PartialEq)]
pub struct CircuitBreakerStats {
    /// What the breaker guards.
    pub key: String,
    /// Time of the snapshot, in nanoseconds of the breaker's clock. Subtract an `at_ns` of `history` to get an age.
    pub taken_ns: u64,
    /// The mode.
    pub mode: BreakerMode,
    /// The state that the last transition set.
    pub state: CircuitState,
    /// The state that a call would meet now: an idle circuit whose open time has passed is half-open although no call
    /// has come.
    pub effective_state: CircuitState,
    /// Grows by one with every transition; 22 bits.
    pub generation: u32,
    /// When the state began, in nanoseconds of the breaker's clock.
    pub since_ns: u64,
    /// How long the circuit has been in this state.
    pub in_state: Duration,
    /// Why the circuit opened last.
    pub reason_opened: Option<TransitionReason>,
    /// How many times in a row the circuit has opened without staying closed for `stable_for`.
    pub open_attempt: u32,
    /// When the open time ends, in milliseconds of the breaker's clock. None unless open.
    pub open_until_ms: Option<u64>,
    /// How long until the next probe may pass; zero unless open.
    pub next_probe_in: Duration,
    /// The retry hint of a rejection at this moment, without its random spread. Zero if calls are admitted.
    pub retry_hint: Duration,
    /// The sliding window.
    pub window: WindowStats,
    /// Calls in flight.
    pub in_flight: u64,
    /// Calls of this generation in flight for the slow threshold or longer.
    pub overdue_in_flight: u64,
    /// Failures in a row in this generation: those since the last success. The failed calls of one batch count as one
    /// failure.
    pub consecutive_failures: u64,
    /// The probes of the half-open state.
    pub half_open: HalfOpenStats,
    /// The share of calls that is admitted: below 1 in a ramp, 0 while open, otherwise 1.
    pub ramp_weight: f64,
    /// Counters since the breaker was made.
    pub lifetime: LifetimeStats,
    /// The settings in force.
    pub config: CircuitBreakerConfig,
    /// The last transitions, oldest first; at most [`HISTORY_MAX`](super::HISTORY_MAX).
    pub history: Vec<Transition>,
}

// ===== impl TransitionReason =====

impl TransitionReason {
    /// Returns the name used in metrics and events.
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
            // A mean is at most the middle of the last cell, which fits.
            mean: Duration::from_nanos(u64::try_from(mean_ns).unwrap_or(u64::MAX)),
            p50: at(500),
            p90: at(900),
            p99: at(990),
            p999: at(999),
            max: at(1000),
        }
    }
}

/// Returns the upper edge of the cell that holds the `rank`-th shortest duration, counted from 1; zero for rank 0.
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
