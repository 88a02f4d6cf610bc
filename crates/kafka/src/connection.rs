//! One connection to one broker, and the task that reads and writes it.
//!
//! Requests are sent in the order of [`Connection::send`]. A broker answers them in the same order, so an answer whose
//! correlation id is not the one of the oldest request ends the connection. Every other fault also ends the connection:
//! a time limit that has passed, a frame that is too large, an error of the socket. When the connection ends, each
//! request in flight fails. So no late answer can be taken for the answer to a later request.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, BufMut as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf},
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::Instant,
};

use crate::{
    error::Error,
    messages::{Api, connect::Versions},
};

/// Number of bytes for which the read buffer gets room while the length of the broker's next frame is not known.
const READ_BYTES: usize = 16 * 1024;
/// Bytes of the length before each frame.
const LENGTH_BYTES: usize = 4;

/// A transport: TCP, or TLS on TCP.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// The bounds of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    pub(crate) client_id: String,
    pub(crate) in_flight_max: usize,
    pub(crate) frame_bytes_max: usize,
    pub(crate) request_timeout: Duration,
}

/// A connection. It ends when this value is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    requests: mpsc::Sender<Request>,
    places: Arc<Semaphore>,
    ending: Arc<Ending>,
    bounds: Bounds,
    versions: Versions,
}

/// How a connection ends.
#[derive(Debug)]
pub(crate) struct Ending {
    endpoint: String,
    /// Asks the task to end the connection.
    wanted: Notify,
    /// Why the connection ended.
    reason: OnceLock<Error>,
}

impl Ending {
    /// Asks the connection to end. Every request in flight then fails.
    pub(crate) fn want(&self) {
        self.wanted.notify_one();
    }

    /// Returns the reason of the end.
    pub(crate) fn reason(&self) -> Error {
        self.reason
            .get()
            .cloned()
            .unwrap_or_else(|| self.closed("the client closed it", None))
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(crate) fn malformed(&self, call: &'static str, what: &'static str) -> Error {
        Error::Malformed {
            endpoint: self.endpoint.clone(),
            call,
            what,
        }
    }

    fn closed(&self, cause: &'static str, kind: Option<io::ErrorKind>) -> Error {
        Error::Closed {
            endpoint: self.endpoint.clone(),
            cause,
            kind,
        }
    }

    fn failed(&self, cause: &'static str, error: &io::Error) -> Error {
        self.closed(cause, Some(error.kind()))
    }
}

#[derive(Debug)]
struct Request {
    api: &'static Api,
    version: i16,
    body: Vec<Bytes>,
    waiting: Waiting,
}

/// A request that was sent or will be sent.
#[derive(Debug)]
struct Waiting {
    call: &'static str,
    deadline: Instant,
    limit: Duration,
    answer: oneshot::Sender<Result<Bytes, Error>>,
    _place: OwnedSemaphorePermit,
}

/// The answer that a broker will send, or the reason why it can't arrive any more.
#[derive(Debug)]
pub(crate) struct Answer {
    receiver: oneshot::Receiver<Result<Bytes, Error>>,
    ending: Arc<Ending>,
}

impl Answer {
    pub(crate) const fn ending(&self) -> &Arc<Ending> {
        &self.ending
    }
}

impl Future for Answer {
    type Output = Result<Bytes, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.receiver)
            .poll(context)
            .map(|answer| answer.unwrap_or_else(|_| Err(self.ending.reason())))
    }
}

impl Connection {
    /// Starts the task of a connection. Call this method within a tokio runtime.
    pub(crate) fn start(transport: Box<dyn Transport>, endpoint: String, bounds: Bounds) -> Self {
        let ending = Arc::new(Ending {
            endpoint,
            wanted: Notify::new(),
            reason: OnceLock::new(),
        });
        let (requests, receiver) = mpsc::channel(bounds.in_flight_max);
        let (read, write) = tokio::io::split(transport);
        let task = Task {
            read,
            write,
            requests: receiver,
            input: BytesMut::with_capacity(READ_BYTES),
            output: Output::default(),
            unflushed: false,
            waiting: VecDeque::new(),
            last_id: 0,
            bounds: bounds.clone(),
            ending: Arc::clone(&ending),
        };
        tokio::spawn(task.run());
        Self {
            requests,
            places: Arc::new(Semaphore::new(bounds.in_flight_max)),
            ending,
            bounds,
            versions: Versions::before_the_answer(),
        }
    }

    pub(crate) const fn ending(&self) -> &Arc<Ending> {
        &self.ending
    }

    pub(crate) fn set_versions(&mut self, versions: Versions) {
        self.versions = versions;
    }

