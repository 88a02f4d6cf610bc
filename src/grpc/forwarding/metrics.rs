//! Counts the forwarded calls.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::telemetry::{Families, MetricSource};

/// What happened to a call at a replica that does not lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The leader has answered.
    Answered,
    /// The call was not sent: there was no connection to the leader, or a limit was reached.
    NotSent,
    /// The connection to the leader failed after the call was sent.
    Lost,
    /// The deadline of the call passed.
    Expired,
    /// No leader was known, or the call was forwarded to a replica that does not lead.
    NotLeader,
}

/// The number of calls by outcome.
#[derive(Debug, Default)]
pub(super) struct ForwardCounts([AtomicU64; Outcome::ALL.len()]);

/// The metrics of the forwarded calls. There are none if the store is not replicated. Clones share the counts.
#[derive(Debug, Clone)]
pub struct ForwardingMetrics(Option<Arc<ForwardCounts>>);

// ===== impl Outcome =====

impl Outcome {
    const ALL: [Outcome; 5] = [
        Outcome::Answered,
        Outcome::NotSent,
        Outcome::Lost,
        Outcome::Expired,
        Outcome::NotLeader,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Outcome::Answered => "answered",
            Outcome::NotSent => "not_sent",
            Outcome::Lost => "lost",
            Outcome::Expired => "expired",
            Outcome::NotLeader => "not_leader",
        }
    }
}

// ===== impl ForwardCounts =====

impl ForwardCounts {
    pub(super) fn count(&self, outcome: Outcome) {
        if let Some(count) = self.0.get(outcome as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

// ===== impl ForwardingMetrics =====

impl ForwardingMetrics {
    pub(crate) const fn none() -> Self {
        ForwardingMetrics(None)
    }

    pub(super) const fn new(counts: Arc<ForwardCounts>) -> Self {
        ForwardingMetrics(Some(counts))
    }
}

impl MetricSource for ForwardingMetrics {
    fn collect(&self, families: &mut Families) {
        let Some(counts) = &self.0 else {
            return;
        };
        let counts = counts.0.iter().map(|count| count.load(Ordering::Relaxed) as f64);
        families.counters(
            "tally_forwarded_calls_total",
            "Calls at a replica that does not lead, by outcome.",
            Outcome::ALL
                .iter()
                .zip(counts)
                .map(|(outcome, count)| (vec![("outcome", outcome.as_str())], count)),
        );
    }
}
