//! Tests of the recovery: the half-open state, the ramp, and the growth of the open time.

use std::{
    sync::{Arc, Barrier, atomic::AtomicUsize, atomic::Ordering},
    time::Duration,
};

use tally_breaker::{
    CircuitBreakerConfig, CircuitState, Clock, LatencyCircuitBreaker, ManualClock, SystemClock,
    TransitionReason, Verdict,
};

use super::support::{FAST, Rig, SLOW};

#[test]
fn a_success_admitted_while_closed_changes_nothing_in_half_open() {
    let rig = Rig::with_defaults();
    let overhanging: Vec<_> = (0..20).map(|_| rig.admit()).collect();
    rig.trip_and_wait();
    let probe = rig.admit();
    for permit in overhanging {
        permit.record(Verdict::success());
    }
    let stats = rig.stats();
    assert_eq!(stats.state, CircuitState::HalfOpen);
    assert_eq!(
        (stats.half_open.issued, stats.half_open.ok, stats.half_open.bad),
        (1, 0, 0)
    );
    assert_eq!(stats.lifetime.stale_results, 20);
    drop(probe);
}

/// A clock whose recent time lags behind the exact time by the maximum, 10 ms.
#[derive(Debug)]
struct LaggingClock(Arc<ManualClock>);

impl Clock for LaggingClock {
    fn now_ns(&self) -> u64 {
        self.0.now_ns()
    }

    fn recent_ns(&self) -> u64 {
        self.now_ns().saturating_sub(10_000_000)
    }
}

#[test]
fn a_coarse_clock_neither_prolongs_open_nor_shortens_the_hint() {
    let clock = Arc::new(ManualClock::new(1_000_000_000));
    let breaker = LatencyCircuitBreaker::builder(CircuitBreakerConfig::default())
        .clock(Arc::new(LaggingClock(Arc::clone(&clock))))
        .build()
        .unwrap();
    breaker.open_for(Duration::from_secs(1));
    for left_ms in (1..=1000_u64).rev() {
        let rejection = breaker
            .try_acquire()
            .expect_err("the circuit is open until the deadline");
        assert!(rejection.retry_after >= Duration::from_millis(left_ms));
        clock.advance(Duration::from_millis(1));
    }
    assert!(
        breaker.try_acquire().is_ok(),
        "the circuit becomes half-open exactly at the deadline"
    );
    assert_eq!(breaker.stats().lifetime.rejected_open, 1000);
}

#[test]
fn the_systems_coarse_clock_is_never_ahead_and_never_decreases() {
    let clock = SystemClock::new();
    let mut last_ns = 0;
    for _ in 0..10_000 {
        let (recent_ns, now_ns) = (clock.recent_ns(), clock.now_ns());
        assert!(last_ns <= recent_ns && recent_ns <= now_ns);
        last_ns = recent_ns;
    }
}

#[test]
fn late_results_do_not_extend_open() {
    let rig = Rig::with_defaults();
    let stragglers: Vec<_> = (0..50).map(|_| rig.admit()).collect();
    rig.trip();
    let until = rig.stats().open_until_ms;
    for permit in stragglers {
        rig.advance_ms(10);
        permit.record(Verdict::failure());
    }
    assert_eq!(rig.stats().open_until_ms, until);
    assert_eq!(rig.stats().lifetime.opens, 1);
}

#[test]
fn a_cancelled_probe_returns_its_permit_and_is_no_evidence() {
    let rig = Rig::with_defaults();
    rig.trip_and_wait();
    for _ in 0..1000 {
        drop(rig.admit());
    }
    let stats = rig.stats();
    assert_eq!(stats.state, CircuitState::HalfOpen);
    assert_eq!(
        (stats.half_open.issued, stats.half_open.ok, stats.half_open.bad),
        (0, 0, 0)
    );
    assert_eq!(stats.lifetime.cancelled, 1000);
}

#[test]
fn a_probe_cancelled_when_already_slow_is_bad() {
    let rig = Rig::with_defaults();
    rig.trip_and_wait();
    let probe = rig.admit();
    rig.advance(SLOW);
    drop(probe);
    assert_eq!(rig.stats().half_open.bad, 1);
}

