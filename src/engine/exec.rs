//! EXEC: the one thread that changes the ledger. It runs no async code, and takes no lock to execute a transaction.
//! EXEC does I/O in two cases: it commits a small block itself when no block is in flight, and it reads an old record
//! when a transaction id is used again.

use std::sync::Arc;

use smallvec::SmallVec;
use tally_batch::{Answerer, BatchItem, Claimed, FlushReason, Intake};
use tally_ledger::{
    AccountIndex, AccountOutcome, AccountSnapshot, NewAccount, Outcome, Tags, TransactionView,
};

use super::{
    command::{
        Command, CommandReply, CreatedAccounts, Outcomes, PAGE_ACCOUNTS_MAX, TransactionBatch,
        account_bytes_max,
    },
    counters::EngineCounters,
    fault::StoreFault,
    health::{Condition, Health},
    open_batch::OpenBatch,
    pending::{EngineReply, PendingAnswer},
    pipeline::{CommitPipeline, Progress},
};
use crate::store::embedded::{JournaledLedger, RecordError, SealedBlock, checkpoint::put_accounts};

/// Maximum number of items (transactions, accounts, single reads) that EXEC takes from the queue at a time.
const TAKE_ITEMS: usize = 8192;
/// While a block is in flight, a caller wakes EXEC only if this many requests wait in the queue. Fewer requests stay in
/// the queue until the block is durable, and then WAL wakes EXEC. So most callers need no system call to wake EXEC.
const BUSY_WAKE_REQUESTS: usize = 64;
/// A block with at least this many records is sealed even while another block is in flight.
const LARGE_BLOCK_RECORDS: u32 = 4096;
/// Maximum number of records in a block.
const BLOCK_RECORDS_MAX: u32 = 16 * 1024;
/// EXEC prefetches the accounts of a transaction while it executes the transaction that is this many places earlier. It
/// prefetches the entries of the hash indexes of ids twice as early, because the entries name the accounts. One access
/// to main memory takes about as long as EXEC needs for this many transactions. Within a batch, EXEC prefetches for
/// this many transactions at a time.
const PREFETCH_DISTANCE: usize = 8;

/// The state of the thread.
#[derive(Debug)]
pub(super) struct Exec {
    /// The ledger, with the open block that its changes are written to.
    book: JournaledLedger,
    intake: Intake<Command, EngineReply>,
    /// Gives the answers that EXEC does not hand over to the pipeline. EXEC gives answers itself in two cases: every
    /// block that they depend on is durable already, or the log has failed.
    answerer: Answerer,
    pipeline: Arc<CommitPipeline>,
    health: Arc<Health>,
    counters: Arc<EngineCounters>,
    open: OpenBatch,
    /// An empty vector, which keeps its memory between two calls of [`Exec::execute_waiting`].
    claimed: Vec<Claimed<Command, EngineReply>>,
    /// Whether the log has failed. A failed log takes no more blocks.
    failed: bool,
}

/// What a call of [`Exec::step`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// There was work. There may be more work.
    Worked,
    /// There is no work until `wake_at` requests wait in the queue, or a block in flight is durable.
    Idle { wake_at: usize },
    /// The queue is closed and empty.
    Ended,
}

// ===== impl Exec =====

impl Exec {
    pub(super) fn new(
        book: JournaledLedger,
        intake: Intake<Command, EngineReply>,
        pipeline: Arc<CommitPipeline>,
        health: Arc<Health>,
        counters: Arc<EngineCounters>,
    ) -> Self {
        Exec {
            answerer: intake.answerer(),
            book,
            intake,
            pipeline,
            health,
            counters,
            open: OpenBatch::default(),
            claimed: Vec::new(),
            failed: false,
        }
    }

    /// Executes commands until the queue is closed and empty.
    pub(super) fn run(mut self) {
        loop {
            match self.step() {
                Step::Worked => {}
                Step::Idle { wake_at } => self.intake.sleep(wake_at),
                Step::Ended => break,
            }
        }
        self.flush(FlushReason::Drain);
        self.pipeline.wait_idle();
    }