    /// Returns the best version of `api` that the broker and this client support.
    pub(crate) fn version(&self, api: &Api) -> Result<i16, Error> {
        self.versions.best(api).ok_or_else(|| Error::Unsupported {
            endpoint: self.ending.endpoint.clone(),
            call: api.name,
        })
    }

    /// Queues a request after all earlier requests. If this returns an error, no byte of the request is ever sent.
    ///
    /// The broker may use `wait` for the call, in addition to the time limit for a request.
    pub(crate) fn send(
        &self,
        api: &'static Api,
        version: i16,
        body: Vec<Bytes>,
        wait: Duration,
    ) -> Result<Answer, Error> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let _place = place.map_err(|_| Error::TooManyInFlight {
            bound: self.bounds.in_flight_max,
        })?;
        let (answer, receiver) = oneshot::channel();
        let limit = self.bounds.request_timeout + wait;
        let request = Request {
            api,
            version,
            body,
            waiting: Waiting {
                call: api.name,
                deadline: Instant::now() + limit,
                limit,
                answer,
                _place,
            },
        };
        // The channel has a place for each permit. So sending fails only if the channel is closed.
        self.requests
            .try_send(request)
            .map_err(|_| self.ending.reason())?;
        Ok(Answer {
            receiver,
            ending: Arc::clone(&self.ending),
        })
    }

    /// Sends a request and waits for its answer.
    pub(crate) async fn call(
        &self,
        api: &'static Api,
        version: i16,
        body: Bytes,
        wait: Duration,
    ) -> Result<Bytes, Error> {
        self.send(api, version, vec![body], wait)?.await
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.ending.want();
    }
}

/// The task that reads and writes.
struct Task {
    read: ReadHalf<Box<dyn Transport>>,
    write: WriteHalf<Box<dyn Transport>>,
    requests: mpsc::Receiver<Request>,
    input: BytesMut,
    output: Output,
    /// Whether the transport may hold bytes that it has not sent.
    unflushed: bool,
    /// The requests in flight, the oldest first, with their correlation ids.
    waiting: VecDeque<(i32, Waiting)>,
    last_id: i32,
    bounds: Bounds,
    ending: Arc<Ending>,
}

/// The next event on a connection.
enum Event {
    Read(io::Result<usize>),
    Written(io::Result<Written>),
    Request(Option<Request>),
    Timeout,
    EndWanted,
}

impl Task {
    async fn run(mut self) {
        let reason = loop {
            let event = self.next().await;
            if let Err(reason) = self.handle(event) {
                break reason;
            }
        };
        // No other code sets the reason, so it is not set yet.
        drop(self.ending.reason.set(reason.clone()));
        self.requests.close();
        while let Ok(request) = self.requests.try_recv() {
            drop(request.waiting.answer.send(Err(reason.clone())));
        }
        for (_, waiting) in self.waiting.drain(..) {
            drop(waiting.answer.send(Err(reason.clone())));
        }
    }

    async fn next(&mut self) -> Event {
        let deadline = self.waiting.iter().map(|(_, waiting)| waiting.deadline).min();
        let room = self.missing_bytes().max(READ_BYTES);
        self.input.reserve(room);
        let has_output = self.output.has_remaining();
        tokio::select! {
            biased;
            () = self.ending.wanted.notified() => Event::EndWanted,
            () = sleep_until(deadline) => Event::Timeout,
            read = self.read.read_buf(&mut self.input) => Event::Read(read),
            request = self.requests.recv() => Event::Request(request),
            written = write(&mut self.write, &mut self.output), if has_output || self.unflushed => {
                Event::Written(written)
            }
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Read(Ok(0)) => Err(self.ending.closed("the broker closed it", None)),
            Event::Read(Ok(_)) => {
                while self.take_answer()? {}
                Ok(())
            }
            Event::Read(Err(error)) => Err(self.ending.failed("reading failed", &error)),
            Event::Written(Ok(Written::Bytes(0))) => Err(self.ending.closed("the broker closed it", None)),
            Event::Written(Ok(written)) => {
                self.unflushed = matches!(written, Written::Bytes(_));
                Ok(())
            }
            Event::Written(Err(error)) => Err(self.ending.failed("writing failed", &error)),
            Event::Request(Some(request)) => self.enqueue(request),
            Event::Request(None) | Event::EndWanted => Err(self.ending.closed("the client closed it", None)),
            Event::Timeout => Err(self.timeout()),
        }
    }

    fn timeout(&self) -> Error {
        let now = Instant::now();
        let late = self.waiting.iter().find(|(_, waiting)| waiting.deadline <= now);
        late.map_or_else(
            || self.ending.closed("a time limit passed", None),
            |(_, waiting)| Error::Timeout {
                endpoint: self.ending.endpoint.clone(),
                call: waiting.call,
                limit: waiting.limit,
            },
        )
    }

