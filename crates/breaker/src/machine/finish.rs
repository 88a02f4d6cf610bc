//! Records the ends of calls. A call that shows something about the service adds a [`Sample`] to the window, and the
//! window may then open the circuit. A result counts only in the generation (the time between two transitions) that
//! admitted its call.

use super::{
    super::{
        classify::{Outcome, Verdict},
        clock::nanos,
        gate::{BreakerMode, CircuitState, ProbeOutcome, StateWord},
        mutation::planted,
        signals::{HighWater, ShardCounters},
        stats::TransitionReason,
        window::Sample,
        writer::{ShardAccess, Writer, increment},
    },
    Core, NANOS_PER_MICRO, Ticket,
};

// ===== impl Core =====

impl Core {
    /// Records the end of a call with its verdict, or without a verdict if the call was dropped. `access` belongs to
    /// the calling thread, which may differ from the thread that began the call.
    ///
    /// The function is inlined, because most callers know at compile time that the verdict is a plain success. In this
    /// case, the verdict is never stored in memory.
    #[inline(always)]
    pub(crate) fn finish(&self, access: ShardAccess, ticket: &Ticket, verdict: Option<&Verdict>) {
        if verdict.is_some_and(|verdict| *verdict == Verdict::success()) {
            self.finish_success(access, ticket);
        } else {
            self.finish_other(access, ticket, verdict);
        }
    }

    /// Records a plain success without a batch.
    fn finish_success(&self, access: ShardAccess, ticket: &Ticket) {
        let now_ns = self.clock.now_ns();
        let word = self.gate.load();
        if let Some(counters) = self.counters.get(access.shard) {
            increment(&counters.finished, access.writer);
        }
        let counted = word.generation() == ticket.generation && {
            self.leave_ring(access, ticket, now_ns);
            if self.is_ordinary(word, ticket, now_ns) {
                // `settle_and_record` would have the same effect. This shorter path is for the most frequent case.
                let sample = Sample::ordinary(self.elapsed_ns(ticket, now_ns) / NANOS_PER_MICRO);
                self.record(word, access, &sample, now_ns)
            } else {
                self.settle_and_record(word, access, ticket, Some(&Verdict::success()), now_ns)
            }
        };
        if !counted && let Some(counters) = self.counters.get(access.shard) {
            increment(&counters.stale_results, access.writer);
        }
    }

    /// Records the end of a call that is not a plain success without a batch.
    fn finish_other(&self, access: ShardAccess, ticket: &Ticket, verdict: Option<&Verdict>) {
        let now_ns = self.clock.now_ns();
        let word = self.gate.load();
        let Some(counters) = self.counters.get(access.shard) else {
            return;
        };
        if !verdict.is_some_and(is_answer) {
            increment(&counters.unanswered, access.writer);
        }
        increment(&counters.finished, access.writer);
        if verdict.is_none() {
            increment(&counters.cancelled, access.writer);
        }
        let counted = word.generation() == ticket.generation && {
            self.leave_ring(access, ticket, now_ns);
            self.settle_and_record(word, access, ticket, verdict, now_ns)
        };
        if !counted && verdict.is_some() {
            increment(&counters.stale_results, access.writer);
        }
    }

    #[inline(always)]
    fn leave_ring(&self, access: ShardAccess, ticket: &Ticket, now_ns: u64) {
        if let Some(place) = ticket.place {
            let generation = ticket.generation;
            self.ring
                .leave(access, generation, place, now_ns, || self.is_live(generation));
        }
    }

    /// Returns whether a success without a batch is ordinary: faster than every threshold, and not a probe.
    #[inline]
    fn is_ordinary(&self, word: StateWord, ticket: &Ticket, now_ns: u64) -> bool {
        ticket.probe.is_none()
            && word.mode() != BreakerMode::Disabled
            && self.raw_elapsed_ns(ticket, now_ns) < self.ordinary_ns
    }

