//! Tests of the breaker as a tower layer and service.

use std::{
    convert::Infallible,
    future::{Future, pending, ready},
    pin::pin,
    task::{Context, Poll, Waker},
};

use tally_breaker::{CircuitBreakerError, CircuitBreakerLayer, CircuitState, Verdict, classify_fn};
use tower::{Layer, Service, service_fn};

use super::support::{FAST, Rig, SLOW};

fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn the_layer_guards_and_passes_errors_unchanged() {
    let rig = Rig::with_defaults();
    let layer = CircuitBreakerLayer::new(rig.breaker.clone());
    let mut service = layer.layer(service_fn(|request: u32| {
        ready(if request == 0 { Err("zero") } else { Ok(request) })
    }));
    assert_eq!(poll_once(service.call(7)), Poll::Ready(Ok(7)));
    for _ in 0..20 {
        assert_eq!(
            poll_once(service.call(0)),
            Poll::Ready(Err(CircuitBreakerError::Inner("zero")))
        );
    }
    let Poll::Ready(Err(CircuitBreakerError::Open(rejection))) = poll_once(service.call(7)) else {
        panic!("the circuit is open")
    };
    assert_eq!(rejection.state, CircuitState::Open);
}

#[test]
fn the_whole_future_is_timed() {
    let rig = Rig::with_defaults();
    let guarded = rig.breaker.execute_async(async {
        let mut first = true;
        std::future::poll_fn(|_| {
            if std::mem::take(&mut first) {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
        Ok::<_, Infallible>(())
    });
    let mut guarded = pin!(guarded);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(guarded.as_mut().poll(&mut cx).is_pending());
    rig.advance(SLOW);
    assert!(guarded.as_mut().poll(&mut cx).is_ready());
    assert_eq!(rig.stats().window.slow, 1);
}

#[test]
fn readiness_reserves_nothing() {
    let rig = Rig::with_defaults();
    rig.trip_and_wait();
    let layer = CircuitBreakerLayer::new(rig.breaker.clone());
    let mut ready_and_idle: Vec<_> = (0..100)
        .map(|_| layer.layer(service_fn(|(): ()| ready(Ok::<_, Infallible>(())))))
        .collect();
    for service in &mut ready_and_idle {
        assert!(
            service
                .poll_ready(&mut Context::from_waker(Waker::noop()))
                .is_ready()
        );
    }
    assert_eq!(rig.stats().half_open.issued, 0);
}

#[test]
fn a_rejected_request_never_reaches_the_service() {
    let rig = Rig::with_defaults();
    rig.trip();
    let layer = CircuitBreakerLayer::new(rig.breaker.clone());
    let mut service = layer.layer(service_fn(
        |(): ()| -> std::future::Ready<Result<(), Infallible>> {
            panic!("called though the circuit is open")
        },
    ));
    assert!(matches!(
        poll_once(service.call(())),
        Poll::Ready(Err(CircuitBreakerError::Open(_)))
    ));
}

#[test]
fn a_dropped_future_returns_its_permit() {
    let rig = Rig::with_defaults();
    rig.trip_and_wait();
    let layer = CircuitBreakerLayer::new(rig.breaker.clone());
    let mut service = layer.layer(service_fn(|(): ()| pending::<Result<(), Infallible>>()));
    for _ in 0..100 {
        assert!(poll_once(service.call(())).is_pending());
    }
    let stats = rig.stats();
    assert_eq!(
        (stats.in_flight, stats.half_open.issued, stats.lifetime.cancelled),
        (0, 0, 100)
    );
}

#[test]
fn the_classifier_decides_what_a_failure_is() {
    let rig = Rig::with_defaults();
    let classify = classify_fn(|result: Result<&u32, &&str>| match result {
        Ok(_) | Err(&"no funds") => Verdict::success(),
        Err(_) => Verdict::failure(),
    });
    let layer = CircuitBreakerLayer::with_classifier(rig.breaker.clone(), classify);
    let mut service = layer.layer(service_fn(|error: &'static str| ready(Err::<u32, _>(error))));
    for _ in 0..1000 {
        rig.advance(FAST);
        assert_eq!(
            poll_once(service.call("no funds")),
            Poll::Ready(Err(CircuitBreakerError::Inner("no funds")))
        );
    }
    assert_eq!(rig.state(), CircuitState::Closed);
    for _ in 0..20 {
        assert!(poll_once(service.call("disk on fire")).is_ready());
    }
    assert_eq!(rig.state(), CircuitState::Open);
}

#[test]
fn handles_permits_and_futures_move_between_threads() {
    fn is_send_and_sync<T: Send + Sync>(_: &T) {}
    let rig = Rig::with_defaults();
    is_send_and_sync(&rig.breaker);
    is_send_and_sync(&rig.admit());
    is_send_and_sync(&rig.breaker.execute_async(ready(Ok::<_, Infallible>(()))));
}
