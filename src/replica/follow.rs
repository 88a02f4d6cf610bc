//! What a replica does while it follows: it applies the blocks that the log has accepted, and claims leadership when the leader is silent.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tally_batch::BatchError;
use tally_journal::{BlockBuffer, BlockKind, BlockMeta, BlockStamp};
use tally_replication::{
    Accepted, BlockHash, Claim, ClaimStep, Decision, Election, HaltReason, News, RequestId,
};
use tokio::time::Instant;

use super::{
    config::{READ_WAIT, next_delay},
    driver::{Driver, End, optional},
    place::Judged,
};
use crate::{
    engine::EngineError,
    store::{
        embedded::{AcceptedBlock, LedgerEnd},
        replicated::{
            AppendError, Appended, ClaimBody, Doing, LogRecords, PartitionLog, ReadError, ReplicaCommand,
            ReplicaRole, ResignError, ResumePoint,
        },
    },
};

/// Maximum number of bytes of accepted blocks that wait for the engine. While more bytes wait, the log is not read. So one more read can
/// exceed the maximum by the size of a fetch.
const WAITING_BYTES_MAX: usize = 16 << 20;
/// Maximum number of blocks that the engine gets at a time.
const APPLY_BLOCKS_MAX: usize = 256;
/// Maximum number of bytes of blocks that the engine gets at a time.
const APPLY_BYTES_MAX: usize = 8 << 20;
/// Delay before the engine gets blocks again that it could not apply, and before the log is read again after a failure.
const RETRY_DELAY: Duration = Duration::from_millis(100);
/// Maximum time to wait until the log has a halt record.
const HALT_TIMEOUT: Duration = Duration::from_secs(2);
/// Number of accepted blocks whose hashes are kept, to compare them with the blocks of other replicas.
const HASHES_MAX: usize = 4096;

/// A claim that was accepted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Serve {
    pub(super) accepted: Accepted,
    pub(super) next_offset: u64,
}

/// A claim in progress.
struct Claiming {
    claim: Claim,
    bytes: Bytes,
    appending: Option<BoxFuture<'static, (RequestId, Result<Appended, AppendError>)>>,
    /// The delay before the next connection that the claim needs.
    reconnect_delay: Duration,
}

type Applying = BoxFuture<'static, Result<Result<Box<LedgerEnd>, String>, EngineError>>;

/// The state of a replica that follows.
struct Following {
    /// The accepted blocks that the engine has not applied yet, with their resume points.
    waiting: VecDeque<(AcceptedBlock, ResumePoint)>,
    waiting_bytes: usize,
    applying: Option<Applying>,
    reading: Option<Doing<Result<LogRecords, ReadError>>>,
    connecting: Option<Doing<Result<(), ReadError>>>,
    claiming: Option<Claiming>,
    /// The engine gets no blocks before this time.
    apply_after: Option<Instant>,
    /// The log is not read before this time.
    read_after: Option<Instant>,
    /// Whether the last read failed.
    has_failed: bool,
    /// The end of the log, when it was read last.
    end_offset: Option<u64>,
    /// The hashes of the last accepted blocks, by number.
    hashes: VecDeque<(u64, BlockHash)>,
}

// ===== impl Driver =====

impl<L: PartitionLog> Driver<L> {
    /// Follows until a claim of this replica was accepted.
    pub(super) async fn follow(&mut self) -> Result<Serve, End> {
        let mut following = Following::new();
        if !self.is_connected {
            self.is_connected = true;
            following.connecting = Some(self.log.reconnect());
        }
        self.election = Election::new(self.config.timing, self.config.jitter, self.now());
        self.place.reader.restart();
        self.publish(|view| {
            if view.role != ReplicaRole::Starting {
                view.role = ReplicaRole::Standby;
            }
        });
        loop {
            if self.place.reader.accepted().ended && following.is_idle() {
                return Err(End::LogEnded {
                    address: self.place.successor.clone(),
                });
            }
            self.begin_work(&mut following)?;
            self.follow_step(&mut following).await?;
            if let Some(serve) = self.decide(&mut following).await? {
                return Ok(serve);
            }
        }
    }

