//! Tests that hangs are detected under steady load, when the window is full of fast calls.

use std::time::Duration;

use proptest::prelude::*;
use tally_breaker::{CircuitBreakerConfig, CircuitState, Permit, TransitionReason, Verdict, Work};

use super::support::Rig;

const STEP: Duration = Duration::from_millis(1);
/// Number of steps between ticks, which is the default interval.
const STEPS_PER_TICK: u64 = 10;

/// How the callers behave.
#[derive(Debug, Clone, Copy)]
struct Load {
    /// Number of independent callers. Each caller makes one call at a time.
    callers: usize,
    /// Time from a call to its answer while nothing hangs.
    latency_ms: u64,
    /// Time from an answer to the caller's next call.
    pause_ms: u64,
    /// Time after which a caller gives up its call; None: it never gives up.
    deadline_ms: Option<u64>,
    /// Whether the host reports the work behind the calls to the breaker.
    watched: bool,
}

/// The simulated load.
struct Run {
    rig: Rig,
    load: Load,
    callers: Vec<Caller>,
    now_ms: u64,
    hangs: bool,
    done: u64,
    /// Whether a caller has given up a call. The work of this call stays unfinished.
    left_behind: bool,
    rejected: u64,
}

enum Caller {
    PausesUntil(u64),
    /// The start of the call, its permit, and whether this call hangs even if no other call hangs.
    Waits(u64, Permit, bool),
}

// ===== impl Run =====

impl Run {
    fn new(load: Load, change: impl FnOnce(&mut CircuitBreakerConfig)) -> Self {
        let rig = Rig::new(change);
        let cycle_ms = load.latency_ms + load.pause_ms;
        // The callers start at different times of the cycle, so they do not all call at once.
        let callers = (0..load.callers as u64).map(|caller| Caller::PausesUntil(caller % cycle_ms.max(1)));
        Run {
            callers: callers.collect(),
            rig,
            load,
            now_ms: 0,
            hangs: false,
            done: 0,
            left_behind: false,
            rejected: 0,
        }
    }

    fn step(&mut self) {
        let Load {
            latency_ms,
            pause_ms,
            deadline_ms,
            ..
        } = self.load;
        for caller in &mut self.callers {
            let next = match std::mem::replace(caller, Caller::PausesUntil(0)) {
                Caller::PausesUntil(until) if until > self.now_ms => Caller::PausesUntil(until),
                Caller::PausesUntil(_) => match self.rig.breaker.try_acquire() {
                    Ok(permit) => Caller::Waits(self.now_ms, permit, false),
                    Err(_) => {
                        self.rejected += 1;
                        Caller::PausesUntil(self.now_ms + pause_ms.max(1))
                    }
                },
                Caller::Waits(since, permit, sticks)
                    if !self.hangs && !sticks && self.now_ms - since >= latency_ms =>
                {
                    permit.record(Verdict::success());
                    self.done += 1;
                    Caller::PausesUntil(self.now_ms + pause_ms)
                }
                Caller::Waits(since, permit, _)
                    if deadline_ms.is_some_and(|deadline| self.now_ms - since >= deadline) =>
                {
                    permit.record(Verdict::given_up());
                    self.left_behind = true;
                    Caller::PausesUntil(self.now_ms + pause_ms)
                }
                waits => waits,
            };
            *caller = next;
        }
        self.now_ms += 1;
        self.rig.advance(STEP);
        if self.now_ms.is_multiple_of(STEPS_PER_TICK) {
            self.tick();
        }
    }

    fn tick(&self) {
        if self.load.watched {
            let busy = self.waiting() > 0 || self.left_behind;
            self.rig.breaker.tick_watching(Work {
                done: self.done,
                busy,
            });
        } else {
            self.rig.breaker.tick();
        }
    }

    fn waiting(&self) -> usize {
        let waits = |caller: &&Caller| matches!(caller, Caller::Waits(..));
        self.callers.iter().filter(waits).count()
    }

    fn run_ms(&mut self, ms: u64) {
        for _ in 0..ms {
            self.step();
        }
    }

