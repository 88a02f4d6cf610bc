//! `GetBatchStats`: converts the figures of the batch processor, the journal and the ledger for the API.

use std::time::Duration;

use tally_batch::{BatchConfig, FlushReason, distribution::Summary};

use super::{
    clock::step_message,
    values::{count, duration},
};
use crate::{
    engine::{EngineStats, TallyEngine},
    proto::{BatchSettings, FlushReasons, GetBatchStatsResponse, LatencySummary, LedgerStats, SizeSummary},
};

/// Returns the answer of `GetBatchStats`.
#[must_use]
pub fn batch_stats_response(engine: &TallyEngine) -> GetBatchStatsResponse {
    let EngineStats {
        batch,
        sync,
        ledger,
        journal_bytes,
        durable_block,
        unknown_outcomes,
    } = engine.stats();
    let flushed = |reason| count(batch.flushed(reason));
    GetBatchStatsResponse {
        queue_depth: count(batch.queue_depth),
        queue_capacity: count(batch.queue_capacity),
        flush_reasons: Some(FlushReasons {
            idle: flushed(FlushReason::Idle),
            items: flushed(FlushReason::Items),
            bytes: flushed(FlushReason::Bytes),
            drain: flushed(FlushReason::Drain),
            linger: flushed(FlushReason::Linger),
            deadline: flushed(FlushReason::Deadline),
            explicit: flushed(FlushReason::Explicit),
        }),
        batch_transactions: Some(sizes(&batch.items)),
        batch_bytes: Some(sizes(&batch.bytes)),
        queue_wait: Some(latencies(&batch.queue_wait)),
        commit: Some(latencies(&batch.commit)),
        sync: Some(latencies(&sync)),
        expired: count(batch.expired),
        cancelled: count(batch.cancelled),
        full: count(batch.full),
        replies_missing: count(batch.replies_missing),
        unknown_outcomes: count(unknown_outcomes),
        queue_bytes: count(batch.queue_bytes),
        queue_bytes_capacity: count(batch.queue_bytes_capacity),
        oldest_age: Some(duration(batch.oldest_age)),
        linger_current: Some(duration(batch.linger)),
        commit_average: Some(duration(batch.commit_average)),
        held_back: count(batch.held_back),
        client_share_percent: count(batch.client_share_percent),
        over_budget: count(batch.over_budget),
        settings: Some(settings(engine.batch_config())),
        clock_held_step: engine.clock().held.map(step_message),
        ledger: Some(LedgerStats {
            accounts: count(ledger.accounts),
            last_sequence: count(ledger.last_sequence),
            transaction_ids: count(ledger.ids),
            transaction_id_bytes: count(ledger.id_bytes),
            bytes_per_transaction_id: if ledger.ids == 0 {
                0.0
            } else {
                ledger.id_bytes as f64 / ledger.ids as f64
            },
            account_bytes: count(ledger.account_bytes),
            journal_bytes: count(journal_bytes),
            durable_block: count(durable_block),
            committed: count(ledger.committed),
            rejected: count(ledger.rejected),
            replayed: count(ledger.replayed),
            disk_full: engine.disk_is_full(),
            holds: count(ledger.holds),
            hold_bytes: count(ledger.hold_bytes),
            holds_expired: count(ledger.holds_expired),
            velocity_refusals: count(ledger.velocity_refusals),
        }),
    }
}

fn settings(config: &BatchConfig) -> BatchSettings {
    BatchSettings {
        queue_requests_max: count(config.queue_requests_max),
        queue_bytes_max: count(config.queue_bytes_max),
        max_linger: Some(duration(config.max_linger)),
        siblings: count(config.siblings),
        client_share_percent: i64::from(config.client_share_percent),
        latency_budget: Some(duration(config.latency_budget.unwrap_or_default())),
    }
}

fn latencies(summary: &Summary) -> LatencySummary {
    let nanos = |value| Some(duration(Duration::from_nanos(value)));
    let mean = Duration::try_from_secs_f64(summary.mean / 1e9).unwrap_or_default();
    LatencySummary {
        p50: nanos(summary.p50),
        p90: nanos(summary.p90),
        p99: nanos(summary.p99),
        p999: nanos(summary.p999),
        max: nanos(summary.max),
        count: count(summary.count),
        mean: Some(duration(mean)),
    }
}

fn sizes(summary: &Summary) -> SizeSummary {
    SizeSummary {
        p50: count(summary.p50),
        p99: count(summary.p99),
        max: count(summary.max),
        mean: summary.mean,
        count: count(summary.count),
    }
}
