//! `GetCircuitStats`: converts the state of the circuits (the circuit breakers) for the API.

use std::time::{Duration, SystemTime};

use tally_breaker::{
    BreakerMode, CircuitBreakerConfig, CircuitState, LatencySummary, LifetimeStats, Transition, WindowStats,
};

use super::values::{count, duration, small, text};
use crate::{
    engine::{CircuitReport, TallyEngine, ThresholdSource},
    proto::{
        self, CircuitMode, CircuitProbes, CircuitSettings, CircuitStats, CircuitTotals, CircuitTransition,
        CircuitWindow, GetCircuitStatsResponse,
    },
};

/// Returns the answer of `GetCircuitStats`.
#[must_use]
pub fn circuit_stats_response(engine: &TallyEngine) -> GetCircuitStatsResponse {
    GetCircuitStatsResponse {
        circuits: engine.circuit_reports().iter().map(from_report).collect(),
        snapshot_time: Some(SystemTime::now().into()),
    }
}

/// Converts the snapshot of a circuit.
#[must_use]
pub(crate) fn from_report(report: &CircuitReport) -> CircuitStats {
    let CircuitReport { stats, threshold } = report;
    let probes = &stats.half_open;
    CircuitStats {
        key: stats.key.clone(),
        mode: mode(stats.mode).into(),
        state: state(stats.state).into(),
        effective_state: state(stats.effective_state).into(),
        generation: i64::from(stats.generation),
        in_state: Some(duration(stats.in_state)),
        reason_opened: text(stats.reason_opened),
        open_attempt: small(stats.open_attempt),
        open_remaining: Some(duration(stats.next_probe_in)),
        window: Some(window(&stats.window)),
        in_flight: count(stats.in_flight),
        overdue_in_flight: count(stats.overdue_in_flight),
        probes: Some(CircuitProbes {
            permits: small(probes.permits),
            issued: small(probes.issued),
            good: small(probes.ok),
            bad: small(probes.bad),
        }),
        ramp_weight: stats.ramp_weight,
        totals: Some(totals(&stats.lifetime)),
        settings: Some(settings(&stats.config, *threshold)),
        history: stats.history.iter().map(transition).collect(),
        state_time: Some(stats.since.into()),
        open_until: stats.open_until.map(Into::into),
        retry_hint: Some(duration(stats.retry_hint)),
        next_probe: Some(duration(stats.next_probe_in)),
        consecutive_failures: count(stats.consecutive_failures),
    }
}

fn window(window: &WindowStats) -> CircuitWindow {
    CircuitWindow {
        length: Some(duration(window.length)),
        calls: count(window.calls),
        batches: count(window.batches),
        failures: count(window.failures),
        slow: count(window.slow),
        slow_failures: count(window.slow_failures),
        neutral: count(window.neutral),
        failure_rate: window.failure_rate,
        slow_rate: window.slow_rate,
        min_calls_met: window.min_calls_met,
        min_batches_met: window.min_batches_met,
        total: Some(latencies(&window.total)),
        queue_wait: Some(latencies(&window.queue_wait)),
        commit: Some(latencies(&window.commit)),
        samples: count(window.samples),
        bad_batches: count(window.bad_batches),
    }
}

fn latencies(summary: &LatencySummary) -> proto::LatencySummary {
    proto::LatencySummary {
        p50: Some(duration(summary.p50)),
        p90: Some(duration(summary.p90)),
        p99: Some(duration(summary.p99)),
        p999: Some(duration(summary.p999)),
        max: Some(duration(summary.max)),
        count: count(summary.count),
        mean: Some(duration(summary.mean)),
    }
}

