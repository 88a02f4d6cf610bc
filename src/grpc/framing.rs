//! gRPC's framing of messages in HTTP/2, for the calls of the hot path.
//!
//! tonic's own server does the same for every other call. For these it would copy each request into a buffer of its own,
//! and box the body, the decoder, the handler and the answer of every call; here a message is read where it arrived, and
//! answers are written once.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tokio::time::Instant;
use tonic::{Status, metadata::MetadataValue};
use tracing::Span;

use super::{
    MESSAGE_BYTES_MAX, deadline,
    patience::{Patience, Reception},
    wire::WireError,
};
use crate::telemetry::record_status;

/// In front of a message: whether it is compressed, and its length.
const HEADER_BYTES: usize = 5;
/// What is set aside for a message in pieces before it has arrived, however long it says it is.
const GATHER_BYTES: usize = 64 * 1024;

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const ENCODING: &str = "grpc-encoding";
const IDENTITY: &str = "identity";

/// The messages of a call, as they arrive.
#[derive(Debug)]
pub(super) struct Inbound {
    body: Incoming,
    /// What has arrived and is not read yet.
    frame: Bytes,
    header: [u8; HEADER_BYTES],
    header_read: usize,
    /// Bytes of the message under way that are not read yet.
    left: Option<usize>,
    /// Bytes of the message under way that are read: whoever reads them keeps them.
    arrived: usize,
    ended: bool,
    expected: Expected,
    patience: Patience,
}

/// What a client sends in a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// One message, at once.
    Message,
    /// Messages, when it likes. One that it has begun, it has to finish.
    Stream,
}

/// A part of a message, in its order.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) bytes: Bytes,
    /// Bytes of the message behind it; with none, the message is whole.
    pub(super) to_come: usize,
}

/// Messages in their frames.
pub(super) type Frames = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// The body of an answer.
pub struct Answer(Content);

enum Content {
    /// Nothing: the status is in the headers.
    Empty,
    /// One message, then the status OK.
    Message(Bytes),
    /// The status OK.
    Ok,
    /// Messages, then their stream's status.
    Frames(Frames),
    /// Of a call that tonic serves.
    Tonic(tonic::body::Body),
    /// Of a call that is traced. In a box: few are.
    Traced(Box<(Answer, Span)>),
}

// ===== impl Inbound =====

impl Inbound {
    /// The messages in `body`.
    ///
    /// # Errors
    /// UNIMPLEMENTED if the headers announce compressed ones.
    fn new(
        headers: &HeaderMap,
        body: Incoming,
        expected: Expected,
        reception: &Arc<Reception>,
    ) -> Result<Self, Status> {
        if let Some(encoding) = headers.get(ENCODING)
            && encoding != IDENTITY
        {
            let mut status = Status::unimplemented(format!(
                "Content is compressed with `{}` which isn't supported",
                String::from_utf8_lossy(encoding.as_bytes())
            ));
            status
                .metadata_mut()
                .insert("grpc-accept-encoding", MetadataValue::from_static(IDENTITY));
            return Err(status);
        }
        Ok(Inbound {
            body,
            frame: Bytes::new(),
            header: [0; HEADER_BYTES],
            header_read: 0,
            left: None,
            arrived: 0,
            ended: false,
            expected,
            patience: Patience::new(reception),
        })
    }

    /// The messages of a call, each of which may take to arrive what `reception` says, and by when its caller wants to know.
    ///
    /// # Errors
    /// If its headers make no sense.
    pub(super) fn open(
        request: Request<Incoming>,
        expected: Expected,
        reception: &Arc<Reception>,
    ) -> Result<(Self, Option<Instant>), Status> {
        let (head, body) = request.into_parts();
        let deadline = deadline::of_headers(&head.headers)?;
        Ok((Inbound::new(&head.headers, body, expected, reception)?, deadline))
    }

    /// There is no message in a call that must have one.
    pub(super) fn missing() -> Status {
        Status::internal("Missing request message.")
    }

    /// How many bytes have arrived and are not read yet.
    pub(super) fn arrived(&self) -> usize {
        self.frame.len()
    }

