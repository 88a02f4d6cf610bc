//! What a breaker reports: snapshots of its state ([`CircuitBreakerStats`]), transitions ([`Transition`]), and events
//! ([`TransitionObserver`]).

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use super::{
    config::CircuitBreakerConfig,
    gate::{BreakerMode, CircuitState},
    histogram::{CELLS, middle_ns, upper_edge_ns},
};

/// The reason of a transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransitionReason {
    /// The circuit opened: the share of failed calls reached its threshold.
    FailureRate,
    /// The circuit opened: the share of slow calls among the completed calls reached its threshold.
    SlowRate,
    /// The circuit opened: calls in flight hung. Either slow calls and hanging calls together reached the threshold of
    /// the slow rate, or a large share of the calls hung, or no call was answered, or no work was done.
    Overdue,
    /// The circuit opened: the number of failures in a row reached its limit.
    Consecutive,
    /// The circuit opened: the 99th percentile of the latency reached its threshold.
    P99,
    /// The circuit opened: the number of slow calls reached its limit.
    Violations,
    /// The circuit opened: too many probes were slow or failed.
    ProbeFailed,
    /// The circuit opened: too many probes were bad, and the last bad probe did not end in time.
    ProbeTimeout,
    /// The circuit opened: too few probes were good within the longest half-open wait.
    MaxWait,
    /// The circuit opened: an operator opened it for a given time.
    Forced,
    /// The circuit became half-open: the open time passed.
    OpenElapsed,
    /// The ramp began, or the circuit closed if the ramp's length is zero: enough probes were good.
    ProbesPassed,
    /// The circuit closed: the ramp ended.
    RampDone,
    /// The circuit closed: an operator reset it.
    Reset,
}

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transition {
    /// Time of the transition, in nanoseconds of the breaker's clock.
    pub at_ns: u64,
    /// The time of day at the transition. It was read at the transition, so every reader of this transition gets the
    /// same time.
    pub time: SystemTime,
    /// The number of the generation that began with this transition. The number grows with every transition, so it
    /// shows the order of events that arrive out of order.
    pub generation: u32,
    /// The state before the transition.
    pub from: CircuitState,
    /// The state after the transition.
    pub to: CircuitState,
    /// Why the state changed.
    pub reason: TransitionReason,
    /// `failures / calls` in the window at that moment, 0 to 1.
    pub failure_rate: f64,
    /// `(slow + overdue) / (samples + overdue)` in the window at that moment, 0 to 1. Samples are the calls whose
    /// latency counts.
    pub slow_rate: f64,
    /// Number of successes and failures in the window at that moment.
    pub calls: u64,
    /// Number of calls that had been in flight for the slow threshold or longer at that moment.
    pub overdue: u64,
    /// The time for which the circuit stays open; zero unless `to` is open.
    pub open_for: Duration,
}

/// Receives the events of a breaker, for example to export them. The thread that made a change calls the observer after
/// the change, without holding a lock. The thread may be serving a call, so the observer must return quickly.
pub trait TransitionObserver: Send + Sync + 'static {
    /// The circuit `key` changed its state.
    fn on_transition(&self, key: &str, transition: &Transition);

    /// An operator changed the mode of `key`.
    fn on_mode_change(&self, _key: &str, _from: BreakerMode, _to: BreakerMode) {}

    /// The process did not run for about the time `pause`, because it was stopped, frozen or throttled. The circuit
    /// `key` now measures the latency of the calls in flight from this moment.
    fn on_self_throttled(&self, _key: &str, _pause: Duration) {}
}

/// The distribution of a duration. Each percentile is the upper edge of a histogram cell, which is at most 25 % above
/// the true value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LatencySummary {
    /// Number of measured durations.
    pub count: u64,
    /// Arithmetic mean, computed from the middles of the histogram's cells. It differs from the true mean by at most
    /// 12.5 % if every duration is at least 4 µs. Zero if nothing was measured.
    pub mean: Duration,
    /// The median: 50 % of the durations are at most this long.
    pub p50: Duration,
    /// 90 % of the durations are at most this long.
    pub p90: Duration,
    /// 99 % of the durations are at most this long.
    pub p99: Duration,
    /// 99.9 % of the durations are at most this long.
    pub p999: Duration,
    /// The longest duration. 67 s means 67 s or longer.
    pub max: Duration,
}

/// The calls in the sliding window: those that ended in the last `length`, but not before the last transition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WindowStats {
    /// Length of the window.
    pub length: Duration,
    /// Number of successes and failures.
    pub calls: u64,
    /// Number of calls whose latency counts.
    pub samples: u64,
    /// Number of distinct commit batches. A call without a batch is a batch by itself.
    pub batches: u64,
    /// Number of distinct commit batches with a call that was slow, failed or reached the p99 threshold.
    pub bad_batches: u64,
    /// Number of failed calls.
    pub failures: u64,
    /// Number of slow calls, failed or not.
    pub slow: u64,
    /// Number of slow calls that failed.
    pub slow_failures: u64,
    /// Number of calls with a neutral outcome.
    pub neutral: u64,
    /// `failures / calls`, 0 to 1.
    pub failure_rate: f64,
    /// `(slow + overdue) / (samples + overdue)`, 0 to 1. Overdue calls have been in flight for the slow threshold or
    /// longer.
    pub slow_rate: f64,
    /// Whether the window holds enough calls for a rate to open the circuit.
    pub min_calls_met: bool,
    /// Whether the window holds enough batches for a rate to open the circuit.
    pub min_batches_met: bool,
    /// The times from admission to the end of the call, of the calls whose latency counts.
    pub total: LatencySummary,
    /// The times from admission until the call was taken into a batch.
    pub queue_wait: LatencySummary,
    /// The times from taking a batch until the batch was durable. Each batch is measured once.
    pub commit: LatencySummary,
}

