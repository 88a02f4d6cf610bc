//! EXEC: the one thread that changes the ledger. No async, no lock on the way of a transaction, no I/O but reading back
//! an old record that a repeated id asks for.

use std::sync::Arc;

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::{
    command::{
        Command, CommandReply, CreatedAccounts, Outcomes, PAGE_ACCOUNTS_MAX, TransactionBatch,
        account_bytes_max,
    },
    counters::EngineCounters,
    fault::StoreFault,
    handoff::{Handoff, Progress, Spare, Work},
    health::{Condition, Health},
    pending::{EngineReply, PendingAnswer},
    wal::Committer,
};
use crate::{
    batch::{Answerer, BatchItem, Claimed, FlushReason, Intake},
    ledger::{AccountIndex, AccountOutcome, NewAccount, Outcome, Tags, TransactionView},
    store::{
        embedded::{JournaledLedger, RecordError, checkpoint::put_accounts},
        journal::BlockBuffer,
    },
    telemetry::{LINKS_MAX, TraceLink},
};

/// Items taken from the ring in one go.
const TAKE_ITEMS: usize = 8192;
/// Requests that must wait before callers wake EXEC while the journal is busy: until then they can as well wait for the
/// block under way, which wakes it anyway, and callers are spared a system call each.
const BUSY_WAKE_REQUESTS: usize = 64;
/// From so many records on, a block is handed over while another is still being synced.
const LARGE_BLOCK_RECORDS: u32 = 4096;
/// No block has more records.
const BLOCK_RECORDS_MAX: u32 = 16 * 1024;
/// No block has answers to more items waiting for it, which bounds the memory of readings that wait for the disk.
const BLOCK_ANSWER_ITEMS_MAX: usize = 16 * 1024;

/// A block of at most so many records is written by EXEC itself when nothing is under way: the next one could not be made
/// much sooner than it is synced, and two changes of thread are saved, which a lone caller would wait for.
const OWN_BLOCK_RECORDS_MAX: u32 = 64;
/// How many transactions ahead memory of accounts is asked for, that of names twice as many: about as many as are executed
/// while it comes. Within a batch, memory is asked for so many transactions at a time.
const PREFETCH_DISTANCE: usize = 8;

/// The state of the thread.
#[derive(Debug)]
pub(super) struct Exec {
    book: JournaledLedger,
    intake: Intake<Command, EngineReply>,
    answerer: Answerer,
    handoff: Arc<Handoff>,
    committer: Arc<Mutex<Committer>>,
    health: Arc<Health>,
    counters: Arc<EngineCounters>,
    /// Answers that wait for the open block, or for the blocks before it.
    answers: Vec<PendingAnswer>,
    /// The spans of the calls in the open block, if they are exported; at most [`LINKS_MAX`].
    links: Vec<TraceLink>,
    /// Items of the commands that they answer.
    answer_items: usize,
    claimed: Vec<Claimed<Command, EngineReply>>,
    spare: Option<BlockBuffer>,
    /// A probe waits for the open block, which is written even if it stays empty.
    probed: bool,
    failed: bool,
}

// ===== impl Exec =====

impl Exec {
    pub(super) fn new(
        book: JournaledLedger,
        intake: Intake<Command, EngineReply>,
        handoff: Arc<Handoff>,
        committer: Arc<Mutex<Committer>>,
        health: Arc<Health>,
        counters: Arc<EngineCounters>,
    ) -> Self {
        Exec {
            answerer: intake.answerer(),
            book,
            intake,
            handoff,
            committer,
            health,
            counters,
            answers: Vec::new(),
            links: Vec::new(),
            answer_items: 0,
            claimed: Vec::new(),
            spare: None,
            probed: false,
            failed: false,
        }
    }

