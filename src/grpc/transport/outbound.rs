//! The bodies of answers. The memory of an answer stays reserved until the HTTP/2 library has sent the answer.

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{Stream, future::BoxFuture};
use http::{HeaderMap, HeaderValue, Response, header::CONTENT_TYPE};
use http_body::{Body, Frame};
use tokio::sync::Semaphore;
use tokio_util::sync::PollSemaphore;
use tonic::Status;
use tracing::Span;

use super::{
    budget::{ConnectionMemory, REFUSAL_BYTES, Reservation, until_sent},
    governor::UnsentRefusal,
};
use crate::{grpc::status, telemetry::record_status};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// The future of an answer.
pub(crate) type AnswerFuture = BoxFuture<'static, Result<Response<Answer>, Infallible>>;

/// One framed message with its reservation, or the error of the call.
pub(crate) type AnswerResult = Result<(Vec<u8>, Reservation), Status>;

/// A stream of framed messages.
pub(crate) type Frames = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// Maximum number of messages of a forwarded call that the HTTP/2 library holds and has not sent yet.
const RELAYED_FRAMES_MAX: usize = 2;

/// An answer of a call that tonic serves, or that another replica answers.
struct TonicAnswer {
    body: tonic::body::Body,
    /// For a stream: becomes ready when the service must end the stream, with the reason. The body may have more
    /// messages at this time.
    over: Option<BoxFuture<'static, Status>>,
    /// The permits for messages that the HTTP/2 library has not sent yet.
    sending: PollSemaphore,
    /// The memory of the call. Released when the status is sent.
    reservation: Option<Reservation>,
    memory: Arc<ConnectionMemory>,
}

/// The body of an answer.
pub(crate) struct Answer(Content);

enum Content {
    /// No messages. The status is in the headers.
    Empty,
    /// One message, then the status OK.
    Message(Vec<u8>, Reservation),
    /// No message, then the status OK.
    Ok,
    /// Any number of messages, then the status of their stream.
    Frames(Frames, Arc<ConnectionMemory>),
    /// The answer of a call that tonic serves.
    Tonic(Box<TonicAnswer>),
    /// The answer of a traced call. The box keeps the other variants small, because few calls are traced.
    Traced(Box<(Answer, Span)>),
}

// ===== impl Answer =====

impl Answer {
    /// Answers with one framed message and its reservation.
    #[must_use]
    pub(crate) fn message(message: Vec<u8>, reservation: Reservation) -> Response<Answer> {
        answer(Content::Message(message, reservation))
    }

    /// Answers with a stream of framed messages.
    #[must_use]
    pub(crate) fn frames(frames: Frames, memory: &Arc<ConnectionMemory>) -> Response<Answer> {
        answer(Content::Frames(frames, Arc::clone(memory)))
    }

    /// Wraps the answer of a call that tonic serves. When `over` is ready, the answer ends with the status of `over`.
    #[must_use]
    pub(crate) fn tonic(
        response: Response<tonic::body::Body>,
        over: Option<BoxFuture<'static, Status>>,
        reservation: Reservation,
    ) -> Response<Answer> {
        let sending = Arc::clone(&reservation.memory.sending);
        Answer::wrapped(response, over, reservation, sending)
    }

    /// Wraps the answer of another replica, as [`Answer::tonic`] does. The answer has its own permits, so a client that does not read
    /// this answer does not delay the client's other calls.
    #[must_use]
    pub(crate) fn relayed(
        response: Response<tonic::body::Body>,
        over: Option<BoxFuture<'static, Status>>,
        reservation: Reservation,
    ) -> Response<Answer> {
        let sending = Arc::new(Semaphore::new(RELAYED_FRAMES_MAX));
        Answer::wrapped(response, over, reservation, sending)
    }

    fn wrapped(
        response: Response<tonic::body::Body>,
        over: Option<BoxFuture<'static, Status>>,
        reservation: Reservation,
        sending: Arc<Semaphore>,
    ) -> Response<Answer> {
        let (mut head, body) = response.into_parts();
        let memory = Arc::clone(&reservation.memory);
        let mut reservation = Some(reservation);
        status::complete(&mut head.headers);
        hold_until_sent(&mut head.headers, &mut reservation);
        let answer = TonicAnswer {
            body,
            over,
            sending: PollSemaphore::new(sending),
            reservation,
            memory,
        };
        Response::from_parts(head, Answer(Content::Tonic(Box::new(answer))))
    }

    /// Keeps the `span` of a call open until the answer ends, and records the status in the span.
    #[must_use]
    pub(crate) fn traced(response: Response<Answer>, span: Span) -> Response<Answer> {
        if span.is_disabled() {
            return response;
        }
        if let Some(status) = response.headers().get(Status::GRPC_STATUS) {
            record_status(&span, status);
        }
        response.map(|answer| Answer(Content::Traced(Box::new((answer, span)))))
    }

