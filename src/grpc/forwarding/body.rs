//! The bodies of a forwarded call: the messages of the client for the leader, and the answer of the leader for the client.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tonic::Status;

use crate::grpc::{
    status,
    transport::{clients::ClientPlace, request_body::RequestBody},
};

/// The reason for which the replica has cut off the rest of the client's messages; unset if it has not.
#[derive(Debug, Default)]
pub(super) struct Cut(OnceLock<Status>);

/// The messages of a client, for the leader.
pub(super) struct OutgoingBody {
    body: RequestBody,
    /// Becomes ready when the replica must cut off the messages, with the reason.
    over: Option<BoxFuture<'static, Status>>,
    cut: Arc<Cut>,
}

/// Makes a [`Relayed`] when the leader has answered.
pub(super) struct RelayedBody<F> {
    cut: Arc<Cut>,
    place: ClientPlace,
    lost: F,
}

/// The answer of the leader, for the client. It always ends with a status.
struct Relayed<F> {
    body: Incoming,
    cut: Arc<Cut>,
    /// The place in the limited number of forwarded calls.
    _place: ClientPlace,
    /// Makes the status of an answer whose connection failed.
    lost: Option<F>,
    /// Whether the client has the status, or gets it in the headers.
    has_status: bool,
}

// ===== impl OutgoingBody =====

impl OutgoingBody {
    pub(super) fn new(body: RequestBody, over: Option<BoxFuture<'static, Status>>, cut: Arc<Cut>) -> Self {
        OutgoingBody { body, over, cut }
    }
}

impl Body for OutgoingBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if self.cut.0.get().is_some() {
            return Poll::Ready(None);
        }
        if let Some(over) = &mut self.over
            && let Poll::Ready(status) = over.as_mut().poll(context)
        {
            self.over = None;
            // Only this body sets the reason.
            let _first = self.cut.0.set(status);
            return Poll::Ready(None);
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

// ===== impl RelayedBody =====

impl<F: FnOnce(bool) -> Status + Send + Unpin + 'static> RelayedBody<F> {
    pub(super) const fn new(cut: Arc<Cut>, place: ClientPlace, lost: F) -> Self {
        RelayedBody { cut, place, lost }
    }

    /// Returns the body of the answer. `has_status` says whether its headers contain the status.
    pub(super) fn of(
        self,
        body: Incoming,
        has_status: bool,
    ) -> impl Body<Data = Bytes, Error = Status> + Send + 'static {
        Relayed {
            body,
            cut: self.cut,
            _place: self.place,
            lost: Some(self.lost),
            has_status,
        }
    }
}

// ===== impl Relayed =====

impl<F: FnOnce(bool) -> Status + Unpin> Body for Relayed<F> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.has_status {
            return Poll::Ready(None);
        }
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            // The connection failed, or the leader ended the answer without a status.
            failed => {
                self.has_status = true;
                let is_reachable = failed.is_none_or(|failed| failed.err().as_ref().is_some_and(is_reset));
                let lost = self.lost.take().map(|lost| lost(is_reachable));
                let status = self.cut.0.get().cloned().or(lost);
                return Poll::Ready(status.map(|status| Ok(Frame::trailers(status::trailers(&status)))));
            }
        };
        let frame = match frame.into_data() {
            Ok(data) => Frame::data(data),
            Err(last) => {
                self.has_status = true;
                // The leader has answered everything that it received, but not everything that the client sent.
                match self.cut.0.get() {
                    Some(status) => Frame::trailers(status::trailers(status)),
                    None => last,
                }
            }
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        // After the last message the status follows.
        self.has_status
    }
}

/// Returns whether the other side has reset a single call. Its connection still works.
pub(super) fn is_reset(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| cause.is_reset() && cause.is_remote())
}
