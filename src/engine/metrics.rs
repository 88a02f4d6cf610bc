//! The engine's metrics. Names and units follow the conventions of Prometheus.

use tally_batch::{BatchStats, FlushReason};
use tally_breaker::{CircuitState, LifetimeStats};
use tally_topology::PlacementFigures;

use super::{
    circuits::CircuitReport,
    counters::LedgerFigures,
    health::Condition,
    replica_metrics::collect_replica,
    tally_engine::{EngineStats, TallyEngine},
};
use crate::{
    ledger_clock::ClockStep,
    sys::limits::{DiskSpace, disk_space},
    telemetry::{Families, MetricSource},
};

/// Converts nanoseconds to seconds.
const SECONDS: f64 = 1e-9;
/// Upper bounds of the buckets of latency histograms, in nanoseconds: 50 µs to 10 s.
const LATENCY_BOUNDS: [u64; 17] = [
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
];
/// Upper bounds of the buckets of the histogram of records in a block.
const ITEM_BOUNDS: [u64; 8] = [1, 4, 16, 64, 256, 1024, 4096, 16384];

/// Every state of a circuit. The metric `tally_breaker_state` has one series for each state.
const STATES: [CircuitState; 4] = [
    CircuitState::Closed,
    CircuitState::Open,
    CircuitState::HalfOpen,
    CircuitState::Ramp,
];

// ===== impl MetricSource for TallyEngine =====

impl MetricSource for TallyEngine {
    fn collect(&self, families: &mut Families) {
        circuits(families, &self.circuit_reports());
        let transitions = self.circuit_transitions();
        families.counters(
            "tally_breaker_transitions_total",
            "State changes of circuits.",
            transitions.iter().map(|(kind, count)| {
                let labels = vec![
                    ("key", kind.key),
                    ("from", kind.from),
                    ("to", kind.to),
                    ("reason", kind.reason),
                ];
                (labels, *count as f64)
            }),
        );
        // Read the statistics once for all metrics, because each call of `stats` sums up all distributions.
        let stats = self.stats();
        collect_queue(families, &stats.batch);
        self.collect_batches(families);
        self.collect_ledger(families, &stats);
        self.collect_disk(families);
        collect_history(families, self.history_figures());
        if let Some(replica) = self.replica() {
            replica.read(|view| collect_replica(families, view));
        }
        placement(families, &self.affinity().figures());
        let build = vec![
            ("version", env!("CARGO_PKG_VERSION")),
            ("commit", env!("TALLY_COMMIT")),
        ];
        families.gauges(
            "tally_build_info",
            "Version and commit of this build; the value is always 1.",
            [(build, 1.0)],
        );
    }
}

impl TallyEngine {
    /// Returns a histogram of the time from execution to durability. Each element is the upper bound of a bucket in
    /// nanoseconds and the number of requests in this bucket alone. The last bound is `u64::MAX`.
    #[must_use]
    pub fn commit_histogram(&self) -> Vec<(u64, u64)> {
        let cumulative = self
            .shared
            .batch
            .distributions()
            .commit
            .cumulative(&LATENCY_BOUNDS);
        let all = (u64::MAX, cumulative.count);
        let mut below = 0;
        cumulative
            .buckets
            .into_iter()
            .chain([all])
            .map(|(bound, count)| (bound, count - std::mem::replace(&mut below, count)))
            .collect()
    }

    /// Returns the space of the file system of the data directory; `None` on a simulated disk.
    #[must_use]
    pub fn disk_space(&self) -> Option<DiskSpace> {
        disk_space(&self.shared.directory).ok()
    }

    fn collect_batches(&self, families: &mut Families) {
        let batch = self.shared.batch.distributions();
        let latency = [
            (
                "tally_queue_wait_seconds",
                "Time from the arrival of a request in the queue to its execution.",
                &batch.queue_wait,
            ),
            (
                "tally_commit_seconds",
                "Time from the execution of a request to its durability.",
                &batch.commit,
            ),
            (
                "tally_fsync_seconds",
                "Time to write and sync a journal block.",
                &*self.shared.sync_times,
            ),
        ];
        for (name, help, distribution) in latency {
            families.histogram(name, help, SECONDS, &distribution.cumulative(&LATENCY_BOUNDS));
        }
        families.histogram(
            "tally_batch_items",
            "Records in a journal block.",
            1.0,
            &batch.items.cumulative(&ITEM_BOUNDS),
        );
    }

