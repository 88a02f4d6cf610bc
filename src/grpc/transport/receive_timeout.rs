//! Limits the time in which the message of a call must arrive.
//!
//! tonic limits only the time until a call is answered, and tokio's `timeout` does not know where a message of a stream
//! begins. A message that arrives together with the headers of its call needs no timer: in unary calls, this module takes 3 of
//! 67,000 instructions (callgrind, by source file).

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::request_body::RequestBody;
use crate::grpc::status;

/// The time limit for the messages of one call.
#[derive(Debug)]
pub(crate) struct ReceiveTimeout {
    time_max: Duration,
    /// `None` until the call waits for bytes of a message. A message usually arrives together with the headers of its
    /// call, so most calls need no timer.
    timer: Option<Pin<Box<Sleep>>>,
}

/// The body of a request that tonic reads. The whole body must arrive within the limit.
#[derive(Debug)]
pub(crate) struct TimedBody {
    body: RequestBody,
    receive_timeout: ReceiveTimeout,
}

// ===== impl ReceiveTimeout =====

impl ReceiveTimeout {
    /// Allows `time_max` for each message.
    pub(crate) const fn new(time_max: Duration) -> Self {
        ReceiveTimeout {
            time_max,
            timer: None,
        }
    }

    /// Starts the timer if it does not run. Returns REQUEST_TOO_SLOW when the time is over. Call this function while a
    /// message has not arrived completely.
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
    pub(crate) const fn new(body: RequestBody, time_max: Duration) -> Self {
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
}
