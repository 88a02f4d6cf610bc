//! Breakers by key, and not too many of them.

use std::sync::Arc;

use tally_breaker::{BreakerRegistry, CircuitBreakerConfig, CircuitState, DEFAULT_KEY, ManualClock, Verdict};

fn registry(keys_max: usize) -> BreakerRegistry {
    let config = CircuitBreakerConfig {
        shards: 1,
        window_buckets: 2,
        ..CircuitBreakerConfig::default()
    };
    BreakerRegistry::with(config, keys_max, Arc::new(ManualClock::new(0)), None)
        .unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_key_has_one_circuit_of_its_own() {
    let registry = registry(4);
    let (a, b) = (registry.get("a"), registry.get("b"));
    for _ in 0..20 {
        registry
            .get("a")
            .try_acquire()
            .unwrap()
            .record(Verdict::failure());
    }
    assert_eq!((a.state(), b.state()), (CircuitState::Open, CircuitState::Closed));
    assert_eq!(registry.find("a").unwrap().state(), CircuitState::Open);
    assert!(registry.find("c").is_none());
}

#[test]
fn a_key_can_have_settings_of_its_own() {
    let mut registry = registry(2);
    let strict = CircuitBreakerConfig {
        consecutive_failures: Some(1),
        ..registry.default_breaker().config().clone()
    };
    registry.set_config("strict", strict.clone()).unwrap();
    assert_eq!(registry.get("strict").config(), &strict);
    assert_eq!(
        registry.get("other").config(),
        registry.default_breaker().config()
    );
    let wrong = CircuitBreakerConfig {
        min_calls: 0,
        ..strict
    };
    assert_eq!(
        registry.set_config("wrong", wrong).unwrap_err().field,
        "min_calls"
    );
}

#[test]
fn the_least_recently_used_idle_closed_circuit_makes_room() {
    let clock = Arc::new(ManualClock::new(0));
    let config = CircuitBreakerConfig {
        shards: 1,
        window_buckets: 2,
        ..CircuitBreakerConfig::default()
    };
    let registry = BreakerRegistry::with(config, 3, clock.clone(), None).unwrap();
    let step = || clock.advance(std::time::Duration::from_millis(1));
    registry.get("open").open_for(std::time::Duration::from_secs(60));
    step();
    let held = registry.get("held");
    step();
    registry.get("idle");
    step();
    registry.get("new");
    let keys: Vec<_> = registry
        .list()
        .iter()
        .map(|breaker| breaker.key().to_owned())
        .collect();
    assert_eq!(keys, [DEFAULT_KEY, "held", "new", "open"]);

    let new = registry.get("new");
    assert_eq!(
        registry.get("one too many").key(),
        DEFAULT_KEY,
        "nobody can make room"
    );
    drop((held, new));
    assert_eq!(registry.get("one too many").key(), "one too many");
    assert!(registry.find("held").is_none(), "used longest ago");
}

#[test]
fn it_never_holds_more_than_its_bound() {
    let registry = registry(8);
    for key in 0..1000 {
        registry
            .get(&format!("key {key}"))
            .try_acquire()
            .unwrap()
            .record(Verdict::success());
    }
    assert_eq!(registry.list().len(), 9);
    registry.tick();
    assert_eq!(registry.default_breaker().stats().lifetime.admitted, 0);
}
