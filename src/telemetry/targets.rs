//! The targets of spans and events that are treated specially.

/// The target of the spans of calls. Only the exporter receives them.
pub const RPC_TARGET: &str = "tally::rpc";
/// The target of audit events. They are always logged: an administrator who may change the filter must not be able to hide
/// what they did.
pub const AUDIT_TARGET: &str = "tally::audit";
/// The targets of the events that go to the collector, besides the log: those of the crate `tally-breaker`, and audit events.
pub(super) const EXPORTED_TARGETS: [&str; 2] = ["tally_breaker", AUDIT_TARGET];
