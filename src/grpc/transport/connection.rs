//! Serves one connection: its handshake, its calls, and its end.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::FutureExt;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, interval_at, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    budget::{Budget, ConnectionMemory},
    clients::ClientPlace,
    connection_limits::ConnectionLimits,
    governor::{Cut, GovernedSocket, Throttle, UnsentRefusals},
    outbound::Answer,
    windows::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES},
};
use crate::{
    engine::TallyEngine,
    grpc::{services::Services, settings::NetConfig},
    security::{AuthFailure, Security},
    telemetry::rpc_span,
};

/// Most bytes of a stream's answers that the HTTP/2 library buffers.
const SEND_BYTES_MAX: usize = 64 << 10;
/// Largest header block of a call.
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// A connection that does not answer a ping within this time is closed.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Time between two pings on an idle connection.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// Longest time of a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Size of the buffer for the bytes that are discarded when a connection is cut.
const UNREAD_BYTES: usize = 4096;
/// Longest time for sending the last frame before a connection is closed.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// The answer to a connection beyond the limit: an empty SETTINGS frame and a GOAWAY frame with ENHANCE_YOUR_CALM and
/// last stream 0 (RFC 9113, 6.5, 6.8 and 7).
const TOO_MANY: &[u8] = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00\
    \x00\x00\x1c\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0btoo many connections";

/// The state that all connections of a thread share.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    pub(crate) config: NetConfig,
    pub(crate) budget: Budget,
    pub(crate) unsent: UnsentRefusals,
    pub(crate) services: Services,
    pub(crate) security: Arc<Security>,
    pub(crate) engine: TallyEngine,
    pub(crate) draining: CancellationToken,
}

/// An accepted connection.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: TcpStream,
    pub(crate) peer: SocketAddr,
    /// Freed when the connection ends.
    pub(crate) place: ClientPlace,
}

/// Polls a connection, and renews the read budget of its socket before each poll.
struct InTurns<'a, C> {
    connection: Pin<&'a mut C>,
    throttle: &'a Throttle,
}

// ===== impl Connections =====

impl Connections {
    /// Serves a connection to its end.
    pub(crate) async fn serve(self, accepted: Accepted) {
        let Accepted { stream, peer, place } = accepted;
        let _place = place;
        let memory = ConnectionMemory::new(self.budget.share(peer.ip()));
        let throttle = Throttle::new(&self.unsent);
        let time_max = self.config.message_time_max;
        let limits = Arc::new(ConnectionLimits::new(time_max, memory, Arc::clone(&throttle)));
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "setting TCP_NODELAY failed");
        }
        let Some(acceptor) = self.security.acceptor() else {
            return self.serve_http2(stream, peer, limits, throttle).await;
        };
        match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => self.serve_http2(stream, peer, limits, throttle).await,
            Ok(Err(error)) => {
                self.security.count_failure(AuthFailure::of_handshake(&error));
                tracing::debug!(%error, %peer, "the TLS handshake failed");
            }
            Err(_) => {
                self.security.count_failure(AuthFailure::TlsHandshake);
                tracing::debug!(%peer, "the TLS handshake took too long");
            }
        }
    }

    async fn serve_http2<S>(
        self,
        stream: S,
        peer: SocketAddr,
        limits: Arc<ConnectionLimits>,
        throttle: Arc<Throttle>,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (stream, cut_slot) = GovernedSocket::new(stream, &throttle);
        self.drive(stream, peer, limits, throttle).await;
        let cut = cut_slot.lock().take();
        if let Some(cut) = cut {
            tracing::debug!(%peer, "the connection is cut: too many refused calls, or too many frames without a call or message");
            cut.send_goaway().await;
        }
    }

    async fn drive<S>(
        self,
        stream: S,
        peer: SocketAddr,
        limits: Arc<ConnectionLimits>,
        throttle: Arc<Throttle>,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let NetConfig {
            idle_timeout,
            connection_age_max,
            connection_grace,
            streams_per_connection_max,
            ..
        } = self.config;
        let begun = Arc::new(AtomicU64::new(0));
        let service = service_fn({
            let (services, begun) = (self.services, Arc::clone(&begun));
            let caller = self.engine.caller();
            move |request: http::Request<Incoming>| {
                begun.fetch_add(1, Ordering::Relaxed);
                // Without an exporter the span is disabled and costs one check.
                let span = rpc_span(request.uri().path(), request.headers(), peer);
                let call = caller
                    .calling(services.call(request, peer, &limits))
                    .instrument(span.clone());
                call.map(|answered| answered.map(|response| Answer::traced(response, span)))
            }
        });
        let connection = http2(streams_per_connection_max).serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            result = InTurns { connection: connection.as_mut(), throttle: &throttle } => Some(result),
            () = self.draining.cancelled() => None,
            () = sleep(connection_age_max) => None,
            () = idle(&begun, idle_timeout) => {
                if begun.load(Ordering::Relaxed) == 0 {
                    // The client made no call, and perhaps did not finish the preface. No GOAWAY is needed.
                    tracing::debug!(%peer, "the idle connection is closed: it made no call");
                    return;
                }
                None
            }
        };
        let result = match ended {
            Some(result) => result,
            None => {
                // Sends GOAWAY: new calls are refused, calls in flight are answered.
                connection.as_mut().graceful_shutdown();
                let connection = InTurns {
                    connection,
                    throttle: &throttle,
                };
                match timeout(connection_grace, connection).await {
                    Ok(result) => result,
                    // Calls whose client neither sends nor reads would keep the connection open for ever.
                    Err(_) => {
                        return tracing::debug!(%peer, "the connection is closed: its calls did not end within the grace time");
                    }
                }
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, %peer, "the connection failed");
        }
    }
}

