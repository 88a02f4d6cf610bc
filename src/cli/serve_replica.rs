//! Starts the replica of `tally serve` with `store.kind = "replicated"`.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::Arc,
    time::Duration,
};

use tally_journal::RealDisk;
use tally_topology::{AffinityConfig, AffinityError, CpuAffinityManager, Mode, Role, RoleHandle};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{exit, peer_client::PeerClient, serve_error::ServeError};
use crate::{
    config::CheckedConfig,
    engine::{EngineConfig, TallyEngine},
    replica::{Driver, DriverConfig, DriverParts, Peers, check_resume, prepare, watch_peers},
    store::replicated::{
        DirectoryName, Exchange, KafkaLog, Replica, ReplicaIdentity, ReplicaRole, ReplicaView,
        ReplicatedConfig,
    },
    terminal::{errln, without_error_numbers},
    version::LONG_VERSION,
    wall_clock::SystemWallClock,
};

/// The thread of a replica's driver.
#[derive(Debug)]
pub(super) struct ReplicaThread {
    stop: CancellationToken,
    /// `None` after it was joined.
    thread: Option<RoleHandle<()>>,
}

/// Longest time that a stop waits until the log has accepted the resignation of a leader.
const RESIGN_TIMEOUT: Duration = Duration::from_secs(2);

// ===== impl ReplicaThread =====

impl ReplicaThread {
    /// Gives up leadership, if this replica leads. Waits at most [`RESIGN_TIMEOUT`].
    pub(super) async fn resign(&self, engine: &TallyEngine) {
        let Some(replica) = engine.replica().filter(|replica| replica.view().is_leader()) else {
            return;
        };
        match timeout(RESIGN_TIMEOUT, replica.resign(None)).await {
            Ok(Ok(_)) => tracing::info!("gave up leadership"),
            Ok(Err(error)) => {
                tracing::warn!(%error, "leadership was not given up; another replica claims it soon")
            }
            Err(_) => tracing::warn!("leadership was not given up in time; another replica claims it soon"),
        }
    }
}

impl Drop for ReplicaThread {
    /// Ends the driver.
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // The guard of the thread has reported a panic.
            drop(thread.join());
        }
    }
}

/// Starts the program again in this process, with the same arguments. Returns only if this fails.
pub(super) fn restart() -> ExitCode {
    // This path names the running program, even if its file was replaced.
    let mut arguments = std::env::args_os();
    let mut program = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        program.arg0(name);
    }
    let error = program.args(arguments).exec();
    let error = without_error_numbers(error.to_string());
    errln!("tally: the program can't be started again: {error}");
    ExitCode::from(exit::SOFTWARE)
}

/// Waits for the log, and opens the data directory. Call this on a thread that may block.
///
/// # Errors
/// [`ServeError`].
pub(super) fn open(
    engine_config: &EngineConfig,
    config: &ReplicatedConfig,
    dir: &Path,
    certificate: Option<(PathBuf, PathBuf)>,
    affinity: &CpuAffinityManager,
) -> Result<(TallyEngine, StartedReplica), ServeError> {
    let mut log = KafkaLog::new(config)?;
    let prepared = prepare(&mut log, Arc::new(RealDisk), dir, config.accept_unsafe_topic);
    let facts = affinity.current_thread_runtime()?.block_on(prepared)?;
    let exchange = Exchange::default();
    let clock = Arc::new(SystemWallClock);
    let (engine, origin) =
        TallyEngine::start_replica(engine_config, Arc::new(RealDisk), dir, clock, affinity, &exchange)?;
    let resume = match check_resume(origin.resume, &facts) {
        Ok(resume) => resume,
        Err(error) => {
            engine.drain();
            return Err(error.into());
        }
    };
    let view = ReplicaView {
        own_address: config.advertise.clone(),
        ..ReplicaView::default()
    };
    let (replica, driver) = Replica::new(view);
    engine.set_replica(replica.clone());
    let identity = ReplicaIdentity {
        data_id: origin.data_id,
        topic_id: resume.topic_id,
    };
    let (stop, peers) = (CancellationToken::new(), Peers::new(identity));
    let parts = DriverParts {
        config: DriverConfig::new(config, LONG_VERSION, random()?),
        log: KafkaLog::of_topic(config, Some(resume.topic_id))?.since_epoch(resume.epoch),
        engine: engine.clone(),
        exchange,
        replica: driver,
        peers: peers.clone(),
        data_id: origin.data_id,
        geometry: origin.geometry,
        resume,
        has_ended: origin.has_ended,
        stop: stop.clone(),
    };
    let driver = match Driver::new(parts) {
        Ok(driver) => driver,
        Err(error) => {
            engine.drain();
            return Err(error.into());
        }
    };
    let started = StartedReplica {
        driver,
        replica,
        peers,
        addresses: config.peers.clone(),
        client: PeerClient::new(engine.clone(), config, certificate),
        stop,
    };
    Ok((engine, started))
}

