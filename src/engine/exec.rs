//! EXEC: the one thread that changes the ledger. It runs no async code, and takes no lock to execute a transaction.
//! EXEC does I/O in three cases: it commits a small block itself when no block is in flight, it reads an old record when
//! a transaction id is used again, and it makes the next segment of the journal when AUX is late with it.
//!
//! A step never waits for another thread, so that the simulation can drive EXEC from a single thread. If a command
//! needs room in the commit pipeline, or a record whose block is still in flight, the step keeps the command and
//! returns what it waits for. The thread waits, and the next step continues the command at the same transaction.

mod accounts;
mod following;

use std::{sync::Arc, time::Duration};

use tally_batch::{Answerer, BatchItem, Claimed, FlushReason, Intake, Reply, Turn};
use tally_journal::SegmentSpace;
use tally_ledger::{Names, Outcome, Tags, TransactionView};

use super::{
    command::{Command, CommandReply, Outcomes, Processed},
    counters::EngineCounters,
    details,
    fault::{LogEnd, StoreFault},
    health::{Condition, Health},
    open_batch::OpenBatch,
    pending::{EngineReply, PendingAnswer},
    pipeline::{CommitPipeline, Progress},
    prefetch, reads,
    suspended::{Executed, Halt, Rest, Suspended, Until},
    transaction_batch::TransactionBatch,
};
use crate::{
    mutation::planted,
    store::embedded::{JournaledLedger, RecordError, SealedBlock},
};

/// Maximum number of items (transactions, accounts, single reads) that EXEC takes from the queue at a time.
const TAKE_ITEMS: usize = 8192;
/// While a block is in flight, a caller wakes EXEC only if this many requests wait in the queue. Fewer requests stay in
/// the queue until the block is durable, and then WAL wakes EXEC. So most callers need no system call to wake EXEC.
const BUSY_WAKE_REQUESTS: usize = 64;
/// A block with at least this many records is sealed even while another block is in flight.
const LARGE_BLOCK_RECORDS: u32 = 4096;
/// Maximum number of records in a block.
const BLOCK_RECORDS_MAX: u32 = 16 * 1024;
/// Maximum number of holds that expire before the first transaction of a block. The simulation needs a small number, so that holds
/// stay outstanding although their time has come.
const EXPIRIES_MAX: usize = if cfg!(feature = "simulation") { 4 } else { 1024 };
/// EXEC sleeps at least this long until a hold expires. If the time of a hold has come, but the disk is full, EXEC tries again after
/// this time.
const EXPIRY_SLEEP_MIN: Duration = Duration::from_millis(1);
/// EXEC sleeps at most this long while a hold can expire, because the wall clock may be set forward.
const EXPIRY_SLEEP_MAX: Duration = Duration::from_secs(1);
/// The fault of a command that needs a record while the disk has no space. EXEC executed no part of the command.
const DISK_FULL: StoreFault = StoreFault::DiskFull { executed_part: false };

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
    /// Commands that EXEC has taken from the queue (claimed), and executes after the suspended command. Empty if no command is
    /// suspended.
    claimed: Vec<Claimed<Command, EngineReply>>,
    /// The command that the last step could not complete.
    suspended: Option<Suspended>,
    /// Why the log takes no more blocks. `None` while it takes blocks.
    ended: Option<LogEnd>,
    space: SegmentSpace,
    /// The last segment that was found to have its space.
    available_segment: Option<u32>,
    mode: Mode,
}

/// What EXEC does with commands. The embedded store is always [`Mode::Alone`]. A replica begins as [`Mode::Following`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// There is no other replica. EXEC executes commands. An answer waits for the last block whose records it depends on.
    Alone,
    /// This replica leads. EXEC executes commands. Another replica may have become the leader, which only the log knows, so every
    /// answer waits for the block that was open when the command was executed, even if this block has no record: when the log
    /// accepts this block, no other replica was the leader before.
    Leading,
    /// This replica follows. EXEC applies the blocks that the log has accepted, and executes no command that would write.
    Following,
}