#[test]
fn a_permit_issued_while_closed_does_not_add_a_probe() {
    let rig = Rig::with_defaults();
    let old = rig.admit();
    rig.trip_and_wait();
    let probes: Vec<_> = (0..10).map(|_| rig.admit()).collect();
    drop(old);
    assert_eq!(rig.reject().state, CircuitState::HalfOpen);
    assert_eq!(rig.stats().half_open.issued, 10);
    drop(probes);
}

#[test]
fn a_neutral_outcome_on_the_last_permit_does_not_block_recovery() {
    let rig = Rig::with_defaults();
    rig.trip_and_wait();
    rig.calls(7, FAST, Verdict::success());
    let running: Vec<_> = (0..2).map(|_| rig.admit()).collect();
    let last = rig.admit();
    assert_eq!(rig.reject().state, CircuitState::HalfOpen);
    last.record(Verdict::neutral());
    rig.calls(1, FAST, Verdict::success());
    assert_eq!(rig.state(), CircuitState::Ramp);
    drop(running);
}

#[test]
fn a_hung_probe_reopens_at_the_probe_timeout() {
    let rig = Rig::new(|config| {
        config.half_open_permits = 1;
        config.half_open_ok_needed = 1;
    });
    rig.trip_and_wait();
    let hung = rig.admit();
    rig.tick_for_ms(90);
    assert_eq!(rig.state(), CircuitState::HalfOpen);
    rig.tick_for_ms(10);
    assert_eq!(rig.state(), CircuitState::Open);
    assert_eq!(rig.reason_opened(), Some(TransitionReason::ProbeTimeout));
    hung.record(Verdict::success());
    assert_eq!(rig.state(), CircuitState::Open, "the result is too late to count");
    assert_eq!(rig.stats().lifetime.stale_results, 1);
}

#[test]
fn a_hung_probe_is_noticed_without_a_ticker_too() {
    let rig = Rig::with_defaults();
    rig.trip_and_wait();
    let hung: Vec<_> = (0..10).map(|_| rig.admit()).collect();
    rig.advance_ms(99);
    assert_eq!(rig.reject().state, CircuitState::HalfOpen);
    rig.advance_ms(1);
    assert_eq!(rig.reject().state, CircuitState::Open);
    drop(hung);
}

#[test]
fn one_flaky_probe_does_not_reopen() {
    let rig = Rig::with_defaults();
    rig.trip_and_wait();
    rig.calls(2, FAST, Verdict::failure());
    assert_eq!(rig.state(), CircuitState::HalfOpen);
    rig.calls(8, FAST, Verdict::success());
    assert_eq!(rig.state(), CircuitState::Ramp);
}

#[test]
fn slow_probes_are_bad() {
    let rig = Rig::with_defaults();
    rig.trip_and_wait();
    rig.calls(3, SLOW, Verdict::success());
    assert_eq!(
        rig.state(),
        CircuitState::Open,
        "if three of ten probes are bad, eight good probes are impossible"
    );
    assert_eq!(rig.reason_opened(), Some(TransitionReason::ProbeFailed));
}

#[test]
fn half_open_waits_for_ever_without_traffic() {
    let rig = Rig::with_defaults();
    rig.trip_and_wait();
    rig.breaker.tick();
    assert_eq!(rig.state(), CircuitState::HalfOpen);
    rig.tick_for_ms(120_000);
    assert_eq!(rig.state(), CircuitState::HalfOpen);
    rig.calls(8, FAST, Verdict::success());
    assert_eq!(rig.state(), CircuitState::Ramp);
}

#[test]
fn after_the_longest_wait_only_undecided_probes_reopen() {
    for (verdict, reason) in [
        (Verdict::failure(), TransitionReason::MaxWait),
        (Verdict::success(), TransitionReason::ProbesPassed),
    ] {
        let rig = Rig::with_defaults();
        rig.trip_and_wait();
        rig.calls(1, FAST, verdict);
        rig.tick_for_ms(29_990);
        assert_eq!(rig.state(), CircuitState::HalfOpen);
        rig.tick_for_ms(20);
        assert_eq!(rig.stats().history.last().unwrap().reason, reason);
    }
}