fn totals(lifetime: &LifetimeStats) -> CircuitTotals {
    CircuitTotals {
        admitted: count(lifetime.admitted),
        rejected_open: count(lifetime.rejected_open),
        rejected_half_open: count(lifetime.rejected_half_open),
        rejected_ramp: count(lifetime.rejected_ramp),
        would_reject: count(lifetime.would_reject),
        stale_results: count(lifetime.stale_results),
        cancelled: count(lifetime.cancelled),
        opens: count(lifetime.opens),
        half_opens: count(lifetime.half_opens),
        closes: count(lifetime.closes),
        self_throttled: Some(duration(Duration::from_millis(lifetime.self_throttled_ms))),
        successes: count(lifetime.successes),
        failures: count(lifetime.failures),
        slow_calls: count(lifetime.slow),
    }
}

fn settings(config: &CircuitBreakerConfig, threshold: ThresholdSource) -> CircuitSettings {
    CircuitSettings {
        slow_threshold: Some(duration(config.slow_threshold)),
        slow_rate_threshold: config.slow_rate,
        failure_rate_threshold: config.failure_rate,
        min_calls: i64::from(config.min_calls),
        min_batches: i64::from(config.min_batches),
        consecutive_failures: config.consecutive_failures.map(i64::from).unwrap_or_default(),
        open_base: Some(duration(config.open_base)),
        open_max: Some(duration(config.open_max)),
        half_open_permits: small(config.half_open_permits),
        half_open_needed: small(config.half_open_ok_needed),
        ramp: Some(duration(config.ramp)),
        slow_threshold_source: threshold.as_str().to_owned(),
        violations: config.violations.map(i64::from).unwrap_or_default(),
        p99_threshold: Some(duration(config.p99_threshold.unwrap_or_default())),
        window_buckets: small(config.window_buckets),
        bucket: Some(duration(config.bucket)),
        open_jitter: config.open_jitter,
        self_probe: config.self_probe,
        probe_timeout: Some(duration(config.effective_probe_timeout())),
        half_open_max_wait: Some(duration(config.half_open_max_wait)),
        ramp_min: config.ramp_min,
        ramp_aggression: config.ramp_aggression,
        stable_for: Some(duration(config.stable_for)),
        forced_open_retry_after: Some(duration(config.forced_open_retry_after)),
        tick_interval: Some(duration(config.tick_interval)),
        shards: small(config.shards),
        overdue_rounds: small(config.overdue_rounds),
        stall_rate: config.stall_rate,
        min_overdue: small(config.min_overdue),
        stall_after: Some(duration(config.effective_stall_after())),
    }
}

/// Converts a change of state.
fn transition(change: &Transition) -> CircuitTransition {
    CircuitTransition {
        time: Some(change.time.into()),
        from: state(change.from).into(),
        to: state(change.to).into(),
        reason: change.reason.to_string(),
        failure_rate: change.failure_rate,
        slow_rate: change.slow_rate,
        generation: i64::from(change.generation),
        calls: count(change.calls),
        overdue: count(change.overdue),
        open_for: Some(duration(change.open_for)),
    }
}

/// Converts the mode of a request. Returns `None` if the mode is unspecified.
pub(crate) const fn wanted_mode(mode: CircuitMode) -> Option<BreakerMode> {
    match mode {
        CircuitMode::Auto => Some(BreakerMode::Auto),
        CircuitMode::MetricsOnly => Some(BreakerMode::MetricsOnly),
        CircuitMode::ForcedOpen => Some(BreakerMode::ForcedOpen),
        CircuitMode::Disabled => Some(BreakerMode::Disabled),
        CircuitMode::Unspecified => None,
    }
}

const fn mode(mode: BreakerMode) -> CircuitMode {
    match mode {
        BreakerMode::Auto => CircuitMode::Auto,
        BreakerMode::MetricsOnly => CircuitMode::MetricsOnly,
        BreakerMode::ForcedOpen => CircuitMode::ForcedOpen,
        BreakerMode::Disabled => CircuitMode::Disabled,
    }
}

const fn state(state: CircuitState) -> proto::CircuitState {
    match state {
        CircuitState::Closed => proto::CircuitState::Closed,
        CircuitState::Open => proto::CircuitState::Open,
        CircuitState::HalfOpen => proto::CircuitState::HalfOpen,
        CircuitState::Ramp => proto::CircuitState::Ramp,
    }
}
