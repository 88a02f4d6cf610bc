//! The test that came with the original code of this breaker. Here the test moves a manual clock instead of sleeping.
//! The original code failed this test. The other tests in this file cover bugs of the original code that no other file
//! covers.

use std::{io, time::Duration};

use tally_breaker::{CircuitBreakerConfig, CircuitBreakerError, CircuitState, TransitionReason};

use super::support::Rig;

fn seed_rig() -> Rig {
    Rig::new(|config| {
        *config = CircuitBreakerConfig {
            slow_threshold: Duration::from_millis(1),
            consecutive_failures: Some(3),
            half_open_permits: 2,
            half_open_ok_needed: 2,
            open_base: Duration::from_millis(100),
            violations: Some(2),
            shards: 1,
            ..CircuitBreakerConfig::seed()
        };
    })
}

#[test]
fn two_calls_over_the_threshold_open_the_circuit() {
    let rig = seed_rig();
    let breaker = &rig.breaker;
    let slow = || {
        rig.advance_ms(2);
        Ok::<_, io::Error>("slow")
    };
    assert_eq!(
        breaker
            .execute_with_latency_check(|| Ok::<_, io::Error>("success"))
            .unwrap(),
        "success"
    );
    assert_eq!(
        breaker.execute_with_latency_check(slow).unwrap(),
        "slow",
        "a slow call may still succeed"
    );
    assert_eq!(breaker.state(), CircuitState::Closed);
    assert_eq!(breaker.execute_with_latency_check(slow).unwrap(), "slow");

    let rejected = breaker.execute_with_latency_check(|| Ok::<_, io::Error>("should_fail"));
    assert!(matches!(rejected, Err(CircuitBreakerError::Open(_))));
    assert_eq!(rig.reason_opened(), Some(TransitionReason::Violations));
}

#[test]
fn the_circuit_recovers() {
    let rig = seed_rig();
    let fail = || {
        rig.breaker
            .execute_with_latency_check(|| Err::<(), _>(io::ErrorKind::Other))
    };
    for _ in 0..3 {
        assert!(matches!(
            fail(),
            Err(CircuitBreakerError::Inner(io::ErrorKind::Other))
        ));
    }
    assert!(matches!(fail(), Err(CircuitBreakerError::Open(_))));
    rig.advance_ms(100);
    for _ in 0..2 {
        rig.breaker
            .execute_with_latency_check(|| Ok::<_, io::Error>(()))
            .unwrap();
    }
    assert_eq!(rig.state(), CircuitState::Closed);
}

#[test]
fn a_panicking_operation_is_a_failure_and_leaks_no_permit() {
    let rig = seed_rig();
    for _ in 0..3 {
        let run = || {
            rig.breaker
                .execute_with_latency_check(|| -> Result<(), io::Error> { panic!("on purpose") })
        };
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
    }
    let stats = rig.stats();
    assert_eq!((stats.state, stats.in_flight), (CircuitState::Open, 0));
}

#[test]
fn the_preset_is_valid_and_has_the_seeds_figures() {
    let seed = CircuitBreakerConfig::seed();
    seed.validate().unwrap();
    assert_eq!(seed.slow_threshold, Duration::from_millis(1));
    assert_eq!(
        (
            seed.consecutive_failures,
            seed.violations,
            seed.half_open_ok_needed
        ),
        (Some(5), Some(10), 3)
    );
    assert_eq!(
        (seed.open_base, seed.open_max),
        (Duration::from_secs(60), Duration::from_secs(60))
    );
}
