//! Starts the replica of `tally serve` with `store.kind = "replicated"`.

use std::{
    path::Path,
    sync::Arc,
};

use tally_journal::RealDisk;
use tally_topology::{AffinityError, CpuAffinityManager, Role, RoleHandle};
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

use super::serve_error::ServeError;
use crate::{
    engine::{EngineConfig, TallyEngine},
    replica::{Driver, DriverConfig, DriverParts, Peers, check_resume, prepare, reach},
    store::replicated::{Exchange, KafkaLog, Replica, ReplicaView, ReplicatedConfig},
    version::VERSION,
    wall_clock::SystemWallClock,
};

/// The thread of a replica's driver.
#[derive(Debug)]
pub(super) struct ReplicaThread {
    stop: CancellationToken,
    thread: RoleHandle<()>,
}

// ===== impl ReplicaThread =====

impl ReplicaThread {
    /// Ends the driver.
    pub(super) fn stop(self) {
        self.stop.cancel();
        // The guard of the thread has reported a panic.
        drop(self.thread.join());
    }
}

/// Waits for the log, and opens the data directory. Call this on a thread that may block.
///
/// # Errors
/// [`ServeError`].
pub(super) fn open(
    engine_config: &EngineConfig,
    config: &ReplicatedConfig,
    dir: &Path,
    affinity: &CpuAffinityManager,
) -> Result<(TallyEngine, StartedReplica), ServeError> {
    let mut log = KafkaLog::new(config)?;
    let runtime = Builder::new_current_thread().enable_all().build().map_err(ServeError::Runtime)?;
    let facts = runtime.block_on(async {
        prepare(&mut log, Arc::new(RealDisk), dir, config.accept_unsafe_topic).await?;
        Ok::<_, ServeError>(reach(&mut log).await?)
    })?;
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
    engine.set_replica(replica);
    let stop = CancellationToken::new();
    let parts = DriverParts {
        config: DriverConfig::new(config, VERSION, random()?),
        log: KafkaLog::new(config)?,
        engine: engine.clone(),
        exchange,
        replica: driver,
        peers: Peers::default(),
        data_id: origin.data_id,
        geometry: origin.geometry,
        resume,
        stop: stop.clone(),
    };
    let driver = match Driver::new(parts) {
        Ok(driver) => driver,
        Err(error) => {
            engine.drain();
            return Err(error.into());
        }
    };
    Ok((engine, StartedReplica { driver, stop }))
}

/// A replica whose driver does not run yet.
pub(super) struct StartedReplica {
    driver: Driver<KafkaLog>,
    stop: CancellationToken,
}

// ===== impl StartedReplica =====

impl StartedReplica {
    /// Starts the thread of the driver.
    ///
    /// # Errors
    /// [`AffinityError`].
    pub(super) fn run(self, engine: &TallyEngine, affinity: &CpuAffinityManager) -> Result<ReplicaThread, AffinityError> {
        let StartedReplica { driver, stop } = self;
        let guard = engine.panic_guard();
        let thread = affinity.spawn(Role::Aux, 5, "tally-replica", move || {
            let _guard = guard;
            match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => {
                    runtime.block_on(driver.run());
                }
                Err(error) => {
                    tracing::error!(%error, "the driver of the replica could not be started");
                    _guard.fail();
                }
            }
        })?;
        Ok(ReplicaThread { stop, thread })
    }
}

/// Returns random bits.
fn random() -> Result<u64, ServeError> {
    let mut bytes = [0; 8];
    tally_journal::Disk::fill_random(&RealDisk, &mut bytes).map_err(ServeError::Random)?;
    Ok(u64::from_le_bytes(bytes))
}
