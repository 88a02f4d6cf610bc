//! The methods of `tally.v1.EngineService`. Their calls do not pass through a circuit or the queue, so that they work
//! when the engine refuses transactions.

use std::{pin::Pin, sync::Arc};

use tokio::sync::Semaphore;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::{
    batch_stats::batch_stats_response,
    circuit::{self, circuit_stats_response},
    circuit_change::{self, Change},
    clock::{self, clock_status},
    replica::{self, replica_state_response},
    topology::topology_response,
    watch::{self, WATCHERS_MAX},
};
use crate::{
    engine::TallyEngine,
    proto::{
        ConfirmClockRequest, ConfirmClockResponse, GetBatchStatsRequest, GetBatchStatsResponse,
        GetCircuitStatsRequest, GetCircuitStatsResponse, GetClockRequest, GetClockResponse,
        GetReplicaStateRequest, GetReplicaStateResponse, GetTopologyRequest, GetTopologyResponse,
        ResignLeadershipRequest, ResignLeadershipResponse, SetCircuitModeRequest, SetCircuitModeResponse,
        WatchCircuitStatsRequest, WatchCircuitStatsResponse, engine_service_server,
    },
    security::{Administrator, Principal},
};

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct EngineService {
    engine: TallyEngine,
    /// [`WATCHERS_MAX`] permits, one for each open call of `WatchCircuitStats`.
    watchers: Arc<Semaphore>,
}

// ===== impl EngineService =====

impl EngineService {
    /// Returns the service over `engine`.
    #[must_use]
    pub(crate) fn new(engine: TallyEngine) -> Self {
        EngineService {
            engine,
            watchers: Arc::new(Semaphore::new(WATCHERS_MAX)),
        }
    }
}

/// Returns the caller of a request, for the audit event.
fn administrator<M>(request: &Request<M>) -> Administrator {
    Administrator {
        peer: request.remote_addr(),
        principal: request.extensions().get::<Principal>().cloned(),
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
        let snapshots = watch::watch(&self.engine, request.get_ref(), &self.watchers)?;
        Ok(Response::new(Box::pin(snapshots)))
    }

    async fn set_circuit_mode(
        &self,
        request: Request<SetCircuitModeRequest>,
    ) -> Result<Response<SetCircuitModeResponse>, Status> {
        let who = administrator(&request);
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
        // Reads a few files of /proc for each thread. The kernel makes them in memory, so no disk blocks this thread.
        let topology = self.engine.affinity().topology();
        Ok(Response::new(topology_response(&topology)))
    }

    async fn get_batch_stats(
        &self,
        _: Request<GetBatchStatsRequest>,
    ) -> Result<Response<GetBatchStatsResponse>, Status> {
        Ok(Response::new(batch_stats_response(&self.engine)))
    }

    async fn get_clock(&self, _: Request<GetClockRequest>) -> Result<Response<GetClockResponse>, Status> {
        let clock = clock_status(&self.engine.clock());
        Ok(Response::new(GetClockResponse { clock: Some(clock) }))
    }

    async fn confirm_clock(
        &self,
        request: Request<ConfirmClockRequest>,
    ) -> Result<Response<ConfirmClockResponse>, Status> {
        let who = administrator(&request);
        let clock = clock::confirm(&self.engine, request.get_ref(), &who)?;
        Ok(Response::new(ConfirmClockResponse { clock: Some(clock) }))
    }

    async fn get_replica_state(
        &self,
        _: Request<GetReplicaStateRequest>,
    ) -> Result<Response<GetReplicaStateResponse>, Status> {
        Ok(Response::new(replica_state_response(&self.engine)))
    }

    async fn resign_leadership(
        &self,
        request: Request<ResignLeadershipRequest>,
    ) -> Result<Response<ResignLeadershipResponse>, Status> {
        let who = administrator(&request);
        let term = replica::resign(&self.engine, request.into_inner(), &who).await?;
        Ok(Response::new(ResignLeadershipResponse { term }))
    }
}
