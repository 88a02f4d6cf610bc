//! How long the messages of a call may take to arrive, and how much memory they may take meanwhile. Who sends slower than
//! that holds memory for nothing.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::{clients::Unfinished, status};

/// What a connection's messages may take until they have arrived.
#[derive(Debug)]
pub(super) struct Reception {
    /// How long each.
    pub(super) time_max: Duration,
    /// How much memory, together with those of its client's other connections.
    pub(super) unfinished: Unfinished,
}

/// Waits for a message, but not for ever.
#[derive(Debug)]
pub(super) struct Patience {
    reception: Arc<Reception>,
    /// Bytes that are counted as unfinished. Nearly always none: only those are that had to be waited with.
    held: usize,
    /// Runs once something had to be waited for. Nearly always a message comes with its headers, and no timer is needed.
    timer: Option<Pin<Box<Sleep>>>,
}

/// A request that tonic reads. It has to arrive as a whole, to the end of the call, within the limit.
#[derive(Debug)]
pub(super) struct TimedBody {
    body: Incoming,
    arrived: usize,
    patience: Patience,
}

// ===== impl Patience =====

impl Patience {
    /// Waits as long as `reception` says.
    pub(super) fn new(reception: &Arc<Reception>) -> Self {
        Patience {
            reception: Arc::clone(reception),
            held: 0,
            timer: None,
        }
    }

    /// There is no more yet than the `arrived` bytes of the message, which take memory. The time runs from the first such
    /// call; ready with REQUEST_TOO_SLOW when it is over, and with UNFINISHED_REQUESTS when there is no room.
    pub(super) fn poll_over(&mut self, arrived: usize, context: &mut Context<'_>) -> Poll<Status> {
        let Reception { time_max, unfinished } = &*self.reception;
        let more = arrived.saturating_sub(self.held);
        if more > 0 {
            if !unfinished.hold(more) {
                return Poll::Ready(status::unfinished_requests());
            }
            self.held = arrived;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(*time_max)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(status::request_too_slow(*time_max))
    }

    /// The message has arrived, or will not be read.
    pub(super) fn release(&mut self) {
        if self.held > 0 {
            self.reception.unfinished.release(std::mem::take(&mut self.held));
        }
    }

    /// For the next message, the time begins anew.
    pub(super) fn renew(&mut self) {
        self.timer = None;
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        self.release();
    }
}

// ===== impl TimedBody =====

impl TimedBody {
    pub(super) fn new(body: Incoming, reception: &Arc<Reception>) -> Self {
        TimedBody {
            body,
            arrived: 0,
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
            Poll::Ready(frame) => {
                let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
                self.arrived += data.map_or(0, Bytes::len);
                Poll::Ready(frame.map(|frame| {
                    frame.map_err(|error| Status::cancelled(format!("the call was given up: {error}")))
                }))
            }
            Poll::Pending => {
                let arrived = self.arrived;
                self.patience
                    .poll_over(arrived, context)
                    .map(|over| Some(Err(over)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