/// The settings of HTTP/2.
fn http2(streams_per_connection_max: u32) -> http2::Builder<TokioExecutor> {
    let mut http2 = http2::Builder::new(TokioExecutor::new());
    http2
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(streams_per_connection_max)
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_send_buf_size(SEND_BYTES_MAX)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        // gRPC does not use the header, and hyper panics when it writes a date before 1970.
        .auto_date_header(false);
    http2
}

impl<C: Future> Future for InTurns<'_, C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<C::Output> {
        self.throttle.begin_turn();
        self.connection.as_mut().poll(context)
    }
}

/// Waits until no call has begun for `limit`. It returns at most twice the limit after the last call began.
async fn idle(begun: &AtomicU64, limit: Duration) {
    let mut looks = interval_at(Instant::now() + limit, limit);
    let mut before = 0;
    loop {
        looks.tick().await;
        let now = begun.load(Ordering::Relaxed);
        if now == before {
            return;
        }
        before = now;
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Cut<S> {
    /// Sends GOAWAY with ENHANCE_YOUR_CALM, and closes the connection.
    async fn send_goaway(self) {
        let Cut {
            mut stream,
            goaway_frame,
        } = self;
        let sent = async {
            if let Some(goaway_frame) = goaway_frame {
                stream.write_all(&goaway_frame).await?;
            }
            stream.shutdown().await?;
            // If unread bytes are left when the socket is closed, the kernel sends RST, and the client may lose the
            // GOAWAY frame.
            let mut unread = Vec::with_capacity(UNREAD_BYTES);
            while stream.read_buf(&mut unread).await? > 0 {
                unread.clear();
            }
            Ok::<(), std::io::Error>(())
        };
        if let Ok(Err(error)) = timeout(REFUSAL_TIMEOUT, sent).await {
            tracing::debug!(%error, "sending GOAWAY to a connection that was cut failed");
        }
    }
}

/// Refuses a connection beyond the limit, and closes it.
pub(crate) async fn refuse(mut stream: TcpStream) {
    // A TLS client cannot read this frame. It only sees that the connection is closed.
    let sent = async {
        stream.write_all(TOO_MANY).await?;
        stream.shutdown().await
    };
    if let Ok(Err(error)) = timeout(REFUSAL_TIMEOUT, sent).await {
        tracing::debug!(%error, "sending GOAWAY to a refused connection failed");
    }
}
