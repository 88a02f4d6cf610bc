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
use prost::{DecodeError, Message};
use tokio::time::Instant;
use tokio_util::sync::PollSemaphore;
use tonic::{Status, metadata::MetadataValue};
use tracing::Span;

use super::{
    budget::{CALL_BYTES, Charge, Purse, REFUSAL_BYTES},
    deadline,
    patience::{Patience, Reception},
    wire::WireError,
};
use crate::telemetry::record_status;

/// In front of a message: whether it is compressed, and its length.
const HEADER_BYTES: usize = 5;
/// What a call reads in one turn of its task; then others have theirs.
const TURN_BYTES: usize = 64 << 10;
/// What reading a frame costs in any case, counted as bytes.
const FRAME_BYTES_MIN: usize = 256;

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
    ended: bool,
    expected: Expected,
    /// The longest message that is read.
    message_bytes_max: usize,
    /// Bytes that may still be read in this turn.
    turn: usize,
    patience: Patience,
    reception: Arc<Reception>,
    charge: Charge,
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

/// An answer that tonic writes.
struct TonicAnswer {
    body: tonic::body::Body,
    sending: PollSemaphore,
    /// Goes with the status.
    charge: Option<Charge>,
    purse: Arc<Purse>,
}

/// The body of an answer.
pub struct Answer(Content);

enum Content {
    /// Nothing: the status is in the headers.
    Empty,
    /// One message, then the status OK.
    Message(Vec<u8>, Charge),
    /// The status OK.
    Ok,
    /// Messages, then their stream's status.
    Frames(Frames, Arc<Purse>),
    /// Of a call that tonic serves.
    Tonic(Box<TonicAnswer>),
    /// Of a call that is traced. In a box: few are.
    Traced(Box<(Answer, Span)>),
}

// ===== impl Inbound =====

impl Inbound {
    /// The messages of a call, none of which may be longer than `message_bytes_max`, and by when its caller wants to know.
    /// `charge` is what the call costs so far.
    ///
    /// # Errors
    /// If its headers make no sense, or announce compressed messages (UNIMPLEMENTED).
    pub(super) fn open(
        request: Request<Incoming>,
        expected: Expected,
        message_bytes_max: usize,
        reception: &Arc<Reception>,
        charge: Charge,
    ) -> Result<(Self, Option<Instant>), Status> {
        // The headers are dropped here: a call can take long, and needs none of them any more.
        let (head, body) = request.into_parts();
        let deadline = deadline::of_headers(&head.headers)?;
        if let Some(encoding) = head.headers.get(ENCODING)
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
        let inbound = Inbound {
            body,
            frame: Bytes::new(),
            header: [0; HEADER_BYTES],
            header_read: 0,
            left: None,
            ended: false,
            expected,
            message_bytes_max,
            turn: TURN_BYTES,
            patience: Patience::new(reception),
            reception: Arc::clone(reception),
            charge,
        };
        Ok((inbound, deadline))
    }

    /// The call holds `bytes` now, besides what every call costs.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if there is no memory for them.
    pub(super) fn hold(&mut self, bytes: usize) -> Result<(), Status> {
        if self.charge.cover(CALL_BYTES.saturating_add(bytes)) {
            Ok(())
        } else {
            Err(self.reception.no_memory())
        }
    }

    /// The call holds nothing any more besides what every call costs.
    pub(super) fn release(&mut self) {
        self.charge.set(CALL_BYTES);
    }

    /// The question of a call that asks one, with at most `bytes_max` bytes, and by when its caller wants to know.
    ///
    /// # Errors
    /// As [`Inbound::open`] and [`Inbound::only`]; INTERNAL if it is no such message.
    pub(super) async fn ask<Q: Message + Default>(
        request: Request<Incoming>,
        bytes_max: usize,
        reception: &Arc<Reception>,
        charge: Charge,
    ) -> Result<(Q, Self, Option<Instant>), Status> {
        let (mut inbound, deadline) =
            Inbound::open(request, Expected::Message, bytes_max, reception, charge)?;
        let message = inbound.only().await?;
        let question = Q::decode(message).map_err(undecodable)?;
        inbound.finish().await?;
        Ok((question, inbound, deadline))
    }

