//! Sits between a connection's socket and the HTTP/2 library, and limits what a client may send. It reads only the
//! headers of frames.
//!
//! The library answers every frame. A frame without a call or message costs the client almost nothing, but costs the
//! service work. So this module counts such frames against the calls and answers to which they can belong, and cuts a
//! connection with far more of them. It also passes a limited number of bytes to the library at a time. So the library
//! decodes little before the service sees the calls, and other connections can run.

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

/// Most bytes that pass to the library in one poll of the connection.
const TURN_BYTES: usize = 64 << 10;
/// Burst of frames without a call or message. Each costs 1 or more.
const FRAMES_BURST: u64 = 4096;
/// The same in each second, in the long run.
const FRAMES_EACH_SECOND: u64 = 256;
/// Most unsent answers to refused calls of one connection. A connection with more of them is not read.
const UNSENT_MAX: usize = 64;
/// The same for all connections together. Beyond that, connections with such answers are not read, and the other
/// connections are read a few bytes at a time.
const UNSENT_OF_SERVICE_MAX: usize = 4096;
/// A connection that is read a few bytes at a time reads this much beyond the current frame: the headers of a few more
/// frames.
const FEW_BYTES: usize = 64;
/// Burst of refused calls (no token, unknown method, no memory, too many headers). A connection with more of them is
/// cut.
const REFUSALS_BURST: u64 = 256;
/// The same in each second, in the long run.
const REFUSALS_EACH_SECOND: u64 = 16;

/// Length of the client preface in front of all frames (RFC 9113, 3.4).
const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;
const GOAWAY_BYTES: usize = HEAD_BYTES + 8;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
/// The error code ENHANCE_YOUR_CALM.
const CALM: u8 = 11;

/// Frames that a new call adds to the allowance: window updates, a ping, a reset.
const CALL_CREDIT: u64 = 8;
/// Frames that each DATA frame of an answer adds to the allowance.
const ANSWER_CREDIT: u64 = 4;
/// A DATA frame of fewer bytes in the middle of a call counts as a frame without a message: no message is so short.
const DATA_BYTES_MIN: u32 = 16;
/// A SETTINGS frame can change every stream of the connection.
const SETTINGS_COST: u64 = 16;
/// The headers of a usual call fit into one frame.
const CONTINUATION_COST: u64 = 16;
/// This many bytes of trailers cost as much as a frame. gRPC has no trailers in requests, and the library decodes and
/// keeps them.
const TRAILERS_BYTES: u32 = 8;
/// This many bytes of other frames cost as much as one more frame.
const OTHER_BYTES: u32 = 256;

/// What a connection may read, and whether it must be cut. Its socket, its task and its calls share this.
#[derive(Debug)]
pub(crate) struct Throttle {
    /// Bytes that may still pass to the library in this poll.
    turn: AtomicUsize,
    cut: AtomicBool,
    refusals: Mutex<TokenBucket>,
    /// Unsent answers to refused calls.
    unsent: AtomicUsize,
    unsent_of_service: UnsentRefusals,
    /// Wakes the reader when `unsent` falls.
    reader: AtomicWaker,
    /// Whether the last call was admitted. If it was not, the connection is read a few bytes at a time: the library keeps a
    /// table entry for every call until the connection ends.
    trusted: AtomicBool,
}

/// Number of unsent answers to refused calls, of all connections.
///
/// A refused call reserves no memory, but its task, its stream and its answer take memory until the answer is sent. One
/// packet can begin hundreds of calls, on each of thousands of connections, before one of them is answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct UnsentRefusals(Arc<AtomicUsize>);

/// The unsent answer to a refused call. Dropping it says that the answer was sent.
#[derive(Debug)]
pub(crate) struct UnsentRefusal(Arc<Throttle>);

/// A socket that checks the frames which pass through it.
#[derive(Debug)]
pub(crate) struct GovernedSocket<S> {
    /// `None` after the connection was cut.
    stream: Option<S>,
    throttle: Arc<Throttle>,
    inbound: Scanner,
    outbound: Scanner,
    frames: TokenBucket,
    /// The stream number of the last call.
    last_call: u32,
    /// Receives the socket when the connection is cut.
    cut_slot: Arc<CutSlot<S>>,
}

/// Holds the connection after it was cut.
pub(crate) type CutSlot<S> = Mutex<Option<Cut<S>>>;