    /// Executes commands until the ring is closed and empty.
    pub(super) fn run(mut self) {
        loop {
            let mut claimed = std::mem::take(&mut self.claimed);
            let taken = self.intake.take(TAKE_ITEMS, &mut claimed);
            // Before anything is executed: whoever comes after a failure is told that nothing was done.
            self.catch_up();
            self.prefetch_first(&claimed);
            let mut commands = claimed.drain(..);
            while let Some(Claimed { item, reply, turn }) = commands.next() {
                self.prefetch_behind(commands.as_slice());
                if turn.as_ref().is_some_and(|turn| !turn.is_open()) {
                    reply.interrupted();
                    continue;
                }
                self.answer_items += item.items();
                let result = self.execute(item);
                if result.is_ok()
                    && let Some(turn) = turn
                {
                    turn.executed();
                }
                self.answers
                    .push(PendingAnswer::new(reply, result, self.last_block()));
                if self.answer_items >= BLOCK_ANSWER_ITEMS_MAX {
                    self.flush(FlushReason::Items);
                }
            }
            drop(commands);
            self.claimed = claimed;

            let progress = self.catch_up();
            let large = self.book.open_records() >= LARGE_BLOCK_RECORDS;
            let due = if self.answers.is_empty() {
                None
            } else {
                let due = progress.idle.then(|| self.intake.due()).flatten();
                due.or((large && progress.has_room).then_some(FlushReason::Items))
            };
            if let Some(reason) = due {
                self.flush(reason);
            } else if taken == 0 {
                if self.intake.is_drained() {
                    break;
                }
                self.counters.publish(&self.book);
                self.intake
                    .sleep(if progress.idle { 1 } else { BUSY_WAKE_REQUESTS });
            }
        }
        self.flush(FlushReason::Drain);
        self.handoff.wait_idle();
    }

