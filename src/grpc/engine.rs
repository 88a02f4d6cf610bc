//! `tally.v1.EngineService`: the engine's own state. Nothing here passes the breaker or the queue.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::Semaphore;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{
    circuit,
    circuit_change::{self, Change},
    topology,
    watch::{self, WATCHERS_MAX},
};
use crate::{
    batch::FlushReason,
    distribution::Summary,
    engine::{EngineStats, TallyEngine},
    proto::{
        self, FlushReasons, GetBatchStatsRequest, GetBatchStatsResponse, GetCircuitStatsRequest,
        GetCircuitStatsResponse, GetTopologyRequest, GetTopologyResponse, LatencySummary, LedgerStats,
        SetCircuitModeRequest, SetCircuitModeResponse, SizeSummary, WatchCircuitStatsRequest,
        WatchCircuitStatsResponse, engine_service_server,
    },
    security::{Administrator, Principal},
};

/// The service.
#[derive(Debug, Clone)]
pub(super) struct EngineService {
    engine: TallyEngine,
    /// A permit for each watcher.
    watchers: Arc<Semaphore>,
    draining: CancellationToken,
}

// ===== impl EngineService =====

impl EngineService {
    /// Shows `engine`. Watchers are told when `draining` begins.
    #[must_use]
    pub(super) fn new(engine: TallyEngine, draining: CancellationToken) -> Self {
        EngineService {
            engine,
            watchers: Arc::new(Semaphore::new(WATCHERS_MAX)),
            draining,
        }
    }
}

#[tonic::async_trait]
impl engine_service_server::EngineService for EngineService {
    async fn get_circuit_stats(
        &self,
        _: Request<GetCircuitStatsRequest>,
    ) -> Result<Response<GetCircuitStatsResponse>, Status> {
        Ok(Response::new(circuit_stats_response(&self.engine)))
    }

    type WatchCircuitStatsStream =
        Pin<Box<dyn Stream<Item = Result<WatchCircuitStatsResponse, Status>> + Send>>;

    async fn watch_circuit_stats(
        &self,
        request: Request<WatchCircuitStatsRequest>,
    ) -> Result<Response<Self::WatchCircuitStatsStream>, Status> {
        let snapshots = watch::watch(&self.engine, request.get_ref(), &self.watchers, &self.draining)?;
        Ok(Response::new(Box::pin(snapshots)))
    }

    async fn set_circuit_mode(
        &self,
        request: Request<SetCircuitModeRequest>,
    ) -> Result<Response<SetCircuitModeResponse>, Status> {
        let who = Administrator {
            peer: request.remote_addr(),
            principal: request.extensions().get::<Principal>().cloned(),
        };
        let request = request.into_inner();
        let change = Change::parse(&request)?;
        let breakers = circuit_change::named(&self.engine, &request.key)?;
        for breaker in &breakers {
            change.apply(breaker, &who, &request.comment);
        }
        let reports = self.engine.circuit_reports();
        let is_named = |key: &str| breakers.iter().any(|breaker| breaker.key() == key);
        Ok(Response::new(SetCircuitModeResponse {
            circuits: reports
                .iter()
                .filter(|report| is_named(&report.stats.key))
                .map(circuit::from_report)
                .collect(),
        }))
    }

    async fn get_topology(
        &self,
        _: Request<GetTopologyRequest>,
    ) -> Result<Response<GetTopologyResponse>, Status> {
        // It reads a few files of /proc for each thread, which do not block on a disk.
        Ok(Response::new(topology::from_info(
            &self.engine.affinity().topology(),
        )))
    }

    async fn get_batch_stats(
        &self,
        _: Request<GetBatchStatsRequest>,
    ) -> Result<Response<GetBatchStatsResponse>, Status> {
        Ok(Response::new(batch_stats_response(&self.engine)))
    }
}

/// What GetCircuitStats answers.
#[must_use]
pub fn circuit_stats_response(engine: &TallyEngine) -> GetCircuitStatsResponse {
    GetCircuitStatsResponse {
        circuits: engine
            .circuit_reports()
            .iter()
            .map(circuit::from_report)
            .collect(),
        snapshot_time: Some(SystemTime::now().into()),
    }
}

/// What GetBatchStats answers.
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
        queue_depth: count(batch.queue_depth as u64),
        queue_capacity: count(batch.queue_capacity as u64),
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
        queue_bytes: count(batch.queue_bytes as u64),
        queue_bytes_capacity: count(batch.queue_bytes_capacity as u64),
        oldest_age: Some(duration(batch.oldest_age)),
        linger_current: Some(duration(batch.linger)),
        commit_average: Some(duration(batch.commit_average)),
        held_back: count(batch.held_back),
        client_share_percent: count(batch.client_share_percent),
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
        }),
    }
}

/// A count as the wire has it.
pub(super) fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A duration as the wire has it.
pub(super) fn duration(value: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or_default(),
    }
}

fn latencies(summary: &Summary) -> LatencySummary {
    let nanos = |value| Some(duration(Duration::from_nanos(value)));
    LatencySummary {
        p50: nanos(summary.p50),
        p90: nanos(summary.p90),
        p99: nanos(summary.p99),
        p999: nanos(summary.p999),
        max: nanos(summary.max),
        count: count(summary.count),
    }
}

fn sizes(summary: &Summary) -> proto::SizeSummary {
    SizeSummary {
        p50: count(summary.p50),
        p99: count(summary.p99),
        max: count(summary.max),
        mean: summary.mean,
        count: count(summary.count),
    }
}