/// Ends the log: takes part in the replication without serving calls, until this replica leads, and then writes the end of the log, which
/// names its directory `name`. Call this on a thread that may block.
///
/// # Errors
/// [`ServeError`].
pub(super) fn end_log(
    checked: &CheckedConfig,
    config: &ReplicatedConfig,
    dir: &Path,
    name: DirectoryName,
) -> Result<(), ServeError> {
    let affinity = CpuAffinityManager::detect(AffinityConfig {
        mode: Mode::Off,
        ..checked.affinity.clone()
    })?;
    let (engine, replica) = open(&checked.engine, config, dir, None, &affinity)?;
    let thread = replica.run(&engine, &affinity)?;
    let ended = affinity.current_thread_runtime()?.block_on(async {
        let Some(replica) = engine.replica() else {
            return Err(ServeError::NoEnd("the replica has no driver".to_owned()));
        };
        let fault = leading_alone(&mut replica.changes()).await?;
        match replica.end_log(name).await {
            Ok(_) => Ok(()),
            Err(error) => Err(ServeError::NoEnd(fault.unwrap_or_else(|| error.to_string()))),
        }
    });
    drop(thread);
    engine.drain();
    ended
}

/// Waits until this replica leads or has stopped. Returns the fault of a stopped replica.
///
/// # Errors
/// [`ServeError::NoEnd`] if another replica writes blocks after this one has read the whole log. A command that waited would end the
/// log at the next failover, while the other replicas serve.
async fn leading_alone(changes: &mut watch::Receiver<ReplicaView>) -> Result<Option<String>, ServeError> {
    let mut end = None;
    loop {
        let found = {
            let view = changes.borrow_and_update();
            (view.role, view.accepted_block, view.fault.clone())
        };
        match found {
            (ReplicaRole::Leader, ..) => return Ok(None),
            (ReplicaRole::Stopped, _, fault) => return Ok(fault),
            // While a replica starts, it reads what is in the log. A candidate reads its own claim.
            (ReplicaRole::Starting | ReplicaRole::Candidate, ..) => {}
            (ReplicaRole::Standby, accepted, _) => {
                if accepted > *end.get_or_insert(accepted) {
                    let other = "another replica leads; stop all replicas first";
                    return Err(ServeError::NoEnd(other.to_owned()));
                }
            }
        }
        if changes.changed().await.is_err() {
            return Ok(None);
        }
    }
}

/// A replica whose driver does not run yet.
pub(super) struct StartedReplica {
    driver: Driver<KafkaLog>,
    replica: Replica,
    peers: Peers,
    /// The addresses of the other replicas.
    addresses: Vec<String>,
    client: PeerClient,
    stop: CancellationToken,
}

// ===== impl StartedReplica =====

impl StartedReplica {
    /// Starts the thread of the driver.
    ///
    /// # Errors
    /// [`AffinityError`].
    pub(super) fn run(
        self,
        engine: &TallyEngine,
        affinity: &CpuAffinityManager,
    ) -> Result<ReplicaThread, AffinityError> {
        let StartedReplica {
            driver,
            replica,
            peers,
            addresses,
            client,
            stop,
        } = self;
        let (guard, manager) = (engine.panic_guard(), affinity.clone());
        let thread = affinity.spawn(Role::Aux, 5, "tally-replica", move || {
            let _guard = guard;
            match manager.current_thread_runtime() {
                Ok(runtime) => {
                    runtime.block_on(async {
                        let watching = tokio::spawn(watch_peers(addresses, peers, replica, Arc::new(client)));
                        driver.run().await;
                        watching.abort();
                    });
                }
                Err(error) => {
                    tracing::error!(%error, "the driver of the replica could not be started");
                    _guard.fail();
                }
            }
        })?;
        Ok(ReplicaThread {
            stop,
            thread: Some(thread),
        })
    }
}

/// Returns a random number.
fn random() -> Result<u64, ServeError> {
    let mut bytes = [0; 8];
    tally_journal::Disk::fill_random(&RealDisk, &mut bytes).map_err(ServeError::Random)?;
    Ok(u64::from_le_bytes(bytes))
}
