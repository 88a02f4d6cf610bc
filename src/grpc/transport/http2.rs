//! Serves HTTP/2 on one connection, with the library h2: accepts the calls, sends their answers, and asks a silent client for a sign of
//! life.
//!
//! The server of the library hyper does the same, also with h2, but it has no setting for [`SHORT_FRAMES_BUDGET`], and it leaves the
//! frames of a call that is not read in h2 (`request_body.rs`).

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong, Reason, SendStream,
    server::{Builder, Connection, Handshake, SendResponse},
};
use http::{Request, Response};
use http_body::Body;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep, sleep},
};

use super::{
    governor::Throttle,
    outbound::Answer,
    request_body::{Gatherer, RequestBody, request_body},
    windows::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES},
};

/// Maximum number of bytes of the answers of one call that the HTTP/2 library buffers.
const SEND_BYTES_MAX: usize = 64 << 10;
/// Largest header block of a call, in bytes.
pub(crate) const HEADER_BYTES_MAX: u32 = 16 << 10;
/// The memory for DATA frames that nobody has taken out of the HTTP/2 library, beyond the bytes in them. h2 counts 256 bytes less the
/// length of the frame for each frame that is shorter, gives them back when the frame is taken, and ends the connection with
/// ENHANCE_YOUR_CALM (`too_many_data_frames`) when the budget is used up.
///
/// The frames of a call are taken when its task runs, which is before the connection reads more than its next 64 KiB
/// (`governor.rs`). So frames of an open call take at most 2 MiB of the budget, even with one byte each. But h2 never gives back the
/// bytes for frames of calls that are over: a client that has filled the window of a call with short frames when the service ends the
/// call takes up to 8 MiB with frames of 16 bytes. Without a larger budget, the error of such a call would end the other calls of its
/// connection.
const SHORT_FRAMES_BUDGET: usize = 32 << 20;
/// The service closes a connection that does not answer a ping within this time.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Time between two pings on a connection on which nothing arrives.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// Why a connection has ended.
#[derive(Debug, Error)]
pub(super) enum ConnectionEnd {
    /// The client violated HTTP/2, or the socket failed.
    #[error(transparent)]
    Http2(#[from] h2::Error),
    /// The client did not answer a ping.
    #[error("the client did not answer a ping within 20 s")]
    Silent,
}

/// An HTTP/2 connection. As a future, it serves the connection to its end. `F` makes the answer of a request.
pub(super) struct Http2<S, F> {
    state: State<S>,
    answer: F,
    throttle: Arc<Throttle>,
    /// Whether the connection accepts no new calls.
    is_closing: bool,
}

enum State<S> {
    Handshake(Handshake<S, Bytes>),
    Serving(Connection<S, Bytes>, KeepAlive),
}

/// Finds out that a client no longer exists although its connection is open.
struct KeepAlive {
    /// `None` if the library has no pings, which does not happen.
    pings: Option<PingPong>,
    timer: Pin<Box<Sleep>>,
    heard_at: Instant,
    /// Whether the last ping is not answered yet.
    is_waiting: bool,
}

/// Sends the body of an answer.
struct Sending {
    stream: SendStream<Bytes>,
    body: Answer,
    /// The next bytes, which wait for the flow control of the client.
    waiting: Option<Bytes>,
}

// ===== impl Http2 =====

// No field is ever pinned in its place.
impl<S, F> Unpin for Http2<S, F> {}

impl<S: AsyncRead + AsyncWrite + Unpin, F> Http2<S, F> {
    /// Begins to serve `socket`, with at most `streams_max` calls at the same time.
    pub(super) fn new(socket: S, streams_max: u32, throttle: Arc<Throttle>, answer: F) -> Self {
        let handshake = Builder::new()
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(streams_max)
            .max_header_list_size(HEADER_BYTES_MAX)
            .max_send_buffer_size(SEND_BYTES_MAX)
            .data_frame_budget(SHORT_FRAMES_BUDGET)
            .handshake(socket);
        Http2 {
            state: State::Handshake(handshake),
            answer,
            throttle,
            is_closing: false,
        }
    }

    /// Sends GOAWAY. From now on the connection accepts no new calls, and ends after the calls in flight.
    pub(super) fn graceful_shutdown(&mut self) {
        self.is_closing = true;
        if let State::Serving(connection, _) = &mut self.state {
            connection.graceful_shutdown();
        }
    }
}

impl<S, F, C> Future for Http2<S, F>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: FnMut(Request<RequestBody>) -> C,
    C: Future<Output = Result<Response<Answer>, Infallible>> + Send + 'static,
{
    type Output = Result<(), ConnectionEnd>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Http2 {
            state,
            answer,
            throttle,
            is_closing,
        } = &mut *self;
        throttle.begin_turn();
        loop {
            let (connection, keep_alive) = match state {
                State::Serving(connection, keep_alive) => (connection, keep_alive),
                State::Handshake(handshake) => {
                    let mut connection = ready!(Pin::new(handshake).poll(context))?;
                    if *is_closing {
                        connection.graceful_shutdown();
                    }
                    let keep_alive = KeepAlive::new(connection.ping_pong());
                    *state = State::Serving(connection, keep_alive);
                    continue;
                }
            };
            if keep_alive.poll_lost(throttle, context).is_ready() {
                return Poll::Ready(Err(ConnectionEnd::Silent));
            }
            let Some(accepted) = ready!(connection.poll_accept(context)) else {
                return Poll::Ready(Ok(()));
            };
            let (request, respond) = accepted?;
            let (head, stream) = request.into_parts();
            let (body, gatherer) = request_body(stream);
            let call = answer(Request::from_parts(head, body));
            tokio::spawn(serve_call(call, gatherer, respond));
        }
    }
}

