//! What administrators do leaves an event behind: who, what, to which, and what it was before.

use std::net::SocketAddr;

use crate::security::Principal;

/// The target of audit events, for filters and for those who keep them.
pub const AUDIT_TARGET: &str = "tally::audit";

/// Who did it.
#[derive(Debug)]
pub(super) struct Who {
    pub(super) peer: Option<SocketAddr>,
    /// Whose token it was, if tokens are asked for.
    pub(super) principal: Option<Principal>,
}

/// A change of a circuit by an administrator.
#[derive(Debug)]
pub(super) struct CircuitChange<'a> {
    pub(super) who: &'a Who,
    pub(super) key: &'a str,
    pub(super) action: &'a str,
    pub(super) before: &'a str,
    pub(super) after: &'a str,
    pub(super) comment: &'a str,
}

// ===== impl CircuitChange =====

impl CircuitChange<'_> {
    /// Writes the event. At level WARN, so that no usual filter loses it.
    pub(super) fn record(&self) {
        let CircuitChange {
            who: Who { peer, principal },
            key,
            action,
            before,
            after,
            comment,
        } = *self;
        tracing::warn!(
            name: "tally.audit.circuit",
            target: AUDIT_TARGET,
            peer = peer.map(tracing::field::display),
            token = principal.as_ref().map(|principal| &*principal.name),
            key,
            action,
            before,
            after,
            comment,
            "an administrator changed a circuit"
        );
    }
}
