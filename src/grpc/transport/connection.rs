//! Serves one connection: the TLS handshake, the calls, and the end of the connection.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
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
    http2::Http2,
    outbound::Answer,
    request_body::RequestBody,
};
use crate::{
    engine::TallyEngine,
    grpc::{services::Services, settings::NetConfig},
    security::{AuthFailure, Security},
    telemetry::rpc_span,
};

/// Longest time of a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Size of the buffer for the bytes that the service reads and discards when it cuts a connection.
const UNREAD_BYTES: usize = 4096;
/// Longest time for sending the last frame before the service closes a connection.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// The answer to a connection beyond the limit of connections: an empty SETTINGS frame, then a GOAWAY frame with
/// ENHANCE_YOUR_CALM and last stream 0 (RFC 9113, 6.5, 6.8 and 7).
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

/// An accepted connection, on its way to a NET thread.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: std::net::TcpStream,
    pub(crate) peer: SocketAddr,
    /// The connection's place in the limited number of connections. The place becomes free when the connection ends.
    pub(crate) place: ClientPlace,
}

// ===== impl Connections =====

impl Connections {
    /// Serves a connection to its end.
    pub(crate) async fn serve(self, accepted: Accepted) {
        let Accepted {
            stream,
            peer,
            place: _place,
        } = accepted;
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => return tracing::warn!(%error, "registering a connection with its thread failed"),
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "setting TCP_NODELAY failed");
        }
        let Some(acceptor) = self.security.acceptor() else {
            return self.serve_http2(stream, peer).await;
        };
        match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => self.serve_http2(stream, peer).await,
            Ok(Err(error)) => self.security.count_failed_handshake(peer, &error),
            Err(_) => {
                self.security.count_failure(AuthFailure::TlsHandshake);
                tracing::debug!(%peer, "the TLS handshake took too long");
            }
        }
    }

    /// Serves HTTP/2 on `stream`. If the throttle cuts the connection, sends GOAWAY before the socket is closed.
    async fn serve_http2<S>(self, stream: S, peer: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let memory = ConnectionMemory::new(self.budget.share(peer.ip()));
        let throttle = Throttle::new(&self.unsent);
        let (socket, cut_slot) = GovernedSocket::new(stream, &throttle);
        let limits = ConnectionLimits::new(peer.ip(), self.config.message_time_max, memory, throttle);
        self.serve_calls(socket, peer, Arc::new(limits)).await;
        let cut = cut_slot.lock().take();
        if let Some(cut) = cut {
            tracing::debug!(%peer, "cut a connection: too many refused calls, or too many frames without a call or message");
            cut.send_goaway().await;
        }
    }

    /// Serves calls until the client or the service ends the connection.
    async fn serve_calls<S>(self, socket: GovernedSocket<S>, peer: SocketAddr, limits: Arc<ConnectionLimits>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let NetConfig {
            idle_timeout,
            connection_age_max,
            connection_grace,
            streams_per_connection_max,
            ..
        } = self.config;
        let throttle = Arc::clone(&limits.throttle);
        // The number of calls that have begun.
        let begun = Arc::new(AtomicU64::new(0));
        let answer = {
            let (services, begun) = (self.services, Arc::clone(&begun));
            let caller = self.engine.caller();
            move |request: http::Request<RequestBody>| {
                begun.fetch_add(1, Ordering::Relaxed);
                // Without an exporter of traces the span is disabled, and costs one check.
                let span = rpc_span(request.uri().path(), request.headers(), peer);
                let call = caller
                    .calling(services.call(request, peer, &limits))
                    .instrument(span.clone());
                call.map(|answered| answered.map(|response| Answer::traced(response, span)))
            }
        };
        let connection = Http2::new(socket, streams_per_connection_max, throttle, answer);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            result = &mut connection => Some(result),
            () = self.draining.cancelled() => None,
            () = sleep(connection_age_max) => None,
            () = idle(&begun, idle_timeout) => {
                if begun.load(Ordering::Relaxed) == 0 {
                    // The client has no call to finish, so the service closes the connection without GOAWAY.
                    return tracing::debug!(%peer, "closed an idle connection without any call");
                }
                None
            }
        };
        let result = match ended {
            Some(result) => result,
            None => {
                // Sends GOAWAY. From now on the connection accepts no new calls, and answers the calls in flight.
                connection.graceful_shutdown();
                match timeout(connection_grace, &mut connection).await {
                    Ok(result) => result,
                    // Without this time limit, a client that does not read its answers would keep its connection for
                    // ever.
                    Err(_) => {
                        return tracing::debug!(%peer, "closed a connection: its calls exceeded the grace time");
                    }
                }
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, %peer, "a connection failed");
        }
    }
}

/// Waits until no call has begun for the time `limit`. Returns at most twice this time after the last call has begun.
async fn idle(begun: &AtomicU64, limit: Duration) {
    let mut checks = interval_at(Instant::now() + limit, limit);
    let mut before = 0;
    loop {
        checks.tick().await;
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
            // Reads what the client has sent. If a socket is closed with unread bytes, the kernel sends RST, and the
            // client may lose the GOAWAY frame.
            let mut unread = Vec::with_capacity(UNREAD_BYTES);
            while stream.read_buf(&mut unread).await? > 0 {
                unread.clear();
            }
            Ok::<(), std::io::Error>(())
        };
        if let Ok(Err(error)) = timeout(REFUSAL_TIMEOUT, sent).await {
            tracing::debug!(%error, "sending GOAWAY on a cut connection failed");
        }
    }
}

/// Sends GOAWAY on a connection beyond the limit of connections, and closes the connection.
pub(crate) async fn refuse(mut stream: TcpStream) {
    // A TLS client cannot read this frame. Such a client only sees that the connection is closed.
    let sent = async {
        stream.write_all(TOO_MANY).await?;
        stream.shutdown().await
    };
    if let Ok(Err(error)) = timeout(REFUSAL_TIMEOUT, sent).await {
        tracing::debug!(%error, "sending GOAWAY on a refused connection failed");
    }
}
