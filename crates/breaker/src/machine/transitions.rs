//! Changes the state: because time has passed, because the calls are too slow or failing, or because an operator
//! commands it.

use std::time::Duration;

use super::{
    super::{
        clock::{millis, nanos, rounded},
        gate::{BreakerMode, CircuitState, Probes, StateWord},
        hang::{Observation, Work},
        policy::{Evidence, open_duration},
        stats::{Transition, TransitionReason},
        sync::Ordering,
        transition_log::TransitionLog,
    },
    Core, NANOS_PER_MICRO, NANOS_PER_MILLI, deadline_ms,
};

/// A requested transition.
struct Step {
    to: CircuitState,
    reason: TransitionReason,
    now_ns: u64,
    evidence: Evidence,
    /// The open time, if an operator set it.
    open_for: Option<Duration>,
}

/// The longest time for which an operator can open a circuit: one year. The mode `ForcedOpen` has no such limit.
const OPEN_FOR_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

// ===== impl Core =====

impl Core {
    /// Makes the transitions that depend on time, and judges the window and the calls in flight. The host calls this
    /// method at regular intervals.
    pub(crate) fn tick(&self, work: Option<Work>) {
        let now_ns = self.clock.now_ns();
        self.notice_pause(now_ns);
        self.pauses.tick(now_ns);
        let word = self.gate.load();
        if matches!(word.mode(), BreakerMode::ForcedOpen | BreakerMode::Disabled) {
            self.hang.lock().discard();
            return;
        }
        let generation = word.generation();
        if self.marks.swept_epoch.raise_to(self.window.moment(now_ns).epoch) {
            self.window.sweep(generation, now_ns, || self.is_live(generation));
        }
        let expired = now_ns / NANOS_PER_MILLI >= word.deadline_ms();
        match word.state() {
            CircuitState::Open if expired => {
                self.change_state(
                    word,
                    CircuitState::HalfOpen,
                    TransitionReason::OpenElapsed,
                    now_ns,
                );
            }
            CircuitState::Open => {}
            CircuitState::HalfOpen => {
                if !self.expire_probes(word, now_ns) && expired {
                    self.end_half_open_wait(word, now_ns, false);
                }
            }
            CircuitState::Ramp if expired => {
                self.change_state(word, CircuitState::Closed, TransitionReason::RampDone, now_ns);
            }
            CircuitState::Ramp | CircuitState::Closed => self.evaluate_all(word, now_ns, work),
        }
    }

    pub(crate) fn evidence(&self, generation: u32, now_ns: u64) -> Evidence {
        Evidence {
            counts: self.window.counts(generation, now_ns),
            in_flight: self.ring.in_flight(generation, now_ns, self.pauses.resumed_ns()),
        }
    }

    /// Evaluates the window after the end of a call.
    pub(super) fn evaluate(&self, word: StateWord, now_ns: u64) {
        let evidence = self.evidence(word.generation(), now_ns);
        self.open_if(word, now_ns, evidence, evidence.judge(&self.config));
    }

    /// Evaluates the window and the calls in flight.
    fn evaluate_all(&self, word: StateWord, now_ns: u64, work: Option<Work>) {
        // `finished` is read before `unanswered`, so no unanswered call is counted as answered. The difference may be
        // too low for a moment; `HangWatch` takes this into account.
        let finished = self.sum(|counters| &counters.finished);
        let unanswered = self.sum(|counters| &counters.unanswered);
        let evidence = self.evidence(word.generation(), now_ns);
        let observation = Observation {
            now_ns,
            generation: word.generation(),
            paused_ns: self.pauses.throttled_ns(),
            answered: finished.saturating_sub(unanswered),
            unanswered,
            slow: self.sum(|counters| &counters.slow),
            in_flight: evidence.in_flight,
            work,
        };
        // If another thread ticks at the same moment, it sees the same calls. So this thread skips the hang detection
        // if the other thread holds the lock.
        let hangs = self
            .hang
            .try_lock()
            .is_some_and(|mut hang| hang.observe(&self.config, &observation));
        let reason = evidence
            .judge(&self.config)
            .or_else(|| hangs.then_some(TransitionReason::Overdue));
        self.open_if(word, now_ns, evidence, reason);
    }

