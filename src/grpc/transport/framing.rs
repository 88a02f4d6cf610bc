//! gRPC's framing of messages in HTTP/2, for the calls of the hot path.
//!
//! tonic's own server does the same for every other call. For these it would copy each request into a buffer of its own,
//! and box the body, the decoder, the handler and the answer of every call; here a message is read where it arrived, and
//! answers ([`outbound`](super::outbound)) are written once.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Request;
use http_body::Body;
use hyper::body::Incoming;
use prost::Message;
use tokio::time::Instant;
use tonic::Status;

use super::{
    budget::{CALL_BYTES, Reservation, SHORT_BYTES},
    connection_limits::ConnectionLimits,
    deadline,
    frame::{HEADER_BYTES, put_frame},
    receive_timeout::ReceiveTimeout,
};
use crate::grpc::status;

/// What a call reads in one turn of its task; then others have theirs.
const TURN_BYTES: usize = 64 << 10;
/// What reading a frame costs in any case, counted as bytes.
const FRAME_BYTES_MIN: usize = 256;

const ENCODING: &str = "grpc-encoding";
const IDENTITY: &str = "identity";

/// The messages of a call, as they arrive.
#[derive(Debug)]
pub(crate) struct Inbound {
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
    receive_timeout: ReceiveTimeout,
    limits: Arc<ConnectionLimits>,
    reservation: Reservation,
}

/// What a client sends in a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    /// One message, at once.
    Message,
    /// Messages, when it likes. One that it has begun, it has to finish.
    Stream,
}

/// A part of a message, in its order.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) bytes: Bytes,
    /// Bytes of the message behind it; with none, the message is whole.
    pub(crate) to_come: usize,
}

// ===== impl Inbound =====

impl Inbound {
    /// The messages of a call, none of which may be longer than `message_bytes_max`, and by when its caller wants to know.
    /// `reservation` is what the call costs so far.
    ///
    /// # Errors
    /// If its headers make no sense, or announce compressed messages (UNIMPLEMENTED).
    pub(crate) fn open(
        request: Request<Incoming>,
        expected: Expected,
        message_bytes_max: usize,
        limits: &Arc<ConnectionLimits>,
        reservation: Reservation,
    ) -> Result<(Self, Option<Instant>), Status> {
        // The headers are dropped here: a call can take long, and needs none of them any more.
        let (head, body) = request.into_parts();
        let deadline = deadline::of_headers(&head.headers)?;
        if let Some(encoding) = head.headers.get(ENCODING)
            && encoding != IDENTITY
        {
            return Err(status::compressed(encoding));
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
            receive_timeout: ReceiveTimeout::new(limits.time_max()),
            limits: Arc::clone(limits),
            reservation,
        };
        Ok((inbound, deadline))
    }

    /// The call holds `bytes` now, besides what every call costs.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if there is no memory for them.
    pub(crate) fn hold(&mut self, bytes: usize) -> Result<(), Status> {
        if bytes <= SHORT_BYTES || self.reservation.grow_to(CALL_BYTES.saturating_add(bytes)) {
            Ok(())
        } else {
            Err(self.limits.memory_limit_reached())
        }
    }

    /// The call holds nothing any more besides what every call costs.
    pub(crate) fn release(&mut self) {
        self.reservation.resize(CALL_BYTES);
    }

    /// The question of a call that asks one, with at most `bytes_max` bytes, and by when its caller wants to know.
    ///
    /// # Errors
    /// As [`Inbound::open`] and [`Inbound::only`]; INTERNAL if it is no such message.
    pub(crate) async fn ask<Q: Message + Default>(
        request: Request<Incoming>,
        bytes_max: usize,
        limits: &Arc<ConnectionLimits>,
        reservation: Reservation,
    ) -> Result<(Q, Self, Option<Instant>), Status> {
        let (mut inbound, deadline) =
            Inbound::open(request, Expected::Message, bytes_max, limits, reservation)?;
        let message = inbound.only().await?;
        let question = Q::decode(message).map_err(status::malformed_message)?;
        inbound.finish().await?;
        Ok((question, inbound, deadline))
    }

