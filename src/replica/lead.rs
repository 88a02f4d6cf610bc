//! What a replica does as the leader: it sends the blocks of its engine to the log, and says which of them are durable.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tally_batch::BatchError;
use tally_journal::BlockKind;
use tally_replication::{
    Accepted, Action, Appender, Heartbeat, Limits, LogReader, Outcome, ReadId, Record, RequestId, Seen,
};
use tokio::{sync::oneshot, time::Instant};

use super::{
    config::next_delay,
    driver::{Driver, End, optional},
    place::facts,
};
use crate::{
    engine::EngineError,
    mutation::planted,
    store::{
        embedded::LedgerEnd,
        replicated::{
            AppendError, Appended, EndBody, LOG_DEPTH, Leadership, LogRecords, OwnBlock, PartitionLog,
            ReadError, ReplicaCommand, ReplicaFault, ReplicaRole, ResignBody, ResignError, Resigned,
            ResumePoint,
        },
    },
};

/// Delay before the engine is asked again after its queue was full.
const FULL_DELAY: Duration = Duration::from_millis(20);
/// Without a successful read of the log for this many heartbeats, an idle leader writes no heartbeats. It could not resolve a failed append,
/// so another replica should lead.
const READ_AGE_HEARTBEATS: u32 = 5;
/// The clock of a leader is compared with those of the others after each this many heartbeats.
const CLOCK_CHECK_HEARTBEATS: u32 = 5;
/// A leader resigns after its clock was wrong in this many comparisons in a row, because the clocks of several machines may be set one after
/// the other.
const WRONG_CLOCKS_MAX: u32 = 4;
/// Least time between two resignations because of the clock. If nobody else leads although a successor was known, a leader with a wrong
/// clock is better than none.
const CLOCK_RESIGNATION_INTERVAL: Duration = Duration::from_secs(60);

/// The result of a request to append.
type Appending = BoxFuture<'static, (Sent, Result<Appended, AppendError>)>;
/// The result of a read.
type Reading = BoxFuture<'static, (ReadId, Result<LogRecords, ReadError>)>;

/// A request to append, with the numbers of its first and last block.
#[derive(Debug, Clone, Copy)]
struct Sent {
    request: RequestId,
    first: u64,
    last: u64,
}

/// Where the log has put the blocks of an acknowledged request.
#[derive(Debug, Clone, Copy)]
struct Placed {
    first: u64,
    last: u64,
    base_offset: u64,
}

/// The state of a leader.
struct Leading {
    appender: Appender,
    /// The blocks of this leader that are not durable yet.
    blocks: VecDeque<OwnBlock>,
    /// Where the log has put blocks that are not durable yet, at most one entry for each request in flight.
    placed: VecDeque<Placed>,
    appends: FuturesUnordered<Appending>,
    reads: FuturesUnordered<Reading>,
    /// Reads that have failed, and that are repeated on the next connection.
    failed_reads: Vec<ReadId>,
    reconnecting: Option<BoxFuture<'static, Result<(), ReadError>>>,
    /// Whether the appender has asked for the next connection.
    owes_connection: bool,
    reconnect_delay: Duration,
    heartbeat: Option<BoxFuture<'static, Result<(), EngineError>>>,
    resigning: Option<BoxFuture<'static, Result<Box<LedgerEnd>, EngineError>>>,
    resign_answers: Vec<oneshot::Sender<Result<Resigned, ResignError>>>,
    last_submit: Instant,
    /// When the leader last asked the appender to read the tail of the log.
    last_probe: Instant,
    /// When a read of the log last succeeded.
    read_at: Instant,
    /// When the clock is compared next, and in how many comparisons in a row it was wrong.
    next_clock_check: Instant,
    wrong_clocks: u32,
    resume: Option<ResumePoint>,
}

// ===== impl Driver =====