    fn open_if(&self, word: StateWord, now_ns: u64, evidence: Evidence, reason: Option<TransitionReason>) {
        if let Some(reason) = reason {
            self.apply(
                word,
                Step {
                    to: CircuitState::Open,
                    reason,
                    now_ns,
                    evidence,
                    open_for: None,
                },
            );
        }
    }

    /// Counts probes that reached their time limit as bad. Returns whether this ended the half-open state.
    pub(super) fn expire_probes(&self, word: StateWord, now_ns: u64) -> bool {
        let timeout_us = nanos(self.config.effective_probe_timeout()) / NANOS_PER_MICRO;
        let not_before_us = self.pauses.resumed_ns() / NANOS_PER_MICRO;
        let now_us = now_ns / NANOS_PER_MICRO;
        let expired = self
            .gate
            .expire_probes(word.generation(), now_us, timeout_us, not_before_us);
        expired.is_some_and(|probes| self.decide(word, probes, TransitionReason::ProbeTimeout, now_ns))
    }

    /// Ends the half-open state if enough probes were good or too many probes were bad. Returns whether the state
    /// ended.
    pub(super) fn decide(
        &self,
        word: StateWord,
        probes: Probes,
        if_bad: TransitionReason,
        now_ns: u64,
    ) -> bool {
        let bad_max = self.config.half_open_permits - self.config.half_open_ok_needed;
        if probes.ok >= self.config.half_open_ok_needed {
            self.leave_half_open(word, now_ns)
        } else if probes.bad > bad_max {
            self.change_state(word, CircuitState::Open, if_bad, now_ns)
        } else {
            false
        }
    }

    /// Ends the half-open state when the longest wait is over. After this wait, one good probe without a bad probe is
    /// enough to leave the state, because there may be too few calls for more probes. If no probe was admitted, the
    /// state stays the same. In this case a call that asks for admission sets `renew`, so that the wait begins again
    /// and the call can become a probe.
    pub(super) fn end_half_open_wait(&self, word: StateWord, now_ns: u64, renew: bool) {
        let probes = self.gate.probes(word.generation());
        if probes.issued > 0 && probes.ok > 0 && probes.bad == 0 {
            self.leave_half_open(word, now_ns);
        } else if probes.issued > 0 {
            self.change_state(word, CircuitState::Open, TransitionReason::MaxWait, now_ns);
        } else if renew {
            let deadline_ms = deadline_ms(now_ns, self.config.half_open_max_wait);
            let _transition_log = self.transition_log.lock();
            // The state stays the same, so the log gets no entry. If the exchange fails, another thread has already
            // changed the word, so this thread has nothing left to do.
            let _ = self.gate.transition(word, CircuitState::HalfOpen, deadline_ms);
        }
    }

    fn leave_half_open(&self, word: StateWord, now_ns: u64) -> bool {
        let to = if self.config.ramp.is_zero() {
            CircuitState::Closed
        } else {
            CircuitState::Ramp
        };
        self.change_state(word, to, TransitionReason::ProbesPassed, now_ns)
    }

    pub(super) fn change_state(
        &self,
        word: StateWord,
        to: CircuitState,
        reason: TransitionReason,
        now_ns: u64,
    ) -> bool {
        let evidence = self.evidence(word.generation(), now_ns);
        self.apply(
            word,
            Step {
                to,
                reason,
                now_ns,
                evidence,
                open_for: None,
            },
        )
    }

    /// Makes the transition `step`, which was decided with the word `observed`. Returns false, without a change, if the
    /// word has changed.
    fn apply(&self, observed: StateWord, step: Step) -> bool {
        let made = self.apply_locked(&mut self.transition_log.lock(), observed, step);
        if let Some(transition) = &made {
            self.announce(transition);
        }
        made.is_some()
    }

