//! Tests of when the circuit opens, and of when it must not open.

use std::time::Duration;

use tally_breaker::{CircuitBreakerConfig, CircuitState, TransitionReason, Verdict};

use super::support::{FAST, Rig, SLOW};

/// Returns the verdict of a success in the given batch. Without a batch, each slow call would be a separate event.
fn in_one_batch(batch: u64) -> Verdict {
    Verdict::success().in_batch(batch)
}

#[test]
fn a_long_healthy_past_does_not_delay_opening() {
    let rig = Rig::new(|config| config.consecutive_failures = None);
    rig.calls(100_000, Duration::from_micros(500), Verdict::success());
    // The window of 10 s holds about 20,000 of these calls. They leave the window slice by slice while the failures are
    // recorded.
    let failures = rig.calls_until_open(100_000, FAST, Verdict::failure());
    assert_eq!(rig.reason_opened(), Some(TransitionReason::FailureRate));
    assert!(
        failures < 10_000,
        "one window of failures is enough, but it took {failures}"
    );

    let quiet = Rig::new(|config| config.consecutive_failures = None);
    quiet.calls(100_000, Duration::from_micros(500), Verdict::success());
    quiet.advance(quiet.breaker.config().window());
    assert_eq!(
        quiet.calls_until_open(1000, FAST, Verdict::failure()),
        100,
        "the old calls have left the window, so min_calls failures are enough"
    );
}

#[test]
fn consecutive_failures_open_at_any_rate() {
    let rig = Rig::with_defaults();
    rig.calls(10_000, Duration::from_micros(100), Verdict::success());
    assert_eq!(rig.calls_until_open(1000, FAST, Verdict::failure()), 20);
    assert_eq!(rig.reason_opened(), Some(TransitionReason::Consecutive));
}

#[test]
fn interleaved_successes_do_not_hide_failures() {
    let rig = Rig::with_defaults();
    for call in 0..300 {
        let verdict = if call % 3 == 0 {
            Verdict::success()
        } else {
            Verdict::failure()
        };
        if rig.calls_until_open(1, FAST, verdict) == 0 {
            break;
        }
    }
    assert_eq!(rig.reason_opened(), Some(TransitionReason::FailureRate));
}

#[test]
fn a_call_at_the_threshold_is_slow() {
    let threshold = CircuitBreakerConfig::default().slow_threshold;
    let rig = Rig::with_defaults();
    rig.calls(1, threshold, Verdict::success());
    rig.calls(1, threshold - Duration::from_nanos(1), Verdict::success());
    assert_eq!(rig.stats().window.slow, 1);
}

#[test]
fn a_rate_at_the_threshold_opens() {
    for (slow_calls, opens) in [(49, false), (50, true)] {
        let rig = Rig::new(|config| config.window_buckets = 60);
        rig.calls(100 - slow_calls, FAST, Verdict::success());
        rig.calls(slow_calls, SLOW, Verdict::success());
        assert_eq!(
            rig.stats().window.calls,
            if opens { 0 } else { 100 },
            "the window is empty after the circuit opened"
        );
        assert_eq!(
            rig.state() == CircuitState::Open,
            opens,
            "{slow_calls} slow calls of 100"
        );
    }
    for (failures, opens) in [(49, false), (50, true)] {
        let rig = Rig::new(|config| config.consecutive_failures = None);
        rig.calls(100 - failures, FAST, Verdict::success());
        rig.calls(failures, FAST, Verdict::failure());
        assert_eq!(
            rig.state() == CircuitState::Open,
            opens,
            "{failures} failures of 100"
        );
    }
}

#[test]
fn slow_successes_alone_open() {
    let rig = Rig::new(|config| config.window_buckets = 60);
    assert_eq!(rig.calls_until_open(1000, SLOW, Verdict::success()), 100);
    assert_eq!(rig.reason_opened(), Some(TransitionReason::SlowRate));
    assert_eq!(rig.stats().history[0].failure_rate, 0.0);
    assert_eq!(rig.stats().history[0].slow_rate, 1.0);
}

#[test]
fn min_calls_calls_are_enough_for_a_rate() {
    let rig = Rig::new(|config| config.min_calls = 10);
    assert_eq!(rig.calls_until_open(1000, SLOW, Verdict::success()), 10);
}

