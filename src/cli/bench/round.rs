//! What a round of load has measured.

use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

/// One round of load.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) done: Part,
    pub(super) elapsed: Duration,
    pub(super) server_cpu: Option<Duration>,
}

/// What the callers, or streams, of a thread have done, or of all threads.
#[derive(Debug)]
pub(super) struct Part {
    started: Instant,
    /// Answered as committed.
    pub(super) transactions: u64,
    /// Of these, known from an earlier run: nothing was booked.
    pub(super) replayed: u64,
    /// Refused because it was too much.
    pub(super) refused: u64,
    /// Sent after their time.
    pub(super) late: u64,
    /// Wanted by the schedule.
    pub(super) due: u64,
    /// Wanted by the schedule and never sent.
    pub(super) missed: u64,
    /// Of calls, or of messages of a stream, in nanoseconds.
    pub(super) latency: Histogram<u64>,
    /// Transactions answered in each second.
    pub(super) seconds: Vec<u64>,
}

/// What one call was answered with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Answer {
    committed: u64,
    replayed: u64,
    refused: u64,
}

/// Longer latencies count as this one.
const LATENCY_MAX_NS: u64 = 600_000_000_000;
/// Seconds that are told apart; what comes later counts as the last one.
const SECONDS_MAX: usize = 100_000;

// ===== impl Answer =====

impl Answer {
    pub(super) fn committed(replayed: bool) -> Self {
        Answer {
            committed: 1,
            replayed: replayed.into(),
            refused: 0,
        }
    }

    pub(super) fn refused(count: u64) -> Self {
        Answer {
            refused: count,
            ..Answer::default()
        }
    }

    pub(super) const fn plus(self, other: Self) -> Self {
        Answer {
            committed: self.committed + other.committed,
            replayed: self.replayed + other.replayed,
            refused: self.refused + other.refused,
        }
    }
}

// ===== impl Part =====

impl Part {
    pub(super) fn new(started: Instant) -> Self {
        Part {
            started,
            transactions: 0,
            replayed: 0,
            refused: 0,
            late: 0,
            due: 0,
            missed: 0,
            latency: histogram(),
            seconds: Vec::new(),
        }
    }

    /// A call that counts from `due` was answered now.
    pub(super) fn record(&mut self, due: Instant, answer: Answer, late: bool) {
        let now = Instant::now();
        self.transactions += answer.committed;
        self.replayed += answer.replayed;
        self.refused += answer.refused;
        if late {
            self.late += answer.committed + answer.refused;
        }
        if answer.committed > 0 {
            let nanos = now.saturating_duration_since(due).as_nanos();
            self.latency
                .saturating_record(u64::try_from(nanos).unwrap_or(u64::MAX));
        }
        let second = now.saturating_duration_since(self.started).as_secs();
        let second = usize::try_from(second).unwrap_or(SECONDS_MAX).min(SECONDS_MAX);
        if self.seconds.len() <= second {
            self.seconds.resize(second + 1, 0);
        }
        if let Some(count) = self.seconds.get_mut(second) {
            *count += answer.committed;
        }
    }

    /// Adds what another has done, who started about when this one did.
    pub(super) fn add(&mut self, other: &Self) {
        self.transactions += other.transactions;
        self.replayed += other.replayed;
        self.refused += other.refused;
        self.late += other.late;
        self.due += other.due;
        self.missed += other.missed;
        // Histograms of the same bounds can always be added.
        let _added = self.latency.add(&other.latency);
        if self.seconds.len() < other.seconds.len() {
            self.seconds.resize(other.seconds.len(), 0);
        }
        for (count, more) in self.seconds.iter_mut().zip(&other.seconds) {
            *count += more;
        }
    }
}

// ===== impl Round =====

impl Round {
    /// Transactions a second.
    pub(super) fn rate(&self) -> f64 {
        self.done.transactions as f64 / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }
}

/// All latencies of some rounds.
pub(super) fn all_latencies(rounds: &[Round]) -> Histogram<u64> {
    let mut all = histogram();
    for round in rounds {
        let _added = all.add(&round.done.latency);
    }
    all
}

#[expect(clippy::expect_used, reason = "constant bounds")]
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).expect("bounds are valid")
}
