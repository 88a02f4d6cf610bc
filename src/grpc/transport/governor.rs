//! Limits what a client may send. This module sits between the socket of a connection and the HTTP/2 library, and reads
//! only the headers of frames.
//!
//! The library answers every frame. A frame without a call or message costs the client almost nothing, but costs the
//! service work. So this module has an allowance for such frames: every call and every answer adds to the allowance,
//! and every such frame takes from it. The service cuts a connection whose allowance is used up.
//!
//! This module also passes a limited number of bytes to the library at a time. So the service answers the calls in
//! these bytes, and other connections get their turn, before the library decodes more.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::token_bucket::TokenBucket;

/// Maximum number of bytes that pass to the HTTP/2 library in one poll of the connection.
const TURN_BYTES: usize = 64 << 10;
/// Largest allowance for frames without a call or message. Each such frame takes 1 or more from the allowance.
const FRAMES_BURST: u64 = 4096;
/// What each second adds to the allowance for frames without a call or message.
const FRAMES_EACH_SECOND: u64 = 256;
/// If a connection has this many unsent answers to refused calls, the service does not read the connection.
const UNSENT_MAX: usize = 64;
/// If all connections together have this many unsent answers to refused calls, the service does not read the
/// connections with such answers, and reads every other connection a few bytes at a time.
const UNSENT_OF_SERVICE_MAX: usize = 4096;
/// If the service reads a connection a few bytes at a time, it reads the rest of the current frame and at most this many
/// more bytes: the headers of a few frames.
const FEW_BYTES: usize = 64;
/// Largest allowance for refused calls (no token, unknown method, no memory, too many headers). The service cuts a
/// connection whose allowance is used up.
const REFUSALS_BURST: u64 = 256;
/// What each second adds to the allowance for refused calls.
const REFUSALS_EACH_SECOND: u64 = 16;

/// Length of the client preface in front of all frames, in bytes (RFC 9113, 3.4).
const PREFACE_BYTES: usize = 24;
/// Length of the header of a frame, in bytes.
const HEAD_BYTES: usize = 9;
/// Length of a GOAWAY frame without a text, in bytes.
const GOAWAY_BYTES: usize = HEAD_BYTES + 8;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
/// The error code ENHANCE_YOUR_CALM.
const CALM: u8 = 11;

/// What a new call adds to the allowance for frames. A usual client sends window updates, a ping and a reset for a
/// call.
const CALL_CREDIT: u64 = 8;
/// What each DATA frame of an answer adds to the allowance for frames.
const ANSWER_CREDIT: u64 = 4;
/// A DATA frame of fewer bytes that does not end its call counts as a frame without a message: with the header of gRPC, every message
/// has this many bytes.
const DATA_BYTES_MIN: u32 = 5;
/// What a SETTINGS frame takes from the allowance for frames. The frame can change every stream of the connection.
const SETTINGS_COST: u64 = 16;
/// What a CONTINUATION frame takes from the allowance for frames. The headers of a usual call fit into one frame, so a
/// usual client does not send this frame.
const CONTINUATION_COST: u64 = 16;
/// This many bytes of trailers take 1 more from the allowance for frames. gRPC has no trailers in requests, but the
/// HTTP/2 library decodes and keeps trailers.
const TRAILERS_BYTES: u32 = 8;
/// This many bytes of a frame of any other kind take 1 more from the allowance for frames.
const OTHER_BYTES: u32 = 256;

/// Decides how much of a connection is read, and whether the service cuts the connection. The socket, the task and the
/// calls of the connection share this value.
#[derive(Debug)]
pub(crate) struct Throttle {
    /// Whether something has arrived since the last [`Throttle::take_heard`].
    heard: AtomicBool,
    /// Bytes that may still pass to the library in this poll.
    turn: AtomicUsize,
    /// Whether the next read cuts the connection.
    cut: AtomicBool,
    /// The allowance for refused calls.
    refusals: Mutex<TokenBucket>,
    /// The number of unsent answers to refused calls of this connection.
    unsent: AtomicUsize,
    unsent_of_service: UnsentRefusals,
    /// Wakes the reader when `unsent` falls.
    reader: AtomicWaker,
    /// Whether the last call was admitted. If the last call was refused, the service reads the connection a few bytes
    /// at a time. If the service read more, one packet could begin hundreds of calls that are refused, and the library
    /// keeps a table entry for each of them until the connection ends.
    trusted: AtomicBool,
}

