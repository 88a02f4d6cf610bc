//! The breaker as the wire has it.

use std::time::{Duration, SystemTime};

use super::engine::{count, duration};
use crate::{
    breaker::{
        BreakerMode, CircuitBreakerConfig, CircuitBreakerStats, CircuitState, LatencySummary, LifetimeStats,
        Transition, WindowStats,
    },
    proto::{
        self, CircuitMode, CircuitProbes, CircuitSettings, CircuitStats, CircuitTotals, CircuitTransition,
        CircuitWindow,
    },
};

/// A snapshot as the wire has it.
#[must_use]
pub(super) fn from_stats(stats: &CircuitBreakerStats) -> CircuitStats {
    let probes = &stats.half_open;
    let now = SystemTime::now();
    CircuitStats {
        key: stats.key.clone(),
        mode: mode(stats.mode).into(),
        state: state(stats.state).into(),
        effective_state: state(stats.effective_state).into(),
        generation: i64::from(stats.generation),
        in_state: Some(duration(stats.in_state)),
        reason_opened: stats
            .reason_opened
            .map(|reason| reason.to_string())
            .unwrap_or_default(),
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
        settings: Some(settings(&stats.config)),
        history: stats
            .history
            .iter()
            .map(|change| transition(change, stats.taken_ns, now))
            .collect(),
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
    }
}

fn settings(config: &CircuitBreakerConfig) -> CircuitSettings {
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
    }
}

/// The breaker keeps monotonic time; the wire has the wall clock's, counted back from now.
fn transition(change: &Transition, taken_ns: u64, now: SystemTime) -> CircuitTransition {
    let age = Duration::from_nanos(taken_ns.saturating_sub(change.at_ns));
    CircuitTransition {
        time: Some(now.checked_sub(age).unwrap_or(now).into()),
        from: state(change.from).into(),
        to: state(change.to).into(),
        reason: change.reason.to_string(),
        failure_rate: change.failure_rate,
        slow_rate: change.slow_rate,
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

fn small(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}