#[test]
fn a_thousand_threads_at_the_deadline_get_ten_permits() {
    // Each thread gets a small stack, because there are many threads.
    const THREADS: usize = 1000;
    let rig = Rig::new(|config| config.shards = 4);
    rig.trip_and_wait();
    let (start, admitted, done) = (Barrier::new(THREADS), AtomicUsize::new(0), Barrier::new(THREADS));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            let run = || {
                start.wait();
                let permit = rig.breaker.try_acquire();
                admitted.fetch_add(usize::from(permit.is_ok()), Ordering::Relaxed);
                done.wait();
            };
            std::thread::Builder::new()
                .stack_size(64 * 1024)
                .spawn_scoped(scope, run)
                .unwrap();
        }
    });
    assert_eq!(admitted.into_inner(), 10);
    let lifetime = rig.stats().lifetime;
    assert_eq!(lifetime.rejected_half_open + lifetime.rejected_open, 990);
    assert_eq!((lifetime.half_opens, lifetime.cancelled), (1, 10));
}

#[test]
fn the_open_time_grows_caps_and_decays() {
    let rig = Rig::with_defaults();
    let mut open_times = Vec::new();
    rig.trip();
    for _ in 0..6 {
        open_times.push(rig.stats().history.last().unwrap().open_for.as_secs());
        rig.advance(rig.stats().next_probe_in);
        rig.calls(3, FAST, Verdict::failure());
    }
    assert_eq!(open_times, [5, 10, 20, 40, 60, 60]);
    assert_eq!(rig.stats().open_attempt, 7);

    rig.advance(rig.stats().next_probe_in);
    rig.calls(8, FAST, Verdict::success());
    rig.tick_for_ms(10_010);
    assert_eq!(rig.state(), CircuitState::Closed);
    rig.tick_for_ms(59_900);
    rig.trip();
    assert_eq!(
        rig.stats().history.last().unwrap().open_for.as_secs(),
        60,
        "the circuit was closed for less than stable_for, so the open time stays at its maximum"
    );

    rig.breaker.reset();
    rig.trip();
    rig.breaker.open_for(Duration::from_millis(1));
    assert_eq!(
        rig.stats().open_attempt,
        1,
        "an operator's command does not lengthen the open time"
    );
    rig.advance_ms(1);
    rig.calls(8, FAST, Verdict::success());
    rig.tick_for_ms(70_020);
    assert_eq!(
        rig.stats().open_attempt,
        0,
        "the circuit has been closed for stable_for"
    );
    rig.trip();
    assert_eq!(rig.stats().history.last().unwrap().open_for.as_secs(), 5);
}

#[test]
fn jitter_stays_within_its_bounds_and_repeats_with_its_seed() {
    let openings = |seed| {
        let rig = Rig::new(|config| {
            config.open_jitter = 0.2;
            config.rng_seed = seed;
        });
        let openings: Vec<_> = (0..50)
            .map(|_| {
                rig.breaker.reset();
                rig.trip();
                rig.stats().history.last().unwrap().open_for
            })
            .collect();
        openings
    };
    let first = openings(7);
    let (shortest, longest) = (*first.iter().min().unwrap(), *first.iter().max().unwrap());
    assert!(shortest >= Duration::from_secs(4) && longest <= Duration::from_secs(6));
    assert!(
        longest - shortest > Duration::from_secs(1),
        "the open times are spread over most of the range"
    );
    assert_eq!(first, openings(7));
    assert_ne!(first, openings(8));
}

