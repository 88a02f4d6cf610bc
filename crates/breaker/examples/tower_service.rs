//! Guards a plain tower service with a latency circuit breaker. The service becomes slow, the circuit opens and rejects
//! calls with a retry hint, the service recovers, and the circuit closes.
#![expect(clippy::print_stdout, reason = "an example shows what happens")]

use std::{
    convert::Infallible,
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tally_breaker::{
    CircuitBreakerConfig, CircuitBreakerError, CircuitBreakerLayer, CircuitState, LatencyCircuitBreaker,
};
use tower::{Layer, Service, ServiceExt, service_fn};

/// Maximum number of calls in one phase of the example. No phase needs this many calls.
const CALLS_MAX: usize = 1_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let breaker = LatencyCircuitBreaker::new(CircuitBreakerConfig {
        slow_threshold: Duration::from_millis(20),
        min_calls: 10,
        open_base: Duration::from_millis(500),
        half_open_permits: 3,
        half_open_ok_needed: 3,
        ramp: Duration::ZERO,
        ..CircuitBreakerConfig::default()
    })?;

    // The breaker has no timer. This task ticks the breaker, so that calls that hang are detected before they end.
    let ticked = breaker.clone();
    let ticker = tokio::spawn(async move {
        let mut interval = tokio::time::interval(ticked.config().tick_interval);
        loop {
            interval.tick().await;
            ticked.tick();
        }
    });

    let latency_ms = Arc::new(AtomicU64::new(1));
    let latency = Arc::clone(&latency_ms);
    let inner = service_fn(move |number: u32| {
        let latency = Duration::from_millis(latency.load(Ordering::Relaxed));
        async move {
            tokio::time::sleep(latency).await;
            Ok::<_, Infallible>(number + 1)
        }
    });
    let mut service = CircuitBreakerLayer::new(breaker.clone()).layer(inner);

    for number in 0..10 {
        service.ready().await?.call(number).await?;
    }
    println!("10 fast calls: the circuit is {}", breaker.state().as_str());

    latency_ms.store(40, Ordering::Relaxed);
    let mut retry_after = None;
    for slow_calls in 0..CALLS_MAX {
        if let Err(CircuitBreakerError::Open(rejection)) = service.ready().await?.call(1).await {
            println!("after {slow_calls} slow calls: {rejection}");
            retry_after = Some(rejection.retry_after);
            break;
        }
    }
    let retry_after = retry_after.ok_or("the circuit did not open")?;

    latency_ms.store(1, Ordering::Relaxed);
    println!("the service is fast again; the client waits for {retry_after:?}");
    tokio::time::sleep(retry_after).await;
    for _ in 0..3 {
        let answer = service.ready().await?.call(1).await?;
        println!(
            "a probe was answered with {answer}: the circuit is {}",
            breaker.state().as_str()
        );
    }

    ticker.abort();
    let stats = breaker.stats();
    println!(
        "admitted {}, rejected {}, slow {}",
        stats.lifetime.admitted, stats.lifetime.rejected_open, stats.lifetime.slow
    );
    if stats.state == CircuitState::Closed {
        Ok(())
    } else {
        Err("the circuit did not close".into())
    }
}
