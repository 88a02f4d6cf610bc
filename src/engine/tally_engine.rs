//! [`TallyEngine`]: the methods that the gRPC services call.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use parking_lot::Mutex;
use tally_batch::{
    BatchError, BatchProcessor, BatchStats, Caller, Sequence, Submission,
    distribution::{Distribution, Summary},
};
use tally_breaker::{CircuitBreaker, CircuitBreakerError, LatencyCircuitBreaker, Work};
use tally_journal::{Position, SegmentSpace};
use tally_ledger::{AccountIndex, AccountSnapshot, AccountUpdate, Hold, NewAccount, UpdateOutcome};
use tally_topology::{CpuAffinityManager, RoleHandle};
use tokio::{sync::watch, time::Instant};
use tower_service::Service;

use super::{
    call_kind::CallKind,
    circuits::{CircuitReport, Circuits, TransitionKind},
    classify::EngineClassifier,
    command::{Command, CommandReply, CreatedAccounts, Existing, OwnedKey, Processed},
    counters::{EngineCounters, JournalCondition, LedgerFigures},
    fault::{EngineError, StoreFault},
    health::{Condition, Health, PanicGuard},
    history_reads::HistoryReads,
    maintenance::Stop,
    pending::EngineReply,
    pipeline::CommitPipeline,
    self_probe::SelfProbes,
    transaction_batch::TransactionBatch,
};
use crate::{
    ledger_clock::{ClockError, ClockReading, ClockStep, LedgerClock},
    store::{
        embedded::{FoundRecord, RecordError, RecordReader, RecoveryReport},
        replicated::Replica,
    },
    telemetry::trace_link,
};

/// The batch processor behind the circuit of each kind of call.
#[derive(Debug, Clone)]
pub(super) struct CircuitServices(pub(super) [CircuitService; CallKind::ALL.len()]);

/// The batch processor behind a circuit.
pub(super) type CircuitService = CircuitBreaker<BatchProcessor<Command, EngineReply>, EngineClassifier>;