    /// The only message of the call, once the call has been sent to its end.
    ///
    /// # Errors
    /// If there is none, or more than one, or it can't be read.
    pub(super) async fn only(&mut self) -> Result<Bytes, Status> {
        let first = self.piece().await?.ok_or_else(Inbound::missing)?;
        let message = if first.to_come == 0 {
            first.bytes
        } else {
            let mut gathered = Vec::with_capacity((first.bytes.len() + first.to_come).min(GATHER_BYTES));
            gathered.extend_from_slice(&first.bytes);
            loop {
                let piece = self.piece().await?.ok_or_else(Inbound::missing)?;
                gathered.extend_from_slice(&piece.bytes);
                if piece.to_come == 0 {
                    break gathered.into();
                }
            }
        };
        self.finish().await?;
        Ok(message)
    }

    /// Waits for the end of the call, behind its only message.
    ///
    /// # Errors
    /// If there is another one.
    pub(super) async fn finish(&mut self) -> Result<(), Status> {
        match self.piece().await? {
            None => Ok(()),
            Some(_) => Err(Status::internal("more than one message in a call that takes one")),
        }
    }

    /// The next part of the call's only message; `None` at the end of the call.
    ///
    /// # Errors
    /// As [`Inbound::poll_piece`].
    pub(super) async fn piece(&mut self) -> Result<Option<Piece>, Status> {
        poll_fn(|context| self.poll_piece(context)).await
    }

    /// The next part of a message; `None` at the end of the call.
    ///
    /// # Errors
    /// If the call was given up, is not framed as gRPC says, or did not arrive in time. Then it is at its end.
    pub(super) fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Piece>, Status>> {
        loop {
            match self.take_piece() {
                Ok(None) => {}
                Ok(piece) => return Poll::Ready(Ok(piece)),
                Err(status) => return Poll::Ready(Err(self.fail(status))),
            }
            if self.ended {
                return Poll::Ready(Ok(None));
            }
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
                if self.expected == Expected::Stream && !self.has_begun() {
                    return Poll::Pending;
                }
                let status = ready!(self.patience.poll_over(self.arrived, context));
                return Poll::Ready(Err(self.fail(status)));
            };
            match frame {
                // Trailers of a request mean nothing.
                Some(Ok(frame)) => self.frame = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => {
                    let status = Status::cancelled(format!("the call was given up: {error}"));
                    return Poll::Ready(Err(self.fail(status)));
                }
                None if self.has_begun() => {
                    return Poll::Ready(Err(self.fail(Status::internal("Unexpected EOF decoding stream."))));
                }
                None => {
                    self.ended = true;
                    self.patience.release();
                }
            }
        }
    }

    /// Whether a part of a message has arrived.
    const fn has_begun(&self) -> bool {
        self.left.is_some() || self.header_read > 0
    }

    /// What comes next of a stream is waited for from now on: what was not read before was not late.
    pub(super) fn renew_patience(&mut self) {
        self.patience.renew();
    }

    /// Nothing is read behind an error.
    fn fail(&mut self, status: Status) -> Status {
        self.ended = true;
        self.patience.release();
        self.left = None;
        self.header_read = 0;
        self.frame = Bytes::new();
        status
    }

    fn take_piece(&mut self) -> Result<Option<Piece>, Status> {
        let left = match self.left {
            Some(left) => left,
            None => match self.take_header()? {
                Some(length) => length,
                None => return Ok(None),
            },
        };
        self.left = Some(left);
        if self.frame.is_empty() && left > 0 {
            return Ok(None);
        }
        let bytes = self.frame.split_to(left.min(self.frame.len()));
        let to_come = left - bytes.len();
        self.left = (to_come > 0).then_some(to_come);
        self.arrived += bytes.len();
        if to_come == 0 && self.expected == Expected::Stream {
            self.arrived = 0;
            self.patience.renew();
            self.patience.release();
        }
        Ok(Some(Piece { bytes, to_come }))
    }

    /// The length of the next message, once its header has arrived.
    fn take_header(&mut self) -> Result<Option<usize>, Status> {
        if let Some(room) = self.header.get_mut(self.header_read..) {
            let part = self.frame.split_to(room.len().min(self.frame.len()));
            if let Some(room) = room.get_mut(..part.len()) {
                room.copy_from_slice(&part);
            }
            self.header_read += part.len();
        }
        if self.header_read < HEADER_BYTES {
            return Ok(None);
        }
        self.header_read = 0;
        let [flag, length @ ..] = self.header;
        if flag != 0 {
            return Err(Status::internal(if flag == 1 {
                "protocol error: received message with compressed-flag but no grpc-encoding was specified"
                    .to_owned()
            } else {
                format!(
                    "protocol error: received message with invalid compression flag: {flag} (valid flags are 0 and 1)"
                )
            }));
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > MESSAGE_BYTES_MAX {
            return Err(Status::out_of_range(format!(
                "decoded message length too large: found {length} bytes, the limit is: {MESSAGE_BYTES_MAX} bytes"
            )));
        }
        Ok(Some(length))
    }
}

