//! HTTP/1.1 connections of the operators' port. No connection can block the port: each step of a request has a time limit, and a
//! new connection always gets a place.

use std::{convert::Infallible, future::Future, net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::ConnectInfo,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    net::TcpStream,
    task::yield_now,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::{places::AdminConnections, write_limit::WriteLimit};
use crate::{security::client_of, terminal::units};

/// Time limit for the head of a request to arrive, and for a connection to be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for the body of a request and its answer, after the head.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for a write to wait for a client that does not read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection of this age is closed after the request in progress.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);
/// Time limit for the request in progress on a connection that has reached [`CONNECTION_TIMEOUT`]. After this limit, the
/// connection is closed before the request is finished.
const CONNECTION_GRACE: Duration = Duration::from_secs(10);
/// Largest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Pause after an error of `accept`.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// The beginnings of the requests of health probes. The whole beginning arrives at once, because a probe sends its request with one write.
const PROBES: [&[u8]; 4] = [b"GET /live", b"GET /ready", b"HEAD /live", b"HEAD /ready"];
/// Length of the longest of [`PROBES`].
const PROBE_BYTES_MAX: usize = 11;

/// Serves `router` until `stop`. Every connection takes a place of `connections`.
pub(super) async fn run(
    listener: std::net::TcpListener,
    router: Router,
    connections: AdminConnections,
    stop: CancellationToken,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the operators' port could not be served"),
    };
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                tokio::spawn(admitted(stream, peer, router.clone(), connections.clone()));
                // Answers a request that has already arrived, before further connections can evict its connection.
                yield_now().await;
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                // A possible cause is the limit of open files. Closing a connection frees a file.
                connections.evict_one();
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves a connection as long as it keeps its place.
async fn admitted(stream: TcpStream, peer: SocketAddr, router: Router, connections: AdminConnections) {
    let client = client_of(peer.ip());
    let arriving = connections.arriving.admit(client);
    // Each `select` looks first for progress, so that a connection whose request has arrived is not evicted before the answer.
    let is_probe = tokio::select! {
        biased;
        first = timeout(HEAD_TIMEOUT, begins_as_probe(&stream)) => first.ok().flatten(),
        () = arriving.evicted() => None,
    };
    let Some(is_probe) = is_probe else {
        return tracing::debug!(%peer, "a connection was closed before its first request");
    };
    let places = if is_probe {
        &connections.probes
    } else {
        &connections.others
    };
    let place = places.admit(client);
    drop(arriving);
    tokio::select! {
        biased;
        () = connection(stream, peer, router, is_probe) => {}
        () = place.evicted() => tracing::debug!(%peer, "a connection was closed for a newer one"),
    }
}

/// Waits for the first bytes of a connection, and returns whether they are those of a health probe. `None` if the client has closed the
/// connection.
async fn begins_as_probe(stream: &TcpStream) -> Option<bool> {
    let mut first = [0; PROBE_BYTES_MAX];
    let length = stream.peek(&mut first).await.ok()?;
    let first = first.get(..length).filter(|first| !first.is_empty())?;
    Some(PROBES.iter().any(|probe| first.starts_with(probe)))
}

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router, is_probe: bool) {
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        in_time(router.clone().call(request))
    });
    let stream = TokioIo::new(WriteLimit::new(stream, WRITE_TIMEOUT));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        // The places of probes are only for probes, so a further request needs another connection.
        .keep_alive(!is_probe)
        // No client needs the date. hyper formats the date even if it does not send it, and panics if the system clock is before
        // 1970. Therefore `tally serve` does not start with such a clock.
        .auto_date_header(false)
        .serve_connection(stream, service);
    tokio::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = sleep(CONNECTION_TIMEOUT) => {
            connection.as_mut().graceful_shutdown();
            match timeout(CONNECTION_GRACE, connection).await {
                Ok(served) => served,
                Err(_) => return tracing::debug!(%peer, "a request exceeded the time limit"),
            }
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, %peer, "a connection of the operators' port failed");
    }
}

/// Returns the answer. If it takes longer than [`REQUEST_TIMEOUT`], returns status 408 and closes the connection.
async fn in_time(answer: impl Future<Output = Result<Response, Infallible>>) -> Result<Response, Infallible> {
    match timeout(REQUEST_TIMEOUT, answer).await {
        Ok(answered) => answered,
        Err(_) => {
            let text = format!(
                "the request did not arrive within {}\n",
                units::time(REQUEST_TIMEOUT)
            );
            let mut response = (StatusCode::REQUEST_TIMEOUT, text).into_response();
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
            Ok(response)
        }
    }
}
