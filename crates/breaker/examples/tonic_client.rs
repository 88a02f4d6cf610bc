//! Guards a tonic client with a latency circuit breaker. At first no server listens, so the circuit opens. Then a
//! server with the gRPC health service starts, and the circuit closes.
#![expect(clippy::print_stdout, reason = "an example shows what happens")]

use std::{error::Error, net::TcpListener, time::Duration};

use tally_breaker::{
    CircuitBreakerConfig, CircuitBreakerError, CircuitBreakerLayer, CircuitState, LatencyCircuitBreaker,
    Verdict, classify_fn,
};
use tonic::{
    Code, Status,
    body::Body,
    codegen::http::Response,
    transport::{Channel, Endpoint, Server},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::Layer;

/// Maximum number of calls in one phase of the example. No phase needs this many calls.
const CALLS_MAX: usize = 1_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let breaker = LatencyCircuitBreaker::new(CircuitBreakerConfig {
        slow_threshold: Duration::from_millis(500),
        consecutive_failures: Some(5),
        open_base: Duration::from_millis(500),
        half_open_permits: 3,
        half_open_ok_needed: 3,
        ramp: Duration::ZERO,
        ..CircuitBreakerConfig::default()
    })?;

    // This port is free: no server listens on it yet.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let channel: Channel = Endpoint::from_shared(format!("http://{address}"))?.connect_lazy();
    let layer = CircuitBreakerLayer::with_classifier(breaker.clone(), classify_fn(verdict));
    let mut client = HealthClient::new(layer.layer(channel));

    let mut retry_after = None;
    for failures in 0..CALLS_MAX {
        let Err(status) = client.check(HealthCheckRequest::default()).await else {
            return Err("a call succeeded though no server listens".into());
        };
        retry_after = retry_hint(&status);
        if let Some(retry_after) = retry_after {
            println!("after {failures} failed calls the circuit is open: retry after {retry_after:?}");
            break;
        }
    }
    let retry_after = retry_after.ok_or("the circuit did not open")?;

    let (_reporter, health) = tonic_health::server::health_reporter();
    let server = tokio::spawn(Server::builder().add_service(health).serve(address));
    println!("a server started; the client waits");
    tokio::time::sleep(retry_after).await;
    for _ in 0..3 {
        let answer = client.check(HealthCheckRequest::default()).await?.into_inner();
        println!(
            "a probe was answered with {:?}: the circuit is {}",
            answer.status(),
            breaker.state().as_str()
        );
    }
    server.abort();
    if breaker.state() == CircuitState::Closed {
        Ok(())
    } else {
        Err("the circuit did not close".into())
    }
}

/// Classifies a response by its gRPC status. A technical fault is a failure. A cancelled or throttled call shows
/// nothing about the server. Every other status is a success: if it is an error, the caller made it.
fn verdict(result: Result<&Response<Body>, &tonic::transport::Error>) -> Verdict {
    let Ok(response) = result else {
        return Verdict::failure();
    };
    match Status::from_header_map(response.headers()).map(|status| status.code()) {
        Some(
            Code::Unknown | Code::Internal | Code::Unavailable | Code::DataLoss | Code::DeadlineExceeded,
        ) => Verdict::failure(),
        Some(Code::ResourceExhausted | Code::Cancelled) => Verdict::neutral(),
        _ => Verdict::success(),
    }
}

/// The retry hint, if the circuit rejected the call.
fn retry_hint(status: &Status) -> Option<Duration> {
    let error = status
        .source()?
        .downcast_ref::<CircuitBreakerError<tonic::transport::Error>>()?;
    error.rejection().map(|rejection| rejection.retry_after)
}
