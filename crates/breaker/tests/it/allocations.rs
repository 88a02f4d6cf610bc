//! Neither a call through a closed circuit nor a rejection allocates memory. `benches/breaker.rs` measures the time of
//! both.

use std::{
    future::{Future, ready},
    hint::black_box,
    pin::pin,
    task::{Context, Waker},
    time::Duration,
};

use tally_breaker::{CircuitBreakerLayer, Verdict};
use tower::{Layer, Service, service_fn};

use super::support::{FAST, Rig};
use tally_testing::sys::allocations_of;

#[test]
fn the_counter_counts() {
    assert_eq!(allocations_of(|| drop(black_box(Box::new(1)))), 1);
    assert_eq!(allocations_of(|| ()), 0);
}

#[test]
fn a_call_through_the_layer_allocates_nothing_while_closed() {
    let rig = Rig::with_defaults();
    let layer = CircuitBreakerLayer::new(rig.breaker.clone());
    let mut service = layer.layer(service_fn(|number: u32| ready(Ok::<_, u32>(number))));
    let mut cx = Context::from_waker(Waker::noop());
    let allocations = allocations_of(|| {
        for number in 0..10_000 {
            rig.advance(FAST);
            let _ = black_box(service.poll_ready(&mut cx));
            let _ = black_box(pin!(service.call(number)).poll(&mut cx));
        }
    });
    assert_eq!(allocations, 0);
}

#[test]
fn permits_closures_slow_calls_and_ticks_allocate_nothing_while_closed() {
    let rig = Rig::with_defaults();
    let timed = Verdict::success()
        .timed(Duration::from_millis(1), Duration::from_millis(2))
        .in_batch(1);
    let allocations = allocations_of(|| {
        for _ in 0..1_000 {
            rig.calls(1, FAST, timed);
            rig.advance(FAST);
            let _ = black_box(rig.breaker.execute_with_latency_check(|| Ok::<_, u32>(1)));
            drop(black_box(rig.breaker.try_acquire()));
            rig.breaker.tick();
        }
    });
    assert_eq!(allocations, 0);
}

#[test]
fn a_rejection_allocates_nothing() {
    let rig = Rig::with_defaults();
    rig.trip();
    assert_eq!(
        allocations_of(|| for _ in 0..1_000 {
            drop(black_box(rig.breaker.try_acquire()));
        }),
        0
    );
}
