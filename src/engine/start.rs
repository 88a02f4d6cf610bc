//! Starts the engine: opens the store, makes the circuits, and starts the threads.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
    task::Waker,
    time::Duration,
};

use crossbeam_utils::sync::Parker;
use parking_lot::Mutex;
use tally_batch::{Answerer, BatchConfigError, BatchProcessor, Intake, batch, distribution::Distribution};
use tally_breaker::{CircuitBreakerLayer, ConfigError};
use tally_journal::{
    BlockKind, CommitTimes, DataId, Disk, DiskError, Geometry, Journal, Position, SegmentSpace, time_commits,
};
use tally_topology::{AffinityError, CpuAffinityManager, Role};
use thiserror::Error;
use tower::ServiceBuilder;

use super::{
    circuits::{CircuitOptions, Circuits},
    classify::EngineClassifier,
    clock_watch::ClockWatch,
    command::Command,
    counters::EngineCounters,
    engine_config::EngineConfig,
    exec::{Exec, ExecStep, Mode},
    health::{Condition, Health},
    history_reads::HistoryReads,
    maintenance::{CheckpointRest, Maintenance, Stop},
    pending::EngineReply,
    pipeline::{CommitPipeline, PipelineStep},
    resume_writer::ResumeWriter,
    scrubbing::Scrubber,
    self_probe::SelfProbes,
    tally_engine::{CircuitServices, Shared, TallyEngine, Threads},
    wal::Wal,
};
use crate::{
    ledger_clock::{ClockError, LedgerClock, date},
    store::{
        block_log::{BlockLog, EmbeddedLog},
        embedded::{self, DurablePoint, HistoryReader, OpenError, OpenStore},
        replicated::{Exchange, ReplicatedLog, ResumePoint},
    },
    telemetry::{LogLimit, millis},
    wall_clock::WallClock,
};

/// Why the engine could not be started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The data directory could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The wall clock is behind the journal, or shows a time that no record can have. The start has changed nothing but what every
    /// start does to the journal.
    #[error(transparent)]
    Clock(#[from] ClockError),
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

/// The parts of the engine that do its work. The service gives each part a thread ([`TallyEngine::start`]). The simulation
/// calls their steps from a single thread.
#[derive(Debug)]
pub struct Cores {
    exec: Exec,
    wal: Wal,
    maintenance: Maintenance,
}

/// What the driver of a replica needs to know about the data directory.
#[derive(Debug, Clone, Copy)]
pub struct ReplicaOrigin {
    /// The id of the directory, which is the same for all replicas.
    pub data_id: DataId,
    /// The sizes of the journal.
    pub geometry: Geometry,
    /// Where to continue to read the log; `None` if the directory does not say so.
    pub resume: Option<ResumePoint>,
    /// Whether the last block of the journal is the end of the log.
    pub has_ended: bool,
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
        let parts = Parts {
            config,
            disk,
            dir,
            clock,
            affinity,
            exchange: None,
            is_threadless: false,
        };
        let (engine, _origin) = parts.start(|log| Box::new(log))?;
        Ok(engine)
    }

    /// Does the same as [`TallyEngine::start`], for the directory of a replica, which follows at first. `exchange` connects the engine
    /// to the driver of the replica.
    ///
    /// # Errors
    /// [`StartError`]. In this case, no engine runs.
    pub fn start_replica(
        config: &EngineConfig,
        disk: Arc<dyn Disk>,
        dir: &Path,
        clock: Arc<dyn WallClock>,
        affinity: &CpuAffinityManager,
        exchange: &Exchange,
    ) -> Result<(Self, ReplicaOrigin), StartError> {
        let parts = Parts {
            config,
            disk,
            dir,
            clock,
            affinity,
            exchange: Some(exchange.clone()),
            is_threadless: false,
        };
        let log = exchange.clone();
        parts.start(|local| Box::new(ReplicatedLog::new(local, log)))
    }

    /// Does the same as [`TallyEngine::start_replica`], but starts no thread.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn replica_without_threads(
        config: &EngineConfig,
        disk: Arc<dyn Disk>,
        dir: &Path,
        clock: Arc<dyn WallClock>,
        affinity: &CpuAffinityManager,
        exchange: &Exchange,
    ) -> Result<(Self, Cores, ReplicaOrigin), StartError> {
        let parts = Parts {
            config,
            disk,
            dir,
            clock,
            affinity,
            exchange: Some(exchange.clone()),
            is_threadless: true,
        };
        let log = exchange.clone();
        assemble(parts, |local| Box::new(ReplicatedLog::new(local, log)))
    }

    /// Opens the data directory `dir` on `disk`, but starts no thread: the caller calls the steps of the [`Cores`].
    /// `wrap` may put another log in front of the journal.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn without_threads(
        config: &EngineConfig,
        disk: Arc<dyn Disk>,
        dir: &Path,
        clock: Arc<dyn WallClock>,
        affinity: &CpuAffinityManager,
        wrap: impl FnOnce(EmbeddedLog) -> Box<dyn BlockLog>,
    ) -> Result<(Self, Cores), StartError> {
        let parts = Parts {
            config,
            disk,
            dir,
            clock,
            affinity,
            exchange: None,
            is_threadless: true,
        };
        let (engine, cores, _origin) = assemble(parts, wrap)?;
        Ok((engine, cores))
    }
}

