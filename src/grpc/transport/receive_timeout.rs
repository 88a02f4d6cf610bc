//! The time limit for a message to arrive.

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

use crate::grpc::status;

/// The time limit for the messages of one call.
#[derive(Debug)]
pub(crate) struct ReceiveTimeout {
    time_max: Duration,
    /// Set when the call waits for the first time. Nearly always the message arrives with the headers, and no timer is
    /// needed.
    timer: Option<Pin<Box<Sleep>>>,
}

/// The body of a request that tonic reads. The whole body must arrive within the limit.
#[derive(Debug)]
pub(crate) struct TimedBody {
    body: Incoming,
    receive_timeout: ReceiveTimeout,
}

// ===== impl ReceiveTimeout =====

impl ReceiveTimeout {
    /// A limit of `time_max` for each message.
    pub(crate) const fn new(time_max: Duration) -> Self {
        ReceiveTimeout {
            time_max,
            timer: None,
        }
    }

    /// Call this while the rest of the message has not arrived. The first call starts the timer. Ready with
    /// REQUEST_TOO_SLOW when the time is over.
    pub(crate) fn poll_elapsed(&mut self, context: &mut Context<'_>) -> Poll<Status> {
        let time_max = self.time_max;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(time_max)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(status::request_too_slow(time_max))
    }

    /// Stops the timer. The next message has the full time.
    pub(crate) fn renew(&mut self) {
        self.timer = None;
    }
}

// ===== impl TimedBody =====

impl TimedBody {
    pub(crate) const fn new(body: Incoming, time_max: Duration) -> Self {
        TimedBody {
            body,
            receive_timeout: ReceiveTimeout::new(time_max),
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
                Poll::Ready(frame.map(|frame| frame.map_err(|error| status::call_cancelled(&error))))
            }
            Poll::Pending => self
                .receive_timeout
                .poll_elapsed(context)
                .map(|over| Some(Err(over))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
