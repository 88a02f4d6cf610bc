//! Ends open streams when the service stops, or when the caller's token no longer allows the call.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    grpc::{
        access::{Authorised, check_role},
        methods::Method,
        status,
    },
    security::{AuthFailure, Grant, Security},
};

/// Decides when an open stream must end. All clones belong to the same stream.
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
    /// The newest version of the valid tokens in which this token allowed the call; [`UNCHECKED`] before the first
    /// check.
    valid_in: AtomicU64,
    /// Whether the end of the stream was counted as a failed authentication. Several tasks check the token of one stream, and
    /// the stream counts once.
    is_counted: AtomicBool,
}

/// No version of the valid tokens has this number.
const UNCHECKED: u64 = u64::MAX;

// ===== impl Lifetime =====

impl Lifetime {
    /// Returns the lifetime of the stream that `call` opens.
    pub(crate) fn new(security: &Arc<Security>, call: Authorised, draining: &CancellationToken) -> Self {
        let authority = call.grant.map(|grant| {
            Arc::new(Authority {
                security: Arc::clone(security),
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

    /// Returns the reason if the token no longer allows the call, and `None` otherwise.
    pub(crate) fn revoked(&self) -> Option<Status> {
        self.authority.as_ref()?.refusal()
    }

    /// Waits until the stream must end, and returns the reason.
    pub(crate) async fn ended(self) -> Status {
        let Some(authority) = &self.authority else {
            self.draining.cancelled().await;
            return status::shutting_down();
        };
        // The subscription begins before the first check, so that no change of the tokens is missed.
        let mut changes = authority.security.token_changes();
        loop {
            let over = if self.draining.is_cancelled() {
                Some(status::shutting_down())
            } else {
                authority.refusal()
            };
            if let Some(status) = over {
                tracing::debug!(
                    token = &*authority.grant.principal.name,
                    path = authority.method.path,
                    why = status.message(),
                    "the service ended an open stream"
                );
                return status;
            }
            tokio::select! {
                () = self.draining.cancelled() => {}
                changed = changes.changed() => if changed.is_err() {
                    // Without a sender the tokens cannot change any more. `authority` keeps the sender, so this does
                    // not happen.
                    self.draining.cancelled().await;
                }
            }
        }
    }
}

// ===== impl Authority =====

impl Authority {
    /// Returns the reason if the token no longer allows the call. Checks the token only if the valid tokens have
    /// changed.
    fn refusal(&self) -> Option<Status> {
        // The version is read before the tokens. If the tokens change between these two reads, `valid_in` gets the old
        // version, and the next call checks again.
        let version = self.security.token_version();
        // Relaxed is enough: a thread that does not see the newest value only checks the token again.
        if self.valid_in.load(Ordering::Relaxed) == version {
            return None;
        }
        let checked = self
            .security
            .renewed(&self.grant)
            .ok_or_else(|| status::unauthenticated("authorization: the token is no longer valid"))
            .and_then(|grant| {
                check_role(self.method, &grant)?;
                if grant.principal.scope == self.grant.principal.scope {
                    Ok(())
                } else {
                    // The messages that the stream has read were checked with the old prefix.
                    Err(status::unauthenticated(
                        "authorization: the prefix of the token has changed",
                    ))
                }
            });
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