    /// Frames a request and appends it to the bytes that are not written yet.
    fn enqueue(&mut self, request: Request) -> Result<(), Error> {
        let Request {
            api,
            version,
            body,
            waiting,
        } = request;
        let id = self.last_id.wrapping_add(1) & i32::MAX;
        self.last_id = id;
        let client_id = self.bounds.client_id.as_bytes();
        let mut header = BytesMut::with_capacity(32 + client_id.len());
        let tags = usize::from(api.is_flexible(version));
        let length = 10 + client_id.len() + tags + body.iter().map(Bytes::len).sum::<usize>();
        let too_long = |_| self.ending.closed("a request is longer than 2 GiB", None);
        header.put_i32(i32::try_from(length).map_err(too_long)?);
        header.put_i16(api.key);
        header.put_i16(version);
        header.put_i32(id);
        header.put_i16(i16::try_from(client_id.len()).map_err(too_long)?);
        header.put_slice(client_id);
        header.put_bytes(0, tags);
        self.output.push(header.freeze());
        for piece in body {
            self.output.push(piece);
        }
        self.waiting.push_back((id, waiting));
        Ok(())
    }

    /// Returns how many bytes of the current frame have not been read. 0 if the frame's length is not known.
    fn missing_bytes(&self) -> usize {
        self.frame_length()
            .and_then(|length| usize::try_from(length).ok())
            .filter(|length| *length <= self.bounds.frame_bytes_max)
            .map_or(0, |length| {
                (LENGTH_BYTES + length).saturating_sub(self.input.len())
            })
    }

    /// Returns the length that the broker claims for the current frame.
    fn frame_length(&self) -> Option<i32> {
        let length = self.input.first_chunk::<LENGTH_BYTES>()?;
        Some(i32::from_be_bytes(*length))
    }

    /// Takes the next answer if it is complete. Returns whether there was a complete answer.
    fn take_answer(&mut self) -> Result<bool, Error> {
        let Some(claimed) = self.frame_length() else {
            return Ok(false);
        };
        let oldest = self.waiting.front();
        let call = oldest.map_or("no call", |(_, waiting)| waiting.call);
        let length = usize::try_from(claimed)
            .ok()
            .filter(|length| *length >= 4)
            .ok_or_else(|| {
                self.ending
                    .malformed(call, "the frame is shorter than its header")
            })?;
        if length > self.bounds.frame_bytes_max {
            return Err(Error::FrameTooLarge {
                endpoint: self.ending.endpoint.clone(),
                bytes: i64::from(claimed),
                bound: self.bounds.frame_bytes_max,
            });
        }
        if self.input.len() < LENGTH_BYTES + length {
            return Ok(false);
        }
        let mut frame = self.input.split_to(LENGTH_BYTES + length).freeze();
        frame.advance(LENGTH_BYTES);
        let id = frame.get_i32();
        match self.waiting.pop_front() {
            Some((expected, waiting)) if expected == id => {
                // The receiver may have been dropped: nobody waits for the answer.
                drop(waiting.answer.send(Ok(frame)));
                Ok(true)
            }
            Some((_, waiting)) => {
                let error = self
                    .ending
                    .malformed(waiting.call, "the correlation id belongs to another request");
                drop(waiting.answer.send(Err(error.clone())));
                Err(error)
            }
            None => Err(self.ending.malformed(call, "an answer without a request")),
        }
    }
}

/// The result of one step of writing.
enum Written {
    /// The transport took this many bytes.
    Bytes(usize),
    /// The transport has sent everything that it had taken.
    All,
}

/// Writes some of `output`. If `output` is empty, makes the transport send the bytes that it has taken. If the future
/// is dropped before its end, no byte is lost.
async fn write(transport: &mut WriteHalf<Box<dyn Transport>>, output: &mut Output) -> io::Result<Written> {
    if output.has_remaining() {
        transport.write_buf(output).await.map(Written::Bytes)
    } else {
        transport.flush().await.map(|()| Written::All)
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => poll_fn(|_| Poll::Pending).await,
    }
}

/// Bytes to write, in pieces.
#[derive(Debug, Default)]
struct Output {
    pieces: VecDeque<Bytes>,
}

impl Output {
    fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.pieces.push_back(piece);
        }
    }
}

impl Buf for Output {
    fn remaining(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    fn has_remaining(&self) -> bool {
        !self.pieces.is_empty()
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        count
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(piece) = self.pieces.front_mut() {
            if count < piece.len() {
                piece.advance(count);
                return;
            }
            count -= piece.len();
            self.pieces.pop_front();
        }
        assert_eq!(count, 0, "more bytes were written than existed");
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