/// Waits for the answer of a call, and sends it. The call is dropped if the client resets it.
async fn serve_call<C>(call: C, gatherer: Gatherer, mut respond: SendResponse<Bytes>)
where
    C: Future<Output = Result<Response<Answer>, Infallible>>,
{
    let answered = {
        let mut call = pin!(call);
        poll_fn(|context| {
            if let Poll::Ready(Ok(response)) = call.as_mut().poll(context) {
                return Poll::Ready(Some(response));
            }
            if respond.poll_reset(context).is_ready() {
                return Poll::Ready(None);
            }
            gatherer.gather(context);
            Poll::Pending
        })
        .await
    };
    let Some(response) = answered else {
        return;
    };
    let (head, body) = response.into_parts();
    let is_end = body.is_end_stream();
    let Ok(stream) = respond.send_response(Response::from_parts(head, ()), is_end) else {
        return respond.send_reset(Reason::INTERNAL_ERROR);
    };
    if is_end {
        return;
    }
    let mut sending = Sending {
        stream,
        body,
        waiting: None,
    };
    poll_fn(|context| {
        let sent = sending.poll(context);
        if sent.is_pending() {
            gatherer.gather(context);
        }
        sent
    })
    .await;
}

// ===== impl Sending =====

impl Sending {
    /// Sends the body until it ends, or until the client resets the call.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.stream.poll_reset(context).is_ready() {
                return Poll::Ready(());
            }
            if self.waiting.is_some() {
                while self.stream.capacity() == 0 {
                    // Without a capacity or with an error, the call is over.
                    let Some(Ok(_)) = ready!(self.stream.poll_capacity(context)) else {
                        return Poll::Ready(());
                    };
                }
                let bytes = self.waiting.take().unwrap_or_default();
                let is_end = self.body.is_end_stream();
                if self.stream.send_data(bytes, is_end).is_err() || is_end {
                    return Poll::Ready(());
                }
                continue;
            }
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                Some(Err(_)) => {
                    self.stream.send_reset(Reason::INTERNAL_ERROR);
                    return Poll::Ready(());
                }
                None => {
                    // The error means that the call is over.
                    let _ended = self.stream.send_data(Bytes::new(), true);
                    return Poll::Ready(());
                }
            };
            match frame.into_data() {
                // An empty frame needs no flow control, and says nothing.
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => {
                    // One byte: the library asks for the rest when it has the bytes. Until then they take no room in the window of the
                    // connection, which other calls need.
                    self.stream.reserve_capacity(1);
                    self.waiting = Some(bytes);
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        self.stream.reserve_capacity(0);
                        // The error means that the call is over.
                        let _ended = self.stream.send_trailers(trailers);
                        return Poll::Ready(());
                    }
                }
            }
        }
    }
}

// ===== impl KeepAlive =====

impl KeepAlive {
    fn new(pings: Option<PingPong>) -> Self {
        KeepAlive {
            pings,
            timer: Box::pin(sleep(KEEP_ALIVE_INTERVAL)),
            heard_at: Instant::now(),
            is_waiting: false,
        }
    }

    /// Sends a ping when nothing has arrived for [`KEEP_ALIVE_INTERVAL`]. Becomes ready if the client does not answer the ping within
    /// [`KEEP_ALIVE_TIMEOUT`].
    fn poll_lost(&mut self, throttle: &Throttle, context: &mut Context<'_>) -> Poll<()> {
        let Some(pings) = &mut self.pings else {
            return Poll::Pending;
        };
        if throttle.take_heard() {
            self.heard_at = Instant::now();
        }
        if self.is_waiting && pings.poll_pong(context).is_ready() {
            self.is_waiting = false;
            self.timer.as_mut().reset(self.heard_at + KEEP_ALIVE_INTERVAL);
        }
        loop {
            ready!(self.timer.as_mut().poll(context));
            if self.is_waiting {
                return Poll::Ready(());
            }
            let next = self.heard_at + KEEP_ALIVE_INTERVAL;
            if next > Instant::now() {
                self.timer.as_mut().reset(next);
                continue;
            }
            // A ping can't be sent only if another one is in flight, or if the connection is over.
            self.is_waiting = pings.send_ping(Ping::opaque()).is_ok();
            let wait = if self.is_waiting {
                KEEP_ALIVE_TIMEOUT
            } else {
                KEEP_ALIVE_INTERVAL
            };
            self.timer.as_mut().reset(Instant::now() + wait);
            if self.is_waiting && pings.poll_pong(context).is_ready() {
                self.is_waiting = false;
            }
        }
    }
}
