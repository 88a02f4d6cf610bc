//! Runs the service inside the process of the test. Clients call it over a real socket. Its simulated disk can hang or
//! fail.

use std::{net::SocketAddr, path::Path, sync::Arc};

use hyper_util::rt::{TokioExecutor, TokioIo};
use tally::{
    engine::{EngineConfig, TallyEngine},
    grpc::{self, ForwardingConfig, NetConfig, NetHandle},
    proto::{
        Account, CreateAccountRequest, ProcessTransactionRequest, Transfer,
        account_service_client::AccountServiceClient, engine_service_client::EngineServiceClient,
        transaction_service_client::TransactionServiceClient, transfer::Amount,
    },
    security::Security,
    store::{
        embedded::StoreConfig,
        replicated::{Replica, ReplicaDriver, ReplicaView},
    },
    wall_clock::{SystemWallClock, WallClock},
};
use tally_batch::BatchConfig;
use tally_breaker::CircuitBreakerConfig;
use tally_journal::Disk;
use tally_topology::{AffinityConfig, CpuAffinityManager, Mode};
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, client::GrpcService, transport::Channel};

use super::sim_disk::SimDisk;

/// The transport of a generated client that sets no timers. See [`Service::patient_transactions`].
pub(crate) trait PatientService:
    GrpcService<Body, ResponseBody = hyper::body::Incoming, Future: Send> + Clone + Send + 'static
{
}

impl<S> PatientService for S where
    S: GrpcService<Body, ResponseBody = hyper::body::Incoming, Future: Send> + Clone + Send + 'static
{
}

/// A running service.
pub(crate) struct Service {
    pub(crate) engine: TallyEngine,
    pub(crate) disk: SimDisk,
    draining: CancellationToken,
    net: Option<NetHandle>,
    address: SocketAddr,
}

/// A configuration with small segments, so that a test can fill several segments.
pub(crate) fn config() -> EngineConfig {
    EngineConfig {
        store: StoreConfig {
            segment_bytes: 8 << 20,
            block_bytes_max: 2 << 20,
        },
        ..EngineConfig::default()
    }
}

/// The settings of a breaker whose circuits do not open. Tests of other parts use it.
pub(crate) fn patient() -> CircuitBreakerConfig {
    CircuitBreakerConfig {
        slow_threshold: std::time::Duration::from_secs(60),
        half_open_max_wait: std::time::Duration::from_secs(3600),
        consecutive_failures: None,
        failure_rate: 1.0,
        min_calls: 1_000_000,
        ..CircuitBreakerConfig::default()
    }
}

/// The configuration of [`config`], with the breaker of [`patient`].
pub(crate) fn patient_config() -> EngineConfig {
    EngineConfig {
        breaker: patient(),
        ..config()
    }
}

/// The settings of a queue with the minimum length, 2 requests.
pub(crate) fn short_queue() -> BatchConfig {
    BatchConfig {
        queue_requests_max: 2,
        ..BatchConfig::default()
    }
}

impl Service {
    /// Starts a service on a new disk.
    pub(crate) async fn start(config: &EngineConfig) -> Self {
        Self::start_on(SimDisk::new(1), config).await
    }

    /// Starts a service on `disk`, which may contain the data of an earlier service.
    pub(crate) async fn start_on(disk: SimDisk, config: &EngineConfig) -> Self {
        Self::start_secured(disk, config, Arc::new(Security::default())).await
    }

    /// Starts a service that requires the tokens of `security`.
    pub(crate) async fn start_secured(disk: SimDisk, config: &EngineConfig, security: Arc<Security>) -> Self {
        Self::start_limited(disk, config, security, NetConfig::default()).await
    }

    /// Starts a service with these `limits` for its connections.
    pub(crate) async fn start_limited(
        disk: SimDisk,
        config: &EngineConfig,
        security: Arc<Security>,
        limits: NetConfig,
    ) -> Self {
        Self::launch(disk, config, security, limits, Arc::new(SystemWallClock), None).await
    }

    /// Starts a service that is a replica with this first view. The test is the driver of the replica.
    pub(crate) async fn start_replica(view: ReplicaView, security: Arc<Security>) -> (Self, ReplicaDriver) {
        let (replica, driver) = Replica::new(view);
        let (disk, limits, clock) = (SimDisk::new(1), NetConfig::default(), Arc::new(SystemWallClock));
        let service = Self::launch(disk, &patient_config(), security, limits, clock, Some(replica)).await;
        (service, driver)
    }

    /// Starts a service with this wall clock.
    pub(crate) async fn start_with_clock(
        disk: SimDisk,
        config: &EngineConfig,
        clock: Arc<dyn WallClock>,
    ) -> Self {
        let security = Arc::new(Security::default());
        Self::launch(disk, config, security, NetConfig::default(), clock, None).await
    }

