//! Log lines of the driver that must not repeat without end.

use tokio::time::Instant;

use crate::{
    store::replicated::{AppendError, ReadError},
    telemetry::LogLimit,
};

/// Limits the log lines of the driver.
#[derive(Debug, Default)]
pub(super) struct Reports {
    unavailable: LogLimit,
    append: LogLimit,
    busy: LogLimit,
}

// ===== impl Reports =====

impl Reports {
    /// Reports that the log can't be read or reached at the moment.
    pub(super) fn log_unavailable(&mut self, error: &ReadError) {
        if let Some(omitted) = self.unavailable.admit(Instant::now()) {
            tracing::warn!(%error, omitted, "the replicated log can't be used at the moment");
        }
    }

    /// Reports that an append failed, or that its outcome is unknown.
    pub(super) fn append_failed(&mut self, error: &AppendError) {
        if let Some(omitted) = self.append.admit(Instant::now()) {
            tracing::warn!(%error, omitted, "an append to the replicated log has failed and is repeated");
        }
    }

    /// Reports that blocks can't be applied at the moment.
    pub(super) fn not_applied(&mut self, why: &str) {
        if let Some(omitted) = self.busy.admit(Instant::now()) {
            tracing::warn!(why, omitted, "blocks of the log can't be applied at the moment");
        }
    }
}