#[test]
fn calls_that_hang_open_before_one_completes() {
    let rig = Rig::with_defaults();
    let permits: Vec<_> = (0..100).map(|_| rig.admit()).collect();
    rig.tick_for_ms(90);
    assert_eq!(
        rig.state(),
        CircuitState::Closed,
        "a stall shorter than overdue_rounds slow thresholds must not open the circuit"
    );
    assert_eq!(rig.stats().overdue_in_flight, 100);
    // 110 ms are enough for two thresholds of 50 ms, although a time slot of the ring is up to 6.25 ms wide and ticks
    // are 10 ms apart.
    rig.tick_for_ms(20);
    assert_eq!(rig.state(), CircuitState::Open);
    assert_eq!(rig.reason_opened(), Some(TransitionReason::Overdue));
    let stats = rig.stats();
    assert_eq!(stats.history[0].overdue, 100);
    assert_eq!((stats.history[0].calls, stats.in_flight), (0, 100));
    for permit in permits {
        permit.record(Verdict::success());
    }
    assert_eq!(rig.stats().lifetime.stale_results, 100);
    assert_eq!(rig.stats().in_flight, 0);
}

#[test]
fn the_length_of_a_tolerated_stall_is_configurable() {
    let rig = Rig::new(|config| config.overdue_rounds = 5);
    let permits: Vec<_> = (0..100).map(|_| rig.admit()).collect();
    rig.tick_for_ms(240);
    assert_eq!(rig.state(), CircuitState::Closed);
    rig.tick_for_ms(30);
    assert_eq!(rig.reason_opened(), Some(TransitionReason::Overdue));
    drop(permits);
}

#[test]
fn hung_calls_age_beyond_the_ring_and_still_count() {
    let rig = Rig::new(|config| config.min_calls = 1000);
    let hung: Vec<_> = (0..10).map(|_| rig.admit()).collect();
    for _ in 0..2_000 {
        rig.calls(1, FAST, Verdict::success());
    }
    assert_eq!(rig.stats().overdue_in_flight, 10);
    for (left, permit) in (0..10).rev().zip(hung) {
        permit.record(Verdict::success());
        assert_eq!(rig.stats().overdue_in_flight, left);
    }
}

#[test]
fn without_a_ticker_a_hang_is_noticed_when_the_next_slice_begins() {
    let rig = Rig::with_defaults();
    rig.calls(1, FAST, Verdict::success());
    let hung: Vec<_> = (0..100).map(|_| rig.admit()).collect();
    rig.advance_ms(900);
    rig.calls(1, FAST, Verdict::success());
    assert_eq!(rig.state(), CircuitState::Closed);
    rig.advance_ms(100);
    rig.calls(1, FAST, Verdict::success());
    assert_eq!(rig.reason_opened(), Some(TransitionReason::Overdue));
    drop(hung);
}

#[test]
fn slow_calls_are_not_hidden_by_cancelling_them() {
    let rig = Rig::new(|config| config.min_calls = 10);
    for round in 1..=20 {
        let permits: Vec<_> = (0..10).filter_map(|_| rig.breaker.try_acquire().ok()).collect();
        rig.advance(SLOW);
        drop(permits);
        if rig.state() == CircuitState::Open {
            assert_eq!(
                round, 5,
                "slow calls that are cancelled together count as one bad batch"
            );
            assert_eq!(rig.reason_opened(), Some(TransitionReason::SlowRate));
            return;
        }
    }
    panic!("still closed after 200 cancelled slow calls");
}

#[test]
fn one_slow_batch_is_one_event_five_are_five() {
    let rig = Rig::with_defaults();
    for batch in 1..=5 {
        assert_eq!(rig.state(), CircuitState::Closed, "before batch {batch}");
        let permits: Vec<_> = (0..4096).map(|_| rig.admit()).collect();
        rig.tick_for_ms(60);
        assert_eq!(
            rig.state(),
            CircuitState::Closed,
            "while batch {batch} is overdue"
        );
        for permit in permits {
            permit.record(in_one_batch(batch));
        }
    }
    assert_eq!(rig.state(), CircuitState::Open);
    assert_eq!(rig.reason_opened(), Some(TransitionReason::SlowRate));
}

#[test]
fn one_slow_batch_after_many_fast_ones_does_not_open() {
    let rig = Rig::with_defaults();
    for batch in 1..=100 {
        rig.calls(1, FAST, in_one_batch(batch));
    }
    let permits: Vec<_> = (0..4096).map(|_| rig.admit()).collect();
    rig.tick_for_ms(90);
    for permit in permits {
        permit.record(in_one_batch(101));
    }
    assert_eq!(rig.state(), CircuitState::Closed);
    assert_eq!(
        (rig.stats().window.batches, rig.stats().window.bad_batches),
        (101, 1)
    );
    assert!(rig.stats().window.slow_rate > 0.9);
}