/// The state that the cores share with the code that reports statistics and health.
#[derive(Debug)]
struct Vitals {
    space: SegmentSpace,
    pipeline: Arc<CommitPipeline>,
    health: Arc<Health>,
    counters: Arc<EngineCounters>,
    sync_times: Arc<Distribution>,
}

/// What an engine is made of.
struct Parts<'a> {
    config: &'a EngineConfig,
    disk: Arc<dyn Disk>,
    dir: &'a Path,
    clock: Arc<dyn WallClock>,
    affinity: &'a CpuAffinityManager,
    /// What connects a replica to its driver; `None` for an embedded store.
    exchange: Option<Exchange>,
    is_threadless: bool,
}

// ===== impl Parts =====

impl Parts<'_> {
    /// Makes the engine and starts its threads. `wrap` may put another log in front of the journal.
    fn start(
        self,
        wrap: impl FnOnce(EmbeddedLog) -> Box<dyn BlockLog>,
    ) -> Result<(TallyEngine, ReplicaOrigin), StartError> {
        let affinity = self.affinity;
        let (engine, cores, origin) = assemble(self, wrap)?;
        let threads = cores.spawn(affinity)?;
        *engine.shared.threads.lock() = Some(threads);
        Ok((engine, origin))
    }
}

// ===== impl Vitals =====

impl Vitals {
    /// Makes the commit pipeline over `log`, and the health and the counters to which the pipeline reports.
    fn new(log: Box<dyn BlockLog>, durable: DurablePoint, answerer: Answerer, space: SegmentSpace) -> Self {
        let (health, counters) = (Arc::new(Health::new()), Arc::new(EngineCounters::default()));
        let sync_times = Arc::new(Distribution::new());
        let pipeline = CommitPipeline::new(
            log,
            durable,
            answerer,
            Arc::clone(&health),
            Arc::clone(&counters),
            Arc::clone(&sync_times),
        );
        Vitals {
            space,
            pipeline: Arc::new(pipeline),
            health,
            counters,
            sync_times,
        }
    }
}

/// Opens the store, and makes the engine and its cores. Starts no thread.
fn assemble(
    parts: Parts<'_>,
    wrap: impl FnOnce(EmbeddedLog) -> Box<dyn BlockLog>,
) -> Result<(TallyEngine, Cores, ReplicaOrigin), StartError> {
    let Parts {
        config,
        disk,
        dir,
        clock,
        affinity,
        exchange,
        is_threadless,
    } = parts;
    let (processor, intake) = batch::<Command, EngineReply>(&config.batch)?;
    let trial_disk = Arc::clone(&disk);
    let clock = Arc::new(LedgerClock::new(clock));
    let store = match &exchange {
        None => embedded::open(disk, dir, &config.store, clock.clone())?,
        Some(_) => {
            let journal = Journal::open_replica(disk, dir).map_err(OpenError::Store)?;
            embedded::open_journal(journal, clock.clone())?
        }
    };
    let origin = ReplicaOrigin {
        data_id: store.directory.data_id(),
        geometry: store.directory.geometry(),
        resume: store.resume.as_ref().and_then(|(_, newest)| *newest),
        has_ended: store.ledger.last_stamp().kind == BlockKind::End,
    };
    check_clock(config, &clock, &store)?;
    let times = commit_times(&*trial_disk, dir, &config.circuits)?;
    let circuits = Circuits::new(&config.breaker, &config.circuits, times.as_ref())?;
    let (records, recovery) = (store.records.clone(), store.report);
    let history = HistoryReads::new(HistoryReader::new(records.clone()));
    let segment_bytes = store.directory.geometry().segment_bytes();
    let hash_seed = store.directory.hash_seed();
    let (cores, vitals) = cores(config, store, &clock, intake, &processor, wrap, exchange);
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
        clock,
        records,
        history,
        pipeline: vitals.pipeline,
        space: vitals.space,
        health: vitals.health,
        counters: vitals.counters,
        sync_times: vitals.sync_times,
        recovery,
        segment_bytes,
        directory: dir.to_owned(),
        hash_seed,
        threads: Mutex::new(None),
        replica: OnceLock::new(),
        threadless: is_threadless,
    };
    let engine = TallyEngine {
        shared: Arc::new(shared),
        services,
    };
    Ok((engine, cores, origin))
}

/// Checks the wall clock at the start. If it is behind the journal and `config` accepts this, logs a warning.
fn check_clock(config: &EngineConfig, clock: &LedgerClock, store: &OpenStore) -> Result<(), ClockError> {
    match clock.check_start(store.ledger.order().last_time) {
        Err(ClockError::Behind { wall, last, behind }) if config.accept_clock_behind => {
            tracing::warn!(
                wall_time = date(wall),
                last_time = date(last),
                behind_s = behind.as_secs(),
                "the system clock is behind the journal, as --accept-clock-behind allows; until it is later than the last \
                 time in the journal, the times of commits are only nanoseconds apart"
            );
            Ok(())
        }
        result => result,
    }
}