/// A handle to the engine. A clone is cheap and refers to the same engine.
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
    pub(super) clock: Arc<LedgerClock>,
    pub(super) records: RecordReader,
    pub(super) history: HistoryReads,
    pub(super) pipeline: Arc<CommitPipeline>,
    pub(super) health: Arc<Health>,
    pub(super) counters: Arc<EngineCounters>,
    pub(super) sync_times: Arc<Distribution>,
    pub(super) recovery: RecoveryReport,
    pub(super) space: SegmentSpace,
    pub(super) segment_bytes: u32,
    pub(super) directory: PathBuf,
    /// The key of the hash function for the ids of accounts and transactions.
    pub(super) hash_seed: u64,
    /// `None` after [`TallyEngine::drain`] has taken the threads to join them.
    pub(super) threads: Mutex<Option<Threads>>,
    /// Not set if the store is embedded.
    pub(super) replica: OnceLock<Replica>,
    /// Whether the engine must not use other threads, because a single thread calls the steps of its cores.
    pub(super) threadless: bool,
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
    /// Returns an empty batch of transactions, with room for `bytes` bytes of encoded transactions.
    #[must_use]
    pub fn batch(&self, bytes: usize) -> TransactionBatch {
        TransactionBatch::new(self.shared.hash_seed, bytes)
    }

    /// Processes transactions in order. Each transaction is committed or rejected independently of the others.
    /// `deadline` is the time after which the caller no longer waits for the outcomes.
    ///
    /// # Errors
    /// [`EngineError`]. Its method `is_not_executed` returns whether it is certain that no transaction was executed.
    pub async fn process(
        &self,
        kind: CallKind,
        transactions: &Arc<TransactionBatch>,
        deadline: Option<Instant>,
    ) -> Result<Processed, EngineError> {
        let command = Command::Transactions(Arc::clone(transactions), trace_link());
        processed(self.write(kind, Submission::new(command, deadline)).await)
    }

    /// Does the same as [`TallyEngine::process`], for the next request of a sequence. The request is submitted before
    /// this method returns, even if the future is never polled. So requests are executed in the order in which this
    /// method was called. The circuit counts the call as in flight until the future completes or is dropped.
    ///
    /// # Errors
    /// [`EngineError`], as for [`TallyEngine::process`]. [`BatchError::Interrupted`] if an earlier request of the
    /// sequence was not executed.
    pub fn process_next(
        &self,
        sequence: &mut Sequence,
        kind: CallKind,
        transactions: &Arc<TransactionBatch>,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Result<Processed, EngineError>> + Send + use<> {
        let command = Command::Transactions(Arc::clone(transactions), trace_link());
        let submission = sequence.next(command, deadline);
        let call = submission.map(|submission| self.write(kind, submission));
        async {
            match call {
                Some(call) => processed(call.await),
                None => Err(BatchError::Interrupted.into()),
            }
        }
    }

    /// Creates all of the accounts, or none. `existing` decides what happens to an account whose id exists.
    ///
    /// # Errors
    /// [`EngineError`]. Its method `is_not_executed` returns whether it is certain that no account was created.
    pub async fn create_accounts(
        &self,
        accounts: Vec<NewAccount>,
        existing: Existing,
        deadline: Option<Instant>,
    ) -> Result<CreatedAccounts, EngineError> {
        let submission = Submission::new(Command::CreateAccounts(accounts, existing), deadline);
        let CommandReply::CreateAccounts(created) = self.write(CallKind::Accounts, submission).await? else {
            return Err(unexpected());
        };
        Ok(created)
    }

    /// Reads an account. Returns `None` if no account has the `id`.
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

    /// Reads up to `limit` accounts from `from` on, in the order of their creation. Returns the accounts, and the first
    /// account of the next page if there is one.
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

    /// Updates an account. Returns the account after the update, or why it was not updated.
    ///
    /// # Errors
    /// [`EngineError`]. Its method `is_not_executed` returns whether it is certain that the account was not updated.
    pub async fn update_account(
        &self,
        update: AccountUpdate,
        deadline: Option<Instant>,
    ) -> Result<Result<Box<AccountSnapshot>, UpdateOutcome>, EngineError> {
        let submission = Submission::new(Command::UpdateAccount(Box::new(update)), deadline);
        let CommandReply::UpdateAccount(updated) = self.write(CallKind::Accounts, submission).await? else {
            return Err(unexpected());
        };
        Ok(updated)
    }

    /// Finds the record with a key. Returns `None` if no record has the key. A thread for blocking calls reads
    /// the record, because neither EXEC nor NET may wait until a slow disk returns an old record.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn record(
        &self,
        key: OwnedKey,
        deadline: Option<Instant>,
    ) -> Result<Option<FoundRecord>, EngineError> {
        let CommandReply::Located(candidates) = self.read(Command::Locate(key.clone()), deadline).await?
        else {
            return Err(unexpected());
        };
        self.read_journal(move |records| {
            let mut found = candidates.into_iter();
            found
                .find_map(|position| records.find(position, key.borrow()).transpose())
                .transpose()
        })
        .await
    }

    /// Reads the records at these positions. EXEC must have returned the positions as those of records. See
    /// [`TallyEngine::record`].
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn records_at(&self, positions: Vec<Position>) -> Result<Vec<FoundRecord>, EngineError> {
        self.read_journal(move |records| {
            positions
                .into_iter()
                .map(|position| records.at(position))
                .collect()
        })
        .await
    }

    /// Reads from the journal on a thread for blocking calls.
    async fn read_journal<T: Send + 'static>(
        &self,
        read: impl FnOnce(&RecordReader) -> Result<T, RecordError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let records = self.shared.records.clone();
        self.read_blocking(move || read(&records)).await
    }

    /// Calls `read` on a thread for blocking calls, or here if the engine must not use other threads.
    pub(super) async fn read_blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> Result<T, RecordError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let result = if self.shared.threadless {
            Ok(read())
        } else {
            tokio::task::spawn_blocking(read).await
        };
        match result {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(StoreFault::from_read_error(&error, &self.shared.counters).into()),
            Err(_) => Err(EngineError::Store(StoreFault::ReadFailed)),
        }
    }

    /// Returns the hold whose record is at `position`, if it is outstanding.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn hold(
        &self,
        position: Position,
        deadline: Option<Instant>,
    ) -> Result<Option<Hold>, EngineError> {
        let CommandReply::Hold(hold) = self.read(Command::Hold(position), deadline).await? else {
            return Err(unexpected());
        };
        Ok(hold)
    }

    /// Reads the outstanding holds in some slots of the table of holds, from the slot `from` on. Returns the holds and the next slot, if
    /// there is one. A hold stays in its slot until it ends.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn holds(
        &self,
        from: u32,
        deadline: Option<Instant>,
    ) -> Result<(Vec<Hold>, Option<u32>), EngineError> {
        let CommandReply::Holds { holds, next } = self.read(Command::Holds(from), deadline).await? else {
            return Err(unexpected());
        };
        Ok((holds, next))
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

    /// Returns a receiver whose value changes each time that the state or the mode of a circuit changes.
    #[must_use]
    pub fn circuit_changes(&self) -> watch::Receiver<u64> {
        self.shared.circuits.events.subscribe()
    }

    /// Returns each kind of state change that has happened since the start, with its count.
    #[must_use]
    pub fn circuit_transitions(&self) -> Vec<(TransitionKind, u64)> {
        self.shared.circuits.events.transitions()
    }

    /// Returns the circuit of a kind of call.
    #[must_use]
    pub fn breaker(&self, kind: CallKind) -> &LatencyCircuitBreaker {
        self.shared.circuits.get(kind)
    }

    /// Returns a task that wakes the callers of one NET runtime when their answers are ready. The task wakes all
    /// callers of a block at once. Spawn the task once on each NET runtime; `index` is the number of the runtime.
    pub fn wake_task(&self, index: usize) -> impl Future<Output = ()> + Send + use<> {
        self.shared.batch.clone().wake_task(index)
    }

    /// Registers a client, such as a connection. If a call of the client has begun but has not reached the queue, a
    /// batch that is about to be sealed can wait for this call. While other clients wait, a batch contains at most the
    /// fair share of requests of this client.
    #[must_use]
    pub fn caller(&self) -> Caller {
        self.shared.batch.caller()
    }

    /// Begins a sequence of requests for [`TallyEngine::process_next`]. The requests belong to the client whose call
    /// the calling thread polls. After a request of the sequence was not executed, no later request of the sequence is
    /// executed.
    ///
    /// # Panics
    /// If the thread does not poll a call of a [`Caller`]. The requests would belong to no client, so the limit of the
    /// fair share would not apply to them.
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        let sequence = self.shared.batch.sequence();
        assert!(
            sequence.has_client(),
            "a sequence was begun outside of Caller::calling, so its requests belong to no client"
        );
        sequence
    }

    /// Advances the time of the circuits, and sends probes for the circuits that need one. Call this method every
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

    /// Returns the health of the engine, which reports failures.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.shared.health
    }

    /// Returns a guard that reports a panic of the thread or task that holds the guard. It is meant for threads and
    /// tasks without which the service can't work.
    #[must_use]
    pub fn panic_guard(&self) -> PanicGuard {
        PanicGuard::new(Arc::clone(&self.shared.health))
    }

    /// Returns the replica of a replicated store; `None` if the store is embedded.
    #[must_use]
    pub fn replica(&self) -> Option<&Replica> {
        self.shared.replica.get()
    }

    /// Sets the replica of a replicated store. Call this method once, before the engine is given to the services.
    ///
    /// # Panics
    /// If the replica is set already.
    pub fn set_replica(&self, replica: Replica) {
        let is_first = self.shared.replica.set(replica).is_ok();
        assert!(is_first, "the replica of the engine was set twice");
    }

    /// Returns the report about the recovery when the store was opened.
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

    /// Returns the counts of damage that was found in the journal, and of the scrub.
    #[must_use]
    pub fn journal_condition(&self) -> JournalCondition {
        self.shared.counters.journal()
    }

    /// Returns whether the disk has no space for the next segment of the journal. Writes are refused from the time at
    /// which the journal reaches this segment until there is space.
    #[must_use]
    pub fn disk_is_full(&self) -> bool {
        self.shared.space.is_full()
    }

    /// Reads the clock of the ledger.
    #[must_use]
    pub fn clock(&self) -> ClockReading {
        self.shared.clock.read()
    }

    /// Lets the ledger clock follow a step of the wall clock that it holds. `seen` is the step that the administrator
    /// has seen. Returns the step that was held, or `None` if none was held.
    ///
    /// # Errors
    /// Those of [`LedgerClock::confirm`].
    pub fn confirm_clock(&self, seen: ClockStep) -> Result<Option<ClockStep>, ClockError> {
        self.shared.clock.confirm(seen)
    }

    /// Stops the engine. It accepts no more commands, and waits until the accepted commands are durable and answered
    /// and the threads have ended. Call this method from a thread that may block. A second call does nothing.
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
        // Ignores the result: a thread that panicked has already reported the panic through `Health`.
        let _ = maintenance.join();
        let _ = exec.join();
        let _ = wal.join();
        if self.health().condition() == Condition::Running {
            self.shared.pipeline.finish();
        }
    }

    /// Submits a command through the circuit of its kind. The command is submitted before this method returns.
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

    pub(super) async fn read(&self, command: Command, deadline: Option<Instant>) -> Answered {
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

fn processed(answered: Answered) -> Result<Processed, EngineError> {
    let CommandReply::Transactions(processed) = answered? else {
        return Err(unexpected());
    };
    Ok(processed)
}

/// Returns the error for a reply that does not belong to the command. Only a bug in EXEC can cause it. Whether the
/// command was executed is unknown.
pub(super) const fn unexpected() -> EngineError {
    EngineError::Batch(BatchError::Lost)
}