impl<L: PartitionLog> Driver<L> {
    /// Leads from the claim of this replica on, which is the last accepted block, until another replica leads or this replica has
    /// resigned.
    pub(super) async fn lead(&mut self, accepted: Accepted, next_offset: u64) -> Result<(), End> {
        let leadership = Leadership {
            term: accepted.term,
            writer: accepted.writer,
        };
        self.exchange.begin_leading(leadership, accepted.number);
        self.begin_leading().await?;
        self.publish(|view| {
            view.role = ReplicaRole::Leader;
            view.caught_up = true;
            view.lag_ms = Some(0);
        });
        tracing::info!(
            term = accepted.term,
            block = accepted.number,
            "this replica leads"
        );
        let mut leading = Leading::new(&self.config.limits(), accepted, next_offset);
        leading.next_clock_check += self.config.heartbeat * CLOCK_CHECK_HEARTBEATS;
        loop {
            self.act(&mut leading)?;
            self.lead_step(&mut leading).await?;
            if leading.has_resigned() {
                return self.end_leading(leading, leadership);
            }
        }
    }

    /// Makes the engine lead. Repeats the command while the queue of the engine is full of reads.
    async fn begin_leading(&mut self) -> Result<(), End> {
        loop {
            let why = match self.engine.lead().await {
                Ok(()) => return Ok(()),
                Err(error @ EngineError::Batch(BatchError::Full { .. })) => error.to_string(),
                Err(error) => return Err(Self::refused(&error)),
            };
            self.reports.not_applied(&why);
            tokio::select! {
                () = self.stop.cancelled() => return Err(End::Stopped),
                () = tokio::time::sleep(FULL_DELAY) => {}
            }
        }
    }