/// What a call of [`Cores::step_exec`](super::Cores::step_exec) found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecStep {
    /// There was work. There may be more work.
    Worked,
    /// There is no work until `wake_at` requests wait in the queue, a block in flight is durable, or the time is over.
    Idle {
        /// A number of requests.
        wake_at: usize,
        /// The time until the next hold may expire, if there is one.
        until: Option<Duration>,
    },
    /// EXEC can do nothing until the commit pipeline has reached this state.
    Blocked(Until),
    /// The queue is closed and empty, and everything is answered.
    Ended,
}

// ===== impl Exec =====

impl Exec {
    pub(super) fn new(
        mut book: JournaledLedger,
        intake: Intake<Command, EngineReply>,
        pipeline: Arc<CommitPipeline>,
        health: Arc<Health>,
        counters: Arc<EngineCounters>,
        space: SegmentSpace,
        mode: Mode,
    ) -> Self {
        book.set_following(mode == Mode::Following);
        Exec {
            answerer: intake.answerer(),
            book,
            intake,
            pipeline,
            health,
            counters,
            open: OpenBatch::default(),
            claimed: Vec::new(),
            suspended: None,
            ended: None,
            space,
            available_segment: None,
            mode,
        }
    }

    /// Executes commands until the queue is closed and empty.
    pub(super) fn run(mut self) {
        loop {
            match self.step() {
                ExecStep::Worked => {}
                ExecStep::Idle { wake_at, until } => self.intake.sleep(wake_at, until),
                ExecStep::Blocked(Until::Room) => self.pipeline.wait_for_room(),
                ExecStep::Blocked(Until::Empty) => self.pipeline.wait_idle(),
                ExecStep::Ended => break,
            }
        }
    }

    /// Executes the commands in the queue, and then hands the open block over if the block is due. Never waits.
    pub(super) fn step(&mut self) -> ExecStep {
        self.book.renew_block();
        let taken = match self.execute_waiting() {
            Ok(taken) => taken,
            Err(until) => return ExecStep::Blocked(until),
        };
        let progress = self.catch_up();
        let large = self.book.open_records() >= LARGE_BLOCK_RECORDS;
        let due = if self.open.is_empty() {
            // A block without answers contains only holds that have expired.
            (progress.idle && self.ended.is_none() && self.book.open_records() > 0)
                .then_some(FlushReason::Idle)
        } else {
            let due = progress.idle.then(|| self.intake.due()).flatten();
            due.or((large && progress.has_room).then_some(FlushReason::Items))
        };
        if let Some(reason) = due {
            self.flush(reason);
        } else if taken == 0 {
            if self.intake.is_drained() {
                return self.end();
            }
            if progress.idle && self.expire_idle() {
                return ExecStep::Worked;
            }
            self.counters.publish(&self.book);
            let wake_at = if progress.idle { 1 } else { BUSY_WAKE_REQUESTS };
            let until = if self.ended.is_some() || self.mode == Mode::Following {
                None
            } else {
                self.book.time_to_expiry()
            };
            let until = until.map(|time| time.clamp(EXPIRY_SLEEP_MIN, EXPIRY_SLEEP_MAX));
            return ExecStep::Idle { wake_at, until };
        }
        ExecStep::Worked
    }

    /// Hands over the open block and its answers after the last command. Returns [`ExecStep::Ended`] when everything is durable.
    fn end(&mut self) -> ExecStep {
        if !self.flush(FlushReason::Drain) {
            ExecStep::Blocked(Until::Room)
        } else if self.catch_up().idle {
            ExecStep::Ended
        } else {
            ExecStep::Blocked(Until::Empty)
        }
    }

