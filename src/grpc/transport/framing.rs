//! Reads the messages of a call out of HTTP/2: gRPC's framing, for the calls that the service reads itself.
//!
//! For the other calls, tonic's `Streaming` with a `Decoder` reads the messages. This module does not use `Streaming`,
//! for two reasons:
//!
//! - Memory. tonic allocates the announced length of a message before the message arrives, and buffers the whole message.
//!   Here a buffer grows with the bytes that arrive, and each growth is reserved from the memory budget first. A request
//!   with many transactions is decoded while it arrives, and is not buffered. The hostile tests check these bounds.
//! - Speed of unary calls. A prototype with tonic's `Codec`, whose `Decoder` filled a `TransactionBatch` and whose `Encoder`
//!   wrote the answers, had 0.91 times the throughput of this module (median of pairs: 0.86), and needed 72,249 instructions a
//!   call instead of 67,059. In batches it had 0.94 times (pairs: 0.96, with 5,737 instructions a transaction instead of
//!   5,832) and in streams 1.06 times the throughput (pairs: 1.05), so for these two the bound on memory is the only reason.
//!   The figures are medians of 13 interleaved rounds of `tally bench --self-contained --rounds 1 --duration 2s` with
//!   `--mode unary --in-flight 256`, `--mode batch --in-flight 4` and `--mode stream --in-flight 4096`, and those of
//!   `scripts/instructions --binary`, with the profile `dist`.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Request;
use http_body::Body;
use prost::Message;
use tokio::time::Instant;
use tonic::Status;

use super::{
    budget::{CALL_BYTES, Reservation, SHORT_BYTES},
    connection_limits::ConnectionLimits,
    deadline,
    frame::{FrameReader, HEADER_BYTES, Piece, put_frame},
    receive_timeout::ReceiveTimeout,
    request_body::RequestBody,
};
use crate::{
    grpc::status,
    security::{Client, Principal, Scope},
};

/// Number of bytes that a call reads before it lets the other tasks of its thread run.
const TURN_BYTES: usize = 64 << 10;
/// An HTTP/2 frame counts as at least this many bytes towards [`TURN_BYTES`].
const FRAME_BYTES_MIN: usize = 256;

const ENCODING: &str = "grpc-encoding";
const IDENTITY: &str = "identity";

/// A call that was admitted and whose messages are not read yet.
#[derive(Debug)]
pub(crate) struct AdmittedCall {
    pub(crate) request: Request<RequestBody>,
    /// The limits of the call's connection.
    pub(crate) limits: Arc<ConnectionLimits>,
    /// The memory of the call.
    pub(crate) reservation: Reservation,
    /// The owner of the caller's token. `None` if the service asks for no tokens.
    pub(crate) caller: Option<Principal>,
}

/// Reads the messages of a call while they arrive.
#[derive(Debug)]
pub(crate) struct Inbound {
    body: RequestBody,
    frames: FrameReader,
    /// Whether the call has no further message: after the client has ended the call, or after an error.
    ended: bool,
    expected: Expected,
    /// Bytes that the call may still read before it lets other tasks run.
    turn: usize,
    receive_timeout: ReceiveTimeout,
    /// The caller's deadline, if the call has one.
    pub(crate) deadline: Option<Instant>,
    /// The limits of the call's connection.
    pub(crate) limits: Arc<ConnectionLimits>,
    reservation: Reservation,
    /// See [`AdmittedCall::caller`].
    caller: Option<Principal>,
}

/// What the client must send in a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    /// One message. The message must arrive within the time limit.
    Message,
    /// Any number of messages. The time between messages is not limited, but each message must arrive within the time
    /// limit after its first byte.
    Stream,
}

// ===== impl Inbound =====

