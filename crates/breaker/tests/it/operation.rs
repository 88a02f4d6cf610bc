//! Tests of the features on which operators rely: pauses of the process, modes, retry times, snapshots and events.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use parking_lot::Mutex;
use tally_breaker::{
    BreakerMode, CircuitBreakerConfig, CircuitState, HISTORY_MAX, LatencyCircuitBreaker, ManualClock,
    Transition, TransitionObserver, TransitionReason, Verdict,
};

use super::support::{FAST, Rig, SLOW};

/// Makes a breaker with 200 calls in flight, each in its own batch, and freezes the process for five seconds.
fn frozen_with_calls_in_flight() -> (Rig, Vec<tally_breaker::Permit>) {
    let rig = Rig::with_defaults();
    rig.tick_for_ms(1000);
    let permits = (0..200).map(|_| rig.admit()).collect();
    rig.advance_ms(5000);
    (rig, permits)
}

#[test]
fn a_frozen_process_does_not_open_when_the_ticker_wakes_first() {
    let (rig, permits) = frozen_with_calls_in_flight();
    rig.breaker.tick();
    assert_eq!(rig.state(), CircuitState::Closed);
    for permit in permits {
        permit.record(Verdict::success());
    }
    let stats = rig.stats();
    assert_eq!(
        (stats.state, stats.window.slow, stats.window.calls),
        (CircuitState::Closed, 0, 200)
    );
    assert_eq!(stats.lifetime.self_throttled_ms, 5000);
}

#[test]
fn a_frozen_process_does_not_open_when_the_calls_wake_first() {
    let (rig, permits) = frozen_with_calls_in_flight();
    for permit in permits {
        permit.record(Verdict::success());
    }
    rig.breaker.tick();
    let stats = rig.stats();
    assert_eq!((stats.state, stats.window.slow), (CircuitState::Closed, 0));
    assert_eq!(
        stats.lifetime.self_throttled_ms, 5000,
        "the pause is counted once"
    );
}

#[test]
fn calls_that_still_hang_after_a_freeze_are_noticed() {
    let (rig, permits) = frozen_with_calls_in_flight();
    rig.breaker.tick();
    rig.tick_for_ms(90);
    assert_eq!(rig.state(), CircuitState::Closed);
    rig.tick_for_ms(10);
    assert_eq!(rig.reason_opened(), Some(TransitionReason::Overdue));
    drop(permits);
}

#[test]
fn a_dead_ticker_does_not_blind_the_breaker() {
    let rig = Rig::new(|config| config.window_buckets = 60);
    rig.breaker.tick();
    rig.advance_ms(1);
    rig.breaker.tick();
    let opened_after = rig.calls_until_open(1000, SLOW, Verdict::success());
    assert_eq!(rig.state(), CircuitState::Open);
    assert!(
        opened_after < 150,
        "after the ticks have stopped, most slow calls must still count: the circuit opened after {opened_after} calls"
    );
}

#[test]
fn a_rejection_has_a_spread_retry_hint() {
    let rig = Rig::with_defaults();
    rig.trip();
    let hints: Vec<_> = (0..1000).map(|_| rig.reject().retry_after).collect();
    let (least, most) = (*hints.iter().min().unwrap(), *hints.iter().max().unwrap());
    assert!(least >= Duration::from_secs(5) && most < Duration::from_millis(7501));
    assert!(
        most - least > Duration::from_secs(2),
        "the retry times are spread over half of the open time"
    );

    let again = Rig::with_defaults();
    again.trip();
    assert_eq!(
        hints[..10],
        (0..10).map(|_| again.reject().retry_after).collect::<Vec<_>>(),
        "the same seed gives the same retry times"
    );

    rig.advance_ms(4999);
    assert!(rig.reject().retry_after >= Duration::from_millis(1));
    assert_eq!(rig.stats().retry_hint, Duration::from_millis(1));
}

#[test]
fn rejections_are_not_latency_samples() {
    let rig = Rig::with_defaults();
    rig.trip();
    for _ in 0..500 {
        rig.reject();
    }
    let stats = rig.stats();
    assert_eq!(stats.lifetime.rejected_open, 500);
    assert_eq!(
        (stats.window.calls, stats.window.total.count, stats.in_flight),
        (0, 0, 0)
    );
}