    /// Completes the suspended command if there is one. Then executes the commands that it delayed, or else takes
    /// commands from the queue. Returns 0 only if there was no command.
    ///
    /// # Errors
    /// What EXEC waits for, if a command had to be suspended.
    fn execute_waiting(&mut self) -> Result<usize, Until> {
        if self.open.is_full() && !self.flush(FlushReason::Items) {
            return Err(Until::Room);
        }
        if let Some(suspended) = self.suspended.take() {
            self.resume(suspended)?;
        }
        let mut claimed = std::mem::take(&mut self.claimed);
        let taken = if claimed.is_empty() {
            self.intake.take(TAKE_ITEMS, &mut claimed)
        } else {
            claimed.len()
        };
        // EXEC asks the pipeline before it executes the first command. So if the log has failed, EXEC executes none of
        // the commands, and the answers say so.
        self.catch_up();
        prefetch::first(&self.book, &claimed);
        let mut commands = claimed.drain(..);
        while let Some(Claimed { item, reply, turn }) = commands.next() {
            prefetch::behind(&self.book, commands.as_slice());
            if turn.as_ref().is_some_and(|turn| !turn.is_open()) {
                reply.interrupted();
                continue;
            }
            self.open.count(item.items());
            let executed = self.execute(item);
            if let Err(until) = self.settle(executed, reply, turn) {
                self.claimed = commands.collect();
                return Err(until);
            }
        }
        drop(commands);
        self.claimed = claimed;
        Ok(taken)
    }

    /// Continues the command that was suspended.
    ///
    /// # Errors
    /// What EXEC waits for, if the command still can't be completed.
    fn resume(&mut self, suspended: Suspended) -> Result<(), Until> {
        let Suspended {
            rest,
            reply,
            turn,
            until,
        } = suspended;
        self.catch_up();
        let executed = match (rest, self.ended) {
            (Rest::Whole(command), _) => self.execute(command),
            // The first transaction of the rest has the same id as a transaction whose outcome is unknown now.
            (Rest::Transactions(_, done), Some(end)) if until == Until::Empty => {
                self.given_up(&done.outcomes, end.after_execution())
            }
            (Rest::Transactions(_, done), Some(end)) => self.given_up(&done.outcomes, end.before_execution()),
            (Rest::Transactions(batch, done), None) => self.transactions(batch, done),
        };
        self.settle(executed, reply, turn)
    }

