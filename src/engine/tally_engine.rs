//! [`TallyEngine`]: what the gRPC services call.

use std::{path::PathBuf, sync::Arc};

use parking_lot::Mutex;
use tally_batch::{
    BatchError, BatchProcessor, BatchStats, Caller, Sequence, Submission,
    distribution::{Distribution, Summary},
};
use tally_breaker::{CircuitBreaker, CircuitBreakerError, LatencyCircuitBreaker, Work};
use tally_ledger::{AccountIndex, AccountSnapshot, NewAccount};
use tally_topology::{CpuAffinityManager, RoleHandle};
use tokio::{sync::watch, time::Instant};
use tower_service::Service;

use super::{
    call_kind::CallKind,
    circuits::{CircuitReport, Circuits, TransitionKind},
    classify::EngineClassifier,
    command::{Command, CommandReply, CreatedAccounts, Outcomes, TransactionBatch},
    counters::{EngineCounters, JournalCondition, LedgerFigures},
    fault::{EngineError, StoreFault},
    health::{Condition, Health, PanicGuard},
    maintenance::Stop,
    pending::EngineReply,
    pipeline::CommitPipeline,
    self_probe::SelfProbes,
};
use crate::{
    store::embedded::{FoundTransaction, RecordReader, RecoveryReport},
    telemetry::trace_link,
};

/// The batch processor behind the circuit of each kind of call.
#[derive(Debug, Clone)]
pub(super) struct CircuitServices(pub(super) [CircuitService; CallKind::ALL.len()]);

/// The batch processor behind a circuit.
pub(super) type CircuitService = CircuitBreaker<BatchProcessor<Command, EngineReply>, EngineClassifier>;

/// The engine. Clones are cheap and share everything.
#[derive(Debug, Clone)]
pub struct TallyEngine {
    pub(super) shared: Arc<Shared>,
    pub(super) services: CircuitServices,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) batch: BatchProcessor<Command, EngineReply>,
    pub(super) circuits: Circuits,
    pub(super) self_probes: SelfProbes,
    pub(super) affinity: CpuAffinityManager,
    pub(super) records: RecordReader,
    pub(super) pipeline: Arc<CommitPipeline>,
    pub(super) health: Arc<Health>,
    pub(super) counters: Arc<EngineCounters>,
    pub(super) sync_times: Arc<Distribution>,
    pub(super) recovery: RecoveryReport,
    pub(super) segment_bytes: u32,
    pub(super) directory: PathBuf,
    /// The key of the hash of names.
    pub(super) hash_seed: u64,
    /// `None` once they are joined.
    pub(super) threads: Mutex<Option<Threads>>,
}

/// The engine's threads.
#[derive(Debug)]
pub(super) struct Threads {
    pub(super) exec: RoleHandle<()>,
    pub(super) wal: RoleHandle<()>,
    pub(super) maintenance: RoleHandle<()>,
    pub(super) stop: Stop,
}

/// The figures of GetBatchStats.
#[derive(Debug, Clone, Copy)]
pub struct EngineStats {
    /// The queue and the batches.
    pub batch: BatchStats,
    /// The time to write and sync a block, in nanoseconds.
    pub sync: Summary,
    /// The ledger.
    pub ledger: LedgerFigures,
    /// The length of the journal in bytes.
    pub journal_bytes: u64,
    /// The number of the last durable block; 0 if there is none.
    pub durable_block: u64,
    /// The number of requests whose outcome is unknown because their block could not be written.
    pub unknown_outcomes: u64,
}

/// The engine's answer to a command.
type Answered = Result<CommandReply, EngineError>;

// ===== impl TallyEngine =====

impl TallyEngine {
    /// Returns an empty batch, with room for `bytes` bytes of transactions.
    #[must_use]
    pub fn batch(&self, bytes: usize) -> TransactionBatch {
        TransactionBatch::new(self.shared.hash_seed, bytes)
    }

    /// Processes transactions in order. Each is committed or rejected independently of the others.
    ///
    /// # Errors
    /// [`EngineError`], which reports whether they were executed.
    pub async fn process(
        &self,
        kind: CallKind,
        transactions: &Arc<TransactionBatch>,
        deadline: Option<Instant>,
    ) -> Result<Outcomes, EngineError> {
        let command = Command::Transactions(Arc::clone(transactions), trace_link());
        outcomes(self.write(kind, Submission::new(command, deadline)).await)
    }

    /// Processes transactions as the next request of a sequence, as [`TallyEngine::process`] does. They are submitted before
    /// this returns, even if the future is never polled, so they are executed in the order of the calls. Poll the future to
    /// its end in any case: until then the circuit counts the call as in flight.
    ///
    /// # Errors
    /// [`EngineError`], which reports whether they were executed; [`BatchError::Interrupted`] if an earlier request of the
    /// sequence was not executed.
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

    /// Creates all of the accounts, or none.
    ///
    /// # Errors
    /// [`EngineError`], which reports whether they were created.
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

    /// Reads up to `limit` accounts from `from` on. Returns them, and the first account of the next page.
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