#[test]
fn snapshots_are_readable_while_open_and_forced_open() {
    let rig = Rig::with_defaults();
    rig.trip();
    let stats = rig.stats();
    assert_eq!(
        (stats.state, stats.effective_state, stats.mode),
        (CircuitState::Open, CircuitState::Open, BreakerMode::Auto)
    );
    assert_eq!(stats.next_probe_in, Duration::from_secs(5));
    assert_eq!(stats.open_until_ms, Some(5020));
    assert_eq!(
        (stats.ramp_weight, stats.lifetime.opens, stats.history.len()),
        (0.0, 1, 1)
    );
    rig.advance_ms(5000);
    assert_eq!(
        rig.stats().state,
        CircuitState::Open,
        "no call and no tick has made the transition"
    );
    // See issue 481 of the library Polly.
    assert_eq!(rig.stats().effective_state, CircuitState::HalfOpen);

    rig.breaker.set_mode(BreakerMode::ForcedOpen);
    let stats = rig.stats();
    assert_eq!(
        (stats.effective_state, stats.mode),
        (CircuitState::Open, BreakerMode::ForcedOpen)
    );
    assert_eq!(stats.retry_hint, Duration::from_secs(30));
    let rejection = rig.reject();
    assert_eq!(rejection.mode, BreakerMode::ForcedOpen);
    assert!(
        rejection.retry_after >= Duration::from_secs(30) && rejection.retry_after <= Duration::from_secs(45)
    );
    rig.tick_for_ms(1000);
    assert_eq!(
        rig.state(),
        CircuitState::Open,
        "a change of mode keeps the state"
    );
    rig.breaker.set_mode(BreakerMode::Auto);
    rig.admit().record(Verdict::success());
    assert_eq!(rig.state(), CircuitState::HalfOpen);
}

#[test]
fn metrics_only_rejects_nothing_and_counts_would_be_rejections() {
    let rig = Rig::with_defaults();
    rig.breaker.set_mode(BreakerMode::MetricsOnly);
    rig.calls(20, FAST, Verdict::failure());
    assert_eq!(rig.state(), CircuitState::Open);
    rig.calls(100, FAST, Verdict::success());
    assert_eq!(rig.stats().lifetime.would_reject, 100);
    rig.advance_ms(4900);
    let probes: Vec<_> = (0..15).map(|_| rig.admit()).collect();
    assert_eq!(rig.state(), CircuitState::HalfOpen);
    assert_eq!(rig.stats().half_open.issued, 10);
    assert_eq!(rig.stats().lifetime.would_reject, 105);
    drop(probes);
    rig.calls(8, FAST, Verdict::success());
    assert_eq!(rig.state(), CircuitState::Ramp);
    rig.calls(100, FAST, Verdict::success());
    let stats = rig.stats();
    assert!(
        stats.lifetime.would_reject > 105 + 80,
        "at its beginning, the ramp would have rejected most calls"
    );
    assert_eq!(
        (
            stats.lifetime.rejected_open,
            stats.lifetime.rejected_half_open,
            stats.lifetime.rejected_ramp
        ),
        (0, 0, 0)
    );
}

#[test]
fn disabled_records_nothing_and_rejects_nothing() {
    let rig = Rig::with_defaults();
    let before = rig.admit();
    rig.breaker.set_mode(BreakerMode::Disabled);
    rig.calls(1000, SLOW, Verdict::failure());
    before.record(Verdict::failure());
    let stats = rig.stats();
    assert_eq!(
        (
            stats.state,
            stats.window.calls,
            stats.in_flight,
            stats.lifetime.admitted
        ),
        (CircuitState::Closed, 0, 0, 1)
    );
    rig.trip_is_possible_again();
}

impl Rig {
    fn trip_is_possible_again(&self) {
        self.breaker.set_mode(BreakerMode::Auto);
        self.trip();
    }
}

#[test]
fn reset_closes_from_every_state_and_discards_evidence() {
    let rig = Rig::with_defaults();
    rig.trip();
    rig.breaker.reset();
    assert_eq!((rig.state(), rig.stats().open_attempt), (CircuitState::Closed, 0));
    rig.trip_and_wait();
    let probe = rig.admit();
    rig.breaker.reset();
    assert_eq!(rig.state(), CircuitState::Closed);
    probe.record(Verdict::failure());
    assert_eq!(rig.stats().window.failures, 0);
    rig.calls(19, FAST, Verdict::failure());
    rig.breaker.reset();
    rig.calls(19, FAST, Verdict::failure());
    assert_eq!(rig.state(), CircuitState::Closed);
}

#[test]
fn open_for_opens_for_the_given_time() {
    let rig = Rig::with_defaults();
    rig.breaker.open_for(Duration::from_secs(1));
    assert_eq!(rig.reason_opened(), Some(TransitionReason::Forced));
    rig.advance_ms(999);
    assert_eq!(rig.reject().state, CircuitState::Open);
    rig.advance_ms(1);
    drop(rig.admit());
    assert_eq!(rig.state(), CircuitState::HalfOpen);
    rig.breaker.open_for(Duration::MAX);
    assert_eq!(rig.stats().next_probe_in, Duration::from_secs(365 * 24 * 60 * 60));
}

