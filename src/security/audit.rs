//! Audit events: log events that state who changed what, and the values before and after the change. Audit events are
//! always logged, because the log filter does not apply to their target ([`AUDIT_TARGET`]).

use std::net::SocketAddr;

use super::tokens::Principal;
use crate::telemetry::AUDIT_TARGET;

/// The administrator who made a change.
#[derive(Debug)]
pub struct Administrator {
    /// The address of the caller, if it is known.
    pub peer: Option<SocketAddr>,
    /// The authenticated caller, if calls need tokens.
    pub principal: Option<Principal>,
}

/// A change of a circuit.
#[derive(Debug, Clone, Copy)]
pub struct CircuitChange<'a> {
    /// The key of the circuit.
    pub key: &'a str,
    /// The kind of change.
    pub action: &'a str,
    /// The mode or state before the change.
    pub before: &'a str,
    /// The mode or state after the change.
    pub after: &'a str,
    /// The administrator's comment.
    pub comment: &'a str,
}

/// A change of the time of the ledger.
#[derive(Debug, Clone, Copy)]
pub struct ClockChange<'a> {
    /// The time of the ledger before the change.
    pub before: &'a str,
    /// The time of the ledger after the change.
    pub after: &'a str,
    /// The administrator's comment.
    pub comment: &'a str,
}

/// Logs that a changed tokens file came into force, with the number of valid tokens before and after.
pub(super) fn tokens_changed(before: usize, after: usize) {
    tracing::warn!(
        name: "tally.audit.tokens",
        target: AUDIT_TARGET,
        before,
        after,
        "the tokens file was changed"
    );
}

/// The resignation of a leader.
#[derive(Debug, Clone, Copy)]
pub struct Resignation<'a> {
    /// The term that has ended.
    pub term: u64,
    /// The address of the replica that should lead next, if the administrator named one.
    pub successor: Option<&'a str>,
    /// The reason that the administrator gave.
    pub comment: &'a str,
}

// ===== impl Administrator =====

impl Administrator {
    /// Logs that the administrator changed a circuit.
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

    /// Logs that the administrator confirmed a step of the system clock.
    pub fn confirmed_clock(&self, change: &ClockChange<'_>) {
        let ClockChange {
            before,
            after,
            comment,
        } = *change;
        tracing::warn!(
            name: "tally.audit.clock",
            target: AUDIT_TARGET,
            peer = self.peer.map(tracing::field::display),
            token = self.token(),
            before,
            after,
            comment,
            "an administrator confirmed a step of the system clock"
        );
    }

    /// Logs that the administrator let the leader of a replicated store give up leadership.
    pub fn resigned_leadership(&self, resignation: &Resignation<'_>) {
        let Resignation {
            term,
            successor,
            comment,
        } = *resignation;
        tracing::warn!(
            name: "tally.audit.resignation",
            target: AUDIT_TARGET,
            peer = self.peer.map(tracing::field::display),
            token = self.token(),
            term,
            successor,
            comment,
            "an administrator let the leader give up leadership"
        );
    }

    /// Logs that the administrator changed the log filter from `before` to `after`.
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

    /// Returns the name of the administrator's token. The token itself is never logged.
    fn token(&self) -> Option<&str> {
        self.principal.as_ref().map(|principal| &*principal.name)
    }
}
