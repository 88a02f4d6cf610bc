//! The engine: breaker → batch processor → EXEC → WAL → replies, on pinned threads.
//!
//! [`TallyEngine::start`] opens the store and starts the threads; [`TallyEngine`] is what the gRPC services call.
//!
//! ```text
//! NET ──▶ breaker ──▶ ring ──▶ EXEC ──▶ handoff ──▶ WAL ──▶ reply slots ──▶ NET
//!   └────── readings ───▲                             └─▶ disk
//! ```
//!
//! Writes pass the breaker. Readings do not, but they ride the same ring and their answers wait for the same disk: so
//! they are linearizable, and never show what a crash could take back.

pub mod breaker_settings;
mod circuits;
mod classify;
mod command;
mod counters;
mod exec;
mod fault;
mod handoff;
mod health;
mod maintenance;
mod metrics;
mod pending;
mod scrubbing;
mod self_probe;
pub mod settings;
mod start;
mod throttle;
mod wal;

use std::{path::PathBuf, sync::Arc};

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};
use tower_service::Service;

use self::{
    circuits::Circuits, classify::EngineClassifier, counters::EngineCounters, handoff::Handoff,
    maintenance::Stop, self_probe::SelfProbes, wal::Committer,
};
pub use self::{
    circuits::{
        AUTO_FACTOR, AUTO_MAX, AUTO_MIN, CircuitOptions, CircuitReport, InitialMode, MethodCircuit,
        ThresholdSource, TransitionKind, auto_threshold,
    },
    command::{
        CREATE_ACCOUNTS_MAX, Command, CommandReply, CreatedAccounts, Outcomes, PAGE_ACCOUNTS_MAX, Payment,
        TRANSACTIONS_MAX, TransactionBatch,
    },
    counters::{FoundBy, JournalCondition, LedgerFigures},
    fault::{EngineError, StoreFault},
    health::{Condition, Health, PanicGuard},
    pending::EngineReply,
    scrubbing::ScrubRate,
    start::StartError,
};
use crate::{
    batch::{BatchConfig, BatchError, BatchProcessor, BatchStats, Caller, Sequence, Submission},
    breaker::{CircuitBreaker, CircuitBreakerConfig, CircuitBreakerError, LatencyCircuitBreaker, Work},
    distribution::{Distribution, Summary},
    ledger::{AccountIndex, AccountSnapshot, NewAccount},
    store::embedded::{FoundTransaction, RecordReader, RecoveryReport, StoreConfig},
    telemetry::trace_link,
    topology::{CpuAffinityManager, RoleHandle},
};

/// What the engine is made of.
#[derive(Debug, Clone, Default)]
pub struct EngineConfig {
    /// The queue.
    pub batch: BatchConfig,
    /// The breaker: what holds for every kind of call that has no settings of its own.
    pub breaker: CircuitBreakerConfig,
    /// The circuits of the kinds of calls.
    pub circuits: CircuitOptions,
    /// The journal, if it has yet to be made.
    pub store: StoreConfig,
    /// Bytes of journal between two checkpoints.
    pub checkpoint: CheckpointInterval,
    /// How fast the journal is read again, in search of damage.
    pub scrub: ScrubRate,
}

/// Bytes of journal between two checkpoints: what a start has to replay at most, about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointInterval(pub u64);

/// The kinds of writing calls. Each has a circuit of its own: what is slow for one transaction is not for thousands, and
/// the trouble of one kind is not the others'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallKind {
    /// `ProcessTransaction`.
    Unary,
    /// `ProcessTransactions`.
    Bulk,
    /// `StreamTransactions`.
    Stream,
    /// `CreateAccount` and `BatchCreateAccounts`.
    Accounts,
}

/// The batch processor behind each of the circuits.
#[derive(Debug, Clone)]
struct CircuitServices([CircuitService; CallKind::ALL.len()]);

/// The service behind a breaker.
type CircuitService = CircuitBreaker<BatchProcessor<Command, EngineReply>, EngineClassifier>;

/// The engine. Clones are cheap and share everything.
#[derive(Debug, Clone)]
pub struct TallyEngine {
    shared: Arc<Shared>,
    services: CircuitServices,
}