    /// Begins the work that is due: a read of the log, the application of blocks, a claim.
    fn begin_work(&mut self, following: &mut Following) -> Result<(), End> {
        let now = Instant::now();
        let is_due = |time: Option<Instant>| time.is_none_or(|time| time <= now);
        if following.reading.is_none()
            && following.connecting.is_none()
            && following.waiting_bytes < WAITING_BYTES_MAX
            && is_due(following.read_after)
        {
            let from = self.place.reader.read_from();
            following.reading = Some(self.log.read(from, READ_WAIT));
        }
        if following.applying.is_none() && !following.waiting.is_empty() && is_due(following.apply_after) {
            let blocks = following.next_blocks();
            let engine = self.engine.clone();
            following.applying = Some(Box::pin(async move { engine.follow(blocks).await }));
        }
        let is_idle = following.waiting.is_empty() && following.claiming.is_none();
        if is_idle && self.may_claim(following) && self.election.should_claim(self.now(), self.clock_behind())
        {
            self.claim(following)?;
        }
        Ok(())
    }

    /// Waits for one event.
    async fn follow_step(&mut self, following: &mut Following) -> Result<(), End> {
        let wake = self.wake_at(following);
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(End::Stopped),
            condition = self.engine.health().failed() => Err(End::Failed(condition)),
            Some(command) = self.commands.recv() => {
                self.command_while_following(command);
                Ok(())
            }
            applied = optional(&mut following.applying) => {
                following.applying = None;
                self.note_applied(following, applied)
            }
            result = optional(&mut following.reading) => {
                following.reading = None;
                self.note_records(following, result)
            }
            result = optional(&mut following.connecting) => {
                following.connecting = None;
                self.note_connection(following, result)
            }
            (request, result) = appended(&mut following.claiming) => {
                self.note_claim(following, request, &result);
                Ok(())
            }
            () = tokio::time::sleep_until(wake) => Ok(()),
        }
    }

    /// Returns the time of the next check if no event happens before.
    fn wake_at(&self, following: &Following) -> Instant {
        let latest = Instant::now() + READ_WAIT;
        let election = self
            .election
            .next_wake(self.clock_behind())
            .map(|time| self.instant(time));
        let times = [election, following.apply_after, following.read_after];
        let future = times.into_iter().flatten().filter(|time| *time > Instant::now());
        future.min().map_or(latest, |time| time.min(latest))
    }

    fn note_records(
        &mut self,
        following: &mut Following,
        result: Result<LogRecords, ReadError>,
    ) -> Result<(), End> {
        let records = match result {
            Ok(records) => records,
            Err(ReadError::OutOfRange { start, end }) => {
                let reason = self.place.reader.out_of_range(start, end);
                return Err(self.halt(reason));
            }
            Err(error) => {
                self.reports.log_unavailable(&error);
                self.election.read_failed();
                self.publish(|view| {
                    view.caught_up = false;
                    view.lag_ms = None;
                });
                following.connecting = Some(self.log.reconnect());
                following.note_failure();
                return Ok(());
            }
        };
        following.has_failed = false;
        self.election.read(self.now());
        for record in &records.records {
            match self.place.judge(record).map_err(|reason| self.halt(reason))? {
                Judged::New(block, resume) => {
                    self.tell_election(&block);
                    following.push(block, resume);
                }
                Judged::InJournal => {
                    self.election.news(self.now(), News::Block);
                    let Accepted { number, hash, .. } = *self.place.reader.accepted();
                    following.remember(number, hash);
                }
                Judged::Other => {}
            }
        }
        let passed = self.place.reader.passed(records.next_offset);
        passed.map_err(|reason| self.halt(reason))?;
        following.end_offset = Some(records.end_offset);
        self.publish_progress(following);
        Ok(())
    }

    fn tell_election(&mut self, block: &AcceptedBlock) {
        let now = self.now();
        let news = match block.header.kind {
            BlockKind::Claim => News::Claim,
            BlockKind::Resign | BlockKind::End => {
                if self.place.successor.as_deref() == Some(self.config.own_address.as_str()) {
                    News::ResignToThis
                } else {
                    News::ResignToAnother
                }
            }
            BlockKind::Data | BlockKind::Level | BlockKind::Genesis | BlockKind::Halt => News::Block,
        };
        self.election.news(now, news);
    }

    /// Publishes the progress of the replica.
    fn publish_progress(&mut self, following: &Following) {
        let next_offset = self.place.reader.next_offset();
        let is_applied = following.waiting.is_empty() && self.place.has_found_journal();
        let caught_up = following.is_at_end(next_offset) && is_applied && self.place.reader.is_verified();
        let base = self.place.base_time_ns;
        let wall = self.engine.clock().wall.as_nanos();
        let lag_ms = if caught_up {
            0
        } else {
            wall.saturating_sub(base) / 1_000_000
        };
        self.publish_accepted(next_offset);
        self.publish(|view| {
            view.end_offset = following.end_offset.and_then(|end| i64::try_from(end).ok());
            view.caught_up = caught_up;
            view.lag_ms = Some(lag_ms);
            if view.role == ReplicaRole::Starting && caught_up {
                view.role = ReplicaRole::Standby;
            }
        });
    }

    fn note_applied(
        &mut self,
        following: &mut Following,
        applied: Result<Result<Box<LedgerEnd>, String>, EngineError>,
    ) -> Result<(), End> {
        let end = match applied {
            Ok(Ok(end)) => end,
            Ok(Err(reason)) => return Err(End::Engine(reason)),
            Err(EngineError::Batch(BatchError::Full { .. })) => {
                self.reports.not_applied("the queue is full");
                following.apply_after = Some(Instant::now() + RETRY_DELAY);
                return Ok(());
            }
            Err(error) => return Err(Self::refused(&error)),
        };
        self.order = end.order;
        self.applied = end.block;
        following.apply_after = None;
        if let Some(resume) = following.applied_through(end.block) {
            self.exchange.set_resume(resume);
        } else if !following.waiting.is_empty() {
            self.reports
                .not_applied("the disk has no space for more of the journal");
            following.apply_after = Some(Instant::now() + RETRY_DELAY);
        }
        self.publish_progress(following);
        Ok(())
    }

    fn note_connection(
        &mut self,
        following: &mut Following,
        result: Result<(), ReadError>,
    ) -> Result<(), End> {
        match result {
            Ok(()) => {
                self.place.reader.restart();
                if let Some(claiming) = &mut following.claiming
                    && claiming.claim.waits_for_connection()
                {
                    let step = claiming.claim.reconnected();
                    self.claim_step(following, step);
                }
            }
            Err(error @ ReadError::Replaced(_)) => return Err(End::Halted(error.to_string())),
            Err(error) => {
                self.reports.log_unavailable(&error);
                following.read_after = Some(Instant::now() + RETRY_DELAY);
            }
        }
        Ok(())
    }

    fn command_while_following(&mut self, command: ReplicaCommand) {
        let now = self.now();
        let leads = |driver: &Self, leader: &str| driver.place.leader.as_deref() == Some(leader);
        match command {
            ReplicaCommand::Resign { answer, .. } | ReplicaCommand::EndLog { answer } => {
                // If this fails, the caller no longer waits.
                drop(answer.send(Err(ResignError::NotLeader)));
            }
            ReplicaCommand::ForwardFailed { leader } if leads(self, &leader) => {
                self.election.forward_failed(now)
            }
            ReplicaCommand::ForwardSucceeded { leader } if leads(self, &leader) => self.election.forwarded(),
            ReplicaCommand::LeaderClosed { leader } if leads(self, &leader) => self.election.closed(now),
            ReplicaCommand::ForwardFailed { .. }
            | ReplicaCommand::ForwardSucceeded { .. }
            | ReplicaCommand::LeaderClosed { .. } => {}
        }
    }

    /// Whether a claim could succeed: the replica has read and applied everything that is in the log.
    fn may_claim(&self, following: &Following) -> bool {
        let accepted = self.place.reader.accepted();
        following.is_at_end(self.place.reader.next_offset())
            && !accepted.ended
            && self.place.has_found_journal()
            && self.place.reader.is_verified()
            && self.applied == accepted.number
    }

    /// Sends a claim.
    fn claim(&mut self, following: &mut Following) -> Result<(), End> {
        let newest = self.place.reader.accepted().term.max(self.claimed_term);
        let Some(term) = newest.checked_add(1) else {
            return Err(End::Halted(format!(
                "term {newest} is the last one that a block can state"
            )));
        };
        let stamp = BlockStamp {
            term,
            writer: self.config.writer,
            kind: BlockKind::Claim,
        };
        let body = ClaimBody {
            address: self.config.own_address.clone(),
            version: self.config.version.clone(),
        };
        let mut buffer = BlockBuffer::with_capacity(0);
        buffer.push(&body.encode());
        let meta = BlockMeta {
            position: self.place.chain.position,
            first_entry: self.order.next_entry,
            first_sequence: self.order.next_sequence,
            base_time_ns: self.next_time().as_nanos(),
            record_count: 0,
        };
        let sealed = self
            .place
            .codec
            .sealer(self.place.chain)
            .seal(&meta, stamp, &mut buffer);
        sealed.map_err(|error| End::Engine(error.to_string()))?;
        let bytes = Bytes::copy_from_slice(buffer.sealed_bytes());
        let block = self.place.codec.own_facts(&bytes);
        tracing::info!(term, block = block.number, "this replica claims leadership");
        let begun = Claim::new(&self.place.reader, block, &self.peers.points());
        let (claim, step) = begun.map_err(|reason| self.halt(reason))?;
        self.claimed_term = term;
        self.election.claimed();
        following.claiming = Some(Claiming {
            claim,
            bytes,
            appending: None,
            reconnect_delay: Duration::ZERO,
        });
        self.publish(|view| {
            view.role = ReplicaRole::Candidate;
            view.claims += 1;
        });
        self.claim_step(following, step);
        Ok(())
    }

    fn claim_step(&mut self, following: &mut Following, step: ClaimStep) {
        let Some(claiming) = &mut following.claiming else {
            return;
        };
        match step {
            ClaimStep::Send { request } => {
                let appending = self.log.append(vec![claiming.bytes.clone()]);
                claiming.appending = Some(Box::pin(async move { (request, appending.await) }));
            }
            ClaimStep::Reconnect => {
                following.reading = None;
                let delay = claiming.reconnect_delay;
                claiming.reconnect_delay = next_delay(delay);
                let connecting = self.log.reconnect();
                following.connecting = Some(Box::pin(async move {
                    tokio::time::sleep(delay).await;
                    connecting.await
                }));
            }
            // The read in flight began before the reader was restarted, so its records are discarded.
            ClaimStep::ReadFrom(_) => following.reading = None,
            ClaimStep::Ignore => {}
        }
    }

    fn note_claim(
        &mut self,
        following: &mut Following,
        request: RequestId,
        result: &Result<Appended, AppendError>,
    ) {
        let Some(claiming) = &mut following.claiming else {
            return;
        };
        claiming.appending = None;
        let outcome = self.outcome(result);
        let step = claiming.claim.result(&mut self.place.reader, request, outcome);
        self.claim_step(following, step);
    }

    /// Returns the claim if this replica may serve now.
    async fn decide(&mut self, following: &mut Following) -> Result<Option<Serve>, End> {
        let Some(claiming) = &following.claiming else {
            return Ok(None);
        };
        let hash_of = |number| following.hash_of(number);
        match claiming.claim.decide(&self.place.reader, self.applied, hash_of) {
            Decision::Wait => Ok(None),
            Decision::Serve {
                accepted,
                next_offset,
            } => Ok(Some(Serve {
                accepted,
                next_offset,
            })),
            Decision::Lost => {
                tracing::info!("another replica has become the leader");
                following.claiming = None;
                self.election.claim_ended(self.now());
                self.publish(|view| view.role = ReplicaRole::Standby);
                Ok(None)
            }
            Decision::Halt(reason) => {
                self.send_halt(reason).await;
                Err(self.halt(reason))
            }
        }
    }

    /// Appends a halt record, which tells the other replicas that the log has lost blocks.
    async fn send_halt(&mut self, reason: HaltReason) {
        if let HaltReason::ReplicaAheadOfLog { .. } | HaltReason::LogLostData { .. } = reason {
            let accepted = self.place.reader.accepted();
            let halt = tally_journal::Halt {
                term: accepted.term,
                writer: accepted.writer,
                last_block: accepted.number,
                last_hash: tally_journal::BlockHash(accepted.hash),
                body: self.config.own_address.clone().into_bytes(),
            };
            let halt = Bytes::from(halt.encode(self.place.codec.data_id()));
            // The request is lost if the driver ends before its connection has sent it. The result changes nothing here.
            drop(tokio::time::timeout(HALT_TIMEOUT, self.log.append(vec![halt])).await);
        }
    }
}

