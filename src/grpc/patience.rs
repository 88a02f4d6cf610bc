//! How long the messages of a call may take to arrive. Who sends slower than that holds memory for nothing.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::status;

/// Waits for a message, but not for ever.
#[derive(Debug)]
pub(super) struct Patience {
    limit: Duration,
    /// Runs once something had to be waited for. Nearly always a message comes with its headers, and no timer is needed.
    timer: Option<Pin<Box<Sleep>>>,
}

/// A request that tonic reads. It has to arrive as a whole, to the end of the call, within the limit.
#[derive(Debug)]
pub(super) struct TimedBody {
    body: Incoming,
    patience: Patience,
}

// ===== impl Patience =====

impl Patience {
    /// Waits for `limit`.
    pub(super) const fn new(limit: Duration) -> Self {
        Patience { limit, timer: None }
    }

    /// Nothing is there yet. The time runs from the first such call; ready with REQUEST_TOO_SLOW when it is over.
    pub(super) fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<Status> {
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(status::request_too_slow(limit))
    }

    /// For the next message, the time begins anew.
    pub(super) fn renew(&mut self) {
        self.timer = None;
    }
}

// ===== impl TimedBody =====

impl TimedBody {
    pub(super) const fn new(body: Incoming, limit: Duration) -> Self {
        TimedBody {
            body,
            patience: Patience::new(limit),
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