#[derive(Debug)]
struct Shared {
    batch: BatchProcessor<Command, EngineReply>,
    circuits: Circuits,
    self_probes: SelfProbes,
    affinity: CpuAffinityManager,
    records: RecordReader,
    handoff: Arc<Handoff>,
    health: Arc<Health>,
    counters: Arc<EngineCounters>,
    sync_times: Arc<Distribution>,
    recovery: RecoveryReport,
    segment_bytes: u32,
    directory: PathBuf,
    /// Keys the hash of names.
    hash_seed: u64,
    threads: Mutex<Option<Threads>>,
}

/// The engine's threads, until they are joined.
#[derive(Debug)]
struct Threads {
    exec: RoleHandle<()>,
    wal: RoleHandle<()>,
    maintenance: RoleHandle<()>,
    stop: Stop,
    /// To mark a clean stop, when the others have ended.
    committer: Arc<Mutex<Committer>>,
}

/// What GetBatchStats shows.
#[derive(Debug, Clone, Copy)]
pub struct EngineStats {
    /// The queue and the batches.
    pub batch: BatchStats,
    /// Writing and syncing a block, in nanoseconds.
    pub sync: Summary,
    /// The ledger.
    pub ledger: LedgerFigures,
    /// Bytes of journal on the disk.
    pub journal_bytes: u64,
    /// The last block that is durable; 0 if there is none.
    pub durable_block: u64,
    /// Requests whose outcome is unknown because their block could not be written.
    pub unknown_outcomes: u64,
}

/// An answer of the ledger to a request that passed the breaker.
type Answered = Result<CommandReply, EngineError>;

// ===== impl CheckpointInterval =====

impl Default for CheckpointInterval {
    fn default() -> Self {
        CheckpointInterval(crate::store::settings::CHECKPOINT_BYTES)
    }
}

// ===== impl TallyEngine =====

impl TallyEngine {
    /// A batch to be filled, with room for so many `bytes` without growing.
    #[must_use]
    pub fn batch(&self, bytes: usize) -> TransactionBatch {
        TransactionBatch::new(self.shared.hash_seed, bytes)
    }

    /// Processes transactions, in their order, each for itself.
    ///
    /// # Errors
    /// [`EngineError`], which says whether they were executed.
    pub async fn process(
        &self,
        kind: CallKind,
        transactions: &Arc<TransactionBatch>,
        deadline: Option<Instant>,
    ) -> Result<Outcomes, EngineError> {
        let command = Command::Transactions(Arc::clone(transactions), trace_link());
        outcomes(self.write(kind, Submission::new(command, deadline)).await)
    }

    /// Processes transactions that are the next of a sequence, in their order, each for itself. They are on their way when
    /// this returns, whether the future is polled or not, so the order is that of the calls. For the circuit they are under
    /// way until the future is polled to its end, so it has to be polled whatever becomes of the answer.
    ///
    /// # Errors
    /// [`EngineError`], which says whether they were executed; [`BatchError::Interrupted`] if those before them were not.
    pub fn process_next(
        &self,
        sequence: &mut Sequence,
        kind: CallKind,
        transactions: &Arc<TransactionBatch>,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Result<Outcomes, EngineError>> + Send + use<> {
        let command = Command::Transactions(Arc::clone(transactions), trace_link());
        let submission = sequence.next(command, deadline);
        let call = submission.map(|submission| self.write(kind, submission));
        async {
            match call {
                Some(call) => outcomes(call.await),
                None => Err(BatchError::Interrupted.into()),
            }
        }
    }

    /// Creates accounts, all or none.
    ///
    /// # Errors
    /// [`EngineError`], which says whether they were created.
    pub async fn create_accounts(
        &self,
        accounts: Vec<NewAccount>,
        deadline: Option<Instant>,
    ) -> Result<CreatedAccounts, EngineError> {
        let submission = Submission::new(Command::CreateAccounts(accounts), deadline);
        let CommandReply::CreateAccounts(created) = self.write(CallKind::Accounts, submission).await? else {
            return Err(unexpected());
        };
        Ok(created)
    }

    /// Reads an account.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn account(
        &self,
        id: String,
        deadline: Option<Instant>,
    ) -> Result<Option<Box<AccountSnapshot>>, EngineError> {
        let CommandReply::Account(account) = self.read(Command::Account(id), deadline).await? else {
            return Err(unexpected());
        };
        Ok(account)
    }