    async fn launch(
        disk: SimDisk,
        config: &EngineConfig,
        security: Arc<Security>,
        limits: NetConfig,
        clock: Arc<dyn WallClock>,
        replica: Option<Replica>,
    ) -> Self {
        let affinity = AffinityConfig {
            mode: Mode::Off,
            ..AffinityConfig::default()
        };
        let affinity = CpuAffinityManager::detect(affinity).unwrap();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let engine = TallyEngine::start(config, shared, Path::new("/data"), clock, &affinity).unwrap();
        let draining = CancellationToken::new();
        let (mut services, _reporter) = grpc::services(&engine, &security, &draining).await.unwrap();
        if let Some(replica) = replica {
            services
                .forward_calls(&replica, ForwardingConfig::default())
                .unwrap();
            engine.set_replica(replica);
        }
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let net = grpc::serve(
            grpc::Listener::bind(any).unwrap(),
            limits,
            &services,
            &security,
            &engine,
            &draining,
        )
        .unwrap();
        let address = net.address();
        Service {
            engine,
            disk,
            draining,
            net: Some(net),
            address,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) async fn channel(&self) -> Channel {
        Channel::from_shared(self.endpoint())
            .unwrap()
            .connect()
            .await
            .unwrap()
    }

    pub(crate) async fn transactions(&self) -> TransactionServiceClient<Channel> {
        TransactionServiceClient::new(self.channel().await)
    }

    /// Makes a client that waits for the server's reply even after the deadline of a call. The client of tonic ends a
    /// call itself at the deadline, so a test would not see the reply of the server.
    pub(crate) async fn patient_transactions(&self) -> TransactionServiceClient<impl PatientService> {
        patient_transactions(self.address).await
    }

    pub(crate) async fn accounts(&self) -> AccountServiceClient<Channel> {
        AccountServiceClient::new(self.channel().await)
    }

    pub(crate) async fn stats(&self) -> EngineServiceClient<Channel> {
        EngineServiceClient::new(self.channel().await)
    }

    /// Creates accounts without a limit on their balances.
    pub(crate) async fn open_accounts(&self, ids: &[&str]) {
        let mut accounts = self.accounts().await;
        for id in ids {
            accounts
                .create_account(CreateAccountRequest {
                    account: Some(account(id)),
                })
                .await
                .unwrap();
        }
    }

    /// Begins to stop the service, which sends GOAWAY to all connections. Does not wait.
    pub(crate) fn begin_drain(&self) {
        self.draining.cancel();
    }

    /// Stops the service and waits until it has stopped. Returns its disk.
    pub(crate) async fn stop(mut self) -> SimDisk {
        self.draining.cancel();
        let (engine, net) = (self.engine.clone(), self.net.take());
        tokio::task::spawn_blocking(move || {
            if let Some(net) = net {
                net.join();
            }
            engine.drain();
        })
        .await
        .unwrap();
        self.disk.clone()
    }
}

impl Drop for Service {
    /// Ends the hang of the disk, so that a test that fails while the disk hangs can end.
    fn drop(&mut self) {
        self.disk.release_syncs();
        self.disk.release_reads();
        self.draining.cancel();
    }
}

/// Makes the client of [`Service::patient_transactions`] for the service at `address`.
pub(crate) async fn patient_transactions(
    address: SocketAddr,
) -> TransactionServiceClient<impl PatientService> {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let origin = format!("http://{address}").parse().unwrap();
    let service = tower::service_fn(move |request: http::Request<Body>| sender.clone().send_request(request));
    TransactionServiceClient::with_origin(service, origin)
}

pub(crate) fn account(id: &str) -> Account {
    Account {
        id: id.to_owned(),
        asset: "EUR".to_owned(),
        ..Account::default()
    }
}

pub(crate) fn transfer(debit: &str, credit: &str, units: i64) -> Transfer {
    Transfer {
        debit_account_id: debit.to_owned(),
        credit_account_id: credit.to_owned(),
        amount: Some(Amount::MinorUnits(units)),
        ..Transfer::default()
    }
}

pub(crate) fn transaction(id: &str, transfers: Vec<Transfer>) -> ProcessTransactionRequest {
    ProcessTransactionRequest {
        transaction_id: id.to_owned(),
        transfers,
        ..ProcessTransactionRequest::default()
    }
}

/// Makes a transaction that moves one unit from `a` to `b`.
pub(crate) fn pay(id: &str) -> ProcessTransactionRequest {
    transaction(id, vec![transfer("a", "b", 1)])
}