    /// Waits for one event, and reports it to the appender.
    async fn lead_step(&mut self, leading: &mut Leading) -> Result<(), End> {
        let may_beat = leading.resigning.is_none() && !leading.appender.is_suspended();
        let probe_at = leading.last_submit.max(leading.last_probe) + self.config.heartbeat;
        let heartbeat_at = self
            .heartbeat_at(leading)
            .filter(|_| may_beat && leading.heartbeat.is_none());
        let session_ends = self.log.session_ends().filter(|_| leading.reconnecting.is_none());
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(End::Stopped),
            condition = self.engine.health().failed() => return Err(End::Failed(condition)),
            Some(command) = self.commands.recv() => self.command_while_leading(leading, command),
            resigned = optional(&mut leading.resigning) => {
                leading.resigning = None;
                self.note_resignation(leading, resigned);
            }
            Some((sent, result)) = leading.appends.next() => {
                let outcome = self.outcome(&result);
                leading.appended(sent, outcome);
            }
            Some((read, result)) = leading.reads.next() => self.note_read(leading, read, result),
            () = self.exchange.submitted() => leading.submit(self.exchange.take()),
            result = optional(&mut leading.reconnecting) => {
                leading.reconnecting = None;
                self.note_reconnection(leading, result)?;
            }
            beat = optional(&mut leading.heartbeat) => {
                leading.heartbeat = None;
                if let Err(error) = beat {
                    tracing::debug!(%error, "a heartbeat was not written");
                    leading.last_submit = Instant::now();
                }
            }
            () = at(heartbeat_at) => {
                let engine = self.engine.clone();
                leading.heartbeat = Some(Box::pin(async move { engine.heartbeat().await }));
            }
            () = tokio::time::sleep_until(probe_at), if may_beat => {
                leading.last_probe = Instant::now();
                leading.appender.probe();
            }
            () = tokio::time::sleep_until(leading.next_clock_check) => self.check_clock(leading),
            () = at(session_ends) => {
                tracing::debug!("connects again to the brokers, because the session ends soon");
                self.start_reconnection(leading);
            }
        }
        Ok(())
    }

    /// Returns when an idle leader writes the next heartbeat; `None` if it has not read the log for too long.
    fn heartbeat_at(&self, leading: &Leading) -> Option<Instant> {
        let heartbeat = Heartbeat {
            interval: self.config.heartbeat,
            read_age_max: self.config.heartbeat * READ_AGE_HEARTBEATS,
        };
        let (block_at, read_at) = (self.time_at(leading.last_submit), self.time_at(leading.read_at));
        let next = heartbeat.next(self.now(), block_at, read_at)?;
        Some(self.instant(next))
    }

    /// Compares the clock with those of the other replicas. Resigns if it is wrong, and if another replica can lead.
    fn check_clock(&mut self, leading: &mut Leading) {
        let now = Instant::now();
        leading.next_clock_check = now + self.config.heartbeat * CLOCK_CHECK_HEARTBEATS;
        let may_resign = leading.resigning.is_none()
            && self
                .clock_resigned_at
                .is_none_or(|before| now.saturating_duration_since(before) >= CLOCK_RESIGNATION_INTERVAL);
        let Some(successor) = self.peers.successor_of_wrong_clock().filter(|_| may_resign) else {
            leading.wrong_clocks = 0;
            return;
        };
        leading.wrong_clocks += 1;
        if leading.wrong_clocks < WRONG_CLOCKS_MAX {
            return;
        }
        tracing::error!(
            successor,
            "the clock of this replica differs from those of all others by more than a second, so it gives up leadership; set the clock"
        );
        self.clock_resigned_at = Some(now);
        // Nobody waits for the result.
        let (answer, _) = oneshot::channel();
        self.stop_leading(leading, BlockKind::Resign, resign_to(Some(successor)), answer);
    }

    /// Does what the appender asks for. An error is the end of the leadership.
    fn act(&mut self, leading: &mut Leading) -> Result<(), End> {
        while let Some(action) = leading.appender.action() {
            match action {
                Action::Send { request, first, last } => {
                    let appending = self.log.append(leading.bytes_of(first, last));
                    let sent = Sent { request, first, last };
                    leading
                        .appends
                        .push(Box::pin(async move { (sent, appending.await) }));
                }
                Action::Reconnect => {
                    leading.owes_connection = true;
                    leading.placed.clear();
                    // The appender has given up all its reads.
                    leading.failed_reads.clear();
                    leading.reads.clear();
                    self.start_reconnection(leading);
                }
                Action::Read {
                    read,
                    from,
                    through: _,
                } => {
                    let reading = self.log.read(from, Duration::ZERO);
                    leading.reads.push(Box::pin(async move { (read, reading.await) }));
                }
                Action::Durable { through, next_offset } => self.durable(leading, through, next_offset),
                Action::Fenced { term, offset } => {
                    tracing::warn!(term, offset, "another replica has become the leader");
                    self.exchange.fail(ReplicaFault::Fenced { term });
                    return Err(End::SteppedDown { term });
                }
                Action::Halted(reason) => return Err(self.halted(reason.to_string())),
            }
        }
        Ok(())
    }

    /// Notes that all blocks up to `through` are accepted for ever.
    fn durable(&mut self, leading: &mut Leading, through: u64, next_offset: u64) {
        while let Some(block) = leading
            .blocks
            .pop_front_if(|block| block.header.block_sequence <= through)
        {
            self.place.accepted_own(&block.header, block.hash, block.body());
            // The log can have several copies of a block. A start may continue only after the copy that is directly before the
            // first unknown record, because all records before this copy are known.
            if block.header.block_sequence == through && leading.is_placed(through, next_offset) {
                let resume = self
                    .place
                    .resume_point(&block.header, block.hash, next_offset - 1, None);
                leading.resume = Some(resume);
                self.exchange.set_resume(resume);
            }
        }
        leading.placed.retain(|placed| placed.last > through);
        self.exchange.accept(through);
        self.publish_accepted(next_offset);
    }

    fn start_reconnection(&mut self, leading: &mut Leading) {
        let delay = leading.reconnect_delay;
        leading.reconnect_delay = next_delay(delay);
        let connecting = self.log.reconnect();
        leading.reconnecting = Some(Box::pin(async move {
            tokio::time::sleep(delay).await;
            connecting.await
        }));
    }

    fn note_reconnection(&mut self, leading: &mut Leading, result: Result<(), ReadError>) -> Result<(), End> {
        match result {
            Ok(()) => {
                for read in std::mem::take(&mut leading.failed_reads) {
                    let reading = self.log.read(leading.appender.next_offset(), Duration::ZERO);
                    leading.reads.push(Box::pin(async move { (read, reading.await) }));
                }
                if std::mem::take(&mut leading.owes_connection) {
                    leading.appender.reconnected();
                }
            }
            Err(error @ ReadError::Replaced(_)) => return Err(self.halted(error.to_string())),
            Err(error) => {
                self.reports.log_unavailable(&error);
                self.start_reconnection(leading);
            }
        }
        Ok(())
    }

    fn note_read(&mut self, leading: &mut Leading, read: ReadId, result: Result<LogRecords, ReadError>) {
        match result {
            Ok(records) => {
                leading.read_at = Instant::now();
                let judged: Vec<Record> = records
                    .records
                    .iter()
                    .map(|record| self.place.codec.record(record))
                    .collect();
                leading.appender.read(read, &judged, records.next_offset);
            }
            Err(ReadError::OutOfRange { .. }) => leading.appender.out_of_range(),
            Err(error) => {
                // The appender waits for this read, so the read is repeated on a new connection: on the old connection, every read
                // may fail. The outcome of the appends in flight becomes unknown.
                self.reports.log_unavailable(&error);
                leading.failed_reads.push(read);
                if leading.reconnecting.is_none() {
                    self.start_reconnection(leading);
                }
            }
        }
    }

    fn command_while_leading(&mut self, leading: &mut Leading, command: ReplicaCommand) {
        match command {
            ReplicaCommand::Resign { successor, answer } => {
                if let Some(address) = &successor
                    && !self.config.peers.contains(address)
                {
                    let unknown = ResignError::UnknownSuccessor {
                        address: address.clone(),
                    };
                    drop(answer.send(Err(unknown)));
                    return;
                }
                let successor = successor.or_else(|| self.peers.successor());
                tracing::info!(successor, "this replica gives up leadership");
                self.stop_leading(leading, BlockKind::Resign, resign_to(successor), answer);
            }
            ReplicaCommand::EndLog { answer, .. } if leading.resigning.is_some() => {
                // The block that ends this leadership does not end the log.
                drop(answer.send(Err(ResignError::NotLeader)));
            }
            ReplicaCommand::EndLog { directory, answer } => {
                tracing::info!("this replica ends the log");
                let address = self.config.own_address.clone();
                let body = EndBody { directory, address }.encode();
                self.stop_leading(leading, BlockKind::End, body, answer);
            }
            ReplicaCommand::ForwardFailed { .. }
            | ReplicaCommand::ForwardSucceeded { .. }
            | ReplicaCommand::LeaderClosed { .. } => {}
        }
    }

    /// Begins to give up leadership. If this has begun before, only adds the receiver of the answer.
    fn stop_leading(
        &mut self,
        leading: &mut Leading,
        kind: BlockKind,
        body: Vec<u8>,
        answer: oneshot::Sender<Result<Resigned, ResignError>>,
    ) {
        leading.resign_answers.push(answer);
        if leading.resigning.is_none() {
            // When this replica sends its last block, it must take no more reads. The log may accept this block long before this
            // replica learns it, and a read that arrives in between would not show what the next leader has executed.
            if !planted("lead_while_resigning") {
                self.publish(|view| view.role = ReplicaRole::Standby);
            }
            let engine = self.engine.clone();
            leading.resigning = Some(Box::pin(async move { engine.stop_leading(kind, body).await }));
        }
    }

    fn note_resignation(&mut self, leading: &mut Leading, resigned: Result<Box<LedgerEnd>, EngineError>) {
        match resigned {
            // A later claim of this replica follows this block.
            Ok(end) => {
                self.applied = end.block;
                self.order = end.order;
            }
            Err(error) => self.note_failed_resignation(leading, &error),
        }
    }

    fn note_failed_resignation(&self, leading: &mut Leading, error: &EngineError) {
        tracing::warn!(%error, "this replica could not give up leadership");
        self.publish(|view| view.role = ReplicaRole::Leader);
        for answer in leading.resign_answers.drain(..) {
            drop(answer.send(Err(ResignError::Unresolved)));
        }
    }

    /// Follows again, after the resignation was accepted.
    fn end_leading(&mut self, leading: Leading, leadership: Leadership) -> Result<(), End> {
        self.exchange.end_leading();
        let accepted = *leading.appender.accepted();
        let next_offset = leading.appender.next_offset();
        let last = leading.resume.filter(|resume| resume.block == accepted.number);
        let last = last.map(|resume| Seen {
            offset: resume.offset,
            epoch: None,
            hash: Some(resume.hash),
        });
        let from = last.map_or(next_offset, |last| last.offset + 1);
        self.place.reader = LogReader::new(accepted, from, last);
        for answer in leading.resign_answers {
            drop(answer.send(Ok(Resigned {
                term: leadership.term,
            })));
        }
        Ok(())
    }

    /// Returns the end of a leader that must stop for good. The outcome of the blocks that the engine has submitted stays unknown.
    fn halted(&self, reason: String) -> End {
        self.exchange.fail(ReplicaFault::Halted(reason.clone()));
        End::Halted(reason)
    }
}

