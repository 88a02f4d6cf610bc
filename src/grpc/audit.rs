//! What administrators do leaves an event behind: who, what, to which, and what it was before.

use std::net::SocketAddr;

/// The target of audit events, for filters and for those who keep them.
pub const AUDIT_TARGET: &str = "tally::audit";

/// A change of a circuit by an administrator.
#[derive(Debug)]
pub(super) struct CircuitChange<'a> {
    pub(super) peer: Option<SocketAddr>,
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
            peer,
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
            key,
            action,
            before,
            after,
            comment,
            "an administrator changed a circuit"
        );
    }
}
