//! What administrators do leaves an event behind: who, what, to which, and what it was before. No filter of the log drops
//! these events: `telemetry` lets its target pass whatever the filter says.

use std::net::SocketAddr;

use super::tokens::Principal;
use crate::telemetry::AUDIT_TARGET;

/// Who did it.
#[derive(Debug)]
pub struct Administrator {
    /// Where the call came from, as far as it is known.
    pub peer: Option<SocketAddr>,
    /// Whose token it was, if tokens are asked for.
    pub principal: Option<Principal>,
}

/// A change of a circuit.
#[derive(Debug, Clone, Copy)]
pub struct CircuitChange<'a> {
    /// The circuit.
    pub key: &'a str,
    /// What was done.
    pub action: &'a str,
    /// Its mode or state before.
    pub before: &'a str,
    /// Its mode or state after.
    pub after: &'a str,
    /// What the administrator had to say.
    pub comment: &'a str,
}

/// The tokens were read again, and others are valid now.
pub(super) fn tokens_changed(before: usize, after: usize) {
    tracing::warn!(
        name: "tally.audit.tokens",
        target: AUDIT_TARGET,
        before,
        after,
        "the file of tokens was changed"
    );
}

// ===== impl Administrator =====

impl Administrator {
    /// A circuit was changed.
    pub fn changed_circuit(&self, change: &CircuitChange<'_>) {
        let CircuitChange {
            key,
            action,
            before,
            after,
            comment,
        } = *change;
        tracing::warn!(
            name: "tally.audit.circuit",
            target: AUDIT_TARGET,
            peer = self.peer.map(tracing::field::display),
            token = self.token(),
            key,
            action,
            before,
            after,
            comment,
            "an administrator changed a circuit"
        );
    }

    /// The log's filter was changed.
    pub fn changed_log_level(&self, before: &str, after: &str) {
        tracing::warn!(
            name: "tally.audit.log_level",
            target: AUDIT_TARGET,
            peer = self.peer.map(tracing::field::display),
            token = self.token(),
            before,
            after,
            "an administrator changed the log level"
        );
    }

    /// The name of the token, never the token.
    fn token(&self) -> Option<&str> {
        self.principal.as_ref().map(|principal| &*principal.name)
    }
}
