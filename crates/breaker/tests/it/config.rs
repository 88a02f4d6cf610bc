//! Tests that a setting out of bounds is an error, and that the error names the field, the value and the bound.

use std::time::Duration;

use tally_breaker::{CircuitBreakerConfig, ConfigValue, LatencyCircuitBreaker};

type Change = fn(&mut CircuitBreakerConfig);

#[test]
fn every_bound_is_checked() {
    let cases: &[(&str, Change)] = &[
        ("slow_threshold", |config| {
            config.slow_threshold = Duration::from_micros(7)
        }),
        ("slow_threshold", |config| config.slow_threshold = Duration::MAX),
        ("slow_rate", |config| config.slow_rate = 0.0),
        ("slow_rate", |config| config.slow_rate = f64::NAN),
        ("failure_rate", |config| config.failure_rate = 1.01),
        ("min_calls", |config| config.min_calls = 0),
        ("min_batches", |config| config.min_batches = 0),
        ("overdue_rounds", |config| config.overdue_rounds = 0),
        ("overdue_rounds", |config| config.overdue_rounds = 8),
        ("stall_rate", |config| config.stall_rate = 0.0),
        ("stall_rate", |config| config.stall_rate = 1.01),
        ("min_overdue", |config| config.min_overdue = 0),
        ("stall_after", |config| {
            config.stall_after = Some(Duration::from_millis(49))
        }),
        ("stall_after", |config| config.stall_after = Some(Duration::MAX)),
        ("consecutive_failures", |config| {
            config.consecutive_failures = Some(0)
        }),
        ("violations", |config| config.violations = Some(0)),
        ("p99_threshold", |config| {
            config.p99_threshold = Some(Duration::ZERO)
        }),
        ("window_buckets", |config| config.window_buckets = 1),
        ("bucket", |config| config.bucket = Duration::from_millis(9)),
        ("bucket", |config| config.bucket = Duration::from_micros(10_500)),
        ("open_base", |config| config.open_base = Duration::ZERO),
        ("open_max", |config| config.open_max = Duration::from_secs(4)),
        ("open_jitter", |config| config.open_jitter = 1.0),
        ("half_open_permits", |config| config.half_open_permits = 0),
        ("half_open_permits", |config| config.half_open_permits = 1025),
        ("half_open_ok_needed", |config| config.half_open_ok_needed = 11),
        ("probe_timeout", |config| {
            config.probe_timeout = Some(Duration::from_millis(49))
        }),
        ("half_open_max_wait", |config| {
            config.half_open_max_wait = Duration::from_millis(99)
        }),
        ("ramp", |config| config.ramp = Duration::from_secs(3601)),
        ("ramp_min", |config| config.ramp_min = -0.1),
        ("ramp_aggression", |config| config.ramp_aggression = 0.0),
        ("stable_for", |config| config.stable_for = Duration::MAX),
        ("forced_open_retry_after", |config| {
            config.forced_open_retry_after = Duration::ZERO
        }),
        ("tick_interval", |config| config.tick_interval = Duration::ZERO),
        ("shards", |config| config.shards = 65),
    ];
    for (field, change) in cases {
        let mut config = CircuitBreakerConfig::default();
        change(&mut config);
        assert_eq!(LatencyCircuitBreaker::new(config).unwrap_err().field, *field);
    }
    CircuitBreakerConfig::default().validate().unwrap();
}

#[test]
fn the_error_names_field_value_and_bound() {
    let config = CircuitBreakerConfig {
        min_calls: 0,
        ..CircuitBreakerConfig::default()
    };
    let error = config.validate().unwrap_err();
    assert_eq!(error.to_string(), "breaker.min_calls = 0: must be 1 to 1000000");
    assert_eq!((error.field, error.value), ("min_calls", ConfigValue::Count(0)));
}

#[test]
fn a_threshold_below_linger_plus_commit_is_an_error() {
    let seed = CircuitBreakerConfig::seed();
    let error = seed.check_latency_floor(Duration::from_millis(1)).unwrap_err();
    assert_eq!(error.field, "slow_threshold");
    seed.check_latency_floor(Duration::from_micros(999)).unwrap();
}

#[test]
fn a_bound_that_another_field_gives_is_a_figure_with_the_name_of_the_field() {
    let cases: &[(Change, &str)] = &[
        (
            |config| config.half_open_ok_needed = 11,
            "breaker.half_open_ok_needed = 11: must be 1 to 10 (breaker.half_open_permits)",
        ),
        (
            |config| (config.half_open_permits, config.half_open_ok_needed) = (1, 2),
            "breaker.half_open_ok_needed = 2: must be 1 (breaker.half_open_permits)",
        ),
        (
            |config| config.open_max = Duration::from_secs(4),
            "breaker.open_max = 4s: must be 5s to 1 day (breaker.open_base)",
        ),
        (
            |config| config.stall_after = Some(Duration::from_millis(49)),
            "breaker.stall_after = 49ms: must be 50ms to 10min (breaker.slow_threshold)",
        ),
        (
            |config| config.half_open_max_wait = Duration::from_millis(99),
            "breaker.half_open_max_wait = 99ms: must be 100ms to 1 day (breaker.probe_timeout)",
        ),
    ];
    for (change, expected) in cases {
        let mut config = CircuitBreakerConfig::default();
        change(&mut config);
        assert_eq!(config.validate().unwrap_err().to_string(), *expected);
    }
    let floor = Duration::from_millis(3);
    assert_eq!(
        CircuitBreakerConfig::seed()
            .check_latency_floor(floor)
            .unwrap_err()
            .to_string(),
        "breaker.slow_threshold = 1ms: must be longer than 3ms, the batch's linger plus the median commit time"
    );
}