    /// Finds a transaction by its id. A blocking thread reads the record, because neither EXEC nor NET may wait for an old
    /// record on a slow disk.
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
            Ok(Err(error)) => Err(StoreFault::from_read_error(&error, &self.shared.counters).into()),
            Err(_) => Err(EngineError::Store(StoreFault::ReadFailed)),
        }
    }

    /// Returns the ids of accounts, in the order of `indexes`.
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

    /// Returns a consistent snapshot of each circuit.
    #[must_use]
    pub fn circuit_reports(&self) -> Vec<CircuitReport> {
        self.shared.circuits.reports()
    }

    /// Returns the circuit with the name `key`.
    #[must_use]
    pub fn circuit(&self, key: &str) -> Option<&LatencyCircuitBreaker> {
        self.shared.circuits.find(key)
    }

    /// Returns every circuit, in the order of [`CallKind::ALL`].
    #[must_use]
    pub fn circuits(&self) -> &[LatencyCircuitBreaker] {
        &self.shared.circuits.breakers
    }

    /// Returns a receiver whose value changes with every later change of state or mode of a circuit.
    #[must_use]
    pub fn circuit_changes(&self) -> watch::Receiver<u64> {
        self.shared.circuits.events.subscribe()
    }

    /// Returns how often each kind of change of state has happened since the start.
    #[must_use]
    pub fn circuit_transitions(&self) -> Vec<(TransitionKind, u64)> {
        self.shared.circuits.events.transitions()
    }

    /// Returns the circuit of a kind of call.
    #[must_use]
    pub fn breaker(&self, kind: CallKind) -> &LatencyCircuitBreaker {
        self.shared.circuits.get(kind)
    }

    /// Wakes the callers on the calling thread's runtime, all callers of a block at once. Spawn the future once on each NET
    /// runtime, with the number of the runtime.
    pub fn wake_task(&self, index: usize) -> impl Future<Output = ()> + Send + use<> {
        self.shared.batch.clone().wake_task(index)
    }

    /// Registers a client, such as a connection. A batch can wait for the client's calls from their beginning, and contains
    /// at most the client's fair share of requests.
    #[must_use]
    pub fn caller(&self) -> Caller {
        self.shared.batch.caller()
    }

    /// Begins a sequence for [`TallyEngine::process_next`], for the client whose call the thread polls. Once a request of the
    /// sequence was not executed, no later one is.
    ///
    /// # Panics
    /// If the thread polls no call of a [`Caller`]: the requests would belong to no client, and would escape its fair share.
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        let sequence = self.shared.batch.sequence();
        assert!(
            sequence.has_client(),
            "a sequence was begun outside of Caller::calling, so its requests belong to no client"
        );
        sequence
    }

    /// Advances the time of the circuits, and sends probes to those that need one. Call it every
    /// [`CircuitBreakerConfig::tick_interval`](tally_breaker::CircuitBreakerConfig::tick_interval).
    pub fn tick(&self) {
        let Shared {
            circuits,
            self_probes,
            batch,
            pipeline,
            ..
        } = &*self.shared;
        let progress = pipeline.progress();
        circuits.tick(Work {
            done: progress.finished,
            busy: !progress.idle,
        });
        self_probes.tick(&circuits.breakers, batch);
    }

    /// Returns the placement of threads.
    #[must_use]
    pub fn affinity(&self) -> &CpuAffinityManager {
        &self.shared.affinity
    }

    /// Returns whether the engine works.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.shared.health
    }

    /// Returns a guard for a thread or task without which the service can't work.
    #[must_use]
    pub fn panic_guard(&self) -> PanicGuard {
        PanicGuard::new(Arc::clone(&self.shared.health))
    }

    /// Returns what opening the store found.
    #[must_use]
    pub fn recovery(&self) -> &RecoveryReport {
        &self.shared.recovery
    }

    /// Returns the settings of the batch processor.
    #[must_use]
    pub fn batch_config(&self) -> &tally_batch::BatchConfig {
        self.shared.batch.config()
    }

    /// Returns the figures of the queue, the batches, the journal and the ledger.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        let durable = self.shared.pipeline.progress().durable.chain();
        EngineStats {
            batch: self.shared.batch.stats(),
            sync: self.shared.sync_times.summary(),
            ledger: self.shared.counters.read(),
            journal_bytes: u64::from(durable.position.segment()) * u64::from(self.shared.segment_bytes)
                + u64::from(durable.position.offset()),
            durable_block: durable.last_block_sequence(),
            unknown_outcomes: self.shared.counters.unknown_outcomes(),
        }
    }

    /// Returns what is known about damage to the journal.
    #[must_use]
    pub fn journal_condition(&self) -> JournalCondition {
        self.shared.counters.journal()
    }

    /// Accepts no more commands, and waits until the accepted ones are durable and answered and the threads have ended. Call
    /// it from a thread that may block. A second call does nothing.
    pub fn drain(&self) {
        self.shared.batch.close();
        let Some(Threads {
            exec,
            wal,
            maintenance,
            stop,
        }) = self.shared.threads.lock().take()
        else {
            return;
        };
        stop.stop();
        // A thread that panicked has reported it through `Health`.
        let _ = maintenance.join();
        let _ = exec.join();
        let _ = wal.join();
        if self.health().condition() == Condition::Running {
            self.shared.pipeline.finish();
        }
    }

    /// Submits a command through the circuit of its kind. It is submitted before this returns.
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

impl CircuitServices {
    const fn get(&self, kind: CallKind) -> &CircuitService {
        kind.select(&self.0)
    }
}

fn outcomes(answered: Answered) -> Result<Outcomes, EngineError> {
    let CommandReply::Transactions(outcomes) = answered? else {
        return Err(unexpected());
    };
    Ok(outcomes)
}

/// EXEC gave the reply of another command: a bug. Whether the command was executed is unknown.
const fn unexpected() -> EngineError {
    EngineError::Batch(BatchError::Lost)
}
