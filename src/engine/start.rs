//! Opens the store and starts the threads.

use std::{path::Path, sync::Arc};

use crossbeam_utils::sync::Parker;
use parking_lot::Mutex;
use thiserror::Error;
use tower::ServiceBuilder;

use super::{
    CircuitOptions, CircuitServices, EngineConfig, Shared, TallyEngine, Threads,
    circuits::Circuits,
    classify::EngineClassifier,
    command::Command,
    counters::EngineCounters,
    exec::Exec,
    handoff::Handoff,
    health::Health,
    maintenance::{Maintenance, Stop},
    pending::EngineReply,
    scrubbing::Scrubber,
    self_probe::SelfProbes,
    wal::{Committer, Wal},
};
use crate::{
    batch::{BatchConfigError, BatchProcessor, Intake, batch},
    breaker::{CircuitBreakerLayer, ConfigError},
    distribution::Distribution,
    store::{
        embedded::{self, OpenError, OpenStore},
        journal::{CommitTimes, Disk, DiskError, Position, time_commits},
    },
    topology::{AffinityError, CpuAffinityManager, Role},
    wall_clock::WallClock,
};

/// Why the engine could not be started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The data directory.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A setting of the queue.
    #[error(transparent)]
    Batch(#[from] BatchConfigError),
    /// A setting of the breaker.
    #[error(transparent)]
    Breaker(#[from] ConfigError),
    /// `slow_threshold = "auto"`, and commits could not be timed.
    #[error("commits could not be timed to set slow_threshold")]
    Calibrate(#[source] DiskError),
    /// A thread could not be started, or not placed where the operator insists.
    #[error(transparent)]
    Affinity(#[from] AffinityError),
}

/// What the threads have in common with those who watch them.
#[derive(Debug, Clone)]
struct Vitals {
    handoff: Arc<Handoff>,
    health: Arc<Health>,
    counters: Arc<EngineCounters>,
    sync_times: Arc<Distribution>,
}

impl TallyEngine {
    /// Opens the data directory `dir` and starts the threads.
    ///
    /// # Errors
    /// [`StartError`]. Nothing runs then.
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
        let vitals = Vitals {
            handoff: Arc::new(Handoff::new(store.durable)),
            health: Arc::new(Health::new()),
            counters: Arc::new(EngineCounters::default()),
            sync_times: Arc::new(Distribution::new()),
        };
        vitals.counters.publish(&store.ledger);
        let (records, recovery) = (store.records.clone(), store.report);
        let segment_bytes = store.directory.geometry().segment_bytes();
        let hash_seed = store.directory.hash_seed();
        let threads = spawn(config, store, intake, &processor, &vitals, affinity)?;
        let services = CircuitServices(circuits.breakers.clone().map(|breaker| {
            ServiceBuilder::new()
                .layer(CircuitBreakerLayer::with_classifier(breaker, EngineClassifier))
                .service(processor.clone())
        }));
        let Vitals {
            handoff,
            health,
            counters,
            sync_times,
        } = vitals;
        let shared = Shared {
            batch: processor,
            circuits,
            self_probes: SelfProbes::default(),
            affinity: affinity.clone(),
            records,
            handoff,
            health,
            counters,
            sync_times,
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

/// Starts WAL before EXEC, which hands it work.
fn spawn(
    config: &EngineConfig,
    store: OpenStore,
    intake: Intake<Command, EngineReply>,
    processor: &BatchProcessor<Command, EngineReply>,
    vitals: &Vitals,
    affinity: &CpuAffinityManager,
) -> Result<Threads, StartError> {
    let Vitals {
        handoff,
        health,
        counters,
        sync_times,
    } = vitals.clone();
    let committer = Arc::new(Mutex::new(Committer {
        writer: store.writer,
        _directory: Arc::clone(&store.directory),
        answerer: intake.answerer(),
        health: Arc::clone(&health),
        sync_times,
        counters,
        durable: store.durable,
        failed: false,
    }));
    let wal = Wal {
        handoff,
        committer: Arc::clone(&committer),
        exec: processor.notifier(),
        health,
    };
    let scrubber = Scrubber::new(store.scrub, config.scrub, Arc::clone(&vitals.counters));
    let Vitals {
        handoff,
        health,
        counters,
        ..
    } = vitals.clone();
    let writer = Arc::clone(&committer);
    let exec = Exec::new(store.ledger, intake, handoff, writer, health, counters);
    let parker = Parker::new();
    let stop = Stop::new(&parker);
    let maintenance = Maintenance {
        batch: processor.clone(),
        handoff: Arc::clone(&vitals.handoff),
        health: Arc::clone(&vitals.health),
        preparer: store.preparer,
        walk: store.walk,
        checkpoints: store.checkpoints,
        id_files: store.id_files,
        directory: store.directory,
        checkpoint_bytes: config.checkpoint.0,
        last_checkpoint_bytes: 0,
        last_checkpoint: store.report.checkpoint_position.unwrap_or(Position::START),
        next_id_file: 0,
        scrubber,
        parker,
        stop: stop.clone(),
    };
    Ok(Threads {
        wal: affinity.spawn(Role::Wal, 0, "tally-wal", move || wal.run())?,
        exec: affinity.spawn(Role::Exec, 0, "tally-exec", move || exec.run())?,
        maintenance: affinity.spawn(Role::Aux, 0, "tally-maint", move || maintenance.run())?,
        stop,
        committer,
    })
}

/// How long commits take in `dir`. A disk that refuses is an error only if a threshold depends on it.
fn commit_times(
    disk: &dyn Disk,
    dir: &Path,
    circuits: &CircuitOptions,
) -> Result<Option<CommitTimes>, StartError> {
    match time_commits(disk, dir, circuits.trial()) {
        Ok(times) => {
            tracing::info!(
                commits = times.commits(),
                p50 = ?times.quantile(0.5),
                p99 = ?times.quantile(0.99),
                "commits timed"
            );
            Ok(Some(times))
        }
        Err(error) if circuits.needs_times() => Err(StartError::Calibrate(error)),
        Err(error) => {
            tracing::warn!(%error, "commits could not be timed; the slow threshold is not checked");
            Ok(None)
        }
    }
}