// ===== impl Leading =====

impl Leading {
    fn new(limits: &Limits, accepted: Accepted, next_offset: u64) -> Self {
        let now = Instant::now();
        Leading {
            appender: Appender::new(*limits, accepted, next_offset),
            blocks: VecDeque::with_capacity(LOG_DEPTH),
            placed: VecDeque::new(),
            appends: FuturesUnordered::new(),
            reads: FuturesUnordered::new(),
            failed_reads: Vec::new(),
            reconnecting: None,
            owes_connection: false,
            reconnect_delay: Duration::ZERO,
            heartbeat: None,
            resigning: None,
            resign_answers: Vec::new(),
            last_submit: now,
            last_probe: now,
            // The own claim was just read.
            read_at: now,
            next_clock_check: now,
            wrong_clocks: 0,
            resume: None,
        }
    }

    /// Whether a resignation is complete: its block was accepted with all blocks before it.
    fn has_resigned(&self) -> bool {
        self.resigning.is_none() && !self.resign_answers.is_empty() && self.blocks.is_empty()
    }

    /// Gives blocks of the engine to the appender. After the appender has stopped, the blocks are void, and the pipeline learns of
    /// the stop in another way.
    fn submit(&mut self, blocks: VecDeque<OwnBlock>) {
        for block in blocks {
            self.last_submit = Instant::now();
            let facts = facts(&block.header, block.hash);
            let bytes = block.bytes.len();
            self.blocks.push_back(block);
            if self.appender.submit(facts, bytes).is_err() {
                return;
            }
        }
    }