    /// Reads up to `limit` accounts from `from` on, and says where the next page begins.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn accounts(
        &self,
        from: AccountIndex,
        limit: usize,
        deadline: Option<Instant>,
    ) -> Result<(Vec<AccountSnapshot>, Option<AccountIndex>), EngineError> {
        let CommandReply::Accounts { accounts, next } =
            self.read(Command::Accounts { from, limit }, deadline).await?
        else {
            return Err(unexpected());
        };
        Ok((accounts, next))
    }

    /// Finds a transaction by its id. The record is read on a blocking thread: an old one may be far down a cold disk,
    /// and neither EXEC nor NET waits for that.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn transaction(
        &self,
        id: String,
        deadline: Option<Instant>,
    ) -> Result<Option<FoundTransaction>, EngineError> {
        let CommandReply::Located(candidates) = self.read(Command::Locate(id.clone()), deadline).await?
        else {
            return Err(unexpected());
        };
        let records = self.shared.records.clone();
        let search = tokio::task::spawn_blocking(move || {
            candidates
                .into_iter()
                .find_map(|position| records.find(position, &id).transpose())
                .transpose()
        });
        match search.await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => Err(StoreFault::of_reading(&error, &self.shared.counters).into()),
            Err(_) => Err(EngineError::Store(StoreFault::ReadFailed)),
        }
    }

    /// The names of accounts, in the order asked for.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn account_ids(
        &self,
        indexes: Vec<AccountIndex>,
        deadline: Option<Instant>,
    ) -> Result<Vec<String>, EngineError> {
        let CommandReply::AccountIds(ids) = self.read(Command::AccountIds(indexes), deadline).await? else {
            return Err(unexpected());
        };
        Ok(ids)
    }

    /// The circuits, a coherent snapshot of each.
    #[must_use]
    pub fn circuit_reports(&self) -> Vec<CircuitReport> {
        self.shared.circuits.reports()
    }

    /// The circuit called `key`.
    #[must_use]
    pub fn circuit(&self, key: &str) -> Option<&LatencyCircuitBreaker> {
        self.shared.circuits.find(key)
    }

    /// Every circuit.
    #[must_use]
    pub fn circuits(&self) -> &[LatencyCircuitBreaker] {
        &self.shared.circuits.breakers
    }

    /// Tells of every change of state or mode of any circuit from now on.
    #[must_use]
    pub fn circuit_changes(&self) -> watch::Receiver<u64> {
        self.shared.circuits.events.subscribe()
    }

    /// How often each kind of change of state has happened since the start.
    #[must_use]
    pub fn circuit_transitions(&self) -> Vec<(TransitionKind, u64)> {
        self.shared.circuits.events.transitions()
    }

    /// One of the circuits.
    #[must_use]
    pub fn breaker(&self, kind: CallKind) -> &LatencyCircuitBreaker {
        self.shared.circuits.get(kind)
    }

    /// Carries answers to the callers of the calling thread's runtime, all of a block at once. To be spawned once on each
    /// NET runtime, with its number.
    pub fn courier(&self, index: usize) -> impl Future<Output = ()> + Send + use<> {
        self.shared.batch.clone().wake_task(index)
    }

    /// A new client, such as a connection, whose calls are on their way to EXEC from when they begin, and share its batches
    /// fairly with those of others.
    #[must_use]
    pub fn caller(&self) -> Caller {
        self.shared.batch.caller()
    }

    /// Requests of the client whose call the calling thread polls, of which none is executed once one before it was not:
    /// for [`TallyEngine::process_next`].
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        self.shared.batch.sequence()
    }

    /// Lets the circuits look at the clock, and sends them probes if they want some. To be called every
    /// [`CircuitBreakerConfig::tick_interval`].
    pub fn tick(&self) {
        let Shared {
            circuits,
            self_probes,
            batch,
            handoff,
            ..
        } = &*self.shared;
        let journal = handoff.progress();
        circuits.tick(Work {
            done: journal.finished,
            busy: !journal.idle,
        });
        self_probes.tick(&circuits.breakers, batch);
    }

    /// Where threads run.
    #[must_use]
    pub fn affinity(&self) -> &CpuAffinityManager {
        &self.shared.affinity
    }

    /// Whether the engine can go on.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.shared.health
    }

    /// For what must not end before the service does.
    #[must_use]
    pub fn panic_guard(&self) -> PanicGuard {
        PanicGuard::new(Arc::clone(&self.shared.health))
    }

    /// What opening the store found.
    #[must_use]
    pub fn recovery(&self) -> &RecoveryReport {
        &self.shared.recovery
    }

    /// The queue, the batches, the journal and the ledger.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        let durable = self.shared.handoff.progress().durable.chain();
        EngineStats {
            batch: self.shared.batch.stats(),
            sync: self.shared.sync_times.summary(),
            ledger: self.shared.counters.read(),
            journal_bytes: u64::from(durable.position.segment()) * u64::from(self.shared.segment_bytes)
                + u64::from(durable.position.offset()),
            durable_block: durable.block_sequence.saturating_sub(1),
            unknown_outcomes: self.shared.counters.unknown_outcomes(),
        }
    }

    /// What is known of the state of the journal on the disk.
    #[must_use]
    pub fn journal_condition(&self) -> JournalCondition {
        self.shared.counters.journal()
    }

    /// Lets no command in any more, and waits until all that are in are done, durable and answered, and the threads have
    /// ended. Call it from a thread that may block. A second call does nothing.
    pub fn drain(&self) {
        self.shared.batch.close();
        let Some(Threads {
            exec,
            wal,
            maintenance,
            stop,
            committer,
        }) = self.shared.threads.lock().take()
        else {
            return;
        };
        stop.stop();
        // A thread that panicked has said so through `Health`.
        let _ = maintenance.join();
        let _ = exec.join();
        let _ = wal.join();
        if self.health().condition() == Condition::Running {
            committer.lock().finish();
        }
    }

    /// It is on its way when this returns.
    fn write(
        &self,
        kind: CallKind,
        submission: Submission<Command>,
    ) -> impl Future<Output = Answered> + Send + use<> {
        let call = self.services.get(kind).clone().call(submission);
        async {
            match call.await {
                Ok(answer) => Ok(answer.value.into_result()?),
                Err(CircuitBreakerError::Open(rejection)) => Err(EngineError::CircuitOpen(rejection)),
                Err(CircuitBreakerError::Inner(error)) => Err(error.into()),
            }
        }
    }

    async fn read(&self, command: Command, deadline: Option<Instant>) -> Answered {
        let answer = self
            .shared
            .batch
            .submit(Submission::new(command, deadline))
            .await?;
        Ok(answer.value.into_result()?)
    }
}