#[test]
fn every_snapshot_has_the_same_time_of_day_for_the_same_transition() {
    let rig = Rig::with_defaults();
    rig.advance_ms(1234);
    rig.breaker.open_for(Duration::from_secs(10));
    let first = rig.stats();
    rig.advance_ms(777);
    let second = rig.stats();
    assert_eq!(first.history, second.history);
    assert_eq!(first.history[0].time, first.since);
    assert_eq!(
        first.since,
        UNIX_EPOCH + Duration::from_nanos(first.history[0].at_ns)
    );
    assert_eq!((first.since, first.open_until), (second.since, second.open_until));
    let open_until = first.since + Duration::from_secs(10);
    // The deadline is a whole number of milliseconds.
    assert!((open_until..open_until + Duration::from_millis(1)).contains(&first.open_until.unwrap()));
    rig.breaker.reset();
    assert_eq!(rig.stats().open_until, None);
}

#[derive(Default)]
struct Recorder {
    transitions: Mutex<Vec<Transition>>,
    modes: Mutex<Vec<(BreakerMode, BreakerMode)>>,
    pauses: Mutex<Vec<Duration>>,
}

impl TransitionObserver for Recorder {
    fn on_transition(&self, key: &str, transition: &Transition) {
        assert_eq!(key, "ledger");
        self.transitions.lock().push(*transition);
    }

    fn on_mode_change(&self, _key: &str, from: BreakerMode, to: BreakerMode) {
        self.modes.lock().push((from, to));
    }

    fn on_self_throttled(&self, _key: &str, pause: Duration) {
        self.pauses.lock().push(pause);
    }
}

#[test]
fn the_observer_receives_what_the_history_contains() {
    let (clock, recorder) = (Arc::new(ManualClock::new(0)), Arc::new(Recorder::default()));
    let breaker = LatencyCircuitBreaker::builder(CircuitBreakerConfig::default())
        .key("ledger")
        .clock(clock.clone())
        .observer(recorder.clone())
        .build()
        .unwrap();
    for _ in 0..20 {
        breaker.open_for(Duration::from_secs(1));
        breaker.reset();
    }
    breaker.set_mode(BreakerMode::MetricsOnly);
    breaker.set_mode(BreakerMode::MetricsOnly);
    clock.advance(Duration::from_millis(1));
    breaker.tick();
    clock.advance(Duration::from_secs(3));
    breaker.tick();

    let received = recorder.transitions.lock();
    assert_eq!(received.len(), 40);
    assert!(
        received
            .windows(2)
            .all(|pair| pair[1].generation == pair[0].generation + 1)
    );
    assert_eq!(breaker.stats().history, received[40 - HISTORY_MAX..]);
    assert_eq!(
        *recorder.modes.lock(),
        [(BreakerMode::Auto, BreakerMode::MetricsOnly)]
    );
    assert_eq!(*recorder.pauses.lock(), [Duration::from_secs(3)]);
}

/// An observer that panics when the circuit opens.
struct Fragile;

impl TransitionObserver for Fragile {
    fn on_transition(&self, _key: &str, _transition: &Transition) {
        panic!("this observer always panics");
    }
}

#[test]
fn a_verdict_counts_once_even_if_an_observer_panics() {
    let config = CircuitBreakerConfig {
        consecutive_failures: Some(1),
        shards: 1,
        ..CircuitBreakerConfig::default()
    };
    let fragile = || {
        LatencyCircuitBreaker::builder(config.clone())
            .clock(Arc::new(ManualClock::new(0)))
            .observer(Arc::new(Fragile))
            .build()
            .unwrap()
    };
    let (permits, closures) = (fragile(), fragile());
    let other = permits.try_acquire().unwrap();
    let failing = permits.try_acquire().unwrap();
    catch_unwind(AssertUnwindSafe(|| failing.record(Verdict::failure()))).unwrap_err();
    let still_in_flight = closures.try_acquire().unwrap();
    let failing = || closures.execute_with_latency_check(|| Err::<(), _>("failed"));
    catch_unwind(AssertUnwindSafe(failing)).unwrap_err();
    for breaker in [&permits, &closures] {
        let stats = breaker.stats();
        assert_eq!((stats.in_flight, stats.lifetime.stale_results), (1, 0));
        assert_eq!((stats.lifetime.admitted, stats.lifetime.cancelled), (2, 0));
    }
    drop((other, still_in_flight));
}
