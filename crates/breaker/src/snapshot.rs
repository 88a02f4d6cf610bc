//! Takes snapshots of a breaker.

use std::time::Duration;

use super::{
    clock::nanos,
    gate::{BreakerMode, CircuitState, Probes, StateWord},
    machine::Core,
    policy::Evidence,
    signals::ShardCounters,
    stats::{CircuitBreakerStats, HalfOpenStats, LatencySummary, LifetimeStats, WindowStats},
    sync::{AtomicU64, Ordering},
};

const NANOS_PER_MILLI: u64 = 1_000_000;

impl Core {
    /// Takes a snapshot while holding the lock of the transition log. Every transition needs this lock, so no
    /// transition happens while the snapshot is taken. Calls need no lock.
    pub(super) fn stats(&self) -> CircuitBreakerStats {
        let transition_log = self.transition_log.lock();
        let now_ns = self.clock.now_ns();
        let word = self.gate.load();
        let evidence = self.evidence(word.generation(), now_ns);
        let mut lifetime = self.lifetime();
        lifetime.opens = transition_log.opens;
        lifetime.half_opens = transition_log.half_opens;
        lifetime.closes = transition_log.closes;
        let effective_state = self.effective_state(word, now_ns);
        let open_left = Duration::from_nanos((word.deadline_ms() * NANOS_PER_MILLI).saturating_sub(now_ns));
        let open = word.state() == CircuitState::Open;
        let since = transition_log.since;
        let open_time = Duration::from_nanos(
            (word.deadline_ms() * NANOS_PER_MILLI).saturating_sub(transition_log.since_ns),
        );
        let probes = match word.state() {
            CircuitState::HalfOpen => self.gate.probes(word.generation()),
            CircuitState::Closed | CircuitState::Open | CircuitState::Ramp => Probes::default(),
        };
        CircuitBreakerStats {
            key: self.key.to_string(),
            taken_ns: now_ns,
            mode: word.mode(),
            state: word.state(),
            effective_state,
            generation: word.generation(),
            since_ns: transition_log.since_ns,
            since,
            in_state: Duration::from_nanos(now_ns.saturating_sub(transition_log.since_ns)),
            reason_opened: transition_log.reason_opened,
            open_attempt: transition_log.attempt_at(word.state(), now_ns, nanos(self.config.stable_for)),
            open_until_ms: open.then(|| word.deadline_ms()),
            open_until: open.then(|| since.checked_add(open_time)).flatten(),
            next_probe_in: if open { open_left } else { Duration::ZERO },
            retry_hint: self.retry_hint(word, effective_state, now_ns),
            window: self.window_stats(&evidence, word, now_ns),
            in_flight: self.in_flight(),
            overdue_in_flight: evidence.in_flight.overdue,
            consecutive_failures: self.streak().current(word.generation()),
            half_open: HalfOpenStats {
                permits: self.config.half_open_permits,
                issued: probes.issued,
                ok: probes.ok,
                bad: probes.bad,
            },
            ramp_weight: match effective_state {
                CircuitState::Open => 0.0,
                CircuitState::Ramp => self.ramp_weight(word, now_ns),
                CircuitState::Closed | CircuitState::HalfOpen => 1.0,
            },
            lifetime,
            config: self.config.clone(),
            history: transition_log.history(),
        }
    }

    /// Returns the state that a call would find at `now_ns`, even if no call and no tick has made the transition yet.
    pub(super) fn effective_state(&self, word: StateWord, now_ns: u64) -> CircuitState {
        let expired = now_ns / NANOS_PER_MILLI >= word.deadline_ms();
        match word.state() {
            _ if word.mode() == BreakerMode::ForcedOpen => CircuitState::Open,
            CircuitState::Open if expired => CircuitState::HalfOpen,
            CircuitState::Ramp if expired => CircuitState::Closed,
            state @ (CircuitState::Closed
            | CircuitState::Open
            | CircuitState::HalfOpen
            | CircuitState::Ramp) => state,
        }
    }

    pub(super) fn in_flight(&self) -> u64 {
        // `finished` is read first, so every call in `finished` is also in `admitted`. In the other order, a call that
        // begins and ends between the two reads would be in `finished` only.
        let finished = self.sum(|counters| &counters.finished);
        self.sum(|counters| &counters.admitted).saturating_sub(finished)
    }

    fn window_stats(&self, evidence: &Evidence, word: StateWord, now_ns: u64) -> WindowStats {
        let counts = evidence.counts;
        let histograms = self.window.histograms(word.generation(), now_ns);
        WindowStats {
            length: self.config.window(),
            calls: counts.calls,
            samples: counts.samples,
            batches: counts.batches,
            bad_batches: counts.bad_batches,
            failures: counts.failed,
            slow: counts.slow,
            slow_failures: counts.slow_failed,
            neutral: counts.neutral,
            failure_rate: evidence.failure_rate(),
            slow_rate: evidence.slow_rate(),
            min_calls_met: evidence.min_calls_met(&self.config),
            min_batches_met: evidence.min_batches_met(&self.config),
            total: LatencySummary::from_cells(&histograms.total),
            queue_wait: LatencySummary::from_cells(&histograms.queue_wait),
            commit: LatencySummary::from_cells(&histograms.commit),
        }
    }

    fn retry_hint(&self, word: StateWord, effective: CircuitState, now_ns: u64) -> Duration {
        let rejects = matches!(word.mode(), BreakerMode::Auto | BreakerMode::ForcedOpen);
        if rejects && effective == CircuitState::Open {
            Duration::from_nanos(self.retry_terms(word, now_ns).0)
        } else {
            Duration::ZERO
        }
    }

    fn lifetime(&self) -> LifetimeStats {
        let finished = self.sum(|counters| &counters.finished);
        let failures = self.sum(|counters| &counters.failures);
        let neutral = self.sum(|counters| &counters.neutral);
        let cancelled = self.sum(|counters| &counters.cancelled);
        let stale_results = self.sum(|counters| &counters.stale_results);
        LifetimeStats {
            successes: finished.saturating_sub(failures + neutral + cancelled + stale_results),
            failures,
            neutral,
            slow: self.sum(|counters| &counters.slow),
            admitted: self.sum(|counters| &counters.admitted),
            rejected_open: self.sum(|counters| &counters.rejected_open),
            rejected_half_open: self.sum(|counters| &counters.rejected_half_open),
            rejected_ramp: self.sum(|counters| &counters.rejected_ramp),
            would_reject: self.sum(|counters| &counters.would_reject),
            stale_results,
            cancelled,
            self_throttled_ms: self.pauses.throttled_ns() / NANOS_PER_MILLI,
            ..LifetimeStats::default()
        }
    }

    pub(super) fn sum(&self, counter: impl Fn(&ShardCounters) -> &AtomicU64) -> u64 {
        self.counters
            .iter()
            .map(|shard| counter(shard).load(Ordering::Acquire))
            .sum()
    }
}