#[test]
fn the_ramp_never_admits_more_than_its_share_and_one() {
    let rig = Rig::with_defaults();
    rig.trip_and_wait();
    rig.calls(8, FAST, Verdict::success());
    let mut admitted = 0_u32;
    let mut share = 0.0;
    for arrival in 0..10_000 {
        assert_eq!(rig.state(), CircuitState::Ramp, "arrival {arrival}");
        share += rig.stats().ramp_weight;
        if let Ok(permit) = rig.breaker.try_acquire() {
            admitted += 1;
            permit.record(Verdict::success());
        }
        assert!(
            f64::from(admitted) <= share + 1.0,
            "call {arrival}: {admitted} calls admitted, but the share is {share}"
        );
        rig.advance(Duration::from_micros(999));
    }
    assert!(
        f64::from(admitted) >= share - 2.0,
        "{admitted} calls admitted, but the share is {share}"
    );
    assert_eq!(rig.stats().lifetime.rejected_ramp, u64::from(10_000 - admitted));
    rig.advance_ms(20);
    assert_eq!(rig.stats().effective_state, CircuitState::Closed);
    rig.calls(1, FAST, Verdict::success());
    assert_eq!(rig.state(), CircuitState::Closed);
}

#[test]
fn a_ramp_that_goes_wrong_opens_for_longer() {
    let rig = Rig::new(|config| config.min_calls = 10);
    assert_eq!(rig.calls_until_open(100, FAST, Verdict::failure()), 10);
    rig.advance(rig.stats().next_probe_in);
    rig.calls(8, FAST, Verdict::success());
    for _ in 0..1000 {
        if let Ok(permit) = rig.breaker.try_acquire() {
            rig.advance(SLOW);
            permit.record(Verdict::success());
        }
    }
    assert_eq!(rig.state(), CircuitState::Open);
    assert_eq!(rig.reason_opened(), Some(TransitionReason::SlowRate));
    assert_eq!(rig.stats().history.last().unwrap().from, CircuitState::Ramp);
    assert_eq!(
        rig.stats().history.last().unwrap().open_for,
        Duration::from_secs(10)
    );
}

#[test]
fn evidence_from_before_opening_does_not_count_after_it() {
    let rig = Rig::new(|config| {
        config.ramp = Duration::ZERO;
        config.open_base = Duration::from_millis(10);
        config.consecutive_failures = None;
    });
    assert_eq!(rig.calls_until_open(1000, FAST, Verdict::failure()), 100);
    rig.advance_ms(10);
    rig.calls(8, FAST, Verdict::success());
    // The time is still in the same time slice as the hundred failures.
    assert_eq!(rig.state(), CircuitState::Closed);
    rig.calls(49, FAST, Verdict::failure());
    assert_eq!(rig.state(), CircuitState::Closed);
    assert_eq!(rig.stats().window.failures, 49);
}

#[test]
fn with_self_probes_no_caller_is_a_probe() {
    let rig = Rig::new(|config| config.self_probe = true);
    assert!(
        rig.breaker.try_acquire_probe().is_none(),
        "a closed circuit admits no probe"
    );
    rig.trip();
    assert!(
        rig.breaker.try_acquire_probe().is_none(),
        "an open circuit admits no probe"
    );
    rig.advance(rig.stats().next_probe_in);
    for _ in 0..8 {
        assert_eq!(rig.reject().state, CircuitState::HalfOpen);
        let probe = rig.breaker.try_acquire_probe().unwrap();
        rig.advance(FAST);
        probe.record(Verdict::success());
    }
    assert_eq!(rig.state(), CircuitState::Ramp);
    assert!(
        rig.breaker.try_acquire_probe().is_none(),
        "a ramp admits no probe"
    );
    assert_eq!(
        rig.stats().lifetime.rejected_half_open,
        8,
        "only the callers' rejections are counted, not those of the host's probes"
    );
}

#[test]
fn callers_and_the_host_share_the_permits_unless_they_are_reserved() {
    let rig = Rig::with_defaults();
    rig.trip_and_wait();
    let callers: Vec<_> = (0..6).map(|_| rig.admit()).collect();
    let host: Vec<_> = std::iter::from_fn(|| rig.breaker.try_acquire_probe()).collect();
    assert_eq!((callers.len(), host.len()), (6, 4));
    rig.breaker.set_mode(tally_breaker::BreakerMode::ForcedOpen);
    drop(callers);
    assert!(
        rig.breaker.try_acquire_probe().is_none(),
        "a circuit that an operator forced open admits no probe"
    );
}
