//! NET: connections, dealt out to pinned single-threaded runtimes.
//!
//! The HTTP/2 server is hyper's, driven here rather than by tonic's own `Server`, because deadlines are the engine's
//! business (tonic's would drop the handler), and because each connection belongs to one runtime.

use std::{io, net::SocketAddr, time::Duration};

use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

use super::Services;
use crate::{
    engine::TallyEngine,
    telemetry::rpc_span,
    topology::{AffinityError, Role, RoleHandle},
};

/// Connections that wait to be taken by their runtime.
const HANDOFF_CONNECTIONS: usize = 64;
/// After an error of `accept` (too many open files, for one): how long until it is tried again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// A stream's flow-control window: enough for a large batch without a round trip in the middle.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// A connection's flow-control window.
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Largest header block of a call.
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// A connection that does not answer a ping for so long is dropped.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How often an idle connection is pinged.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// How connections are served.
#[derive(Debug, Clone, Copy)]
pub struct NetConfig {
    /// Most calls under way on one connection; HTTP/2 makes the client hold the others back.
    pub streams_per_connection_max: u32,
    /// Most connections of a NET thread; one more is closed at once.
    pub connections_per_thread_max: usize,
    /// How long connections may take to finish their calls when the service goes down.
    pub drain: Duration,
}

/// Why serving could not begin.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NetError {
    /// The address can't be listened on.
    #[error("can't listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A NET thread could not be started.
    #[error(transparent)]
    Affinity(#[from] AffinityError),
}

/// An address that is listened on, before anything is served there.
#[derive(Debug)]
pub struct Listener {
    listener: std::net::TcpListener,
    address: SocketAddr,
}

/// The running NET threads.
#[derive(Debug)]
pub struct NetHandle {
    address: SocketAddr,
    threads: Vec<RoleHandle<Result<(), AffinityError>>>,
}

// ===== impl NetConfig =====

impl Default for NetConfig {
    fn default() -> Self {
        NetConfig {
            streams_per_connection_max: 4096,
            connections_per_thread_max: 4096,
            drain: Duration::from_secs(10),
        }
    }
}

// ===== impl Listener =====

impl Listener {
    /// Listens on `address`; port 0 takes a free one. Connections wait until [`serve`] takes them.
    ///
    /// # Errors
    /// [`NetError::Listen`].
    pub fn bind(address: SocketAddr) -> Result<Self, NetError> {
        let failed = |source| NetError::Listen { address, source };
        let listener = std::net::TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Listener { listener, address })
    }
}

// ===== impl NetHandle =====

impl NetHandle {
    /// Where the service listens: the port is the real one, also where 0 was asked for.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until every connection is finished. Call it from a thread that may block, after the token was cancelled.
    pub fn join(self) {
        for thread in self.threads {
            // A NET thread that panicked took its connections with it; there is nothing left to wait for.
            let _ = thread.join();
        }
    }
}

/// Serves `services` on one thread for each NET CPU until `draining`; then connections get
/// [`NetConfig::drain`] to finish their calls.
///
/// # Errors
/// [`NetError`]. Nothing is served then.
pub fn serve(
    listener: Listener,
    config: NetConfig,
    services: &Services,
    engine: &TallyEngine,
    draining: &CancellationToken,
) -> Result<NetHandle, NetError> {
    let Listener { listener, address } = listener;
    let affinity = engine.affinity();
    let count = affinity.net_threads().max(1);
    let mut inlets = Vec::with_capacity(count);
    let mut threads = Vec::with_capacity(count);
    for index in 0..count {
        let (inlet, connections) = mpsc::channel(HANDOFF_CONNECTIONS);
        inlets.push(inlet);
        let (services, draining, courier) = (services.clone(), draining.clone(), engine.courier(index));
        let name = format!("tally-net-{index}");
        threads.push(affinity.spawn_async(Role::Net, index, &name, move || async move {
            tokio::spawn(courier);
            serve_connections(connections, config, services, draining).await;
        })?);
    }
    let draining = draining.clone();
    threads.push(
        affinity.spawn_async(Role::Aux, 1, "tally-accept", move || async move {
            match TcpListener::from_std(listener) {
                Ok(listener) => deal_out(listener, inlets, draining).await,
                Err(error) => tracing::error!(%error, "can't accept connections"),
            }
        })?,
    );
    Ok(NetHandle { address, threads })
}

/// Accepts connections and deals them out in turn.
async fn deal_out(
    listener: TcpListener,
    inlets: Vec<mpsc::Sender<std::net::TcpStream>>,
    draining: CancellationToken,
) {
    let mut turn = inlets.iter().cycle();
    loop {
        let accepted = tokio::select! {
            biased;
            () = draining.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted.and_then(|(stream, _)| stream.into_std()) {
            Ok(stream) => {
                // A thread that is behind holds new connections back, as the listener's own queue does.
                let Some(inlet) = turn.next() else { return };
                if inlet.send(stream).await.is_err() {
                    // It ends only with the service, or by a bug; the next thread gets the next connection.
                    tracing::error!("a NET thread has ended; its connection is dropped");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves the connections of one thread.
async fn serve_connections(
    mut connections: mpsc::Receiver<std::net::TcpStream>,
    config: NetConfig,
    services: Services,
    draining: CancellationToken,
) {
    let tracker = TaskTracker::new();
    // The channel closes when the acceptor ends, which it does when draining begins.
    while let Some(stream) = connections.recv().await {
        if tracker.len() >= config.connections_per_thread_max {
            // Closed at once: the client sees a lost connection, and tries elsewhere or later.
            tracing::warn!(
                connections = tracker.len(),
                "too many connections; one more is closed"
            );
            continue;
        }
        match TcpStream::from_std(stream) {
            Ok(stream) => {
                tracker.spawn(serve_connection(
                    stream,
                    config,
                    services.clone(),
                    draining.clone(),
                ));
            }
            Err(error) => tracing::warn!(%error, "a connection could not be taken over"),
        }
    }
    tracker.close();
    if tokio::time::timeout(config.drain, tracker.wait()).await.is_err() {
        tracing::warn!(connections = tracker.len(), "connections did not finish in time");
    }
}

async fn serve_connection(
    stream: TcpStream,
    config: NetConfig,
    services: Services,
    draining: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let peer = stream.peer_addr().ok();
    let service = service_fn(move |request: http::Request<Incoming>| {
        // Without an exporter the span is disabled, and costs a look.
        let span = rpc_span(request.uri().path(), request.headers());
        services.call(request, peer).instrument(span)
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(config.streams_per_connection_max)
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = draining.cancelled() => {
            // GOAWAY: no new calls; those under way are answered.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection");
    }
}
