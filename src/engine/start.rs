//! Starts the engine: opens the store, makes the circuits, and starts the threads.

use std::{path::Path, sync::Arc};

use crossbeam_utils::sync::Parker;
use parking_lot::Mutex;
use tally_batch::{BatchConfigError, BatchProcessor, Intake, batch, distribution::Distribution};
use tally_breaker::{CircuitBreakerLayer, ConfigError};
use tally_journal::{CommitTimes, Disk, DiskError, Position, time_commits};
use tally_topology::{AffinityError, CpuAffinityManager, Role};
use thiserror::Error;
use tower::ServiceBuilder;

use super::{
    circuits::{CircuitOptions, Circuits},
    classify::EngineClassifier,
    command::Command,
    counters::EngineCounters,
    engine_config::EngineConfig,
    exec::Exec,
    health::Health,
    maintenance::{Maintenance, Stop},
    pending::EngineReply,
    pipeline::CommitPipeline,
    scrubbing::Scrubber,
    self_probe::SelfProbes,
    tally_engine::{CircuitServices, Shared, TallyEngine, Threads},
    wal::Wal,
};
use crate::{
    store::{
        block_log::EmbeddedLog,
        embedded::{self, OpenError, OpenStore},
    },
    telemetry::millis,
    wall_clock::WallClock,
};

/// Why the engine could not be started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The data directory could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A setting of the queue is out of bounds.
    #[error(transparent)]
    Batch(#[from] BatchConfigError),
    /// A setting of the breaker is out of bounds.
    #[error(transparent)]
    Breaker(#[from] ConfigError),
    /// `slow_threshold` is `"auto"`, but the trial commits from which it is computed failed.
    #[error("slow_threshold is \"auto\", but the trial commits from which it is computed failed")]
    Calibrate(#[source] DiskError),
    /// A thread could not be started, or could not be pinned although the settings require it.
    #[error(transparent)]
    Affinity(#[from] AffinityError),
}

/// The state that the threads share with the code that reports statistics and health.
#[derive(Debug)]
struct Vitals {
    pipeline: Arc<CommitPipeline>,
    health: Arc<Health>,
    counters: Arc<EngineCounters>,
    sync_times: Arc<Distribution>,
}

impl TallyEngine {
    /// Opens the data directory `dir` on `disk`, and starts the threads. `affinity` places the threads on CPUs.
    ///
    /// # Errors
    /// [`StartError`]. In this case, no engine runs.
    pub fn start(
        config: &EngineConfig,
        disk: Arc<dyn Disk>,
        dir: &Path,
        clock: Arc<dyn WallClock>,
        affinity: &CpuAffinityManager,
    ) -> Result<Self, StartError> {
        let (processor, intake) = batch::<Command, EngineReply>(&config.batch)?;
        let trial_disk = Arc::clone(&disk);
        let store = embedded::open(disk, dir, &config.store, clock)?;
        let times = commit_times(&*trial_disk, dir, &config.circuits)?;
        let circuits = Circuits::new(&config.breaker, &config.circuits, times.as_ref())?;
        let (records, recovery) = (store.records.clone(), store.report);
        let segment_bytes = store.directory.geometry().segment_bytes();
        let hash_seed = store.directory.hash_seed();
        let (threads, vitals) = spawn(config, store, intake, &processor, affinity)?;
        let services = CircuitServices(circuits.breakers.clone().map(|breaker| {
            ServiceBuilder::new()
                .layer(CircuitBreakerLayer::with_classifier(breaker, EngineClassifier))
                .service(processor.clone())
        }));
        let shared = Shared {
            batch: processor,
            circuits,
            self_probes: SelfProbes::default(),
            affinity: affinity.clone(),
            records,
            pipeline: vitals.pipeline,
            health: vitals.health,
            counters: vitals.counters,
            sync_times: vitals.sync_times,
            recovery,
            segment_bytes,
            directory: dir.to_owned(),
            hash_seed,
            threads: Mutex::new(Some(threads)),
        };
        Ok(TallyEngine {
            shared: Arc::new(shared),
            services,
        })
    }
}

/// Makes the commit pipeline and starts the threads. WAL starts before EXEC, because EXEC hands batches over to WAL.
fn spawn(
    config: &EngineConfig,
    store: OpenStore,
    intake: Intake<Command, EngineReply>,
    processor: &BatchProcessor<Command, EngineReply>,
    affinity: &CpuAffinityManager,
) -> Result<(Threads, Vitals), StartError> {
    let (health, counters) = (Arc::new(Health::new()), Arc::new(EngineCounters::default()));
    counters.publish(&store.ledger);
    let sync_times = Arc::new(Distribution::new());
    let pipeline = Arc::new(CommitPipeline::new(
        Box::new(EmbeddedLog::new(store.writer, Arc::clone(&store.directory))),
        store.durable,
        intake.answerer(),
        Arc::clone(&health),
        Arc::clone(&counters),
        Arc::clone(&sync_times),
    ));
    let wal = Wal {
        pipeline: Arc::clone(&pipeline),
        exec: processor.notifier(),
        health: Arc::clone(&health),
    };
    let exec = Exec::new(
        store.ledger,
        intake,
        Arc::clone(&pipeline),
        Arc::clone(&health),
        Arc::clone(&counters),
    );
    let parker = Parker::new();
    let stop = Stop::new(&parker);
    let maintenance = Maintenance {
        batch: processor.clone(),
        pipeline: Arc::clone(&pipeline),
        health: Arc::clone(&health),
        preparer: store.preparer,
        walk: store.walk,
        checkpoints: store.checkpoints,
        id_files: store.id_files,
        directory: store.directory,
        checkpoint_bytes: config.checkpoint.0,
        last_checkpoint_bytes: 0,
        last_checkpoint: store.report.checkpoint_position.unwrap_or(Position::START),
        next_id_file: 0,
        scrubber: Scrubber::new(store.scrub, config.scrub, Arc::clone(&counters)),
        parker,
        stop: stop.clone(),
    };
    let threads = Threads {
        wal: affinity.spawn(Role::Wal, 0, "tally-wal", move || wal.run())?,
        exec: affinity.spawn(Role::Exec, 0, "tally-exec", move || exec.run())?,
        maintenance: affinity.spawn(Role::Aux, 0, "tally-maint", move || maintenance.run())?,
        stop,
    };
    let vitals = Vitals {
        pipeline,
        health,
        counters,
        sync_times,
    };
    Ok((threads, vitals))
}

/// Measures how long commits in `dir` take. A disk error prevents the start only if a slow threshold depends on the
/// times.
fn commit_times(
    disk: &dyn Disk,
    dir: &Path,
    circuits: &CircuitOptions,
) -> Result<Option<CommitTimes>, StartError> {
    match time_commits(disk, dir, circuits.trial()) {
        Ok(times) => {
            tracing::info!(
                commits = times.commits(),
                p50_ms = millis(times.quantile(0.5)),
                p99_ms = millis(times.quantile(0.99)),
                "commits timed"
            );
            Ok(Some(times))
        }
        Err(error) if circuits.needs_times() => Err(StartError::Calibrate(error)),
        Err(error) => {
            tracing::warn!(
                %error,
                "the trial commits failed, so the slow threshold is not compared with the time of a commit"
            );
            Ok(None)
        }
    }
}