#[test]
fn a_failed_batch_counts_as_one_consecutive_failure() {
    let rig = Rig::with_defaults();
    let failed = Verdict::failure();
    for batch in 1..=4 {
        rig.calls(50, FAST, failed.in_batch(batch));
        assert_eq!(rig.state(), CircuitState::Closed, "after batch {batch}");
    }
    rig.calls(1, FAST, failed.in_batch(5));
    assert_eq!(rig.reason_opened(), Some(TransitionReason::FailureRate));
}

#[test]
fn a_million_business_rejections_leave_the_circuit_closed() {
    let rig = Rig::with_defaults();
    let executed = Verdict::success();
    for call in 0..1_000_000_u32 {
        let verdict = if call % 2 == 0 {
            executed
        } else {
            executed.unsampled()
        };
        rig.admit().record(verdict);
        if call % 1000 == 0 {
            rig.advance_ms(1);
        }
    }
    assert_eq!(rig.state(), CircuitState::Closed);
    assert_eq!(rig.stats().lifetime.opens, 0);
    assert_eq!(rig.stats().lifetime.admitted, 1_000_000);
}

#[test]
fn rejections_before_the_executor_do_not_dilute_the_slow_rate() {
    let rig = Rig::new(|config| config.window_buckets = 60);
    for _ in 0..99 {
        rig.calls(9, Duration::from_micros(10), Verdict::success().unsampled());
        rig.calls(1, SLOW, Verdict::success());
    }
    assert_eq!(rig.stats().window.samples, 99);
    assert_eq!(rig.stats().window.calls, 990);
    rig.calls(1, SLOW, Verdict::success());
    assert_eq!(rig.reason_opened(), Some(TransitionReason::SlowRate));
}

#[test]
fn rejections_before_the_executor_do_not_end_consecutive_failures() {
    let rig = Rig::new(|config| config.min_calls = 1_000_000);
    for _ in 0..20 {
        rig.calls(1, FAST, Verdict::success().unsampled());
        rig.calls(1, FAST, Verdict::failure());
    }
    assert_eq!(rig.reason_opened(), Some(TransitionReason::Consecutive));
}

#[test]
fn a_storm_of_full_queues_leaves_the_circuit_closed() {
    let rig = Rig::with_defaults();
    rig.calls(100_000, Duration::from_micros(100), Verdict::neutral());
    rig.calls(100, SLOW, Verdict::neutral());
    assert_eq!(rig.state(), CircuitState::Closed);
    let window = rig.stats().window;
    assert_eq!((window.calls, window.samples, window.slow), (0, 0, 0));
    assert!(window.neutral > 100);
}

#[test]
fn the_p99_rule_opens_if_enabled() {
    let rig = Rig::new(|config| {
        config.p99_threshold = Some(Duration::from_millis(20));
        config.window_buckets = 60;
    });
    rig.calls(990, FAST, Verdict::success());
    rig.calls(9, Duration::from_millis(20), Verdict::success());
    assert_eq!(rig.state(), CircuitState::Closed);
    rig.calls(1, Duration::from_millis(20), Verdict::success());
    assert_eq!(rig.reason_opened(), Some(TransitionReason::P99));
}

#[test]
fn reported_durations_are_judged_instead_of_the_total() {
    let ms = Duration::from_millis;
    let rig = Rig::with_defaults();
    rig.calls(1, ms(80), Verdict::success().timed(ms(20), ms(29)));
    assert_eq!(rig.stats().window.slow, 0);
    rig.calls(1, ms(80), Verdict::success().timed(ms(21), ms(29)));
    let window = rig.stats().window;
    assert_eq!(window.slow, 1);
    assert_eq!(
        (window.queue_wait.count, window.commit.count, window.total.count),
        (2, 2, 2)
    );
    assert!(window.total.p50 >= ms(80) && window.total.p50 <= ms(100));
    assert!(window.commit.max >= ms(29) && window.commit.max <= ms(37));
}

#[test]
fn old_calls_leave_the_window() {
    let rig = Rig::with_defaults();
    rig.calls(50, SLOW, Verdict::success());
    assert_eq!(rig.stats().window.slow, 50);
    rig.advance_ms(6_999);
    assert_eq!(
        rig.stats().window.slow,
        50,
        "the first call began 9.999 s ago, so it is still in the window"
    );
    rig.advance_ms(1);
    assert_eq!(
        rig.stats().window.slow,
        34,
        "the first time slice, with 16 calls, is now older than the window"
    );
    rig.advance_ms(10_000);
    assert_eq!(rig.stats().window.slow, 0);
}