    fn collect_disk(&self, families: &mut Families) {
        // Without a real directory, such as with a simulated disk, the metrics of the space are omitted.
        if let Some(space) = self.disk_space() {
            families.gauge(
                "tally_disk_free_bytes",
                "Free bytes on the file system of the data directory.",
                space.free as f64,
            );
            families.gauge(
                "tally_disk_total_bytes",
                "Total bytes of the file system of the data directory.",
                space.total as f64,
            );
        }
        families.gauge(
            "tally_disk_full",
            "1 if the disk has no space for the next segment of the journal, otherwise 0. Writes are refused when the journal reaches that segment.",
            f64::from(u8::from(self.disk_is_full())),
        );
    }

    fn collect_ledger(&self, families: &mut Families, stats: &EngineStats) {
        let ledger = stats.ledger;
        families.counters(
            "tally_transactions_total",
            "Transactions by outcome.",
            [
                ("committed", ledger.committed),
                ("rejected", ledger.rejected),
                ("replayed", ledger.replayed),
                ("unknown", stats.unknown_outcomes),
            ]
            .map(|(outcome, count)| (vec![("outcome", outcome)], count as f64)),
        );
        families.gauge(
            "tally_accounts",
            "Accounts in the ledger.",
            ledger.accounts as f64,
        );
        families.gauge(
            "tally_transaction_ids",
            "Transaction ids in the id index.",
            ledger.ids as f64,
        );
        collect_holds(families, &ledger);
        families.gauge(
            "tally_journal_bytes",
            "Length of the journal in bytes.",
            stats.journal_bytes as f64,
        );
        families.gauge(
            "tally_clock_held_seconds",
            "Seconds by which the system clock is ahead of the time of the ledger (negative: behind) after a step of more than 60 s, which the ledger does not follow until an administrator confirms it; otherwise 0.",
            self.clock().held.map_or(0.0, ClockStep::seconds),
        );
        let journal = self.journal_condition();
        families.counters(
            "tally_journal_damage_total",
            "Findings of damage in the journal, by what found it. Each pass of the scrub counts the same damage again.",
            journal
                .damages
                .map(|(found_by, count)| (vec![("found_by", found_by.as_str())], count as f64)),
        );
        families.counter(
            "tally_scrub_bytes_total",
            "Bytes of journal blocks that the scrub has checked.",
            journal.scrubbed_bytes as f64,
        );
        families.gauge(
            "tally_scrub_last_pass_timestamp_seconds",
            "End of the last pass of the scrub over the journal, in seconds since the Unix epoch; 0 before the first.",
            journal
                .last_scrub_pass
                .map_or(0.0, |at| at.as_nanos() as f64 * SECONDS),
        );
        let failed = self.health().condition() != Condition::Running;
        families.gauge(
            "tally_store_failed",
            "1 if the engine has failed and executes nothing until the next start, otherwise 0.",
            f64::from(u8::from(failed)),
        );
    }
}

fn collect_holds(families: &mut Families, ledger: &LedgerFigures) {
    families.gauge("tally_holds", "Outstanding holds.", ledger.holds as f64);
    families.gauge(
        "tally_holds_max",
        "Maximum number of outstanding holds.",
        ledger.holds_max as f64,
    );
    families.counter(
        "tally_holds_expired_total",
        "Holds that have expired.",
        ledger.holds_expired as f64,
    );
    families.counter(
        "tally_velocity_refusals_total",
        "Transactions that a velocity limit of an account rejected.",
        ledger.velocity_refusals as f64,
    );
}

fn collect_history(families: &mut Families, (reads, records): (u64, u64)) {
    families.counter(
        "tally_history_reads_total",
        "Reads of the history: pages of statements and of the ledger, and accounts as of a moment.",
        reads as f64,
    );
    families.counter(
        "tally_history_records_total",
        "Records of accounts that the reads of the history have followed, from one to the one before it.",
        records as f64,
    );
}