    /// Starts a hang. Returns the time until the circuit opens, measured from the start of the hang or, if no call was
    /// in flight then, from the first call during the hang. Returns None if this time exceeds `limit`.
    fn hang(&mut self, limit: Duration) -> Option<Duration> {
        self.hangs = true;
        while self.waiting() == 0 {
            self.step();
        }
        let began_ms = self.now_ms;
        while self.rig.state() == CircuitState::Closed {
            let waited = Duration::from_millis(self.now_ms - began_ms);
            if waited > limit {
                return None;
            }
            self.step();
        }
        Some(Duration::from_millis(self.now_ms - began_ms))
    }
}

/// Returns two slow thresholds plus 100 ms.
pub(super) fn bound(config: &CircuitBreakerConfig) -> Duration {
    config.slow_threshold * 2 + Duration::from_millis(100)
}

const STEADY: Load = Load {
    callers: 24,
    latency_ms: 9,
    pause_ms: 1,
    deadline_ms: None,
    watched: false,
};

#[track_caller]
fn opens_in_time(load: Load, slow_threshold: Duration) {
    let mut run = Run::new(load, |config| {
        config.slow_threshold = slow_threshold;
        config.half_open_max_wait = Duration::from_secs(3600);
    });
    run.run_ms(10_000);
    let before = run.rig.stats();
    assert_eq!(
        (before.state, before.lifetime.opens),
        (CircuitState::Closed, 0),
        "{load:?}"
    );
    let (limit, config) = (bound(&before.config), before.config);
    let waited = run.hang(limit);
    assert!(
        waited.is_some_and(|waited| waited <= limit),
        "{load:?}, slow threshold {:?}, {} fast calls in the window: still closed {limit:?} after the hang began",
        config.slow_threshold,
        before.window.calls
    );
    assert_eq!(run.rig.reason_opened(), Some(TransitionReason::Overdue));
    let passed = run.rig.stats().lifetime.admitted;
    run.run_ms(1000);
    assert_eq!(
        run.rig.stats().lifetime.admitted,
        passed,
        "{load:?}: later calls are rejected"
    );
}

#[test]
fn a_hang_behind_a_window_full_of_fast_calls_opens_in_time() {
    for (callers, latency_ms) in [(24, 9), (150, 19), (150, 3), (5, 1), (1, 2)] {
        let load = Load {
            callers,
            latency_ms,
            ..STEADY
        };
        opens_in_time(load, Duration::from_millis(50));
    }
}

#[test]
fn the_bound_holds_for_long_thresholds_and_few_callers_too() {
    for (callers, slow_threshold) in [(1, 1000), (4, 1000), (24, 1070), (2, 7), (24, 500)] {
        let load = Load {
            callers,
            latency_ms: 3,
            ..STEADY
        };
        opens_in_time(load, Duration::from_millis(slow_threshold));
    }
}

#[test]
fn callers_who_give_up_do_not_hide_a_hang() {
    for (deadline_ms, callers, watched) in [
        // The calls are overdue when they are given up, so the breaker detects the hang without the host's report.
        (60, 24, false),
        (100, 150, false),
        (80, 24, true),
        // The calls are not overdue when they are given up, so the breaker relies on the host's report that its work
        // hangs.
        (20, 24, true),
        (49, 3, true),
        (5, 1, true),
    ] {
        let load = Load {
            callers,
            latency_ms: 3,
            deadline_ms: Some(deadline_ms),
            watched,
            ..STEADY
        };
        opens_in_time(load, Duration::from_millis(50));
    }
}

#[test]
fn callers_that_give_up_healthy_calls_do_not_open() {
    for watched in [false, true] {
        // Every call is given up after 1 ms, and the work behind it takes 2 ms.
        let rig = Rig::with_defaults();
        for done in 0..5_000 {
            let permit = rig.admit();
            rig.advance_ms(1);
            permit.record(Verdict::given_up());
            rig.advance_ms(1);
            if watched {
                rig.breaker.tick_watching(Work { done, busy: true });
            } else {
                rig.breaker.tick();
            }
        }
        let stats = rig.stats();
        assert_eq!(
            (stats.state, stats.lifetime.neutral),
            (CircuitState::Closed, 5_000)
        );
        assert_eq!(
            (stats.window.samples, stats.window.slow),
            (0, 0),
            "a call that was given up before the slow threshold counts neither as slow nor as fast"
        );
    }
}