    /// If the call is a probe, reports its outcome. After that, adds the call to the window, unless it shows nothing
    /// about the service. Returns false if the call belongs to a generation that is over.
    fn settle_and_record(
        &self,
        word: StateWord,
        access: ShardAccess,
        ticket: &Ticket,
        verdict: Option<&Verdict>,
        now_ns: u64,
    ) -> bool {
        if word.mode() == BreakerMode::Disabled {
            self.settle(word, ticket, ProbeOutcome::Withdrawn, now_ns);
            return true;
        }
        let (sample, outcome) = self.sample(ticket, verdict, now_ns);
        if !self.settle(word, ticket, outcome, now_ns) {
            return false;
        }
        let Some(sample) = sample else {
            if verdict.is_some()
                && let Some(counters) = self.counters.get(access.shard)
            {
                increment(&counters.neutral, access.writer);
            }
            return true;
        };
        // The outcome of a probe may itself have ended the generation. So a probe is counted even if its generation is
        // over. Any other call of a generation that is over is not counted.
        let counted = self.record(word, access, &sample, now_ns) || ticket.probe.is_some();
        if counted && let Some(counters) = self.counters.get(access.shard) {
            count_exceptional(counters, &sample, verdict.is_some(), access.writer);
        }
        counted
    }

    /// Returns what a call adds to the window (None: nothing), and the outcome that counts if the call is a probe.
    fn sample(
        &self,
        ticket: &Ticket,
        verdict: Option<&Verdict>,
        now_ns: u64,
    ) -> (Option<Sample>, ProbeOutcome) {
        let Some(verdict) = verdict.filter(|verdict| verdict.outcome != Outcome::GivenUp) else {
            return self.given_up_sample(ticket, now_ns);
        };
        let failed = verdict.outcome == Outcome::Failure;
        let neutral = verdict.outcome == Outcome::Neutral;
        let latency_ns = self.latency_ns(ticket, verdict, now_ns);
        let slow = verdict.sampled && latency_ns >= self.slow_ns;
        let over_p99 = verdict.sampled
            && self
                .config
                .p99_threshold
                .is_some_and(|p99| latency_ns >= nanos(p99));
        let counts = verdict.sampled || !neutral;
        let first_in = |mark: &HighWater| verdict.batch.is_none_or(|batch| mark.raise_to(batch));
        let first_of_batch = counts && first_in(&self.marks.batch);
        let sample = Sample {
            failed,
            neutral,
            sampled: verdict.sampled,
            slow,
            over_p99,
            first_of_batch,
            first_bad_of_batch: (slow || failed || over_p99) && first_in(&self.marks.bad_batch),
            first_failed_of_batch: failed && first_in(&self.marks.failed_batch),
            total_us: self.elapsed_ns(ticket, now_ns) / NANOS_PER_MICRO,
            queue_wait_us: verdict.queue_wait.map(|wait| nanos(wait) / NANOS_PER_MICRO),
            // The calls of a batch share one commit, so only the first call of the batch records the commit's time.
            commit_us: verdict
                .commit
                .filter(|_| first_of_batch)
                .map(|commit| nanos(commit) / NANOS_PER_MICRO),
        };
        let outcome = match verdict.outcome {
            _ if slow || failed => ProbeOutcome::Bad,
            // A call that never reached the executor does not show that the executor has recovered.
            Outcome::Success if verdict.sampled => ProbeOutcome::Ok,
            Outcome::Success | Outcome::Failure | Outcome::Neutral | Outcome::GivenUp => {
                ProbeOutcome::Withdrawn
            }
        };
        (Some(sample), outcome)
    }

    /// Returns the sample of a call that was given up. If the call took less than the slow threshold, it adds nothing
    /// to the window. Otherwise it counts as slow, because clients that cancel slow calls would hide them. All slow
    /// calls that are given up within one slow threshold count as one batch.
    #[cold]
    fn given_up_sample(&self, ticket: &Ticket, now_ns: u64) -> (Option<Sample>, ProbeOutcome) {
        let elapsed_ns = self.judged_ns(ticket, self.raw_elapsed_ns(ticket, now_ns), now_ns);
        if elapsed_ns < self.slow_ns {
            return (None, ProbeOutcome::Withdrawn);
        }
        let sample = Sample {
            neutral: true,
            sampled: true,
            slow: true,
            first_bad_of_batch: self.marks.cancelled_round.raise_to(now_ns / self.slow_ns),
            total_us: elapsed_ns / NANOS_PER_MICRO,
            ..Sample::default()
        };
        (Some(sample), ProbeOutcome::Bad)
    }