/// The number of unsent answers to refused calls of all connections.
///
/// A refused call reserves no memory, but its task, its stream and its answer take memory until the answer is sent. On
/// each of thousands of connections, one packet can begin hundreds of calls before the service answers the first call.
#[derive(Debug, Clone, Default)]
pub(crate) struct UnsentRefusals(Arc<AtomicUsize>);

/// An unsent answer to a refused call. Drop this value when the answer is sent.
#[derive(Debug)]
pub(crate) struct UnsentRefusal(Arc<Throttle>);

/// A socket that checks the frames that pass through it.
#[derive(Debug)]
pub(crate) struct GovernedSocket<S> {
    /// `None` after the connection was cut.
    stream: Option<S>,
    throttle: Arc<Throttle>,
    inbound: Scanner,
    outbound: Scanner,
    /// The allowance for frames without a call or message.
    frames: TokenBucket,
    /// The stream number of the last call.
    last_call: u32,
    /// Receives the socket when the connection is cut.
    cut_slot: Arc<CutSlot<S>>,
}

/// Holds the socket of a connection that was cut, until the last frame is sent.
pub(crate) type CutSlot<S> = Mutex<Option<Cut<S>>>;

/// The socket of a connection that was cut, and its last frame.
#[derive(Debug)]
pub(crate) struct Cut<S> {
    pub(crate) stream: S,
    /// The GOAWAY frame. `None` if the library has sent a part of another frame: then no frame can follow.
    pub(crate) goaway_frame: Option<[u8; GOAWAY_BYTES]>,
}

/// Finds the headers of frames in a sequence of bytes.
#[derive(Debug)]
struct Scanner {
    head: [u8; HEAD_BYTES],
    head_read: usize,
    /// Bytes before the next header: the rest of the current frame.
    skip: usize,
}

/// The header of a frame (RFC 9113, 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FrameHeader {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
}

// ===== impl Throttle =====

impl Throttle {
    /// Returns the throttle of a new connection.
    pub(crate) fn new(unsent_of_service: &UnsentRefusals) -> Arc<Self> {
        let refusals = TokenBucket::new(REFUSALS_BURST, REFUSALS_EACH_SECOND, Instant::now());
        Arc::new(Throttle {
            heard: AtomicBool::new(false),
            turn: AtomicUsize::new(TURN_BYTES),
            cut: AtomicBool::new(false),
            refusals: Mutex::new(refusals),
            unsent: AtomicUsize::new(0),
            unsent_of_service: unsent_of_service.clone(),
            reader: AtomicWaker::new(),
            trusted: AtomicBool::new(false),
        })
    }

    /// Notes that a call was admitted.
    pub(crate) fn call_admitted(&self) {
        if !self.trusted.load(Ordering::Relaxed) {
            self.trusted.store(true, Ordering::Relaxed);
        }
    }

    /// Renews the number of bytes that may pass to the library. Call this function before each poll of the connection.
    pub(crate) fn begin_turn(&self) {
        self.turn.store(TURN_BYTES, Ordering::Relaxed);
    }

    /// Returns whether something has arrived since the last call of this function.
    pub(crate) fn take_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed) && self.heard.swap(false, Ordering::Relaxed)
    }

    /// Counts a refused call. The service cuts a connection with too many refused calls.
    pub(crate) fn count_refusal(&self) {
        if !self.refusals.lock().take(1, Instant::now) {
            self.cut.store(true, Ordering::Relaxed);
        }
    }

    /// Counts an unsent answer to a refused call until the returned value is dropped.
    pub(crate) fn count_unsent(self: &Arc<Self>) -> UnsentRefusal {
        self.trusted.store(false, Ordering::Relaxed);
        self.unsent.fetch_add(1, Ordering::Relaxed);
        self.unsent_of_service.0.fetch_add(1, Ordering::Relaxed);
        UnsentRefusal(Arc::clone(self))
    }

    /// Waits until the connection may be read. Returns true if only a few bytes may be read.
    fn poll_readable(&self, context: &Context<'_>) -> Poll<bool> {
        let many = self.unsent_of_service.0.load(Ordering::Relaxed) >= UNSENT_OF_SERVICE_MAX;
        // A connection without unsent answers is always read, so that other connections cannot block it.
        let most = if many { 1 } else { UNSENT_MAX };
        let must_wait = || self.unsent.load(Ordering::Acquire) >= most;
        if must_wait() {
            self.reader.register(context.waker());
            // The number may have fallen before the waker was registered, and then nobody would wake the reader. So
            // check again.
            if must_wait() {
                return Poll::Pending;
            }
        }
        Poll::Ready(many || !self.trusted.load(Ordering::Relaxed))
    }
}

