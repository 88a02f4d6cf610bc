//! Opens the store and starts the threads.

use std::{path::Path, sync::Arc};

use crossbeam_utils::sync::Parker;
use parking_lot::Mutex;
use thiserror::Error;
use tower::ServiceBuilder;

use super::{
    EngineConfig, Guard, Guards, Shared, TallyEngine, Threads,
    classify::EngineClassifier,
    command::Command,
    counters::EngineCounters,
    exec::Exec,
    handoff::{EngineReply, Handoff},
    health::Health,
    maintenance::{Maintenance, Stop},
    wal::{Committer, Wal},
};
use crate::{
    batch::{BatchConfigError, BatchProcessor, Intake, batch},
    breaker::{CircuitBreakerConfig, CircuitBreakerLayer, ConfigError, LatencyCircuitBreaker},
    distribution::Distribution,
    store::{
        embedded::{self, OpenError, OpenStore},
        journal::{Disk, Position},
    },
    time::WallClock,
    topology::{AffinityError, CpuAffinityManager, Role},
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
        let breakers = breakers(&config.breaker)?;
        let (processor, intake) = batch::<Command, EngineReply>(&config.batch)?;
        let store = embedded::open(disk, dir, &config.store, clock)?;
        let vitals = Vitals {
            handoff: Arc::new(Handoff::new(store.durable)),
            health: Arc::new(Health::new()),
            counters: Arc::new(EngineCounters::default()),
            sync_times: Arc::new(Distribution::new()),
        };
        vitals.counters.publish(&store.book);
        let (records, recovery) = (store.records.clone(), store.report);
        let segment_bytes = store.directory.geometry().segment_bytes();
        let hash_seed = store.directory.hash_seed();
        let threads = spawn(config, store, intake, &processor, &vitals, affinity)?;
        let guards = Guards(breakers.clone().map(|breaker| {
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
            breakers,
            affinity: affinity.clone(),
            records,
            handoff,
            health,
            counters,
            sync_times,
            recovery,
            segment_bytes,
            hash_seed,
            threads: Mutex::new(Some(threads)),
        };
        Ok(TallyEngine {
            shared: Arc::new(shared),
            guards,
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
    let Vitals {
        handoff,
        health,
        counters,
        ..
    } = vitals.clone();
    let exec = Exec::new(store.book, intake, handoff, committer, health, counters);
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
        last_checkpoint: store.report.checkpoint_position.unwrap_or(Position::START),
        next_id_file: 0,
        parker,
        stop: stop.clone(),
    };
    Ok(Threads {
        wal: affinity.spawn(Role::Wal, 0, "tally-wal", move || wal.run())?,
        exec: affinity.spawn(Role::Exec, 0, "tally-exec", move || exec.run())?,
        maintenance: affinity.spawn(Role::Aux, 0, "tally-maint", move || maintenance.run())?,
        stop,
    })
}

fn breakers(base: &CircuitBreakerConfig) -> Result<[LatencyCircuitBreaker; Guard::ALL.len()], ConfigError> {
    let breaker = |guard: Guard| {
        LatencyCircuitBreaker::builder(guard.config(base))
            .key(guard.key())
            .build()
    };
    let [unary, bulk, stream, accounts] = Guard::ALL.map(breaker);
    Ok([unary?, bulk?, stream?, accounts?])
}