    /// Adds a sample to the window and opens the circuit if a rule requires it. Returns false if the sample's
    /// generation is over.
    #[inline(always)]
    fn record(&self, word: StateWord, access: ShardAccess, sample: &Sample, now_ns: u64) -> bool {
        let generation = word.generation();
        let moment = self.window.moment(now_ns);
        let live = || self.is_live(generation);
        if !self.window.record(access, generation, moment, sample, live) {
            return false;
        }
        if matches!(word.state(), CircuitState::Open | CircuitState::HalfOpen) {
            return true;
        }
        if sample.first_failed_of_batch {
            let streak = self.marks.streak.extend(generation);
            if self
                .config
                .consecutive_failures
                .is_some_and(|limit| streak >= u64::from(limit))
            {
                self.change_state(word, CircuitState::Open, TransitionReason::Consecutive, now_ns);
                return true;
            }
        } else if sample.sampled && !sample.failed && !sample.neutral {
            self.marks.streak.end();
        }
        let bad = sample.failed || sample.slow || sample.over_p99;
        if bad || self.marks.evaluated_epoch.raise_to(moment.epoch) {
            self.evaluate(word, now_ns);
        }
        true
    }

    /// Reports the outcome of a probe. Returns false if the probe was already counted or its generation is over. If the
    /// call is not a probe, does nothing and returns true.
    fn settle(&self, word: StateWord, ticket: &Ticket, outcome: ProbeOutcome, now_ns: u64) -> bool {
        let Some(probe) = ticket.probe else { return true };
        if outcome == ProbeOutcome::Withdrawn && planted("leak_half_open_permit") {
            return true;
        }
        match self.gate.settle_probe(ticket.generation, probe, outcome) {
            Some(probes) => {
                self.decide(word, probes, TransitionReason::ProbeFailed, now_ns);
                true
            }
            None => false,
        }
    }

    /// Returns the latency that is compared with the thresholds.
    fn latency_ns(&self, ticket: &Ticket, verdict: &Verdict, now_ns: u64) -> u64 {
        let latency_ns = match (verdict.queue_wait, verdict.commit) {
            (Some(queue_wait), Some(commit)) => nanos(queue_wait).saturating_add(nanos(commit)),
            _ => self.raw_elapsed_ns(ticket, now_ns),
        };
        self.judged_ns(ticket, latency_ns, now_ns)
    }

    /// Returns `latency_ns`, but at most the time since the process last resumed after a pause. A latency below the
    /// slow threshold is returned unchanged.
    fn judged_ns(&self, ticket: &Ticket, latency_ns: u64, now_ns: u64) -> u64 {
        if latency_ns < self.slow_ns {
            return latency_ns;
        }
        // After a pause, a call may end before the next tick detects the pause.
        self.notice_pause(now_ns);
        latency_ns.min(self.elapsed_ns(ticket, now_ns))
    }

    /// Returns the time since the call was admitted.
    #[inline]
    fn raw_elapsed_ns(&self, ticket: &Ticket, now_ns: u64) -> u64 {
        now_ns.saturating_sub(ticket.admitted_ns)
    }

    /// Returns the time since the call was admitted or the process last resumed after a pause, whichever is later.
    #[inline]
    fn elapsed_ns(&self, ticket: &Ticket, now_ns: u64) -> u64 {
        now_ns.saturating_sub(ticket.admitted_ns.max(self.pauses.resumed_ns()))
    }
}

/// Returns whether the guarded service answered, with success or failure.
fn is_answer(verdict: &Verdict) -> bool {
    matches!(verdict.outcome, Outcome::Success | Outcome::Failure) && verdict.sampled
}

/// Counts a call that failed, was slow or was neutral. Successes have no counter: a snapshot subtracts all other calls
/// from the finished calls. A call that was given up is counted in `cancelled`.
fn count_exceptional(counters: &ShardCounters, sample: &Sample, has_verdict: bool, writer: Writer) {
    for (counter, counts) in [
        (&counters.failures, sample.failed),
        (&counters.neutral, sample.neutral && has_verdict),
        (&counters.slow, sample.slow),
    ] {
        if counts {
            increment(counter, writer);
        }
    }
}
