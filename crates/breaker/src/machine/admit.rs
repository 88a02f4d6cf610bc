//! Admits or rejects calls.

use std::time::Duration;

use super::{
    super::{
        clock::nanos,
        error::Rejection,
        gate::{BreakerMode, CircuitState, Grant, ProbeTicket, StateWord},
        policy::{credit_of, ramp_weight},
        stats::TransitionReason,
        sync::Ordering,
        threads,
        writer::{ShardAccess, increment},
    },
    Core, NANOS_PER_MICRO, NANOS_PER_MILLI, Ticket,
};

/// Who asks for admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Requester {
    /// A caller of the guarded service.
    Caller,
    /// The host, for its own probe.
    Host,
}

/// Maximum number of attempts to admit a call while the state changes. A new attempt is made only if the state has
/// changed during the last one, so the maximum is not reached in practice.
const ADMIT_ATTEMPTS_MAX: usize = 64;
/// If the deadline of an open circuit is closer than this margin, the circuit reads the exact time. The margin is
/// larger than the lag of `Clock::recent_ns`.
const RECENT_MARGIN_NS: u64 = 50 * NANOS_PER_MILLI;
const RETRY_AFTER_MIN_NS: u64 = NANOS_PER_MILLI;

// ===== impl Core =====

impl Core {
    /// Returns the shard of the calling thread.
    #[inline]
    pub(crate) fn shard_access(&self) -> ShardAccess {
        threads::shard_access(self.config.shards as usize)
    }

    /// Admits or rejects a call. The ticket is written to `into` and not returned: a returned ticket would be copied,
    /// and the CPU would wait for the end of the write before the copy. `into` stays None for a call that is not
    /// recorded.
    #[inline(always)]
    pub(crate) fn admit(&self, access: ShardAccess, into: &mut Option<Ticket>) -> Result<(), Rejection> {
        let word = self.gate.load();
        // The cases "open" and "closed" in mode `Auto` must be fast, so they are decided here. `request_admission`
        // would decide them in the same way.
        if word.mode() == BreakerMode::Auto && word.state() == CircuitState::Open {
            let recent_ns = self.clock.recent_ns();
            if recent_ns.saturating_add(RECENT_MARGIN_NS) / NANOS_PER_MILLI < word.deadline_ms() {
                return Err(self.rejection(word, access, recent_ns));
            }
        }
        let now_ns = self.clock.now_ns();
        if word.mode() == BreakerMode::Auto && word.state() == CircuitState::Closed {
            *into = Some(self.ticket(word, access, now_ns, None));
            return Ok(());
        }
        *into = self.admit_if_may(access, word, now_ns)?;
        Ok(())
    }

    fn admit_if_may(
        &self,
        access: ShardAccess,
        mut word: StateWord,
        now_ns: u64,
    ) -> Result<Option<Ticket>, Rejection> {
        for _ in 0..ADMIT_ATTEMPTS_MAX {
            match word.mode() {
                BreakerMode::Disabled => return Ok(None),
                BreakerMode::ForcedOpen => return self.reject(word, access, now_ns),
                BreakerMode::Auto | BreakerMode::MetricsOnly => {}
            }
            match self.request_admission(word, now_ns, Requester::Caller) {
                Grant::Granted(probe) => return Ok(Some(self.ticket(word, access, now_ns, probe))),
                Grant::Rejected => return self.reject(word, access, now_ns),
                Grant::Stale => word = self.gate.load(),
            }
        }
        self.reject(word, access, now_ns)
    }

    /// Admits a probe of the host if the circuit is half-open and a permit is left. An open circuit whose open time has
    /// passed becomes half-open first. A rejection is not counted, because no caller was rejected.
    pub(crate) fn admit_probe(&self, access: ShardAccess) -> Option<Ticket> {
        let now_ns = self.clock.now_ns();
        for _ in 0..ADMIT_ATTEMPTS_MAX {
            let word = self.gate.load();
            let judged = matches!(word.mode(), BreakerMode::Auto | BreakerMode::MetricsOnly);
            let half_open = matches!(word.state(), CircuitState::Open | CircuitState::HalfOpen);
            if !judged || !half_open {
                return None;
            }
            match self.request_admission(word, now_ns, Requester::Host) {
                Grant::Granted(probe) => return Some(self.ticket(word, access, now_ns, probe)),
                Grant::Rejected => return None,
                Grant::Stale => {}
            }
        }
        None
    }