    /// Executes the commands in the queue, and then hands the open block over if the block is due.
    fn step(&mut self) -> Step {
        let taken = self.execute_waiting();
        let progress = self.catch_up();
        let large = self.book.open_records() >= LARGE_BLOCK_RECORDS;
        let due = if self.open.is_empty() {
            None
        } else {
            let due = progress.idle.then(|| self.intake.due()).flatten();
            due.or((large && progress.has_room).then_some(FlushReason::Items))
        };
        if let Some(reason) = due {
            self.flush(reason);
        } else if taken == 0 {
            if self.intake.is_drained() {
                return Step::Ended;
            }
            self.counters.publish(&self.book);
            let wake_at = if progress.idle { 1 } else { BUSY_WAKE_REQUESTS };
            return Step::Idle { wake_at };
        }
        Step::Worked
    }

    /// Takes commands from the queue and executes them. Returns the number of their items.
    fn execute_waiting(&mut self) -> usize {
        let mut claimed = std::mem::take(&mut self.claimed);
        let taken = self.intake.take(TAKE_ITEMS, &mut claimed);
        // EXEC asks the pipeline before it executes the first command. So if the log has failed, EXEC executes none of
        // the commands, and the answers say so.
        self.catch_up();
        self.prefetch_first(&claimed);
        let mut commands = claimed.drain(..);
        while let Some(Claimed { item, reply, turn }) = commands.next() {
            self.prefetch_behind(commands.as_slice());
            if turn.as_ref().is_some_and(|turn| !turn.is_open()) {
                reply.interrupted();
                continue;
            }
            self.open.count(item.items());
            let result = self.execute(item);
            if result.is_ok()
                && let Some(turn) = turn
            {
                turn.executed();
            }
            let answer = PendingAnswer::new(reply, result, self.last_block());
            #[cfg(feature = "mutations")]
            let Some(answer) = answer.unless_given_at_once(&mut self.answerer) else {
                continue;
            };
            self.open.push(answer);
            if self.open.is_full() {
                self.flush(FlushReason::Items);
            }
        }
        drop(commands);
        self.claimed = claimed;
        taken
    }

    /// Returns the number of the last block that the answer to the latest command depends on. A read depends on the
    /// writes that it shows.
    const fn last_block(&self) -> u64 {
        if self.open.has_probe() {
            self.book.open_block()
        } else {
            self.book.last_block()
        }
    }

    fn execute(&mut self, command: Command) -> Result<CommandReply, StoreFault> {
        if self.failed {
            return Err(StoreFault::Failed);
        }
        match command {
            Command::Transactions(batch, link) => {
                self.open.link(link);
                self.transactions(&batch).map(CommandReply::Transactions)
            }
            Command::CreateAccounts(accounts) => {
                self.create_accounts(accounts).map(CommandReply::CreateAccounts)
            }
            Command::Account(id) => Ok(CommandReply::Account(
                self.book.ledger().account(&id).map(Box::new),
            )),
            Command::Accounts { from, limit } => Ok(self.accounts(from, limit)),
            Command::Locate(id) => Ok(CommandReply::Located(self.book.candidates(&id))),
            Command::AccountIds(indexes) => {
                let ids = indexes.iter().map(|index| self.account_id(*index));
                Ok(CommandReply::AccountIds(ids.collect::<Result<_, _>>()?))
            }
            Command::CheckpointChunk(from) => {
                let mut bytes = Vec::new();
                let next = put_accounts(self.book.ledger(), from, &mut bytes);
                Ok(CommandReply::CheckpointChunk { bytes, next })
            }
            Command::Probe => {
                self.open.set_probe();
                Ok(CommandReply::Probed)
            }
        }
    }

    /// Prefetches the memory that the first commands need, before any of them is executed.
    fn prefetch_first(&self, commands: &[Claimed<Command, EngineReply>]) {
        for tags in commands.iter().take(2 * PREFETCH_DISTANCE).filter_map(first_tags) {
            self.book.prefetch_names(tags);
        }
        for tags in commands.iter().take(PREFETCH_DISTANCE).filter_map(first_tags) {
            self.book.prefetch_accounts(tags);
        }
    }

