//! Tests with a *storm*: many callers that do not wait for an answer (their deadlines have passed, or they cancel at
//! once), together with one caller that waits. The storm must not make the breaker detect a hang where there is none,
//! and must not hide a hang. The same holds for a CPU quota that stops the process again and again.

use std::time::Duration;

use proptest::prelude::*;
use tally_breaker::{CircuitState, Permit, TransitionReason, Verdict, Work};

use super::{hang::bound, support::Rig};

const STEP_US: u64 = 250;
const STEPS_PER_MS: u64 = 1000 / STEP_US;
const STEPS_PER_TICK: u64 = 10 * STEPS_PER_MS;

/// The simulated calls. All times are in steps of 250 µs.
#[derive(Debug, Clone, Copy)]
struct Traffic {
    /// Steps between two calls of the storm.
    storm_every: u64,
    /// Steps for which a call of the storm is in flight: less than the interval of the ticks. With zero, the call ends
    /// in the step in which it begins.
    lingers: u64,
    /// Steps between two calls of the caller that waits.
    waiting_every: u64,
    /// Steps that the journal takes to commit a call of the caller that waits.
    commit: u64,
    /// The step of the storm's first call, and the step of the first call of the caller that waits.
    phases: (u64, u64),
    /// Whether the host reports the journal's progress to the breaker.
    watched: bool,
    /// Whether callers of the storm drop their permits instead of recording a verdict.
    cancels: bool,
}

struct Run {
    rig: Rig,
    traffic: Traffic,
    step: u64,
    storm: Vec<(u64, Permit)>,
    waiting: Option<(u64, Permit)>,
    done: u64,
    hangs: bool,
}

// ===== impl Run =====

impl Run {
    fn new(traffic: Traffic, slow_threshold: Duration) -> Self {
        Self {
            rig: Rig::new(|config| config.slow_threshold = slow_threshold),
            traffic,
            step: 0,
            storm: Vec::new(),
            waiting: None,
            done: 0,
            hangs: false,
        }
    }

    fn step(&mut self) {
        let traffic = self.traffic;
        let is_due = |every: u64, phase: u64| self.step >= phase && (self.step - phase).is_multiple_of(every);
        if is_due(traffic.storm_every, traffic.phases.0)
            && let Ok(permit) = self.rig.breaker.try_acquire()
        {
            self.storm.push((self.step + traffic.lingers, permit));
        }
        for (_, permit) in self.storm.extract_if(.., |(until, _)| *until <= self.step) {
            if traffic.cancels {
                drop(permit);
            } else {
                permit.record(Verdict::given_up());
            }
        }
        if !self.hangs
            && let Some((_, permit)) = self.waiting.take_if(|(until, _)| *until <= self.step)
        {
            permit.record(Verdict::success());
            self.done += 1;
        }
        if self.waiting.is_none() && is_due(traffic.waiting_every, traffic.phases.1) {
            let permit = self.rig.breaker.try_acquire().ok();
            self.waiting = permit.map(|permit| (self.step + traffic.commit, permit));
        }
        self.step += 1;
        self.rig.advance(Duration::from_micros(STEP_US));
        if self.step.is_multiple_of(STEPS_PER_TICK) {
            if traffic.watched {
                self.rig.breaker.tick_watching(Work {
                    done: self.done,
                    busy: self.waiting.is_some(),
                });
            } else {
                self.rig.breaker.tick();
            }
        }
    }

    fn run_ms(&mut self, ms: u64) {
        for _ in 0..ms * STEPS_PER_MS {
            self.step();
        }
    }

    /// Makes the journal hang, beginning with the next call of the caller that waits. Returns the time until the
    /// circuit opens, or None if this time exceeds `limit`.
    fn hang(&mut self, limit: Duration) -> Option<Duration> {
        while self.waiting.is_some() {
            self.step();
        }
        self.hangs = true;
        while self.waiting.is_none() {
            self.step();
        }
        let began = self.step;
        while self.rig.state() == CircuitState::Closed {
            if Duration::from_micros((self.step - began) * STEP_US) > limit {
                return None;
            }
            self.step();
        }
        Some(Duration::from_micros((self.step - began) * STEP_US))
    }
}