    /// Asks the state machine to admit a call. Returns `Stale` if this request or another thread has
    /// changed the state. In that case, the caller must load the word and ask again.
    fn request_admission(
        &self,
        word: StateWord,
        now_ns: u64,
        requester: Requester,
    ) -> Grant<Option<ProbeTicket>> {
        let expired = now_ns / NANOS_PER_MILLI >= word.deadline_ms();
        match word.state() {
            CircuitState::Closed => Grant::Granted(None),
            CircuitState::Open if expired => {
                self.change_state(
                    word,
                    CircuitState::HalfOpen,
                    TransitionReason::OpenElapsed,
                    now_ns,
                );
                Grant::Stale
            }
            CircuitState::Open => Grant::Rejected,
            CircuitState::HalfOpen if expired => {
                self.end_half_open_wait(word, now_ns, true);
                Grant::Stale
            }
            CircuitState::HalfOpen if self.config.self_probe && requester == Requester::Caller => {
                Grant::Rejected
            }
            CircuitState::HalfOpen => {
                match self.gate.issue_probe(word.generation(), now_ns / NANOS_PER_MICRO) {
                    Grant::Granted(ticket) => Grant::Granted(Some(ticket)),
                    // If the host does not tick the breaker, only this line detects a hung probe.
                    Grant::Rejected if self.expire_probes(word, now_ns) => Grant::Stale,
                    Grant::Rejected => Grant::Rejected,
                    Grant::Stale => Grant::Stale,
                }
            }
            CircuitState::Ramp if expired => {
                self.change_state(word, CircuitState::Closed, TransitionReason::RampDone, now_ns);
                Grant::Stale
            }
            CircuitState::Ramp => {
                let credit = credit_of(self.ramp_weight(word, now_ns));
                match self.gate.admit_to_ramp(word.generation(), credit) {
                    Grant::Granted(()) => Grant::Granted(None),
                    Grant::Rejected => Grant::Rejected,
                    Grant::Stale => Grant::Stale,
                }
            }
        }
    }

    #[inline(always)]
    fn ticket(
        &self,
        word: StateWord,
        access: ShardAccess,
        now_ns: u64,
        probe: Option<ProbeTicket>,
    ) -> Ticket {
        let generation = word.generation();
        if let Some(counters) = self.counters.get(access.shard) {
            increment(&counters.admitted, access.writer);
        }
        let place = self
            .ring
            .enter(access, generation, now_ns, || self.is_live(generation));
        Ticket {
            admitted_ns: now_ns,
            generation,
            place,
            probe,
        }
    }

    /// Rejects a call. In mode `MetricsOnly`, admits the call instead, and counts that `Auto` would have rejected it.
    fn reject(&self, word: StateWord, access: ShardAccess, now_ns: u64) -> Result<Option<Ticket>, Rejection> {
        if word.mode() != BreakerMode::MetricsOnly {
            return Err(self.rejection(word, access, now_ns));
        }
        if let Some(counters) = self.counters.get(access.shard) {
            increment(&counters.would_reject, access.writer);
        }
        Ok(Some(self.ticket(word, access, now_ns, None)))
    }

    /// Counts a rejected call, and returns the rejection.
    #[inline(always)]
    fn rejection(&self, word: StateWord, access: ShardAccess, now_ns: u64) -> Rejection {
        let retry_ns = self.count_rejection(word, access, now_ns);
        Rejection {
            state: word.state(),
            mode: word.mode(),
            retry_after: Duration::from_nanos(retry_ns.max(RETRY_AFTER_MIN_NS)),
        }
    }

    /// Counts a rejected call. Returns the time to wait before a retry, in nanoseconds.
    #[inline(always)]
    fn count_rejection(&self, word: StateWord, access: ShardAccess, now_ns: u64) -> u64 {
        let mut number = 0;
        if let Some(counters) = self.counters.get(access.shard) {
            let counter = match word.state() {
                _ if word.mode() == BreakerMode::ForcedOpen => &counters.rejected_open,
                CircuitState::Open | CircuitState::Closed => &counters.rejected_open,
                CircuitState::HalfOpen => &counters.rejected_half_open,
                CircuitState::Ramp => &counters.rejected_ramp,
            };
            number = increment(counter, access.writer);
        }
        let (remaining_ns, spread_ns) = self.retry_terms(word, now_ns);
        remaining_ns.saturating_add(self.rng.spread(spread_ns, number, access.shard as u64))
    }

    /// Returns the time after which a retry makes sense, and the range over which to spread the retries, both in
    /// nanoseconds.
    #[inline]
    pub(crate) fn retry_terms(&self, word: StateWord, now_ns: u64) -> (u64, u64) {
        let left = (word.deadline_ms() * NANOS_PER_MILLI).saturating_sub(now_ns);
        let half_open_time = self.open_for_ns.load(Ordering::Relaxed) / 2;
        match (word.mode(), word.state()) {
            (BreakerMode::ForcedOpen, _) => {
                let hint = nanos(self.config.forced_open_retry_after);
                (hint, hint / 2)
            }
            (_, CircuitState::Open) => (left, half_open_time),
            // The probes in flight end or reach their time limit within the probe timeout.
            (_, CircuitState::HalfOpen) => (nanos(self.config.effective_probe_timeout()), half_open_time),
            // The ramp rejects only a share of the calls, so a retry may be admitted at once.
            (_, CircuitState::Ramp) => (0, half_open_time.min(left)),
            (_, CircuitState::Closed) => (0, 0),
        }
    }

    pub(crate) fn ramp_weight(&self, word: StateWord, now_ns: u64) -> f64 {
        let left = Duration::from_nanos((word.deadline_ms() * NANOS_PER_MILLI).saturating_sub(now_ns));
        ramp_weight(&self.config, self.config.ramp.saturating_sub(left))
    }

    /// Returns whether `generation` is the current generation.
    #[inline]
    pub(super) fn is_live(&self, generation: u32) -> bool {
        self.gate.load().generation() == generation
    }
}