    /// Prefetches memory for `commands`, which are the commands after the one that EXEC is about to execute.
    /// [`Exec::prefetch_within`] does the same for the transactions of a batch.
    fn prefetch_behind(&self, commands: &[Claimed<Command, EngineReply>]) {
        let tags = |distance: usize| commands.get(distance - 1).and_then(first_tags);
        if let Some(tags) = tags(2 * PREFETCH_DISTANCE) {
            self.book.prefetch_names(tags);
        }
        if let Some(tags) = tags(PREFETCH_DISTANCE) {
            self.book.prefetch_accounts(tags);
        }
    }

    fn transactions(&mut self, batch: &TransactionBatch) -> Result<Outcomes, StoreFault> {
        let mut outcomes = SmallVec::with_capacity(batch.len());
        for place in 0..batch.len() {
            if place.is_multiple_of(PREFETCH_DISTANCE) {
                self.prefetch_within(batch, place);
            }
            let (transaction, tags) = batch.transaction(place);
            let outcome = self.transaction(&transaction, tags);
            outcomes.push(outcome.map_err(|fault| {
                if place == 0 {
                    fault
                } else {
                    fault.after_partial_execution()
                }
            })?);
        }
        self.counters.outcomes(&outcomes);
        Ok(outcomes)
    }

    /// Prefetches the memory that later transactions of the batch need, before the transaction at `place` is executed.
    /// The entries of the hash indexes of ids come first, and then the accounts that these entries name. One call
    /// prefetches for [`PREFETCH_DISTANCE`] transactions, because a CPU translates several addresses at a time only if
    /// their loads are close together in the program.
    fn prefetch_within(&self, batch: &TransactionBatch, place: usize) {
        // At place 0, only the memory of the first transaction was prefetched so far, by `prefetch_first` or
        // `prefetch_behind`.
        let from = |distance: usize| if place == 0 { 1 } else { place + distance };
        let names = from(2 * PREFETCH_DISTANCE)..place + 3 * PREFETCH_DISTANCE;
        for tags in names.map_while(|place| batch.tags(place)) {
            self.book.prefetch_names(tags);
        }
        let accounts = from(PREFETCH_DISTANCE)..place + 2 * PREFETCH_DISTANCE;
        for tags in accounts.map_while(|place| batch.tags(place)) {
            self.book.prefetch_accounts(tags);
        }
    }

    fn transaction(
        &mut self,
        transaction: &TransactionView<'_, &[u8]>,
        tags: Tags<'_>,
    ) -> Result<Outcome, StoreFault> {
        if !self.book.has_room(1) {
            self.next_block(FlushReason::Bytes)?;
        } else if self.book.open_records() >= BLOCK_RECORDS_MAX {
            self.next_block(FlushReason::Items)?;
        }
        loop {
            match self.book.process(transaction, tags) {
                Ok(outcome) => return Ok(outcome),
                // An earlier transaction has an id with the same hash, and its block is still in flight. EXEC can read
                // its record, to compare the ids, only when the block is durable. The wait costs other transactions
                // little, because blocks become durable in order.
                Err(RecordError::NotYetDurable(_)) => {
                    self.pipeline.wait_idle();
                    if self.catch_up().failed {
                        return Err(StoreFault::WriteFailed);
                    }
                }
                Err(error) => return Err(StoreFault::from_read_error(&error, &self.counters)),
            }
        }
    }

    fn create_accounts(&mut self, accounts: Vec<NewAccount>) -> Result<CreatedAccounts, StoreFault> {
        // All accounts must be in one block. So after a crash, either all of them exist or none of them.
        if !self
            .book
            .has_room_for_bytes(accounts.iter().map(account_bytes_max).sum())
        {
            self.next_block(FlushReason::Bytes)?;
        }
        Ok(match self.book.create_accounts(accounts) {
            AccountOutcome::Created(indexes) => {
                CreatedAccounts::All(indexes.into_iter().map(|index| self.snapshot(index)).collect())
            }
            AccountOutcome::Reused { place, field } => CreatedAccounts::Reused { place, field },
            AccountOutcome::Full(full) => CreatedAccounts::Full(full),
        })
    }