/// A message that is none: what gRPC has for it is INTERNAL.
pub(super) fn malformed(error: WireError) -> Status {
    Status::internal(format!("failed to decode Protobuf message: {error}"))
}

// ===== writing =====

/// Appends a message that `put` writes, in its frame.
pub(super) fn put_frame(out: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) {
    let header_at = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    put(out);
    let length = u32::try_from(out.len() - header_at - HEADER_BYTES).unwrap_or(u32::MAX);
    if let Some(room) = out.get_mut(header_at + 1..header_at + HEADER_BYTES) {
        room.copy_from_slice(&length.to_be_bytes());
    }
}

// ===== impl Answer =====

impl Answer {
    /// One framed message, or the status that was come to instead.
    #[must_use]
    pub(super) fn message(message: Result<Vec<u8>, Status>) -> Response<Answer> {
        match message {
            Ok(message) => answer(Content::Message(message.into())),
            Err(status) => Answer::status(status),
        }
    }

    /// Framed messages, as they come.
    #[must_use]
    pub(super) fn frames(frames: Frames) -> Response<Answer> {
        answer(Content::Frames(frames))
    }

    /// The answer of a call that tonic served.
    #[must_use]
    pub(super) fn tonic(response: Response<tonic::body::Body>) -> Response<Answer> {
        response.map(|body| Answer(Content::Tonic(body)))
    }

    /// The end of a call's `span`: it lasts as long as the answer does, and is told with which status that ends.
    #[must_use]
    pub(super) fn traced(response: Response<Answer>, span: Span) -> Response<Answer> {
        if span.is_disabled() {
            return response;
        }
        if let Some(status) = response.headers().get(Status::GRPC_STATUS) {
            record_status(&span, status);
        }
        response.map(|answer| Answer(Content::Traced(Box::new((answer, span)))))
    }

    /// A status and no message.
    #[must_use]
    pub(super) fn status(status: Status) -> Response<Answer> {
        status.into_http()
    }
}

fn answer(content: Content) -> Response<Answer> {
    let mut response = Response::new(Answer(content));
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

/// The trailers that end an answer with `status`.
pub(super) fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    if status.add_header(&mut trailers).is_err() {
        // Its text can't be sent. Rather no text than no status.
        let code = Status::new(status.code(), "");
        let _plain = code.add_header(&mut trailers);
    }
    trailers
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
            Content::Message(message) => {
                let message = std::mem::take(message);
                *content = Content::Ok;
                Poll::Ready(Some(Ok(Frame::data(message))))
            }
            Content::Ok => {
                *content = Content::Empty;
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Content::Frames(frames) => {
                let status = match ready!(frames.as_mut().poll_next(context)) {
                    Some(Ok(frames)) => return Poll::Ready(Some(Ok(Frame::data(frames)))),
                    Some(Err(status)) => status,
                    None => Status::ok(""),
                };
                *content = Content::Empty;
                Poll::Ready(Some(Ok(Frame::trailers(trailers(&status)))))
            }
            Content::Tonic(body) => Pin::new(body).poll_frame(context),
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
            Content::Tonic(body) => body.is_end_stream(),
            Content::Traced(traced) => traced.0.is_end_stream(),
            Content::Message(_) | Content::Ok | Content::Frames(_) => false,
        }
    }
}