    /// The framed answer, with what it costs until it is sent.
    pub(super) fn answer(self, answer: &impl Message) -> (Vec<u8>, Charge) {
        let mut out = Vec::with_capacity(HEADER_BYTES + answer.encoded_len());
        put_frame(&mut out, |out| answer.encode_raw(out));
        let mut charge = self.charge;
        charge.set(CALL_BYTES + out.capacity());
        (out, charge)
    }

    /// What the call costs, for its answer.
    pub(super) fn into_charge(self) -> Charge {
        self.charge
    }

    /// What its connection's calls have in common.
    pub(super) const fn reception(&self) -> &Arc<Reception> {
        &self.reception
    }

    /// There is no message in a call that must have one.
    pub(super) fn missing() -> Status {
        Status::internal("Missing request message.")
    }

    /// How many bytes have arrived and are not read yet.
    pub(super) fn arrived(&self) -> usize {
        self.frame.len()
    }

    /// The only message of the call. Its end is to be waited for with [`Inbound::finish`], when the message has been read: what
    /// arrived with it takes memory as long as it is there.
    ///
    /// # Errors
    /// If there is none, it can't be read, or there is no memory for it.
    pub(super) async fn only(&mut self) -> Result<Bytes, Status> {
        let first = self.piece().await?.ok_or_else(Inbound::missing)?;
        if first.to_come == 0 {
            return Ok(first.bytes);
        }
        // No room is set aside for what has not arrived, however long the message says it is.
        let mut gathered = Vec::new();
        gather(&mut gathered, &first);
        loop {
            self.hold(gathered.capacity())?;
            let piece = self.piece().await?.ok_or_else(Inbound::missing)?;
            gather(&mut gathered, &piece);
            if piece.to_come == 0 {
                self.hold(gathered.capacity())?;
                break Ok(gathered.into());
            }
        }
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
            if self.turn == 0 {
                // A long message must not hold up everybody else of the thread.
                self.turn = TURN_BYTES;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
                self.turn = TURN_BYTES;
                if self.expected == Expected::Stream && !self.has_begun() {
                    return Poll::Pending;
                }
                let status = ready!(self.patience.poll_over(context));
                return Poll::Ready(Err(self.fail(status)));
            };
            match frame {
                // Trailers of a request mean nothing.
                Some(Ok(frame)) => {
                    self.frame = frame.into_data().unwrap_or_default();
                    self.turn = self.turn.saturating_sub(self.frame.len().max(FRAME_BYTES_MIN));
                }
                Some(Err(error)) => {
                    let status = Status::cancelled(format!("the call was given up: {error}"));
                    return Poll::Ready(Err(self.fail(status)));
                }
                None if self.has_begun() => {
                    return Poll::Ready(Err(self.fail(Status::internal("Unexpected EOF decoding stream."))));
                }
                None => self.ended = true,
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
        if to_come == 0 && self.expected == Expected::Stream {
            self.patience.renew();
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
        let most = self.message_bytes_max;
        if length > most {
            return Err(Status::out_of_range(format!(
                "decoded message length too large: found {length} bytes, the limit is: {most} bytes"
            )));
        }
        Ok(Some(length))
    }
}

/// Adds a piece to a message. Its room grows as it arrives, but never beyond the message's end.
pub(super) fn gather(gathered: &mut Vec<u8>, piece: &Piece) {
    let length = gathered.len() + piece.bytes.len();
    if length > gathered.capacity() {
        let room = gathered
            .capacity()
            .saturating_mul(2)
            .clamp(length, length + piece.to_come);
        gathered.reserve_exact(room - gathered.len());
    }
    gathered.extend_from_slice(&piece.bytes);
}

/// The same of a message that prost reads.
pub(super) fn undecodable(error: DecodeError) -> Status {
    Status::internal(format!("failed to decode Protobuf message: {error}"))
}

/// A message that is none: what gRPC has for it is INTERNAL.
pub(super) fn malformed(error: WireError) -> Status {
    Status::internal(format!("failed to decode Protobuf message: {error}"))
}

// ===== writing =====

/// Appends a message that `put` writes, in its frame.
pub(super) fn put_frame(out: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) {
    let header_at = begin_frame(out);
    put(out);
    end_frame(out, header_at);
}

/// Leaves room for the header of a message's frame, and says where.
pub(super) fn begin_frame(out: &mut Vec<u8>) -> usize {
    let header_at = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    header_at
}

/// Writes the header of the frame that was begun at `header_at`, and whose message is all that is behind it.
pub(super) fn end_frame(out: &mut [u8], header_at: usize) {
    let length = u32::try_from(out.len() - header_at - HEADER_BYTES).unwrap_or(u32::MAX);
    if let Some(room) = out.get_mut(header_at + 1..header_at + HEADER_BYTES) {
        room.copy_from_slice(&length.to_be_bytes());
    }
}

// ===== impl Answer =====

impl Answer {
    /// One framed message with what it costs until it is sent, or the status that was come to instead.
    #[must_use]
    pub(super) fn message(
        message: Result<(Vec<u8>, Charge), Status>,
        reception: &Reception,
    ) -> Response<Answer> {
        match message {
            Ok((message, charge)) => answer(Content::Message(message, charge)),
            Err(status) => reception.refuse(status),
        }
    }

    /// Framed messages, as they come.
    #[must_use]
    pub(super) fn frames(frames: Frames, purse: &Arc<Purse>) -> Response<Answer> {
        answer(Content::Frames(frames, Arc::clone(purse)))
    }

    /// The answer of a call that tonic served.
    #[must_use]
    pub(super) fn tonic(response: Response<tonic::body::Body>, charge: Charge) -> Response<Answer> {
        let (mut head, body) = response.into_parts();
        let purse = Arc::clone(charge.purse());
        let mut charge = Some(charge);
        hold_until_sent(&mut head.headers, &mut charge);
        let answer = TonicAnswer {
            body,
            sending: PollSemaphore::new(Arc::clone(purse.sending())),
            charge,
            purse,
        };
        Response::from_parts(head, Answer(Content::Tonic(Box::new(answer))))
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

    /// A status and no message, with what it costs until it is sent.
    #[must_use]
    pub(super) fn status(status: Status, mut charge: Charge) -> Response<Answer> {
        charge.set(status_bytes(&status));
        let mut response: Response<Answer> = status.into_http();
        hold_until_sent(response.headers_mut(), &mut Some(charge));
        response
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

/// What a status takes until it is sent, about: its details are sent in base64.
fn status_bytes(status: &Status) -> usize {
    REFUSAL_BYTES + status.message().len() + 2 * status.details().len()
}

/// Ties `charge` to the status among `headers`, if there is one: it is given back when the HTTP/2 library has sent them.
fn hold_until_sent(headers: &mut HeaderMap, charge: &mut Option<Charge>) {
    if let Some(value) = headers.get_mut(Status::GRPC_STATUS)
        && let Some(charge) = charge.take()
    {
        let code = charge.until_sent(value.as_bytes().to_vec(), None);
        if let Ok(mut held) = HeaderValue::from_maybe_shared(code) {
            // Else it would stay in the table of headers that were sent.
            held.set_sensitive(true);
            *value = held;
        }
    }
}

// ===== impl TonicAnswer =====

impl TonicAnswer {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        // Not before there is room for it on its way. While there is none, it takes no room either.
        let place = ready!(self.sending.poll_acquire(context));
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(frame.map(|frame| {
            let frame = frame?;
            Ok(match frame.into_data() {
                Ok(data) => {
                    let charge = self.purse.charge_anyway(data.len());
                    Frame::data(charge.until_sent(data, place))
                }
                Err(frame) => match frame.into_trailers() {
                    Ok(mut trailers) => {
                        hold_until_sent(&mut trailers, &mut self.charge);
                        Frame::trailers(trailers)
                    }
                    Err(frame) => frame,
                },
            })
        }))
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
                let Content::Message(message, charge) = std::mem::replace(content, Content::Ok) else {
                    return Poll::Ready(None);
                };
                Poll::Ready(Some(Ok(Frame::data(charge.until_sent(message, None)))))
            }
            Content::Ok => {
                *content = Content::Empty;
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Content::Frames(frames, purse) => {
                let status = match ready!(frames.as_mut().poll_next(context)) {
                    Some(Ok(frames)) => return Poll::Ready(Some(Ok(Frame::data(frames)))),
                    Some(Err(status)) => status,
                    None => Status::ok(""),
                };
                let mut trailers = trailers(&status);
                hold_until_sent(
                    &mut trailers,
                    &mut Some(purse.charge_anyway(status_bytes(&status))),
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
