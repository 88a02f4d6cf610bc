//! The measurements of a round of load.

use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

/// The measurements of one round of load.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) load: LoadStats,
    pub(super) elapsed: Duration,
    pub(super) server_cpu: Option<Duration>,
}

/// Counts and latencies of the callers or streams of one client thread, or of all threads.
#[derive(Debug)]
pub(super) struct LoadStats {
    started: Instant,
    /// Transactions answered as committed.
    pub(super) transactions: u64,
    /// The part of `transactions` that was committed in an earlier run: replays.
    pub(super) replayed: u64,
    /// Transactions that the service rejected because of overload.
    pub(super) overloaded: u64,
    /// Transactions sent after their scheduled time.
    pub(super) late: u64,
    /// Transactions in the schedule.
    pub(super) due: u64,
    /// Transactions in the schedule that were never sent.
    pub(super) missed: u64,
    /// Latencies of calls, or of messages of a stream, in nanoseconds.
    pub(super) latency: Histogram<u64>,
    /// Transactions answered in each second.
    pub(super) seconds: Vec<u64>,
}

/// The outcomes of the transactions of one call or message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Outcomes {
    committed: u64,
    replayed: u64,
    overloaded: u64,
}

/// Longest recorded latency, in nanoseconds. A longer latency is recorded as this value.
const LATENCY_MAX_NS: u64 = 600_000_000_000;
/// Maximum number of seconds that are counted separately. Later transactions count in the last second.
const SECONDS_MAX: usize = 100_000;

// ===== impl Outcomes =====

impl Outcomes {
    pub(super) fn committed(replayed: bool) -> Self {
        Outcomes {
            committed: 1,
            replayed: replayed.into(),
            overloaded: 0,
        }
    }

    pub(super) fn overloaded(count: u64) -> Self {
        Outcomes {
            overloaded: count,
            ..Outcomes::default()
        }
    }

    pub(super) const fn plus(self, other: Self) -> Self {
        Outcomes {
            committed: self.committed + other.committed,
            replayed: self.replayed + other.replayed,
            overloaded: self.overloaded + other.overloaded,
        }
    }
}

// ===== impl LoadStats =====

impl LoadStats {
    pub(super) fn new(started: Instant) -> Self {
        LoadStats {
            started,
            transactions: 0,
            replayed: 0,
            overloaded: 0,
            late: 0,
            due: 0,
            missed: 0,
            latency: histogram(),
            seconds: Vec::new(),
        }
    }

    /// Records a call that was answered now. Its latency counts from `due`.
    pub(super) fn record(&mut self, due: Instant, outcomes: Outcomes, late: bool) {
        let now = Instant::now();
        self.transactions += outcomes.committed;
        self.replayed += outcomes.replayed;
        self.overloaded += outcomes.overloaded;
        if late {
            self.late += outcomes.committed + outcomes.overloaded;
        }
        if outcomes.committed > 0 {
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
            *count += outcomes.committed;
        }
    }

    /// Adds the counts and latencies of `other`, which must have started at about the same time, because the counts per
    /// second are added second by second.
    pub(super) fn add(&mut self, other: &Self) {
        self.transactions += other.transactions;
        self.replayed += other.replayed;
        self.overloaded += other.overloaded;
        self.late += other.late;
        self.due += other.due;
        self.missed += other.missed;
        // Adding can't fail, because all histograms have the same bounds.
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
    /// Returns committed transactions per second.
    pub(super) fn rate(&self) -> f64 {
        self.load.transactions as f64 / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }
}

/// Returns the latencies of all `rounds` together.
pub(super) fn all_latencies(rounds: &[Round]) -> Histogram<u64> {
    let mut all = histogram();
    for round in rounds {
        let _added = all.add(&round.load.latency);
    }
    all
}

/// Returns the median, or 0 if there are no values.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Returns a figure for the report with as many decimals as its text shows.
pub(super) fn rounded(value: f64, decimals: i32) -> f64 {
    let scale = 10_f64.powi(decimals);
    (value * scale).round() / scale
}

#[expect(clippy::expect_used, reason = "constant bounds")]
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).expect("bounds are valid")
}