/// Makes the commit pipeline and the cores. `wrap` may put another log in front of the journal.
fn cores(
    config: &EngineConfig,
    mut store: OpenStore,
    clock: &Arc<LedgerClock>,
    intake: Intake<Command, EngineReply>,
    processor: &BatchProcessor<Command, EngineReply>,
    wrap: impl FnOnce(EmbeddedLog) -> Box<dyn BlockLog>,
    exchange: Option<Exchange>,
) -> (Cores, Vitals) {
    store.ledger.set_holds_max(config.holds_max.0);
    let log = wrap(EmbeddedLog::new(store.writer, Arc::clone(&store.directory)));
    let vitals = Vitals::new(log, store.durable, intake.answerer(), store.space.clone());
    let Vitals {
        pipeline,
        health,
        counters,
        ..
    } = &vitals;
    counters.set_holds_max(config.holds_max.0);
    counters.publish(&store.ledger);
    let mode = exchange.as_ref().map_or(Mode::Alone, |_| Mode::Following);
    let files = store.resume.map(|(files, _newest)| files);
    let resume = files
        .zip(exchange)
        .map(|(files, exchange)| ResumeWriter::new(files, exchange));
    let cores = Cores {
        wal: Wal {
            pipeline: Arc::clone(pipeline),
            exec: processor.notifier(),
            health: Arc::clone(health),
        },
        exec: Exec::new(
            store.ledger,
            intake,
            Arc::clone(pipeline),
            Arc::clone(health),
            Arc::clone(counters),
            store.space.clone(),
            mode,
        ),
        maintenance: Maintenance {
            batch: processor.clone(),
            pipeline: Arc::clone(pipeline),
            health: Arc::clone(health),
            clock: ClockWatch::new(Arc::clone(clock)),
            preparer: store.preparer,
            space: store.space.clone(),
            walk: store.walk,
            checkpoints: store.checkpoints,
            id_files: store.id_files,
            directory: store.directory,
            checkpoint_bytes: config.checkpoint.0,
            last_checkpoint_bytes: 0,
            last_checkpoint: store.report.checkpoint_position.unwrap_or(Position::START),
            next_id_file: 0,
            scrubber: Scrubber::new(store.scrub, config.scrub, Arc::clone(counters)),
            checkpoint: None,
            segment_paused_until: None,
            paused_until: None,
            checkpoint_rest: CheckpointRest::default(),
            failure_lines: LogLimit::default(),
            resume,
        },
    };
    (cores, vitals)
}

// ===== impl Cores =====

impl Cores {
    /// Starts a thread for each core. WAL starts before EXEC, because EXEC hands batches over to WAL.
    fn spawn(self, affinity: &CpuAffinityManager) -> Result<Threads, AffinityError> {
        let Cores {
            exec,
            wal,
            maintenance,
        } = self;
        let parker = Parker::new();
        let stop = Stop::new(&parker);
        let stopped = stop.clone();
        Ok(Threads {
            wal: affinity.spawn(Role::Wal, 0, "tally-wal", move || wal.run())?,
            exec: affinity.spawn(Role::Exec, 0, "tally-exec", move || exec.run())?,
            maintenance: affinity.spawn(Role::Aux, 0, "tally-maint", move || {
                maintenance.run(&stopped, &parker);
            })?,
            stop,
        })
    }

    /// Ends the cores after [`TallyEngine::drain`], and marks a clean stop if everything is durable. Call this method when
    /// [`Cores::step_exec`] has returned [`ExecStep::Ended`].
    pub fn end(self) {
        let pipeline = Arc::clone(&self.wal.pipeline);
        let healthy = self.wal.health.condition() == Condition::Running;
        drop(self);
        if healthy {
            pipeline.finish();
        }
    }

    /// Lets EXEC do one piece of work.
    pub fn step_exec(&mut self) -> ExecStep {
        self.exec.step()
    }

    /// Lets the commit pipeline do one piece of work.
    pub fn step_wal(&mut self) -> PipelineStep {
        self.wal.step()
    }

    /// Lets the maintenance do one piece of each kind of work. Returns the time until the next step is due; the next
    /// step is due earlier if `waker` is called.
    pub fn step_maintenance(&mut self, waker: &Waker) -> Duration {
        self.maintenance.step(waker)
    }
}

/// Measures how long commits in `dir` take. A disk error prevents the start only if a slow threshold depends on the
/// times. A full disk never prevents the start, because reads must still be possible.
fn commit_times(
    disk: &dyn Disk,
    dir: &Path,
    circuits: &CircuitOptions,
) -> Result<Option<CommitTimes>, StartError> {
    if circuits.untimed {
        return Ok(None);
    }
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
        Err(error) if circuits.needs_times() && error.is_storage_full() => {
            tracing::warn!(
                %error,
                "slow_threshold is \"auto\", but there is no space for the trial commits: the default of the threshold applies \
                 until the next start"
            );
            Ok(None)
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