/// The host reports that its work hangs. While there are no calls, the circuit stays closed. The first call opens it.
#[test]
fn the_first_call_during_a_hang_is_the_only_one_that_waits() {
    let rig = Rig::with_defaults();
    let hung = Work { done: 7, busy: true };
    for _ in 0..100 {
        rig.advance_ms(10);
        rig.breaker.tick_watching(hung);
    }
    assert_eq!(
        rig.state(),
        CircuitState::Closed,
        "without callers, the circuit stays closed"
    );
    let first = rig.admit();
    rig.advance_ms(10);
    rig.breaker.tick_watching(hung);
    assert_eq!(rig.reject().state, CircuitState::Open);
    drop(first);
}

#[test]
fn a_part_that_hangs_opens_although_the_rest_is_fast() {
    let rig = Rig::with_defaults();
    let mut hung = Vec::new();
    let second = |call: u64| call % 1000;
    for call in 0..20_000_u64 {
        let Ok(permit) = rig.breaker.try_acquire() else {
            break;
        };
        rig.advance(STEP);
        // After ten seconds, 600 of 1,000 calls never end.
        if call >= 10_000 && second(call * 7) < 600 {
            hung.push(permit);
        } else {
            permit.record(Verdict::success());
        }
        if call.is_multiple_of(STEPS_PER_TICK) {
            rig.breaker.tick();
        }
    }
    let waited = Duration::from_nanos(rig.stats().history[0].at_ns) - Duration::from_secs(10);
    assert_eq!(rig.reason_opened(), Some(TransitionReason::Overdue));
    assert!(
        waited <= rig.breaker.config().slow_threshold * 3 + Duration::from_millis(100),
        "{waited:?}"
    );
    drop(hung);
}

/// At any moment, ten calls in flight are overdue, and only one or two calls in flight are not overdue. But the overdue
/// calls are only 1 % of the calls that were admitted in the same period.
#[test]
fn a_trickle_of_very_slow_calls_below_the_rate_does_not_open() {
    let rig = Rig::with_defaults();
    let mut slow = std::collections::VecDeque::new();
    for call in 0..30_000_u64 {
        let permit = rig.admit();
        rig.advance(STEP);
        if call.is_multiple_of(100) {
            slow.push_back((call + 1000, permit));
        } else {
            permit.record(Verdict::success());
        }
        while slow.front().is_some_and(|(ends, _)| *ends <= call) {
            slow.pop_front().unwrap().1.record(Verdict::success());
        }
        if call.is_multiple_of(STEPS_PER_TICK) {
            rig.breaker.tick();
        }
        if call > 2_000 {
            assert!(rig.stats().overdue_in_flight >= 9 || !call.is_multiple_of(1000));
        }
    }
    assert_eq!(rig.state(), CircuitState::Closed);
    assert_eq!(rig.stats().lifetime.opens, 0);
    drop(slow);
}

#[test]
fn a_short_stall_is_one_event_with_a_full_window() {
    let mut run = Run::new(STEADY, |_| {});
    run.run_ms(10_000);
    for _ in 0..20 {
        run.hangs = true;
        run.run_ms(85);
        run.hangs = false;
        run.run_ms(400);
    }
    assert_eq!(
        run.rig.stats().lifetime.opens,
        0,
        "stalls shorter than overdue_rounds slow thresholds must not open the circuit"
    );
}

#[test]
fn a_lone_call_may_wait_for_stall_after() {
    let reason_after = |ms, change: fn(&mut CircuitBreakerConfig)| {
        let rig = Rig::new(change);
        let lone = rig.admit();
        rig.tick_for_ms(ms);
        drop(lone);
        rig.reason_opened()
    };
    let overdue = Some(TransitionReason::Overdue);
    assert_eq!(reason_after(140, |_| {}), None);
    assert_eq!(
        reason_after(170, |_| {}),
        overdue,
        "the default is two slow thresholds and 50 ms"
    );
    let patient = |config: &mut CircuitBreakerConfig| config.stall_after = Some(Duration::from_secs(2));
    assert_eq!(reason_after(1990, patient), None);
    assert_eq!(reason_after(2020, patient), overdue);
    // If at least `min_overdue` calls hang, the circuit opens earlier.
    let rig = Rig::new(patient);
    let many: Vec<_> = (0..5).map(|_| rig.admit()).collect();
    rig.tick_for_ms(120);
    assert_eq!(rig.reason_opened(), overdue);
    drop(many);
}

