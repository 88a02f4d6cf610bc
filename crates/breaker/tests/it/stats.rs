//! Tests of three figures in a snapshot: the mean latency, the consecutive failures and the lifetime counters.

use std::time::Duration;

use tally_breaker::Verdict;

use super::support::Rig;

/// Makes a breaker that no verdict can open.
fn unopenable() -> Rig {
    Rig::new(|config| {
        config.consecutive_failures = None;
        config.min_batches = 10_000;
        config.min_calls = 1_000_000;
    })
}

#[test]
fn the_mean_latency_is_within_an_eighth_of_the_true_mean() {
    for latencies_us in [&[10_u64, 20, 30][..], &[4, 400, 40_000], &[999, 1_001, 77, 5_000]] {
        let rig = unopenable();
        for latency in latencies_us {
            let permit = rig.admit();
            rig.advance(Duration::from_micros(*latency));
            permit.record(Verdict::success());
        }
        let true_mean_us = latencies_us.iter().sum::<u64>() as f64 / latencies_us.len() as f64;
        let mean_us = rig.stats().window.total.mean.as_secs_f64() * 1e6;
        let deviation = (mean_us - true_mean_us).abs() / true_mean_us;
        assert!(
            deviation <= 0.125,
            "{latencies_us:?}: {mean_us} µs instead of {true_mean_us} µs"
        );
    }
    assert_eq!(
        unopenable().stats().window.total.mean,
        Duration::ZERO,
        "nothing was measured"
    );
}

#[test]
fn consecutive_failures_are_those_since_the_last_success() {
    let rig = unopenable();
    for batch in 1..=3 {
        rig.admit().record(Verdict::failure().in_batch(batch));
        assert_eq!(rig.stats().consecutive_failures, batch);
    }
    rig.admit().record(Verdict::failure().in_batch(3));
    assert_eq!(
        rig.stats().consecutive_failures,
        3,
        "two failures of one batch count once"
    );
    rig.admit().record(Verdict::success().in_batch(4));
    assert_eq!(rig.stats().consecutive_failures, 0);
    rig.admit().record(Verdict::failure().in_batch(5));
    rig.breaker.reset();
    assert_eq!(
        rig.stats().consecutive_failures,
        0,
        "a reset begins a new generation"
    );
}

#[test]
fn lifetime_counters_outlive_the_window() {
    let rig = unopenable();
    let slow = rig.breaker.config().slow_threshold;
    rig.admit().record(Verdict::success());
    rig.admit().record(Verdict::failure());
    let permit = rig.admit();
    rig.advance(slow);
    permit.record(Verdict::success());
    rig.advance(rig.breaker.config().window() * 3);
    let stats = rig.stats();
    assert_eq!(stats.window.calls, 0, "the window no longer contains the calls");
    let lifetime = stats.lifetime;
    assert_eq!((lifetime.successes, lifetime.failures, lifetime.slow), (2, 1, 1));
}