    /// Keeps the answer to a command until the blocks that it depends on are durable, or keeps the command if it could not be
    /// completed.
    ///
    /// # Errors
    /// What EXEC waits for before it can execute another command.
    fn settle(
        &mut self,
        executed: Executed,
        reply: Reply<EngineReply>,
        turn: Option<Turn>,
    ) -> Result<(), Until> {
        let mut result = match executed {
            Executed::Done(result) => result,
            Executed::Blocked(rest, until) => {
                self.suspended = Some(Suspended {
                    rest,
                    reply,
                    turn,
                    until,
                });
                return Err(until);
            }
        };
        if result.is_ok()
            && let Some(turn) = turn
        {
            turn.executed();
        }
        if self.mode == Mode::Leading
            && result.as_ref().is_ok_and(CommandReply::shows_ledger)
            && !planted("answer_read_by_earlier_block")
        {
            // The command may have begun a block for which the disk has no space. This block has no record, and must not be written.
            if self.has_space() {
                self.open.set_probe();
            } else {
                result = Err(match &result {
                    Ok(CommandReply::Transactions(processed)) => DISK_FULL.after(&processed.outcomes),
                    Ok(_) | Err(_) => DISK_FULL,
                });
            }
        }
        let answer = PendingAnswer::new(reply, result, self.last_block());
        #[cfg(feature = "mutations")]
        let Some(answer) = answer.unless_given_at_once(&mut self.answerer) else {
            return Ok(());
        };
        self.open.push(answer);
        if self.open.is_full() && !self.flush(FlushReason::Items) {
            return Err(Until::Room);
        }
        Ok(())
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

    fn execute(&mut self, command: Command) -> Executed {
        if let Some(end) = self.ended {
            return Executed::Done(Err(end.before_execution()));
        }
        if self.mode == Mode::Following && command.writes() {
            return Executed::Done(Err(StoreFault::NotLeader));
        }
        if self.mode == Mode::Leading && command.shows_ledger() && !self.has_space() {
            // The answer would wait for a block for which the disk has no space.
            return Executed::Done(Err(DISK_FULL));
        }
        match command {
            Command::Transactions(batch, link) => {
                self.open.link(link);
                self.transactions(batch, Processed::default())
            }
            Command::CreateAccounts(accounts, existing) => self.create_accounts(accounts, existing),
            Command::UpdateAccount(update) => self.update_account(update),
            Command::Follow(blocks) => self.follow(blocks),
            Command::Lead => self.lead(),
            Command::StopLeading(kind, body) => self.stop_leading(kind, body),
            Command::Account(_)
            | Command::History(_)
            | Command::Accounts { .. }
            | Command::Locate(_)
            | Command::Hold(_)
            | Command::Holds(_)
            | Command::AccountIds(_)
            | Command::ReadPoint
            | Command::CheckpointChunk(_)
            | Command::Probe => Executed::Done(self.read(command)),
        }
    }

    /// Executes a command that writes no record.
    fn read(&mut self, command: Command) -> Result<CommandReply, StoreFault> {
        if !matches!(command, Command::Probe) {
            return reads::read(&self.book, command, &self.counters);
        }
        // The probe commits a block.
        if !self.has_space() {
            return Err(DISK_FULL);
        }
        self.open.set_probe();
        Ok(CommandReply::Probed)
    }

    /// Executes the transactions of a batch from the first one that has no outcome.
    fn transactions(&mut self, batch: Arc<TransactionBatch>, mut processed: Processed) -> Executed {
        let outcomes = &mut processed.outcomes;
        outcomes.reserve_exact(batch.len() - outcomes.len());
        for place in processed.outcomes.len()..batch.len() {
            prefetch::within(&self.book, &batch, place);
            let (transaction, tags) = batch.transaction(place);
            let are_wanted = details::are_wanted(&transaction, batch.returns_balances(place));
            let mut legs_max = details::legs_max(are_wanted);
            let executed = loop {
                let executed = self.transaction(&transaction, tags, batch.principal(), legs_max);
                match &executed {
                    Ok(outcome) if are_wanted => match details::too_many_legs(outcome) {
                        Some(legs) if batch.hold_legs(place, legs) => legs_max = legs,
                        Some(_) | None => break executed,
                    },
                    Ok(_) | Err(_) => break executed,
                }
            };
            match executed {
                Ok(outcome) => {
                    if are_wanted {
                        let detail = details::of(&self.book, &batch, place, &transaction, &outcome);
                        processed.details.extend(detail);
                    }
                    processed.outcomes.push(outcome);
                }
                Err(Halt::Fault(fault)) => return self.given_up(&processed.outcomes, fault),
                Err(Halt::Blocked(until)) => {
                    return Executed::Blocked(Rest::Transactions(batch, processed), until);
                }
            }
        }
        self.counters.outcomes(&processed.outcomes);
        Executed::Done(Ok(CommandReply::Transactions(processed)))
    }

    /// Ends a batch whose first transactions have these outcomes, and whose next transaction met `fault`.
    fn given_up(&self, outcomes: &Outcomes, fault: StoreFault) -> Executed {
        self.counters.outcomes(outcomes);
        Executed::Done(Err(fault.after(outcomes)))
    }

    fn transaction(
        &mut self,
        transaction: &TransactionView<'_, &[u8]>,
        tags: Tags<'_>,
        principal: Option<&[u8]>,
        legs_max: usize,
    ) -> Result<Outcome, Halt> {
        // A transaction that names a hold whose time has come also writes the record of its expiry.
        let records = 1 + usize::from(!matches!(transaction.names(), Names::Nothing));
        if !self.book.has_room(records) {
            self.next_block(FlushReason::Bytes)?;
        } else if self.book.open_records() >= BLOCK_RECORDS_MAX {
            self.next_block(FlushReason::Items)?;
        }
        if self.book.may_expire_holds() {
            self.expire_holds();
        }
        // An id that is known gets its outcome even if the disk is full, because this needs no record.
        let answered = if self.has_space() {
            self.book
                .process(transaction, tags, principal, legs_max)
                .map(Some)
        } else {
            match self.book.is_recorded(transaction, tags) {
                Ok(true) => self
                    .book
                    .process(transaction, tags, principal, legs_max)
                    .map(Some),
                Ok(false) => Ok(None),
                Err(error) => Err(error),
            }
        };
        match answered {
            Ok(outcome) => outcome.ok_or(Halt::Fault(DISK_FULL)),
            // An earlier transaction has an id with the same hash, or the transaction names an earlier one, and the block of the
            // earlier transaction is still in flight. EXEC can read its record only when the block is durable. The wait costs other
            // transactions little, because blocks become durable in order.
            Err(RecordError::NotYetDurable(_)) => Err(Halt::Blocked(Until::Empty)),
            Err(error @ (RecordError::Store(_) | RecordError::Malformed { .. } | RecordError::Cancelled)) => {
                Err(Halt::Fault(StoreFault::from_read_error(&error, &self.counters)))
            }
        }
    }

    /// Ends holds whose time has come, if this was not yet done for the open block.
    fn expire_holds(&mut self) -> usize {
        if self.mode == Mode::Following
            || !self.book.may_expire_holds()
            || self.ended.is_some()
            || !self.has_space()
        {
            return 0;
        }
        match self.book.expire_holds(EXPIRIES_MAX) {
            Ok(expired) => {
                self.counters.holds_expired(expired);
                expired
            }
            // The hold expires with a later block.
            Err(RecordError::NotYetDurable(_)) => 0,
            Err(error @ (RecordError::Store(_) | RecordError::Malformed { .. } | RecordError::Cancelled)) => {
                let fault = StoreFault::from_read_error(&error, &self.counters);
                let hold = self.book.suspend_next_expiry().map(tracing::field::display);
                tracing::error!(%fault, hold, "a hold can't expire, because its record can't be read");
                0
            }
        }
    }

    /// Ends holds whose time has come although no transaction arrives. Returns whether it has written records.
    fn expire_idle(&mut self) -> bool {
        self.book.time_to_expiry().is_some_and(|time| time.is_zero()) && self.expire_holds() > 0
    }

    /// Returns whether the disk has space for the open block. If the disk has no space, no record and no probe may go into the
    /// block, because a block that cannot be written ends the service. The check is cheap, because the segments are made ahead; EXEC
    /// waits for the disk only if AUX is late with the next segment.
    #[inline]
    fn has_space(&mut self) -> bool {
        let segment = self.book.open_segment();
        if self.available_segment == Some(segment) {
            return true;
        }
        let is_available = self.space.is_available(segment);
        if is_available {
            self.available_segment = Some(segment);
        }
        is_available
    }

    /// Asks the pipeline how far the log is durable and whether the log has failed, and records both.
    fn catch_up(&mut self) -> Progress {
        let progress = self.pipeline.progress();
        self.book.durable_to(progress.durable.chain().position);
        // After a failure, the latest changes in memory never become durable, so EXEC executes nothing more.
        if self.ended.is_none() {
            self.ended = progress.ended;
        }
        progress
    }

    /// Hands the open block over to the pipeline in the middle of a command. The next record goes into a new block.
    ///
    /// # Errors
    /// [`LogEnd::before_execution`] if the log has ended. [`Until::Room`] if the pipeline has no room.
    fn next_block(&mut self, reason: FlushReason) -> Result<(), Halt> {
        if !self.flush(reason) {
            Err(Halt::Blocked(Until::Room))
        } else if let Some(end) = self.ended {
            Err(Halt::Fault(end.before_execution()))
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
    /// nothing to write and nothing is in flight, or if the log has failed, EXEC gives the answers itself. Returns
    /// `false`, and changes nothing, if the pipeline has no room.
    fn flush(&mut self, reason: FlushReason) -> bool {
        let progress = self.catch_up();
        if !progress.has_room && self.ended.is_none() {
            return false;
        }
        let block = if self.ended.is_some() {
            None
        } else {
            self.seal(reason)
        };
        if block.is_none() {
            if self.open.is_empty() {
                return true;
            }
            if self.ended.is_some() || progress.idle {
                let (durable, end, counters) = (&progress.durable, self.ended, &self.counters);
                let answers = self.open.drain();
                // The open block is not sent any more. The answers that depend on an earlier block have written nothing.
                let released = answers.map(|answer| answer.release(durable, end, false, counters));
                self.answerer.answer_untimed(released);
                return true;
            }
        }
        let batch = self.open.seal(block);
        // Publish the counters before the answers are given, so that a caller who reads the counters sees its own call.
        self.counters.publish(&self.book);
        let spare = self.pipeline.commit(batch);
        self.open.reuse(spare);
        true
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