impl Drop for UnsentRefusal {
    fn drop(&mut self) {
        let throttle = &self.0;
        throttle.unsent_of_service.0.fetch_sub(1, Ordering::Relaxed);
        throttle.unsent.fetch_sub(1, Ordering::Release);
        throttle.reader.wake();
    }
}

// ===== impl GovernedSocket =====

impl<S> GovernedSocket<S> {
    /// Returns a socket that checks the frames of `stream`, and the slot that receives `stream` when the connection is
    /// cut.
    pub(crate) fn new(stream: S, throttle: &Arc<Throttle>) -> (Self, Arc<CutSlot<S>>) {
        let cut_slot = Arc::new(CutSlot::default());
        let governed = GovernedSocket {
            stream: Some(stream),
            throttle: Arc::clone(throttle),
            inbound: Scanner::new(PREFACE_BYTES),
            outbound: Scanner::new(0),
            frames: TokenBucket::new(FRAMES_BURST, FRAMES_EACH_SECOND, Instant::now()),
            last_call: 0,
            cut_slot: Arc::clone(&cut_slot),
        };
        (governed, cut_slot)
    }

    /// Counts the received frames. Returns false if the allowance for frames without a call or message is used up.
    fn receive(&mut self, bytes: &[u8]) -> bool {
        let GovernedSocket {
            inbound,
            frames,
            last_call,
            ..
        } = self;
        let mut allowed = true;
        inbound.scan(bytes, |head| {
            if head.kind == HEADERS && head.stream > *last_call {
                *last_call = head.stream;
                frames.give(CALL_CREDIT);
            } else {
                let cost = cost(head);
                allowed = allowed && (cost == 0 || frames.take(cost, Instant::now));
            }
        });
        allowed
    }

    /// Adds the sent DATA frames to the allowance for frames.
    fn send(&mut self, bytes: &[u8]) {
        let GovernedSocket { outbound, frames, .. } = self;
        outbound.scan(bytes, |head| {
            if head.kind == DATA {
                frames.give(ANSWER_CREDIT);
            }
        });
    }

    /// Moves the socket into its slot, and returns the error that ends the connection in the library.
    fn cut(&mut self) -> io::Error {
        if let Some(stream) = self.stream.take() {
            let goaway_frame = self.outbound.is_between_frames().then(|| goaway(self.last_call));
            *self.cut_slot.lock() = Some(Cut { stream, goaway_frame });
        }
        io::Error::new(
            io::ErrorKind::ConnectionAborted,
            "the service has cut the connection: too many refused calls, or too many frames without a call or message",
        )
    }

    /// Reads the rest of the current frame, and at most [`FEW_BYTES`] more.
    fn poll_read_little(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>>
    where
        S: AsyncRead + Unpin,
    {
        let most = self.inbound.skip.saturating_add(FEW_BYTES);
        let most = most.min(TURN_BYTES).min(buffer.remaining());
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(most));
        ready!(self.stream()?.poll_read(context, &mut part))?;
        let read = part.filled().len();
        buffer.advance(read);
        Poll::Ready(Ok(()))
    }

