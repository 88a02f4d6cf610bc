//! What a connection may ask for: how long its messages may take to arrive, how much memory its calls may hold meanwhile, and
//! how often it may be over these bounds.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::{
    budget::{Charge, Purse, REFUSAL_BYTES},
    connection::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES},
    governor::Conduct,
    outbound::Answer,
    status,
};

/// Most headers of a call. Those of gRPC, a token and a trace are a dozen.
pub(super) const HEADERS_MAX: usize = 64;

/// What the calls of a connection have in common.
#[derive(Debug)]
pub(super) struct Reception {
    /// How long each message may take to arrive.
    time_max: Duration,
    purse: Arc<Purse>,
    conduct: Arc<Conduct>,
    parked: Mutex<ParkedStreams>,
}

/// Streams that are not read at the moment. What their client sends meanwhile waits in the HTTP/2 library.
#[derive(Debug, Default)]
struct ParkedStreams {
    count: usize,
    charge: Option<Charge>,
}

/// A stream that is not read at the moment.
#[derive(Debug)]
pub(super) struct Parked(Arc<Reception>);

/// Waits for a message, but not for ever.
#[derive(Debug)]
pub(super) struct Patience {
    time_max: Duration,
    /// Runs once something had to be waited for. Nearly always a message comes with its headers, and no timer is needed.
    timer: Option<Pin<Box<Sleep>>>,
}

/// A request that tonic reads. It has to arrive as a whole, to the end of the call, within the limit.
#[derive(Debug)]
pub(super) struct TimedBody {
    body: Incoming,
    patience: Patience,
}

// ===== impl Reception =====

impl Reception {
    /// Of a connection.
    pub(super) fn new(time_max: Duration, purse: Arc<Purse>, conduct: Arc<Conduct>) -> Self {
        Reception {
            time_max,
            purse,
            conduct,
            parked: Mutex::default(),
        }
    }

    /// Looks at the headers of a call.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: there are too many.
    pub(super) fn check_headers(headers: &HeaderMap) -> Result<(), Status> {
        // They are decoded already, and one byte on the wire can name one that takes a hundred here.
        let count = headers.len();
        if count > HEADERS_MAX {
            return Err(status::too_many_headers(count, HEADERS_MAX));
        }
        Ok(())
    }

    /// What a call costs, if it may begin.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: there is no memory for it.
    pub(super) fn admit(&self) -> Result<Charge, Status> {
        let charge = self.purse.charge_call().ok_or_else(|| self.no_memory())?;
        self.conduct.let_in();
        Ok(charge)
    }

    /// What a health check of `bytes` costs.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: there is no memory for it, and the connection has another one under way that there was none for.
    pub(super) fn admit_probe(&self, bytes: usize) -> Result<Charge, Status> {
        self.purse.charge_probe(bytes).ok_or_else(|| self.no_memory())
    }

    /// What pays for what the connection holds.
    pub(super) const fn purse(&self) -> &Arc<Purse> {
        &self.purse
    }

    /// There is no memory for a call, or for the rest of one. A connection that hears it too often is cut, unless it is others
    /// who hold the memory.
    pub(super) fn no_memory(&self) -> Status {
        if !self.purse.holds_little() {
            self.conduct.refused();
        }
        status::memory_limit()
    }

    /// A call was refused for something that the client should not ask for again and again.
    pub(super) fn refused(&self) {
        self.conduct.refused();
    }

    /// The answer to a call that was not let in. It holds nothing of the budget: when too many such answers are not sent, no
    /// more calls are read.
    pub(super) fn turn_away(&self, status: Status) -> http::Response<Answer> {
        Answer::turned_away(status, self.conduct.turn_away())
    }

    /// The answer to a call that was let in and is refused. What the call has held is more than what this costs.
    pub(super) fn refuse(&self, status: Status) -> http::Response<Answer> {
        Answer::status(status, self.purse.charge_anyway(REFUSAL_BYTES))
    }

    /// A stream is not read from now on, until what is returned is dropped. `None` if there is no memory for what its client
    /// may send meanwhile.
    pub(super) fn park(self: &Arc<Self>) -> Option<Parked> {
        let mut parked = self.parked.lock();
        let bytes = parked
            .count
            .saturating_add(1)
            .saturating_mul(STREAM_WINDOW_BYTES as usize);
        let bytes = bytes.min(CONNECTION_WINDOW_BYTES as usize);
        let covered = match &mut parked.charge {
            Some(charge) => charge.cover(bytes),
            none => {
                *none = self.purse.charge(bytes);
                none.is_some()
            }
        };
        if !covered {
            return None;
        }
        parked.count += 1;
        Some(Parked(Arc::clone(self)))
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        let mut parked = self.0.parked.lock();
        parked.count -= 1;
        if parked.count == 0 {
            parked.charge = None;
        }
    }
}

// ===== impl Patience =====

impl Patience {
    /// Waits as long as `reception` says.
    pub(super) const fn new(reception: &Reception) -> Self {
        Patience {
            time_max: reception.time_max,
            timer: None,
        }
    }

    /// There is no more yet of the message. The time runs from the first such call; ready with REQUEST_TOO_SLOW when it is
    /// over.
    pub(super) fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<Status> {
        let time_max = self.time_max;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(time_max)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(status::request_too_slow(time_max))
    }

    /// For the next message, the time begins anew.
    pub(super) fn renew(&mut self) {
        self.timer = None;
    }
}

// ===== impl TimedBody =====

impl TimedBody {
    pub(super) const fn new(body: Incoming, reception: &Reception) -> Self {
        TimedBody {
            body,
            patience: Patience::new(reception),
        }
    }
}

impl Body for TimedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(frame) => Poll::Ready(frame.map(|frame| {
                frame.map_err(|error| Status::cancelled(format!("the call was given up: {error}")))
            })),
            Poll::Pending => self.patience.poll_over(context).map(|over| Some(Err(over))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
