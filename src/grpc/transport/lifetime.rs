//! The end of open streams: when the service stops, or when the caller's token no longer allows the call.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::clients::ClientPlace;
use crate::{
    grpc::{
        access::{Access, Authorised, refuse_role},
        methods::Method,
        status,
    },
    security::{AuthFailure, Grant, Security},
};

/// Says when an open stream must end. Clones share one state.
#[derive(Debug, Clone)]
pub(crate) struct Lifetime {
    draining: CancellationToken,
    /// `None` if the service asks for no tokens.
    authority: Option<Arc<Authority>>,
}

/// The token with which a stream was opened.
#[derive(Debug)]
struct Authority {
    security: Arc<Security>,
    method: &'static Method,
    grant: Grant,
    /// The last version of the tokens in which the token was valid; [`UNCHECKED`] at first.
    valid_in: AtomicU64,
    /// Whether the end of the stream was counted as a failed authentication. Several tasks check the token of one stream, and
    /// the stream counts once.
    is_counted: AtomicBool,
}

/// No version of the tokens has this number.
const UNCHECKED: u64 = u64::MAX;

/// The body of an answer that ends when its [`Lifetime`] ends.
pub(crate) struct LimitedBody {
    body: tonic::body::Body,
    over: Pin<Box<dyn Future<Output = Status> + Send>>,
    ended: bool,
    /// Freed when the body ends.
    _place: Option<ClientPlace>,
}

// ===== impl Lifetime =====

impl Lifetime {
    /// For the stream that `call` opens.
    pub(crate) fn new(access: &Access, call: Authorised, draining: &CancellationToken) -> Self {
        let authority = call.grant.map(|grant| {
            Arc::new(Authority {
                security: Arc::clone(access.security()),
                method: call.method,
                grant,
                // The tokens may have changed since the call was admitted.
                valid_in: AtomicU64::new(UNCHECKED),
                is_counted: AtomicBool::new(false),
            })
        });
        Lifetime {
            draining: draining.clone(),
            authority,
        }
    }

    /// Returns the reason if the stream must end now.
    pub(crate) fn over(&self) -> Option<Status> {
        if self.draining.is_cancelled() {
            return Some(status::shutting_down());
        }
        self.revoked()
    }

    /// Returns the reason if the token no longer allows the call.
    pub(crate) fn revoked(&self) -> Option<Status> {
        self.authority.as_ref()?.refusal()
    }

    /// Waits until the stream must end, and returns the reason.
    pub(crate) async fn ended(self) -> Status {
        let Some(authority) = &self.authority else {
            self.draining.cancelled().await;
            return status::shutting_down();
        };
        // Subscribed before the first check, so that no change is missed.
        let mut changes = authority.security.token_changes();
        loop {
            if let Some(status) = self.over() {
                tracing::debug!(
                    token = &*authority.grant.principal.name,
                    path = authority.method.path,
                    code = ?status.code(),
                    "the service ended an open stream"
                );
                return status;
            }
            tokio::select! {
                () = self.draining.cancelled() => {}
                changed = changes.changed() => if changed.is_err() {
                    // The sender lives as long as `authority`. Without a sender the tokens cannot change any more.
                    self.draining.cancelled().await;
                }
            }
        }
    }
}

// ===== impl Authority =====

impl Authority {
    fn refusal(&self) -> Option<Status> {
        // The version is read before the tokens. If the tokens change in between, the version is newer than the one
        // noted here, and the next call checks again.
        let version = self.security.token_version();
        // Relaxed is enough: a thread that does not see the newest value only checks once more.
        if self.valid_in.load(Ordering::Relaxed) == version {
            return None;
        }
        let checked = self
            .security
            .renewed(&self.grant)
            .ok_or_else(|| status::unauthenticated("authorization: the token is no longer valid"))
            .and_then(|grant| refuse_role(self.method, &grant));
        match checked {
            Ok(()) => {
                self.valid_in.store(version, Ordering::Relaxed);
                None
            }
            Err(status) => {
                if !self.is_counted.swap(true, Ordering::Relaxed) {
                    self.security.count_failure(AuthFailure::TokenRevoked);
                }
                Some(status)
            }
        }
    }
}

// ===== impl LimitedBody =====

impl LimitedBody {
    /// Ends `body` when `lifetime` ends. `place` is freed when the body has ended.
    pub(crate) fn new(body: tonic::body::Body, lifetime: Lifetime, place: Option<ClientPlace>) -> Self {
        LimitedBody {
            body,
            over: Box::pin(lifetime.ended()),
            ended: false,
            _place: place,
        }
    }
}

impl Body for LimitedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(status) = self.over.as_mut().poll(context) {
            self.ended = true;
            // Frees the memory of the answers now, not when the client has read the end.
            self.body = tonic::body::Body::empty();
            return Poll::Ready(Some(Ok(Frame::trailers(status::trailers(&status)))));
        }
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        self.ended = frame.as_ref().is_none_or(|frame| match frame {
            Ok(frame) => frame.is_trailers(),
            Err(_) => true,
        });
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }
}

impl fmt::Debug for LimitedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitedBody")
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}