impl Inbound {
    /// Begins to read the messages of a call. A message may have at most `message_bytes_max` bytes.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a malformed deadline, UNIMPLEMENTED for compressed messages.
    pub(crate) fn open(
        call: AdmittedCall,
        expected: Expected,
        message_bytes_max: usize,
    ) -> Result<Self, Status> {
        let AdmittedCall {
            request,
            limits,
            reservation,
            caller,
        } = call;
        // The headers are dropped here, because a call can take long and the headers take memory.
        let (head, body) = request.into_parts();
        let deadline = deadline::from_headers(&head.headers)?;
        if let Some(encoding) = head.headers.get(ENCODING)
            && encoding != IDENTITY
        {
            return Err(status::compressed(encoding));
        }
        Ok(Inbound {
            body,
            frames: FrameReader::new(message_bytes_max),
            ended: false,
            expected,
            turn: TURN_BYTES,
            receive_timeout: ReceiveTimeout::new(limits.time_max),
            deadline,
            limits,
            reservation,
            caller,
        })
    }

    /// The name of the caller's token. `None` if the service asks for no tokens.
    pub(crate) fn principal(&self) -> Option<Arc<str>> {
        self.caller.as_ref().map(|caller| Arc::clone(&caller.name))
    }

    /// The client with which the call is counted.
    pub(crate) fn client(&self) -> Client {
        Client::of_call(self.limits.address, self.principal())
    }

    /// The accounts and transactions that the caller may touch and see.
    pub(crate) fn scope(&self) -> Scope {
        self.caller
            .as_ref()
            .map_or(Scope::ALL, |caller| caller.scope.clone())
    }

    /// Reserves `bytes` for the call, in addition to [`CALL_BYTES`].
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if the budget has too little memory.
    pub(crate) fn hold(&mut self, bytes: usize) -> Result<(), Status> {
        if bytes <= SHORT_BYTES || self.reservation.grow_to(CALL_BYTES.saturating_add(bytes)) {
            Ok(())
        } else {
            Err(self.limits.memory_limit_reached())
        }
    }

    /// Reduces the reservation to [`CALL_BYTES`].
    pub(crate) fn release(&mut self) {
        self.reservation.resize(CALL_BYTES);
    }

    /// Reads and decodes the only message of a call, of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// As [`Inbound::open`] and [`Inbound::only`]; INTERNAL if the message cannot be decoded.
    pub(crate) async fn read_request<R: Message + Default>(
        call: AdmittedCall,
        bytes_max: usize,
    ) -> Result<(R, Self), Status> {
        let mut inbound = Inbound::open(call, Expected::Message, bytes_max)?;
        let message = inbound.only().await?;
        let request = R::decode(message).map_err(status::malformed_message)?;
        inbound.finish().await?;
        Ok((request, inbound))
    }

    /// Returns the framed answer with its reservation.
    pub(crate) fn answer(self, answer: &impl Message) -> (Vec<u8>, Reservation) {
        let mut out = Vec::with_capacity(HEADER_BYTES + answer.encoded_len());
        put_frame(&mut out, |out| answer.encode_raw(out));
        let mut reservation = self.reservation;
        reservation.resize(CALL_BYTES + out.capacity());
        (out, reservation)
    }

    /// Splits off the reservation beyond [`CALL_BYTES`].
    pub(crate) fn split_reservation(&mut self) -> Reservation {
        self.reservation.split_off_beyond(CALL_BYTES)
    }

    /// Returns a reservation of 0 bytes, which can grow independently of the call's own.
    pub(crate) fn empty_reservation(&self) -> Reservation {
        self.limits.memory.reserve_beyond_limit(0)
    }

    /// Returns the reservation, for the answer.
    pub(crate) fn into_reservation(self) -> Reservation {
        self.reservation
    }

    /// Returns the number of bytes that have arrived and are not read yet.
    pub(crate) fn arrived(&self) -> usize {
        self.frames.arrived()
    }