    /// Answers a call that was not admitted. `unsent` is dropped when the answer is sent.
    #[must_use]
    pub(crate) fn unadmitted(status: Status, unsent: UnsentRefusal) -> Response<Answer> {
        let mut response: Response<Answer> = status.into_http();
        hold_until_sent(response.headers_mut(), &mut Some(unsent));
        response
    }

    /// Answers with a status and no message. The reservation is held until the status is sent.
    #[must_use]
    pub(crate) fn status(status: Status, mut reservation: Reservation) -> Response<Answer> {
        reservation.resize(status_bytes(&status));
        let mut response: Response<Answer> = status.into_http();
        hold_until_sent(response.headers_mut(), &mut Some(reservation));
        response
    }
}

fn answer(content: Content) -> Response<Answer> {
    let mut response = Response::new(Answer(content));
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

/// Returns the approximate memory of a status until it is sent, in bytes. The details are sent in base64, which is
/// longer.
fn status_bytes(status: &Status) -> usize {
    REFUSAL_BYTES + status.message().len() + 2 * status.details().len()
}

/// If `headers` contain a status, takes `held`, and drops it when the HTTP/2 library has sent the status.
fn hold_until_sent<H: Send + 'static>(headers: &mut HeaderMap, held: &mut Option<H>) {
    if let Some(value) = headers.get_mut(Status::GRPC_STATUS)
        && let Some(held) = held.take()
    {
        let code = until_sent(value.as_bytes().to_vec(), held);
        if let Ok(mut code) = HeaderValue::from_maybe_shared(code) {
            // The HTTP/2 library keeps values that are not sensitive in its compression table. Then `held` would not be dropped.
            code.set_sensitive(true);
            *value = code;
        }
    }
}

// ===== impl TonicAnswer =====

impl TonicAnswer {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(over) = &mut self.over
            && let Poll::Ready(status) = over.as_mut().poll(context)
        {
            // Frees the memory of the body now. The client may read the end of the stream late.
            self.body = tonic::body::Body::empty();
            return Poll::Ready(Some(Ok(self.end(status::trailers(&status)))));
        }
        // The body is polled only with a permit, so that the body makes no message that cannot be sent.
        let permit = ready!(self.sending.poll_acquire(context));
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(frame.map(|frame| {
            Ok(match frame?.into_data() {
                Ok(data) => {
                    let reservation = self.memory.reserve_beyond_limit(data.len());
                    Frame::data(reservation.until_sent(data, permit))
                }
                Err(frame) => match frame.into_trailers() {
                    Ok(trailers) => self.end(trailers),
                    Err(frame) => frame,
                },
            })
        }))
    }

    /// Returns the last frame of the answer.
    fn end(&mut self, mut trailers: HeaderMap) -> Frame<Bytes> {
        self.over = None;
        status::complete(&mut trailers);
        hold_until_sent(&mut trailers, &mut self.reservation);
        Frame::trailers(trailers)
    }
}

impl Default for Answer {
    fn default() -> Self {
        Answer(Content::Empty)
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").finish_non_exhaustive()
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let content = &mut self.0;
        match content {
            Content::Empty => Poll::Ready(None),
            Content::Message(..) => {
                let Content::Message(message, reservation) = std::mem::replace(content, Content::Ok) else {
                    return Poll::Ready(None);
                };
                Poll::Ready(Some(Ok(Frame::data(reservation.until_sent(message, None)))))
            }
            Content::Ok => {
                *content = Content::Empty;
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Content::Frames(frames, memory) => {
                let status = match ready!(frames.as_mut().poll_next(context)) {
                    Some(Ok(frames)) => return Poll::Ready(Some(Ok(Frame::data(frames)))),
                    Some(Err(status)) => status,
                    None => status::ok(),
                };
                let mut trailers = status::trailers(&status);
                hold_until_sent(
                    &mut trailers,
                    &mut Some(memory.reserve_beyond_limit(status_bytes(&status))),
                );
                *content = Content::Empty;
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Content::Tonic(answer) => answer.poll_frame(context),
            Content::Traced(traced) => {
                let (answer, span) = &mut **traced;
                let frame = ready!(Pin::new(answer).poll_frame(context));
                if let Some(Ok(frame)) = &frame
                    && let Some(status) = frame.trailers_ref().and_then(|all| all.get(Status::GRPC_STATUS))
                {
                    record_status(span, status);
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Content::Empty => true,
            Content::Tonic(answer) => answer.body.is_end_stream(),
            Content::Traced(traced) => traced.0.is_end_stream(),
            Content::Message(..) | Content::Ok | Content::Frames(..) => false,
        }
    }
}