    #[expect(clippy::needless_pass_by_value, reason = "a step is made once")]
    fn apply_locked(
        &self,
        transition_log: &mut TransitionLog,
        observed: StateWord,
        step: Step,
    ) -> Option<Transition> {
        let Step {
            to,
            reason,
            now_ns,
            evidence,
            open_for,
        } = step;
        let attempt = transition_log.attempt_at(observed.state(), now_ns, nanos(self.config.stable_for));
        let lasts = match to {
            CircuitState::Closed => Duration::ZERO,
            CircuitState::Open => {
                open_for.unwrap_or_else(|| open_duration(&self.config, attempt, self.rng.fraction()))
            }
            CircuitState::HalfOpen => self.config.half_open_max_wait,
            CircuitState::Ramp => self.config.ramp,
        };
        let deadline_ms = if to == CircuitState::Closed {
            0
        } else {
            deadline_ms(now_ns, lasts)
        };
        let next = self.gate.transition(observed, to, deadline_ms).ok()?;
        let opened = to == CircuitState::Open;
        if opened {
            self.open_for_ns.store(nanos(lasts), Ordering::Relaxed);
            // An operator's command says nothing about the service, so it does not lengthen the next open time.
            transition_log.attempt = if open_for.is_none() {
                attempt.saturating_add(1)
            } else {
                attempt
            };
        } else if reason == TransitionReason::Reset {
            transition_log.attempt = 0;
        }
        let transition = Transition {
            at_ns: now_ns,
            time: self.clock.wall_time(),
            generation: next.generation(),
            from: observed.state(),
            to,
            reason,
            failure_rate: evidence.failure_rate(),
            slow_rate: evidence.slow_rate(),
            calls: evidence.counts.calls,
            overdue: evidence.in_flight.overdue,
            open_for: if opened { lasts } else { Duration::ZERO },
        };
        transition_log.push(transition);
        Some(transition)
    }

    fn announce(&self, transition: &Transition) {
        let Transition {
            from,
            to,
            reason,
            failure_rate,
            slow_rate,
            open_for,
            ..
        } = *transition;
        let (key, from, to, reason) = (&*self.key, from.as_str(), to.as_str(), reason.as_str());
        let (failure_rate, slow_rate) = (rounded(failure_rate), rounded(slow_rate));
        if transition.to == CircuitState::Open {
            tracing::warn!(
                name: "tally.breaker.transition",
                key,
                from,
                to,
                reason,
                failure_rate,
                slow_rate,
                open_for_ms = millis(open_for),
                "circuit opened"
            );
        } else {
            tracing::info!(
                name: "tally.breaker.transition",
                key,
                from,
                to,
                reason,
                failure_rate,
                slow_rate,
                "circuit changed state"
            );
        }
        if let Some(observer) = &self.observer {
            observer.on_transition(&self.key, transition);
        }
    }

    /// Checks whether the process did not run for a while. If so, reports the pause.
    pub(super) fn notice_pause(&self, now_ns: u64) {
        let late_ns = nanos(self.config.tick_interval).saturating_add(nanos(self.config.bucket) / 2);
        let Some(gap_ns) = self.pauses.check(now_ns, late_ns) else {
            return;
        };
        let pause = Duration::from_nanos(gap_ns);
        tracing::warn!(
            name: "tally.breaker.self_throttled",
            key = &*self.key,
            pause_ms = millis(pause),
            "the process did not run; latencies are measured from now on"
        );
        if let Some(observer) = &self.observer {
            observer.on_self_throttled(&self.key, pause);
        }
    }
}

// ===== impl Core: administration =====

impl Core {
    /// Changes the mode. Returns the mode before the change.
    pub(crate) fn set_mode(&self, mode: BreakerMode) -> BreakerMode {
        let before = {
            let _transition_log = self.transition_log.lock();
            self.gate.set_mode(mode)
        };
        if before == mode {
            return before;
        }
        tracing::info!(
            name: "tally.breaker.mode",
            key = &*self.key,
            from = before.as_str(),
            to = mode.as_str(),
            "circuit breaker mode changed"
        );
        if let Some(observer) = &self.observer {
            observer.on_mode_change(&self.key, before, mode);
        }
        before
    }

    /// Opens the circuit for the time `open_for`, or closes it with None, whatever the state is.
    pub(crate) fn force(&self, open_for: Option<Duration>) {
        let open_for = open_for.map(|time| time.min(OPEN_FOR_MAX));
        let now_ns = self.clock.now_ns();
        let made = {
            let mut transition_log = self.transition_log.lock();
            // No other thread changes the word while this thread holds the lock, so the transition can't fail.
            let word = self.gate.load();
            let (to, reason) = match open_for {
                Some(_) => (CircuitState::Open, TransitionReason::Forced),
                None => (CircuitState::Closed, TransitionReason::Reset),
            };
            let evidence = self.evidence(word.generation(), now_ns);
            self.apply_locked(
                &mut transition_log,
                word,
                Step {
                    to,
                    reason,
                    now_ns,
                    evidence,
                    open_for,
                },
            )
        };
        if let Some(transition) = &made {
            self.announce(transition);
        }
    }
}