    fn appended(&mut self, sent: Sent, outcome: Outcome) {
        let Sent { request, first, last } = sent;
        if let Outcome::Appended { base_offset } = outcome {
            self.reconnect_delay = Duration::ZERO;
            self.placed.push_back(Placed {
                first,
                last,
                base_offset,
            });
        }
        self.appender.result(request, outcome);
    }

    /// Returns whether an acknowledged request has put the block `number` directly before the offset `next_offset`.
    fn is_placed(&self, number: u64, next_offset: u64) -> bool {
        let is_there = |placed: &Placed| {
            (placed.first..=placed.last).contains(&number)
                && placed.base_offset + (number - placed.first) + 1 == next_offset
        };
        self.placed.iter().any(is_there)
    }

    /// Returns the bytes of the blocks with the numbers `first` to `last`.
    fn bytes_of(&self, first: u64, last: u64) -> Vec<Bytes> {
        let blocks = self.blocks.iter();
        let wanted = blocks.filter(|block| (first..=last).contains(&block.header.block_sequence));
        let bytes: Vec<Bytes> = wanted.map(|block| block.bytes.clone()).collect();
        assert_eq!(
            bytes.len() as u64,
            last - first + 1,
            "the blocks {first} to {last} are held until they are durable"
        );
        bytes
    }
}

/// Encodes the body of a resignation.
fn resign_to(successor: Option<String>) -> Vec<u8> {
    ResignBody { successor }.encode()
}

/// Waits until a time that may not exist.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
