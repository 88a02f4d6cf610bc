//! HTTP/1.1 connections, few of them, none of which can hold the port up: each step of a request has its time, and the
//! newest connection always gets a place.

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

use super::{places::Places, write_limit::WriteLimit};
use crate::security::client_of;

/// Most connections at a time. For one more, an older one goes.
const CONNECTIONS_MAX: usize = 64;
/// Most connections of one address at a time. For one more, the oldest of them goes.
const CONNECTIONS_OF_PEER_MAX: usize = 16;
/// How long a request's head may take, and a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request's body and its answer may take, from the end of its head.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may read nothing while there is something to be written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// After so long, a connection is closed behind the request that it is busy with, ...
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);
/// ... or after this time in the middle of it.
const CONNECTION_GRACE: Duration = Duration::from_secs(10);
/// Largest head of a request.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// After an error of `accept`: how long until it is tried again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Serves `router` until `stop`.
pub(super) async fn run(listener: std::net::TcpListener, router: Router, stop: CancellationToken) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the port for operators can't be served"),
    };
    let places = Places::new(CONNECTIONS_MAX, CONNECTIONS_OF_PEER_MAX);
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let place = places.admit(client_of(peer.ip()));
                let served = connection(stream, peer, router.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = served => {}
                        () = place.evicted() => tracing::debug!(%peer, "closed for a newer connection"),
                    }
                });
                // A request that has arrived is answered before others can push its connection out.
                yield_now().await;
            }
            Err(error) => {
                tracing::warn!(%error, "accept");
                // Too many open files, for one.
                places.evict_one();
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router) {
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        in_time(router.clone().call(request))
    });
    let stream = TokioIo::new(WriteLimit::new(stream, WRITE_TIMEOUT));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        // Nobody reads it. hyper keeps one all the same, which panics while the machine's clock is before 1970: `tally serve`
        // does not start by such a clock.
        .auto_date_header(false)
        .serve_connection(stream, service);
    tokio::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = sleep(CONNECTION_TIMEOUT) => {
            connection.as_mut().graceful_shutdown();
            match timeout(CONNECTION_GRACE, connection).await {
                Ok(served) => served,
                Err(_) => return tracing::debug!(%peer, "took too long"),
            }
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, %peer, "connection for operators");
    }
}

/// The answer, or that the request took too long to arrive; the connection is closed behind that.
async fn in_time(answer: impl Future<Output = Result<Response, Infallible>>) -> Result<Response, Infallible> {
    match timeout(REQUEST_TIMEOUT, answer).await {
        Ok(answered) => answered,
        Err(_) => {
            let words = format!("the request did not arrive within {REQUEST_TIMEOUT:?}\n");
            let mut response = (StatusCode::REQUEST_TIMEOUT, words).into_response();
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
            Ok(response)
        }
    }
}
