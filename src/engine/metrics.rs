//! What the engine tells as metrics. Names and units are those of Prometheus' conventions.

use super::{EngineStats, TallyEngine};
use crate::{
    batch::{BatchStats, FlushReason},
    breaker::{CircuitState, LifetimeStats},
    engine::{CircuitReport, Condition},
    sys::limits::disk_space,
    telemetry::{Families, MetricSource},
    topology::PlacementFigures,
};

/// From nanoseconds to seconds.
const SECONDS: f64 = 1e-9;
/// Upper bounds of latencies in nanoseconds: 50 µs to 10 s.
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
/// Upper bounds of the number of transactions in a block.
const ITEM_BOUNDS: [u64; 8] = [1, 4, 16, 64, 256, 1024, 4096, 16384];

/// Every state, to tell for each whether it is the present one.
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
            "Changes of state of circuits.",
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
        // One reading for all: it sums up every distribution.
        let stats = self.stats();
        collect_queue(families, &stats.batch);
        self.collect_batches(families);
        self.collect_ledger(families, &stats);
        placement(families, &self.affinity().figures());
        let build = vec![
            ("version", env!("CARGO_PKG_VERSION")),
            ("commit", env!("TALLY_COMMIT")),
        ];
        families.gauges(
            "tally_build_info",
            "Which build this is; always 1.",
            [(build, 1.0)],
        );
    }
}

impl TallyEngine {
    /// Commits by how long they took: upper bounds in nanoseconds, and how many took longer than the bound before and no
    /// longer than this one. The last one has those beyond all bounds, under `u64::MAX`.
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

    fn collect_batches(&self, families: &mut Families) {
        let batch = self.shared.batch.distributions();
        let latency = [
            (
                "tally_queue_wait_seconds",
                "From entering the queue to being executed.",
                &batch.queue_wait,
            ),
            (
                "tally_commit_seconds",
                "From being executed to being durable.",
                &batch.commit,
            ),
            (
                "tally_fsync_seconds",
                "Writing and syncing a journal block.",
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

    fn collect_ledger(&self, families: &mut Families, stats: &EngineStats) {
        let ledger = stats.ledger;
        families.counters(
            "tally_transactions_total",
            "Transactions by what became of them.",
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
            "Accounts of the ledger.",
            ledger.accounts as f64,
        );
        families.gauge(
            "tally_transaction_ids",
            "Transaction ids that are known.",
            ledger.ids as f64,
        );
        families.gauge(
            "tally_journal_bytes",
            "Bytes of journal.",
            stats.journal_bytes as f64,
        );
        let journal = self.journal_condition();
        families.counters(
            "tally_journal_damage_total",
            "Times that damage was found in the journal, by what found it; each pass of the scrub finds it again.",
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
            "When the scrub last came to the end of the journal, in seconds since the Unix epoch; 0 if it has not yet.",
            journal
                .last_scrub_pass
                .map_or(0.0, |at| at.as_nanos() as f64 * SECONDS),
        );
        // A simulated disk has no room to tell of.
        if let Ok(space) = disk_space(&self.shared.directory) {
            families.gauge(
                "tally_disk_free_bytes",
                "Room left for the data directory.",
                space.free as f64,
            );
            families.gauge(
                "tally_disk_total_bytes",
                "Size of the file system of the data directory.",
                space.total as f64,
            );
        }
        let failed = self.health().condition() != Condition::Running;
        families.gauge(
            "tally_store_failed",
            "1 if the store has failed and nothing is executed until the next start.",
            f64::from(u8::from(failed)),
        );
    }
}

fn collect_queue(families: &mut Families, stats: &BatchStats) {
    families.gauge(
        "tally_queue_depth",
        "Requests that wait.",
        stats.queue_depth as f64,
    );
    families.gauge(
        "tally_queue_capacity",
        "Requests that can wait.",
        stats.queue_capacity as f64,
    );
    families.counter(
        "tally_queue_full_total",
        "Requests refused by a full queue.",
        stats.full as f64,
    );
    families.counters(
        "tally_queue_dropped_total",
        "Requests that left the queue without being executed, and replies that went missing (a bug if above 0).",
        [
            (vec![("reason", "expired")], stats.expired as f64),
            (vec![("reason", "cancelled")], stats.cancelled as f64),
            (vec![("reason", "reply_missing")], stats.replies_missing as f64),
        ],
    );
    families.counters(
        "tally_batch_flush_total",
        "Journal blocks by what closed them.",
        FlushReason::ALL.map(|reason| {
            let labels = vec![("reason", reason.as_str())];
            (labels, stats.flushed(reason) as f64)
        }),
    );
    families.gauge(
        "tally_queue_bytes",
        "Bytes of the requests that wait.",
        stats.queue_bytes as f64,
    );
    families.gauge(
        "tally_queue_oldest_seconds",
        "For how long the oldest request has waited, about.",
        stats.oldest_age.as_secs_f64(),
    );
    families.gauge(
        "tally_batch_linger_seconds",
        "How long a batch may wait for callers who are on their way.",
        stats.linger.as_secs_f64(),
    );
    families.counter(
        "tally_queue_held_back_total",
        "Requests that waited for one batch more since their client had had its share.",
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
        "1 if every thread of the role is where it should be.",
        figures.roles.iter().map(|role| {
            let labels = vec![("role", role.role.as_str())];
            (labels, f64::from(u8::from(role.affinity_ok)))
        }),
    );
    families.counter(
        "tally_affinity_lost_total",
        "Masks of threads that were found changed from outside.",
        figures.affinity_lost as f64,
    );
    if let Some(throttled) = figures.throttled {
        families.counter(
            "tally_cpu_throttled_seconds_total",
            "For how long the CPU quota kept the process from running.",
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
        "1 for the state that a circuit is in.",
        states,
    );
    families.counters(
        "tally_breaker_calls_total",
        "Calls of circuits by what became of them.",
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
        "Calls that took as long as the slow threshold, or longer.",
        of_each(|report| report.stats.lifetime.slow as f64),
    );
    families.gauges(
        "tally_breaker_overdue",
        "Calls under way for the slow threshold or longer.",
        of_each(|report| report.stats.overdue_in_flight as f64),
    );
    families.gauges(
        "tally_breaker_in_flight",
        "Calls under way.",
        of_each(|report| report.stats.in_flight as f64),
    );
    families.gauges(
        "tally_breaker_slow_threshold_seconds",
        "The slow threshold in force.",
        of_each(|report| report.stats.config.slow_threshold.as_secs_f64()),
    );
    families.counters(
        "tally_breaker_self_throttled_seconds_total",
        "For how long the process itself was held up.",
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