    /// Returns the only message of the call. The message keeps its HTTP/2 frame in memory, so drop the message before
    /// you call [`Inbound::finish`].
    ///
    /// # Errors
    /// As [`Inbound::poll_piece`]; INTERNAL without a message, RESOURCE_EXHAUSTED if the budget has too little memory.
    pub(crate) async fn only(&mut self) -> Result<Bytes, Status> {
        let first = self.piece().await?.ok_or_else(status::message_missing)?;
        if first.to_come == 0 {
            return Ok(first.bytes);
        }
        // The buffer grows with the bytes that arrive, not with the length that the client announces.
        let mut gathered = Vec::new();
        let mut piece = first;
        loop {
            gather(&mut gathered, &piece);
            self.hold(gathered.capacity())?;
            if piece.to_come == 0 {
                return Ok(gathered.into());
            }
            piece = self.piece().await?.ok_or_else(status::message_missing)?;
        }
    }

    /// Waits for the end of the call after its only message.
    ///
    /// # Errors
    /// INTERNAL if another message follows.
    pub(crate) async fn finish(&mut self) -> Result<(), Status> {
        match self.piece().await? {
            None => Ok(()),
            Some(_) => Err(status::malformed_call(
                "the call has more than one message, it must have one",
            )),
        }
    }

    /// Returns the next part of the call's only message; `None` at the end of the call.
    ///
    /// # Errors
    /// As [`Inbound::poll_piece`].
    pub(crate) async fn piece(&mut self) -> Result<Option<Piece>, Status> {
        poll_fn(|context| self.poll_piece(context)).await
    }

    /// Returns the next part of a message; `None` at the end of the call.
    ///
    /// # Errors
    /// CANCELLED if the client cancelled the call, INTERNAL if a message is malformed, OUT_OF_RANGE if it is too long,
    /// DEADLINE_EXCEEDED if it did not arrive in time. Nothing is read after an error.
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
                // Lets the other tasks of the thread run, so that a long message does not delay them.
                self.turn = TURN_BYTES;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
                self.turn = TURN_BYTES;
                if self.expected == Expected::Stream && !self.frames.has_begun() {
                    return Poll::Pending;
                }
                let status = ready!(self.receive_timeout.poll_elapsed(context));
                return Poll::Ready(Err(self.fail(status)));
            };
            match frame {
                // Trailers of a request have no meaning in gRPC.
                Some(Ok(frame)) => {
                    self.frames.put(frame.into_data().unwrap_or_default());
                    self.turn = self
                        .turn
                        .saturating_sub(self.frames.arrived().max(FRAME_BYTES_MIN));
                }
                Some(Err(error)) => {
                    return Poll::Ready(Err(self.fail(status::call_cancelled(&error))));
                }
                None if self.frames.has_begun() => {
                    return Poll::Ready(Err(
                        self.fail(status::malformed_call("the call ended within a message"))
                    ));
                }
                None => self.ended = true,
            }
        }
    }

    /// Returns whether the call has no further message: the client has ended the call and everything has been read, or
    /// reading has stopped.
    pub(crate) fn is_complete(&self) -> bool {
        self.ended || (self.frames.arrived() == 0 && !self.frames.has_begun() && self.body.is_end_stream())
    }

    /// Restarts the time limit. Call this function if the service has not read the call for some time, because that
    /// time does not count.
    pub(crate) fn restart_receive_timeout(&mut self) {
        self.receive_timeout.renew();
    }

    /// Stops reading, and returns `status`.
    fn fail(&mut self, status: Status) -> Status {
        self.stop();
        status
    }

    /// Stops reading: from now on the call has no further message.
    pub(crate) fn stop(&mut self) {
        self.ended = true;
        self.frames.clear();
    }

    /// Takes the next part of a message out of the bytes that have arrived. Returns `None` if more bytes must arrive.
    fn take_piece(&mut self) -> Result<Option<Piece>, Status> {
        let piece = self.frames.take_piece()?;
        if self.expected == Expected::Stream && piece.as_ref().is_some_and(|piece| piece.to_come == 0) {
            self.receive_timeout.renew();
        }
        Ok(piece)
    }
}

/// Adds a part to a message. If the buffer is full, its capacity doubles, up to the length of the message.
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