#[test]
fn a_late_ticker_does_not_mistake_its_own_pause_for_a_hang() {
    for callers in [1, 24] {
        let mut run = Run::new(Load { callers, ..STEADY }, |_| {});
        run.run_ms(2_000);
        // The process stops for less than the time that counts as a pause. When it resumes, the tick comes before the
        // calls end.
        for _ in 0..10 {
            run.rig.advance_ms(300);
            run.tick();
            run.run_ms(100);
        }
        assert_eq!(run.rig.stats().lifetime.opens, 0, "{callers} callers");
    }
}

#[test]
fn a_standstill_ends_with_a_change_of_mode_and_a_reset() {
    let rig = Rig::with_defaults();
    let hung: Vec<_> = (0..3).map(|_| rig.admit()).collect();
    rig.tick_for_ms(140);
    rig.breaker.set_mode(tally_breaker::BreakerMode::Disabled);
    rig.tick_for_ms(10);
    rig.breaker.set_mode(tally_breaker::BreakerMode::Auto);
    rig.tick_for_ms(100);
    assert_eq!(rig.state(), CircuitState::Closed);
    rig.breaker.reset();
    rig.tick_for_ms(1000);
    assert_eq!(
        rig.state(),
        CircuitState::Closed,
        "a reset discards the standstill that was measured before"
    );
    drop(hung);
}

#[test]
fn after_a_hang_the_circuit_closes_again() {
    let load = Load {
        deadline_ms: Some(500),
        ..STEADY
    };
    let mut run = Run::new(load, |_| {});
    run.run_ms(3_000);
    run.hang(Duration::from_secs(1)).unwrap();
    // This is longer than the open time: the circuit becomes half-open, its probes hang, and the circuit opens again.
    run.run_ms(6_000);
    assert_eq!(run.rig.reason_opened(), Some(TransitionReason::ProbeTimeout));
    run.hangs = false;
    run.run_ms(30_000);
    let stats = run.rig.stats();
    assert_eq!((stats.state, stats.lifetime.opens), (CircuitState::Closed, 2));
}

fn any_load() -> impl Strategy<Value = Load> {
    (1..60_usize, 1..40_u64, 0..50_u64, any::<bool>()).prop_map(|(callers, latency_ms, pause_ms, watched)| {
        Load {
            callers,
            latency_ms,
            pause_ms,
            deadline_ms: None,
            watched,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_hang_opens_in_time_under_any_earlier_load(load in any_load(), before_ms in 0..5_000_u64) {
        let mut run = Run::new(load, |_| {});
        run.run_ms(before_ms);
        prop_assert_eq!(run.rig.stats().lifetime.opens, 0);
        let limit = bound(run.rig.breaker.config());
        prop_assert!(run.hang(limit).is_some(), "closed {:?} after the hang", limit);
    }

    #[test]
    fn a_hang_opens_in_time_although_callers_give_up(
        load in any_load(),
        before_ms in 0..5_000_u64,
        patience_ms in 2..300_u64,
    ) {
        let deadline_ms = Some(load.latency_ms + patience_ms);
        let mut run = Run::new(Load { deadline_ms, watched: true, ..load }, |_| {});
        run.run_ms(before_ms);
        prop_assert_eq!(run.rig.stats().lifetime.opens, 0);
        // The circuit may be due to open while the caller pauses. In this case, the circuit opens only at the
        // caller's next call.
        let limit = bound(run.rig.breaker.config()) + Duration::from_millis(load.pause_ms);
        prop_assert!(run.hang(limit).is_some(), "closed {:?} after the hang", limit);
    }

    #[test]
    fn one_slow_call_among_many_never_opens(load in any_load(), before_ms in 0..500_u64) {
        let mut run = Run::new(Load { callers: load.callers + 1, ..load }, |_| {});
        run.run_ms(before_ms);
        while !matches!(run.callers[0], Caller::Waits(..)) {
            run.step();
        }
        if let Caller::Waits(_, _, sticks) = &mut run.callers[0] {
            *sticks = true;
        }
        run.run_ms(3_000);
        prop_assert_eq!(run.rig.stats().lifetime.opens, 0);
        prop_assert_eq!(run.rig.stats().overdue_in_flight, 1);
    }
}