/// The probes of the half-open state. All counts but `permits` are zero in other states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HalfOpenStats {
    /// Maximum number of probes that a half-open circuit admits.
    pub permits: u32,
    /// Number of probes admitted, without the probes that showed nothing about the service.
    pub issued: u32,
    /// Number of fast and successful probes.
    pub ok: u32,
    /// Number of probes that were slow, failed, or did not end in time.
    pub bad: u32,
}

/// Counts since the breaker was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LifetimeStats {
    /// Number of calls that were admitted and recorded.
    pub admitted: u64,
    /// Number of calls that succeeded, including slow calls.
    pub successes: u64,
    /// Number of calls that failed.
    pub failures: u64,
    /// Number of calls with a neutral outcome.
    pub neutral: u64,
    /// Number of slow calls, of any outcome.
    pub slow: u64,
    /// Number of calls rejected while the circuit was open or the mode was [`BreakerMode::ForcedOpen`].
    pub rejected_open: u64,
    /// Number of calls rejected while the circuit was half-open, because no permit for a probe was left.
    pub rejected_half_open: u64,
    /// Number of calls rejected by the ramp.
    pub rejected_ramp: u64,
    /// Number of calls admitted in mode [`BreakerMode::MetricsOnly`] that [`BreakerMode::Auto`] would have rejected.
    pub would_reject: u64,
    /// Number of results of calls that were admitted before the last transition. Such a result is in no count of
    /// outcomes.
    pub stale_results: u64,
    /// Number of calls dropped without a result.
    pub cancelled: u64,
    /// Number of transitions to open.
    pub opens: u64,
    /// Number of transitions to half-open.
    pub half_opens: u64,
    /// Number of transitions to closed.
    pub closes: u64,
    /// Milliseconds for which the process did not run, as far as the breaker noticed.
    pub self_throttled_ms: u64,
}

/// A coherent snapshot of one breaker: no transition happened while it was taken.
#[derive(Debug, Clone, PartialEq)]
pub struct CircuitBreakerStats {
    /// The key, which names what the breaker guards.
    pub key: String,
    /// Time of the snapshot, in nanoseconds of the breaker's clock. Subtract a transition's `at_ns` from it to get the
    /// transition's age.
    pub taken_ns: u64,
    /// The mode.
    pub mode: BreakerMode,
    /// The state that the last transition set.
    pub state: CircuitState,
    /// The state that a call would find now. For example, if the open time has passed and no call or tick has come
    /// since, `state` is open and `effective_state` is half-open.
    pub effective_state: CircuitState,
    /// The number of the generation. It grows by one with every transition and when the half-open wait begins again,
    /// modulo 2^22.
    pub generation: u32,
    /// Time at which the state began, in nanoseconds of the breaker's clock.
    pub since_ns: u64,
    /// The time of day at which the state began. It was read at that moment, so it is the same in every snapshot.
    pub since: SystemTime,
    /// The time for which the circuit has been in this state.
    pub in_state: Duration,
    /// The reason for which the circuit opened last; None if it never opened.
    pub reason_opened: Option<TransitionReason>,
    /// The number of times in a row that the circuit has opened without staying closed for `stable_for`.
    pub open_attempt: u32,
    /// Time at which the open time ends, in milliseconds of the breaker's clock. None unless `state` is open.
    pub open_until_ms: Option<u64>,
    /// The time of day at which the open time ends: `since` plus the open time. None unless `state` is open.
    pub open_until: Option<SystemTime>,
    /// The time until the next probe is admitted; zero unless `state` is open.
    pub next_probe_in: Duration,
    /// The `retry_after` of a call rejected now by an open circuit, without its spread; otherwise zero.
    pub retry_hint: Duration,
    /// The sliding window.
    pub window: WindowStats,
    /// Number of calls in flight.
    pub in_flight: u64,
    /// Number of calls admitted since the last transition that have been in flight for the slow threshold or longer.
    pub overdue_in_flight: u64,
    /// Number of failures since the last success or the last transition. The failed calls of one batch count as one
    /// failure.
    pub consecutive_failures: u64,
    /// The probes of the half-open state.
    pub half_open: HalfOpenStats,
    /// The share of calls that is admitted: 0 while the circuit is open, below 1 in a ramp, otherwise 1.
    pub ramp_weight: f64,
    /// Counters since the breaker was made.
    pub lifetime: LifetimeStats,
    /// The settings of the breaker.
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
            // The mean is at most the middle of the last cell, which fits into 64 bits.
            mean: Duration::from_nanos(u64::try_from(mean_ns).unwrap_or(u64::MAX)),
            p50: at(500),
            p90: at(900),
            p99: at(990),
            p999: at(999),
            max: at(1000),
        }
    }
}

/// Returns the upper edge of the cell that holds the `rank`-th shortest duration. Ranks count from 1; rank 0 returns
/// zero.
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