// ===== impl CallKind =====

impl CallKind {
    /// All of them.
    pub const ALL: [CallKind; 4] = [
        CallKind::Unary,
        CallKind::Bulk,
        CallKind::Stream,
        CallKind::Accounts,
    ];

    /// The name of the circuit.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            CallKind::Unary => "ProcessTransaction",
            CallKind::Bulk => "ProcessTransactions",
            CallKind::Stream => "StreamTransactions",
            CallKind::Accounts => "CreateAccounts",
        }
    }

    /// What belongs to it of `all`, which is in the order of [`CallKind::ALL`].
    const fn of<T>(self, all: &[T; CallKind::ALL.len()]) -> &T {
        let [unary, bulk, stream, accounts] = all;
        match self {
            CallKind::Unary => unary,
            CallKind::Bulk => bulk,
            CallKind::Stream => stream,
            CallKind::Accounts => accounts,
        }
    }
}

impl CircuitServices {
    const fn get(&self, kind: CallKind) -> &CircuitService {
        kind.of(&self.0)
    }
}

fn outcomes(answered: Answered) -> Result<Outcomes, EngineError> {
    let CommandReply::Transactions(outcomes) = answered? else {
        return Err(unexpected());
    };
    Ok(outcomes)
}

/// EXEC answered something else than what it was asked: a bug, and nobody can say what was done.
const fn unexpected() -> EngineError {
    EngineError::Batch(BatchError::Lost)
}