    fn stream(&mut self) -> io::Result<Pin<&mut S>>
    where
        S: Unpin,
    {
        self.stream
            .as_mut()
            .map(Pin::new)
            .ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

/// Returns what a frame that does not begin a call takes from the allowance for frames.
fn cost(head: FrameHeader) -> u64 {
    match head.kind {
        DATA => u64::from(head.length < DATA_BYTES_MIN && head.flags & END_STREAM == 0),
        HEADERS => 1 + u64::from(head.length / TRAILERS_BYTES),
        SETTINGS => SETTINGS_COST,
        CONTINUATION => CONTINUATION_COST,
        _ => 1 + u64::from(head.length / OTHER_BYTES),
    }
}

/// Returns a GOAWAY frame with ENHANCE_YOUR_CALM.
const fn goaway(last_call: u32) -> [u8; GOAWAY_BYTES] {
    let [a, b, c, d] = last_call.to_be_bytes();
    [0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, a, b, c, d, 0, 0, 0, CALM]
}

impl<S: AsyncRead + Unpin> AsyncRead for GovernedSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.throttle.cut.load(Ordering::Relaxed) {
            return Poll::Ready(Err(self.cut()));
        }
        let little = ready!(self.throttle.poll_readable(context));
        let left = self.throttle.turn.load(Ordering::Relaxed);
        if left == 0 {
            // The connection is polled again after the calls that have passed to the library have run.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        if little {
            ready!(self.poll_read_little(context, buffer))?;
        } else {
            ready!(self.stream()?.poll_read(context, buffer))?;
        }
        let received = buffer.filled().get(before..).unwrap_or_default();
        if !self.throttle.heard.load(Ordering::Relaxed) {
            self.throttle.heard.store(true, Ordering::Relaxed);
        }
        // If only a few bytes may be read, the turn ends now: the calls that begin in these bytes run before the
        // connection is read again.
        let left = if little {
            0
        } else {
            left.saturating_sub(received.len())
        };
        self.throttle.turn.store(left, Ordering::Relaxed);
        if self.receive(received) {
            return Poll::Ready(Ok(()));
        }
        buffer.set_filled(before);
        Poll::Ready(Err(self.cut()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for GovernedSocket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(self.stream()?.poll_write(context, bytes))?;
        self.send(bytes.get(..written).unwrap_or_default());
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(self.stream()?.poll_write_vectored(context, slices))?;
        let mut left = written;
        for slice in slices {
            let part = slice.get(..left.min(slice.len())).unwrap_or_default();
            self.send(part);
            left -= part.len();
            if left == 0 {
                break;
            }
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(context)
    }
}

// ===== impl Scanner =====

impl Scanner {
    /// Returns a scanner whose first header begins after `skip` bytes.
    const fn new(skip: usize) -> Self {
        Scanner {
            head: [0; HEAD_BYTES],
            head_read: 0,
            skip,
        }
    }

    /// Calls `each` for every header that ends in `bytes`.
    fn scan(&mut self, bytes: &[u8], mut each: impl FnMut(FrameHeader)) {
        let mut rest = bytes;
        loop {
            let skipped = self.skip.min(rest.len());
            self.skip -= skipped;
            rest = rest.get(skipped..).unwrap_or_default();
            if rest.is_empty() {
                return;
            }
            let (part, behind) = rest.split_at(rest.len().min(HEAD_BYTES - self.head_read));
            if let Some(room) = self.head.get_mut(self.head_read..self.head_read + part.len()) {
                room.copy_from_slice(part);
            }
            self.head_read += part.len();
            rest = behind;
            if self.head_read < HEAD_BYTES {
                return;
            }
            self.head_read = 0;
            let head = FrameHeader::parse(self.head);
            self.skip = head.length as usize;
            each(head);
        }
    }

    /// Returns whether the last byte so far is the end of a frame.
    const fn is_between_frames(&self) -> bool {
        self.skip == 0 && self.head_read == 0
    }
}

// ===== impl FrameHeader =====

impl FrameHeader {
    const fn parse([l1, l2, l3, kind, flags, s1, s2, s3, s4]: [u8; HEAD_BYTES]) -> Self {
        FrameHeader {
            length: u32::from_be_bytes([0, l1, l2, l3]),
            kind,
            flags,
            // The highest bit is reserved and is not a part of the stream number.
            stream: u32::from_be_bytes([s1 & 0x7f, s2, s3, s4]),
        }
    }
}

#[cfg(test)]
#[path = "governor_tests.rs"]
mod tests;