/// The socket of a connection that was cut, and its last frame.
#[derive(Debug)]
pub(crate) struct Cut<S> {
    pub(crate) stream: S,
    /// The GOAWAY frame. `None` if the library has sent only a part of another frame.
    pub(crate) goaway_frame: Option<[u8; GOAWAY_BYTES]>,
}

/// Finds the headers of frames in a sequence of bytes.
#[derive(Debug)]
struct Scanner {
    head: [u8; HEAD_BYTES],
    head_read: usize,
    /// Bytes before the next header.
    skip: usize,
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FrameHeader {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
}

// ===== impl Throttle =====

impl Throttle {
    /// For a new connection.
    pub(crate) fn new(unsent_of_service: &UnsentRefusals) -> Arc<Self> {
        Arc::new(Throttle {
            turn: AtomicUsize::new(TURN_BYTES),
            cut: AtomicBool::new(false),
            refusals: Mutex::new(TokenBucket::new(
                REFUSALS_BURST,
                REFUSALS_EACH_SECOND,
                Instant::now(),
            )),
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

    /// Renews the number of bytes that may pass to the library.
    pub(crate) fn begin_turn(&self) {
        self.turn.store(TURN_BYTES, Ordering::Relaxed);
    }

    /// Counts a refused call. Too many of them cut the connection.
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

    /// Ready when the connection may be read. The value says whether it may read only a few bytes.
    fn poll_readable(&self, context: &Context<'_>) -> Poll<bool> {
        let many = self.unsent_of_service.0.load(Ordering::Relaxed) >= UNSENT_OF_SERVICE_MAX;
        // A connection without such answers is always read, so that others cannot block it.
        let most = if many { 1 } else { UNSENT_MAX };
        let may_not = || self.unsent.load(Ordering::Acquire) >= most;
        if may_not() {
            self.reader.register(context.waker());
            if may_not() {
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
    /// Checks the frames of `stream`. Also returns the place for its socket if the connection is cut.
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

    /// Counts the received frames. Returns false after too many frames without a call or message.
    fn receive(&mut self, bytes: &[u8]) -> bool {
        let GovernedSocket {
            inbound,
            frames,
            last_call,
            ..
        } = self;
        let mut calm = true;
        inbound.scan(bytes, |head| {
            if head.kind == HEADERS && head.stream > *last_call {
                *last_call = head.stream;
                frames.give(CALL_CREDIT);
            } else {
                let cost = cost(head);
                calm = calm && (cost == 0 || frames.take(cost, Instant::now));
            }
        });
        calm
    }

    /// Counts the sent frames.
    fn send(&mut self, bytes: &[u8]) {
        let GovernedSocket { outbound, frames, .. } = self;
        outbound.scan(bytes, |head| {
            if head.kind == DATA {
                frames.give(ANSWER_CREDIT);
            }
        });
    }

    fn cut(&mut self) -> io::Error {
        if let Some(stream) = self.stream.take() {
            let goaway_frame = self.outbound.is_between_frames().then(|| goaway(self.last_call));
            *self.cut_slot.lock() = Some(Cut { stream, goaway_frame });
        }
        io::Error::new(
            io::ErrorKind::ConnectionAborted,
            "the service cut the connection because of what the client sent",
        )
    }

    /// Reads the rest of the current frame, and a few bytes more.
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

/// Returns the cost of a frame that does not begin a call.
fn cost(head: FrameHeader) -> u64 {
    match head.kind {
        DATA => u64::from(head.length < DATA_BYTES_MIN && head.flags & END_STREAM == 0),
        HEADERS => 1 + u64::from(head.length / TRAILERS_BYTES),
        SETTINGS => SETTINGS_COST,
        CONTINUATION => CONTINUATION_COST,
        _ => 1 + u64::from(head.length / OTHER_BYTES),
    }
}

/// A GOAWAY frame with ENHANCE_YOUR_CALM.
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
            // The calls that have passed run first, then the connection is polled again.
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
        // The calls in these few bytes run first.
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
    /// The first header follows after `skip` bytes.
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

    /// Returns whether the bytes so far end with a whole frame.
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
            // The highest bit is reserved.
            stream: u32::from_be_bytes([s1 & 0x7f, s2, s3, s4]),
        }
    }
}

#[cfg(test)]
#[path = "governor_tests.rs"]
mod tests;