    /// The framed answer, with what it costs until it is sent.
    pub(crate) fn answer(self, answer: &impl Message) -> (Vec<u8>, Reservation) {
        let mut out = Vec::with_capacity(HEADER_BYTES + answer.encoded_len());
        put_frame(&mut out, |out| answer.encode_raw(out));
        let mut reservation = self.reservation;
        reservation.resize(CALL_BYTES + out.capacity());
        (out, reservation)
    }

    /// What the call holds besides what every call costs, to be given back by itself.
    pub(crate) fn split_reservation(&mut self) -> Reservation {
        self.reservation.split_off_beyond(CALL_BYTES)
    }

    /// What the call costs, for its answer.
    pub(crate) fn into_reservation(self) -> Reservation {
        self.reservation
    }

    /// What its connection's calls have in common.
    pub(crate) const fn limits(&self) -> &Arc<ConnectionLimits> {
        &self.limits
    }

    /// How many bytes have arrived and are not read yet.
    pub(crate) fn arrived(&self) -> usize {
        self.frame.len()
    }

    /// The only message of the call. Its end is to be waited for with [`Inbound::finish`], when the message has been read: what
    /// arrived with it takes memory as long as it is there.
    ///
    /// # Errors
    /// If there is none, it can't be read, or there is no memory for it.
    pub(crate) async fn only(&mut self) -> Result<Bytes, Status> {
        let first = self.piece().await?.ok_or_else(status::message_missing)?;
        if first.to_come == 0 {
            return Ok(first.bytes);
        }
        // No room is set aside for what has not arrived, however long the message says it is.
        let mut gathered = Vec::new();
        gather(&mut gathered, &first);
        loop {
            self.hold(gathered.capacity())?;
            let piece = self.piece().await?.ok_or_else(status::message_missing)?;
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
    pub(crate) async fn finish(&mut self) -> Result<(), Status> {
        match self.piece().await? {
            None => Ok(()),
            Some(_) => Err(status::second_message()),
        }
    }

    /// The next part of the call's only message; `None` at the end of the call.
    ///
    /// # Errors
    /// As [`Inbound::poll_piece`].
    pub(crate) async fn piece(&mut self) -> Result<Option<Piece>, Status> {
        poll_fn(|context| self.poll_piece(context)).await
    }

    /// The next part of a message; `None` at the end of the call.
    ///
    /// # Errors
    /// If the call was given up, is not framed as gRPC says, or did not arrive in time. Then it is at its end.
    pub(crate) fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Piece>, Status>> {
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
                let status = ready!(self.receive_timeout.poll_elapsed(context));
                return Poll::Ready(Err(self.fail(status)));
            };
            match frame {
                // Trailers of a request mean nothing.
                Some(Ok(frame)) => {
                    self.frame = frame.into_data().unwrap_or_default();
                    self.turn = self.turn.saturating_sub(self.frame.len().max(FRAME_BYTES_MIN));
                }
                Some(Err(error)) => {
                    return Poll::Ready(Err(self.fail(status::call_cancelled(&error))));
                }
                None if self.has_begun() => {
                    return Poll::Ready(Err(self.fail(status::message_cut_short())));
                }
                None => self.ended = true,
            }
        }
    }

    /// Whether the client has ended the call, and all of it has been read.
    pub(crate) fn is_complete(&self) -> bool {
        self.ended || (self.frame.is_empty() && !self.has_begun() && self.body.is_end_stream())
    }

    /// Whether a part of a message has arrived.
    const fn has_begun(&self) -> bool {
        self.left.is_some() || self.header_read > 0
    }

    /// What comes next of a stream is waited for from now on: what was not read before was not late.
    pub(crate) fn restart_receive_timeout(&mut self) {
        self.receive_timeout.renew();
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
            self.receive_timeout.renew();
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
            return Err(status::wrong_compression_flag(flag));
        }
        let length = u32::from_be_bytes(length) as usize;
        let most = self.message_bytes_max;
        if length > most {
            return Err(status::message_too_large(length, most));
        }
        Ok(Some(length))
    }
}

/// Adds a piece to a message. Its room grows as it arrives, but never beyond the message's end.
pub(crate) fn gather(gathered: &mut Vec<u8>, piece: &Piece) {
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
