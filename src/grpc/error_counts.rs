//! Counts the errors that clients get, by reason.

use std::sync::atomic::{AtomicU64, Ordering};

use super::error_kind::{ERROR_KINDS, ErrorKind};
use crate::telemetry::{Families, MetricSource};

/// One counter for each kind of error, in the order of [`ERROR_KINDS`]. Only the code that makes an error writes here, so a
/// committed transaction costs nothing.
static COUNTS: [AtomicU64; ERROR_KINDS.len()] = [const { AtomicU64::new(0) }; ERROR_KINDS.len()];

/// The metric of the errors of the process, by reason.
///
/// A failed call counts once. In a call with many transactions, each rejected transaction counts. After an error that ends a stream,
/// the remaining transactions of the stream get copies of this error; the copies do not count.
#[derive(Debug, Clone, Copy)]
pub struct ErrorMetrics;

/// Counts an error of this kind.
pub(super) fn count(kind: ErrorKind) {
    if let Some(count) = COUNTS.get(kind.index) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

// ===== impl ErrorMetrics =====

impl ErrorMetrics {
    /// Returns each reason with the number of errors since the process started, in the order of [`ERROR_KINDS`].
    pub fn read(self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = COUNTS.iter().map(|count| count.load(Ordering::Relaxed));
        ERROR_KINDS.iter().map(|kind| kind.reason).zip(counts)
    }
}

impl MetricSource for ErrorMetrics {
    fn collect(&self, families: &mut Families) {
        families.counters(
            "tally_errors_total",
            "Failed calls and rejected transactions, by the reason in the error that the client got.",
            self.read()
                .map(|(reason, count)| (vec![("reason", reason)], count as f64)),
        );
    }
}