// ===== impl Following =====

impl Following {
    const fn new() -> Self {
        Following {
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            applying: None,
            reading: None,
            connecting: None,
            claiming: None,
            apply_after: None,
            read_after: None,
            has_failed: false,
            end_offset: None,
            hashes: VecDeque::new(),
        }
    }

    /// Whether the engine has applied everything that was accepted.
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.applying.is_none()
    }

    /// Whether `next_offset` is the end of the log, as of the last read.
    fn is_at_end(&self, next_offset: u64) -> bool {
        self.end_offset.is_some_and(|end| next_offset >= end)
    }

    fn push(&mut self, block: AcceptedBlock, resume: ResumePoint) {
        self.waiting_bytes += block.len();
        self.remember(resume.block, resume.hash);
        self.waiting.push_back((block, resume));
    }

    fn remember(&mut self, number: u64, hash: BlockHash) {
        if self.hashes.len() >= HASHES_MAX {
            self.hashes.pop_front();
        }
        self.hashes.push_back((number, hash));
    }

    fn hash_of(&self, number: u64) -> Option<BlockHash> {
        let found = self
            .hashes
            .binary_search_by_key(&number, |(number, _)| *number)
            .ok()?;
        self.hashes.get(found).map(|(_, hash)| *hash)
    }

    /// Notes that a read failed. After the first failure, the log is read again as soon as the driver has connected to it.
    fn note_failure(&mut self) {
        if std::mem::replace(&mut self.has_failed, true) {
            self.read_after = Some(Instant::now() + RETRY_DELAY);
        }
    }

    /// Returns the next blocks for the engine. They stay in the queue until the engine has applied them.
    fn next_blocks(&self) -> VecDeque<AcceptedBlock> {
        let mut bytes = 0;
        let blocks = self
            .waiting
            .iter()
            .take(APPLY_BLOCKS_MAX)
            .take_while(|(block, _)| {
                let is_first = bytes == 0;
                bytes += block.len();
                is_first || bytes <= APPLY_BYTES_MAX
            });
        blocks.map(|(block, _)| block.clone()).collect()
    }

    /// Removes the blocks up to the number `through`. Returns the resume point of the last one.
    fn applied_through(&mut self, through: u64) -> Option<ResumePoint> {
        let mut last = None;
        while let Some((block, resume)) = self.waiting.pop_front_if(|(_, resume)| resume.block <= through) {
            self.waiting_bytes -= block.len();
            last = Some(resume);
        }
        last
    }
}

/// Waits for the result of the append of a claim.
async fn appended(claiming: &mut Option<Claiming>) -> (RequestId, Result<Appended, AppendError>) {
    match claiming {
        Some(claiming) => optional(&mut claiming.appending).await,
        None => std::future::pending().await,
    }
}