    fn accounts(&self, from: AccountIndex, limit: usize) -> CommandReply {
        let mut indexes = self.book.ledger().accounts().indexes_from(from);
        let limit = limit.min(PAGE_ACCOUNTS_MAX);
        let accounts = indexes
            .by_ref()
            .take(limit)
            .map(|index| self.snapshot(index))
            .collect();
        CommandReply::Accounts {
            accounts,
            next: indexes.next(),
        }
    }

    /// Returns the state of the account with this index, which the ledger has returned before.
    ///
    /// # Panics
    /// If the ledger has no such account.
    fn snapshot(&self, index: AccountIndex) -> AccountSnapshot {
        let Some(snapshot) = self.book.ledger().accounts().snapshot(index) else {
            panic!("account {index:?} was created, but the ledger does not have it");
        };
        snapshot
    }

    /// Returns the id of an account whose index comes from a record on the disk.
    ///
    /// # Errors
    /// [`StoreFault::ReadFailed`] if the ledger has no such account. In this case, the record is damaged, although its
    /// checksum is right.
    fn account_id(&self, index: AccountIndex) -> Result<String, StoreFault> {
        let Some(id) = self.book.ledger().accounts().id(index) else {
            if let Some(omitted) = self.counters.read_errors.admit(tokio::time::Instant::now()) {
                let account = index.0;
                tracing::error!(account, omitted, "a record names an account that does not exist");
            }
            return Err(StoreFault::ReadFailed);
        };
        Ok(id.to_owned())
    }

    /// Asks the pipeline how far the log is durable and whether the log has failed, and records both.
    fn catch_up(&mut self) -> Progress {
        let progress = self.pipeline.progress();
        self.book.durable_to(progress.durable.chain().position);
        // After a failure, the latest changes in memory never become durable, so EXEC executes nothing more.
        self.failed |= progress.failed;
        progress
    }

    /// Hands the open block over to the pipeline in the middle of a command. The next record goes into a new block.
    ///
    /// # Errors
    /// [`StoreFault::Failed`] if the log has failed.
    fn next_block(&mut self, reason: FlushReason) -> Result<(), StoreFault> {
        self.flush(reason);
        if self.failed {
            Err(StoreFault::Failed)
        } else {
            Ok(())
        }
    }

    /// Seals the open block if the block has a record or if a probe waits for the block.
    fn seal(&mut self, reason: FlushReason) -> Option<SealedBlock> {
        let (records, bytes) = (self.book.open_records(), self.book.open_bytes());
        if records == 0 && !self.open.has_probe() {
            return None;
        }
        self.intake.flushed(reason, records as usize, bytes);
        Some(self.book.seal_even_if_empty(self.open.take_spare()))
    }

    /// Hands the open block over to the pipeline, together with the answers that wait for the block. If there is
    /// nothing to write and nothing is in flight, or if the log has failed, EXEC gives the answers itself.
    fn flush(&mut self, reason: FlushReason) {
        let progress = self.catch_up();
        let block = if self.failed { None } else { self.seal(reason) };
        if block.is_none() {
            if self.open.is_empty() {
                return;
            }
            if self.failed || progress.idle {
                let (durable, failed, counters) = (&progress.durable, self.failed, &self.counters);
                let answers = self.open.drain();
                let released = answers.map(|answer| answer.release(durable, failed, counters));
                self.answerer.answer_untimed(released);
                return;
            }
        }
        let batch = self.open.seal(block);
        // Publish the counters before the answers are given, so that a caller who reads the counters sees its own call.
        self.counters.publish(&self.book);
        let spare = self.pipeline.commit(batch);
        self.open.reuse(spare);
    }
}

/// Returns the hashes of the ids in the first transaction of a command. Prefetching for later commands matters only for
/// commands with a single transaction, so the hashes of the other transactions are not needed.
fn first_tags(command: &Claimed<Command, EngineReply>) -> Option<Tags<'_>> {
    if let Command::Transactions(batch, _) = &command.item {
        batch.tags(0)
    } else {
        None
    }
}

impl Drop for Exec {
    /// Closes the pipeline, so that WAL does not wait for EXEC after this thread has ended or has panicked.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.health.fail(Condition::Panicked);
        }
        self.pipeline.close();
    }
}