fn collect_queue(families: &mut Families, stats: &BatchStats) {
    families.gauge("tally_queue_depth", "Queued requests.", stats.queue_depth as f64);
    families.gauge(
        "tally_queue_capacity",
        "Maximum number of queued requests.",
        stats.queue_capacity as f64,
    );
    families.counter(
        "tally_queue_full_total",
        "Requests rejected because the queue was full.",
        stats.full as f64,
    );
    families.counters(
        "tally_queue_dropped_total",
        "Requests that left the queue without execution, and replies that were lost (a bug if above 0), by reason.",
        [
            (vec![("reason", "expired")], stats.expired as f64),
            (vec![("reason", "cancelled")], stats.cancelled as f64),
            (vec![("reason", "reply_missing")], stats.replies_missing as f64),
        ],
    );
    families.counters(
        "tally_batch_flush_total",
        "Sealed journal blocks, by the reason for sealing.",
        FlushReason::ALL.map(|reason| {
            let labels = vec![("reason", reason.as_str())];
            (labels, stats.flushed(reason) as f64)
        }),
    );
    families.gauge(
        "tally_queue_bytes",
        "Bytes of queued requests.",
        stats.queue_bytes as f64,
    );
    families.gauge(
        "tally_queue_oldest_seconds",
        "Approximate age of the oldest queued request in seconds.",
        stats.oldest_age.as_secs_f64(),
    );
    families.gauge(
        "tally_batch_linger_seconds",
        "Maximum time that a batch now waits for calls that have begun but have not reached the queue, in seconds.",
        stats.linger.as_secs_f64(),
    );
    families.counter(
        "tally_queue_held_back_total",
        "Requests that had to wait for a later batch because their client had used up its share of the batch.",
        stats.held_back as f64,
    );
    families.counter(
        "tally_batch_over_budget_total",
        "Batches that took longer than batch.latency_budget; 0 without a budget.",
        stats.over_budget as f64,
    );
}

fn placement(families: &mut Families, figures: &PlacementFigures) {
    families.gauges(
        "tally_affinity_ok",
        "1 if every thread of the role runs on the planned CPUs, otherwise 0.",
        figures.roles.iter().map(|role| {
            let labels = vec![("role", role.role.as_str())];
            (labels, f64::from(u8::from(role.affinity_ok)))
        }),
    );
    families.counter(
        "tally_affinity_lost_total",
        "Thread affinity masks changed by another process.",
        figures.affinity_lost as f64,
    );
    if let Some(throttled) = figures.throttled {
        families.counter(
            "tally_cpu_throttled_seconds_total",
            "Seconds the process was throttled by its CPU quota.",
            throttled.as_secs_f64(),
        );
    }
}

fn circuits(families: &mut Families, reports: &[CircuitReport]) {
    let states = reports.iter().flat_map(|CircuitReport { stats, .. }| {
        STATES.map(|state| {
            let labels = vec![("key", stats.key.as_str()), ("state", state.as_str())];
            (labels, f64::from(u8::from(stats.effective_state == state)))
        })
    });
    families.gauges(
        "tally_breaker_state",
        "1 for the current state of the circuit, 0 for its other states.",
        states,
    );
    families.counters(
        "tally_breaker_calls_total",
        "Calls by outcome.",
        reports.iter().flat_map(|CircuitReport { stats, .. }| {
            outcomes(&stats.lifetime).map(|(outcome, count)| {
                (
                    vec![("key", stats.key.as_str()), ("outcome", outcome)],
                    count as f64,
                )
            })
        }),
    );
    let of_each = |value: fn(&CircuitReport) -> f64| {
        reports
            .iter()
            .map(move |report| (vec![("key", report.stats.key.as_str())], value(report)))
    };
    families.counters(
        "tally_breaker_slow_calls_total",
        "Calls that took at least the slow threshold.",
        of_each(|report| report.stats.lifetime.slow as f64),
    );
    families.gauges(
        "tally_breaker_overdue",
        "Calls that have been in flight for at least the slow threshold.",
        of_each(|report| report.stats.overdue_in_flight as f64),
    );
    families.gauges(
        "tally_breaker_in_flight",
        "Calls in flight.",
        of_each(|report| report.stats.in_flight as f64),
    );
    families.gauges(
        "tally_breaker_slow_threshold_seconds",
        "Duration from which a call counts as slow.",
        of_each(|report| report.stats.config.slow_threshold.as_secs_f64()),
    );
    families.counters(
        "tally_breaker_self_throttled_seconds_total",
        "Seconds in which the process did not run, because of its CPU quota or another cause, as far as the breaker noticed.",
        of_each(|report| report.stats.lifetime.self_throttled_ms as f64 / 1e3),
    );
}

fn outcomes(lifetime: &LifetimeStats) -> [(&'static str, u64); 9] {
    [
        ("success", lifetime.successes),
        ("failure", lifetime.failures),
        ("neutral", lifetime.neutral),
        ("cancelled", lifetime.cancelled),
        ("stale", lifetime.stale_results),
        ("rejected_open", lifetime.rejected_open),
        ("rejected_half_open", lifetime.rejected_half_open),
        ("rejected_ramp", lifetime.rejected_ramp),
        ("would_reject", lifetime.would_reject),
    ]
}