fn any_traffic() -> impl Strategy<Value = Traffic> {
    (
        1..80_u64,
        0..12_u64,
        400..2400_u64,
        4..9_u64,
        (0..40_u64, 0..400_u64),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(
            |(storm_every, lingers, waiting_every, commit, phases, watched, cancels)| Traffic {
                storm_every,
                lingers,
                waiting_every,
                commit,
                phases,
                watched,
                cancels,
            },
        )
}

/// Returns slow thresholds for which a time slot of the in-flight ring is shorter than the tick interval, a little
/// longer, or many times longer.
fn any_threshold() -> impl Strategy<Value = Duration> {
    prop::sample::select(vec![7, 50, 200, 1070]).prop_map(Duration::from_millis)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn calls_that_never_wait_do_not_cause_a_hang(
        traffic in any_traffic(),
        slow_threshold in any_threshold(),
    ) {
        let mut run = Run::new(traffic, slow_threshold);
        run.run_ms(10_000);
        let stats = run.rig.stats();
        prop_assert_eq!((stats.lifetime.opens, stats.reason_opened), (0, None));
        prop_assert!(run.done >= 16, "the calls of the caller that waits were answered");
    }

    #[test]
    fn calls_that_never_wait_do_not_hide_a_hang(
        traffic in any_traffic(),
        slow_threshold in any_threshold(),
        before_ms in 0..1000_u64,
    ) {
        let mut run = Run::new(traffic, slow_threshold);
        run.run_ms(before_ms);
        let limit = bound(run.rig.breaker.config());
        prop_assert!(run.hang(limit).is_some(), "closed {:?} after the hang", limit);
        prop_assert_eq!(run.rig.reason_opened(), Some(TransitionReason::Overdue));
    }
}

/// A case from practice: the storm is 250 calls per second whose deadlines have passed. Every 400 ms the caller that
/// waits makes a call, and the call's commit of 2 ms is in progress at a tick.
#[test]
fn a_healthy_commit_under_a_storm_of_expired_calls_does_not_open() {
    let traffic = Traffic {
        storm_every: 4 * STEPS_PER_MS,
        lingers: 0,
        waiting_every: 400 * STEPS_PER_MS,
        commit: 2 * STEPS_PER_MS,
        phases: (0, 9 * STEPS_PER_MS),
        watched: true,
        cancels: false,
    };
    let mut run = Run::new(traffic, Duration::from_millis(50));
    run.run_ms(10_000);
    let stats = run.rig.stats();
    assert_eq!((stats.lifetime.opens, run.done), (0, 25));
    assert!(stats.lifetime.neutral >= 2_400, "the storm was admitted");
}

/// The journal hangs, and the callers' deadlines are so short that no call is in flight at two successive ticks.
#[test]
fn deadlines_shorter_than_a_tick_do_not_hide_that_the_journal_hangs() {
    let rig = Rig::with_defaults();
    let hung = Work { done: 7, busy: true };
    let limit = bound(rig.breaker.config());
    let mut waited = Duration::ZERO;
    while rig.state() == CircuitState::Closed {
        assert!(waited <= limit, "still closed after {waited:?}");
        let permit = rig.admit();
        rig.advance_ms(3);
        permit.record(Verdict::given_up());
        rig.advance_ms(7);
        rig.breaker.tick_watching(hung);
        waited += Duration::from_millis(10);
    }
    assert_eq!(rig.stats().history[0].overdue, 0, "no call was overdue");
}

/// Simulates one period of 100 ms of a CPU quota: the process is stopped, and then runs for `runs_ms`. The pause is
/// reported only after a tick.
fn throttled_period(rig: &Rig, runs_ms: u64, work: Option<Work>) {
    let tick_after = |ms| {
        rig.advance_ms(ms);
        match work {
            Some(work) => rig.breaker.tick_watching(work),
            None => rig.breaker.tick(),
        }
    };
    let stopped_ms = 100 - runs_ms;
    tick_after(stopped_ms);
    rig.advance_ms(5);
    rig.breaker.note_self_throttled(Duration::from_millis(stopped_ms));
    tick_after(5);
    for _ in 1..runs_ms / 10 {
        tick_after(10);
    }
}

/// Only the time in which the process runs counts towards a hang.
#[test]
fn a_process_at_its_cpu_quota_still_notices_a_hang() {
    let hung = Work { done: 7, busy: true };
    for (runs_ms, calls, work) in [
        (80, 5, None),
        (40, 5, None),
        (40, 1, Some(hung)),
        (20, 24, Some(hung)),
        (20, 1, None),
    ] {
        let rig = Rig::with_defaults();
        rig.breaker.tick();
        let calls: Vec<_> = (0..calls).map(|_| rig.admit()).collect();
        let mut ran_ms = 0;
        let limit = bound(rig.breaker.config());
        while rig.state() == CircuitState::Closed {
            assert!(
                Duration::from_millis(ran_ms) <= limit,
                "still closed after {} calls hung for {ran_ms} ms of running time, {runs_ms} ms per period",
                calls.len()
            );
            throttled_period(&rig, runs_ms, work);
            ran_ms += runs_ms;
        }
        assert_eq!(rig.reason_opened(), Some(TransitionReason::Overdue));
        assert!(
            ran_ms >= 80,
            "the time without running must not count: {ran_ms} ms"
        );
    }
}

/// The process runs for 10 ms in each period of 100 ms. A commit takes 60 ms of running time, so it takes six periods.
#[test]
fn a_process_stopped_for_most_of_the_time_is_not_a_hang() {
    for (calls, watched) in [(1, false), (24, false), (24, true)] {
        let rig = Rig::with_defaults();
        rig.breaker.tick();
        for done in 0..20 {
            let in_flight: Vec<_> = (0..calls).map(|_| rig.admit()).collect();
            for _ in 0..6 {
                throttled_period(&rig, 10, watched.then_some(Work { done, busy: true }));
            }
            for permit in in_flight {
                permit.record(Verdict::success());
            }
        }
        assert_eq!(rig.stats().lifetime.opens, 0, "{calls} calls, watched: {watched}");
    }
}