    /// The last block that what was just executed depends on, whether it wrote or only read.
    const fn last_block(&self) -> u64 {
        if self.probed {
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
                if self.links.len() < LINKS_MAX {
                    self.links.extend(link);
                }
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
                let name = |index: &AccountIndex| {
                    self.book
                        .ledger()
                        .accounts()
                        .id(*index)
                        .unwrap_or_default()
                        .to_owned()
                };
                Ok(CommandReply::AccountIds(indexes.iter().map(name).collect()))
            }
            Command::CheckpointChunk(from) => {
                let mut bytes = Vec::new();
                let next = put_accounts(self.book.ledger(), from, &mut bytes);
                Ok(CommandReply::CheckpointChunk { bytes, next })
            }
            Command::Probe => {
                self.probed = true;
                Ok(CommandReply::Probed)
            }
        }
    }

    /// Asks for the memory of the first commands, before any of them is executed.
    fn prefetch_first(&self, commands: &[Claimed<Command, EngineReply>]) {
        for tags in commands.iter().take(2 * PREFETCH_DISTANCE).filter_map(first_tags) {
            self.book.prefetch_names(tags);
        }
        for tags in commands.iter().take(PREFETCH_DISTANCE).filter_map(first_tags) {
            self.book.prefetch_accounts(tags);
        }
    }

    /// Asks for memory of `commands`, which are executed after the one in hand, as [`Exec::prefetch_within`] does in a batch.
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
            let (Some(transaction), Some(tags)) = (batch.get(place), batch.tags(place)) else {
                tracing::error!(place, "a transaction of a batch can't be read");
                return Err(StoreFault::ReadFailed);
            };
            let outcome = self.transaction(&transaction, tags);
            outcomes.push(outcome.map_err(|fault| if place == 0 { fault } else { fault.of_a_part() })?);
        }
        self.counters.outcomes(&outcomes);
        Ok(outcomes)
    }

    /// Asks for memory that the transactions behind `place` will touch, so that it comes while others are executed: first
    /// where their names are looked up, then, when that is there, their accounts. It is done for several at once, since
    /// a CPU translates several addresses at a time, if only they stand close together in the program.
    fn prefetch_within(&self, batch: &TransactionBatch, place: usize) {
        // At first, only the memory of the batch's first is on its way, as of every command's.
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
                // The id was used a moment ago and its block is under way. Its fate must be known first, and nothing
                // else could be made durable before that either.
                Err(RecordError::NotYetDurable(_)) => {
                    self.handoff.wait_idle();
                    if self.catch_up().failed {
                        return Err(StoreFault::WriteFailed);
                    }
                }
                Err(error) => return Err(StoreFault::of_reading(&error, &self.counters)),
            }
        }
    }

    fn create_accounts(&mut self, accounts: Vec<NewAccount>) -> Result<CreatedAccounts, StoreFault> {
        // All in one block, so that a crash leaves all or none.
        if !self
            .book
            .has_room_for_bytes(accounts.iter().map(account_bytes_max).sum())
        {
            self.next_block(FlushReason::Bytes)?;
        }
        Ok(match self.book.create_accounts(accounts) {
            AccountOutcome::Created(indexes) => {
                let snapshot = |index| self.book.ledger().accounts().snapshot(index);
                CreatedAccounts::All(indexes.into_iter().filter_map(snapshot).collect())
            }
            AccountOutcome::Reused { place } => CreatedAccounts::Reused { place },
            AccountOutcome::Full(full) => CreatedAccounts::Full(full),
        })
    }

    fn accounts(&self, from: AccountIndex, limit: usize) -> CommandReply {
        let table = self.book.ledger().accounts();
        let mut indexes = table.indexes_from(from);
        let limit = limit.min(PAGE_ACCOUNTS_MAX);
        let accounts = indexes
            .by_ref()
            .take(limit)
            .filter_map(|index| table.snapshot(index))
            .collect();
        CommandReply::Accounts {
            accounts,
            next: indexes.next(),
        }
    }

    /// Looks how far WAL has come.
    fn catch_up(&mut self) -> Progress {
        let progress = self.handoff.progress();
        self.book.durable_to(progress.durable.chain().position);
        // What is in memory will never be durable: there is no point in going on.
        self.failed |= progress.failed;
        progress
    }

    /// In the middle of a command: hands the open block over, so that the next record goes into another one.
    ///
    /// # Errors
    /// [`StoreFault::Failed`] if it is known that nothing will be written any more.
    fn next_block(&mut self, reason: FlushReason) -> Result<(), StoreFault> {
        self.flush(reason);
        if self.failed {
            Err(StoreFault::Failed)
        } else {
            Ok(())
        }
    }

    /// Hands the open block over with the answers that wait for it. With nothing to write and nothing under way, the
    /// answers go out from here.
    fn flush(&mut self, reason: FlushReason) {
        let progress = self.catch_up();
        let (records, bytes) = (self.book.open_records(), self.book.open_bytes());
        let spare = self.spare.take().unwrap_or_else(|| BlockBuffer::with_capacity(0));
        let probed = std::mem::take(&mut self.probed);
        let block = if self.failed {
            None
        } else if probed {
            Some(self.book.seal_even_if_empty(spare))
        } else {
            self.book.seal(spare)
        };
        if block.is_some() {
            self.intake.flushed(reason, records as usize, bytes);
        } else if self.answers.is_empty() {
            return;
        } else if self.failed || progress.idle {
            self.answer_items = 0;
            let (durable, failed, counters) = (&progress.durable, self.failed, &self.counters);
            let answers = self.answers.drain(..);
            let released = answers.map(|answer| answer.release(durable, failed, counters));
            self.answerer.answer_untimed(released);
            return;
        }
        let answers = std::mem::take(&mut self.answers);
        self.answer_items = 0;
        let work = Work {
            block,
            answers,
            links: std::mem::take(&mut self.links),
        };
        // Before the answers go out: who has one finds it counted.
        self.counters.publish(&self.book);
        let recycled = self.commit(work, records);
        self.answers = recycled.answers;
        self.spare = recycled.buffer;
    }

    /// Has a block written: by WAL, or, if it is small and nothing is under way, here and now.
    fn commit(&self, work: Work, records: u32) -> Spare {
        // WAL still holds the lock while it gives the answers of the block before.
        let own = (1..=OWN_BLOCK_RECORDS_MAX)
            .contains(&records)
            .then(|| self.committer.try_lock())
            .flatten()
            .filter(|_| self.handoff.begin());
        match own {
            Some(mut committer) => committer.commit(&self.handoff, work, || ()),
            None => self.handoff.submit(work),
        }
    }
}

/// The hashes of a command's first transaction: of its only one, where it matters.
fn first_tags(command: &Claimed<Command, EngineReply>) -> Option<Tags<'_>> {
    if let Command::Transactions(batch, _) = &command.item {
        batch.tags(0)
    } else {
        None
    }
}

impl Drop for Exec {
    /// However the thread ends, WAL must not wait for it.
    fn drop(&mut self) {
        self.handoff.close();
        if std::thread::panicking() {
            self.health.fail(Condition::Panicked);
        }
    }
}
