//! The targets of spans and events that the log or the exporters treat in a special way. A target is the category of a
//! `tracing` event.

/// The target of the spans of calls. Only the exporter receives them.
pub const RPC_TARGET: &str = "tally::rpc";
/// The target of audit events. Audit events are logged whatever the filter says, because an administrator who may
/// change the filter must not be able to hide actions.
pub const AUDIT_TARGET: &str = "tally::audit";
/// The targets of the events that are also sent to the collector: events of the crate `tally-breaker`, and audit
/// events.
pub(super) const EXPORTED_TARGETS: [&str; 2] = ["tally_breaker", AUDIT_TARGET];
