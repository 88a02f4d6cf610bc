//! The append of the leader as a state machine without I/O: [`Appender`].
//!
//! # Why it is safe
//!
//! The appender acknowledges blocks only up to an append that the log has acknowledged: *all in-sync brokers hold it*,
//! and therefore every record before it. The appender must also know every record before this append. It reads the
//! records that it does not know yet *after* the acknowledgement. If a rival's claim lies after the appended block, the
//! block is accepted for ever. If the claim lies before the block, the appender sees the claim. So a leader that was
//! replaced without noticing (a zombie) cannot acknowledge.
//!
//! A record that was read before the acknowledgement proves nothing: it may have been lost since, and another record may
//! have taken its offset. The appender uses such a record only to learn early that it was replaced, which is always
//! safe.
//!
//! # How a failure is resolved
//!
//! Requests complete in order. After a request that was refused or has no clear answer, the results of all later
//! requests are discarded: their blocks may be in the log, but perhaps without the block before them. The
//! appender connects again, and sends all blocks without an answer again, byte for byte. Every reader ignores copies
//! that arrive late and blocks without their predecessor, so nothing must be removed from the log. The next
//! acknowledged append decides: the appender reads everything before it, and the chain decides which copy counts.
//!
//! # Bounds
//!
//! The memory is bounded by [`Limits`]: the appender holds the facts of at most [`Limits::blocks_max`] blocks, and
//! [`Limits::requests_max`] requests. The caller holds the bytes of a block until [`Action::Durable`] covers it. A
//! single call adds at most `requests_max + 3` actions.

use std::collections::VecDeque;

use crate::{
    acceptance::{Accepted, Verdict},
    block::{BlockFacts, BlockHash, BlockKind},
    halt::HaltReason,
    mutation::planted,
    reader::Record,
    request::{Action, Limits, Outcome, ReadId, RequestId, Stopped},
};

/// A request in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Request {
    id: RequestId,
    first: u64,
    last: u64,
    outcome: Option<Outcome>,
}

/// A block that is not durable yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Pending {
    block: BlockFacts,
    bytes: usize,
}

/// The connection to the leading broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Link {
    /// Requests succeed.
    Up,
    /// Connected again, but no request has succeeded since. Only one request is in flight.
    Unproven,
    /// The caller was asked to connect again ([`Action::Reconnect`]).
    Down,
}

/// The append of one term: which blocks are sent, and which may be acknowledged.
///
/// A leader that was replaced without noticing (a *zombie*) cannot acknowledge: a block is durable only if the append
/// of this block or of a later block was acknowledged, and if every record before this append is known. Records are
/// known from acknowledged appends, and from reads after this acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Appender {
    limits: Limits,
    /// The last block that is accepted for ever. Its term and writer are those of this leader.
    accepted: Accepted,
    /// All records before this offset are known, and no record before it can be lost.
    next_offset: u64,
    /// The blocks after `accepted`, in order.
    pending: VecDeque<Pending>,
    /// The number and the hash of the last submitted block.
    submitted: (u64, BlockHash),
    /// Whether the last submitted block is the end of the log.
    ended: bool,
    in_flight: VecDeque<Request>,
    link: Link,
    /// The read of the records before the oldest request in flight.
    gap: Option<ReadId>,
    /// The read that shows early whether another process leads.
    probe: Option<ReadId>,
    next_request: u64,
    next_read: u64,
    stopped: Option<Stopped>,
    actions: VecDeque<Action>,
}

// ===== impl Appender =====

impl Appender {
    /// Makes the appender of a leader whose claim is `accepted`. Both values come from
    /// [`Decision::Serve`](crate::Decision::Serve). `next_offset` is the offset after the last record that is known and
    /// cannot be lost.
    ///
    /// # Panics
    /// If a limit is 0, or if the log has ended.
    #[must_use]
    pub fn new(limits: Limits, accepted: Accepted, next_offset: u64) -> Self {
        let Limits {
            requests_max,
            request_blocks_max,
            request_bytes_max,
            blocks_max,
        } = limits;
        for (name, limit) in [
            ("requests_max", requests_max),
            ("request_blocks_max", request_blocks_max),
            ("request_bytes_max", request_bytes_max),
            ("blocks_max", blocks_max),
        ] {
            assert!(limit > 0, "{name} = 0: must be at least 1");
        }
        assert!(!accepted.ended, "nothing is appended after the end of the log");
        Self {
            limits,
            accepted,
            next_offset,
            pending: VecDeque::new(),
            submitted: (accepted.number, accepted.hash),
            ended: false,
            in_flight: VecDeque::new(),
            link: Link::Up,
            gap: None,
            probe: None,
            next_request: 0,
            next_read: 0,
            stopped: None,
            actions: VecDeque::new(),
        }
    }

    /// The last durable block.
    #[must_use]
    pub fn accepted(&self) -> &Accepted {
        &self.accepted
    }

    /// All records before this offset are known.
    #[must_use]
    pub fn next_offset(&self) -> u64 {
        self.next_offset
    }

    /// The number of blocks that [`submit`](Self::submit) takes now.
    #[must_use]
    pub fn room(&self) -> usize {
        self.limits.blocks_max - self.pending.len()
    }

    /// The number of the next block to submit. If a read, a replay or an unrecorded rejection is executed now, it may be
    /// answered when this block is durable. The block is sent only after the read has arrived. So the block lies in
    /// the log after everything that was acknowledged before, and its acceptance proves that nobody else led until
    /// then. An earlier block proves nothing: it may have been accepted before a rival's claim.
    #[must_use]
    pub fn barrier(&self) -> u64 {
        let next = self.submitted.0 + 1;
        if planted("answer_read_by_earlier_block") {
            next - 1
        } else {
            next
        }
    }

    /// Whether a failure has left the outcome of a request open. While this is true, the caller must take no new calls,
    /// because their outcome would stay unknown, too.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.link != Link::Up
    }

    /// Why the appender has stopped, if it has.
    #[must_use]
    pub fn stopped(&self) -> Option<Stopped> {
        self.stopped
    }

    /// Returns the next action.
    #[must_use]
    pub fn action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Adds the next block of the chain. `bytes` is its size in a request.
    ///
    /// # Errors
    /// [`Stopped`] if another process leads or the process must stop. The block will not be sent.
    ///
    /// # Panics
    /// If the block does not continue the chain of the submitted blocks, is a claim or belongs to another term, if a
    /// submitted block has ended the log, or if there is no [`room`](Self::room).
    pub fn submit(&mut self, block: BlockFacts, bytes: usize) -> Result<(), Stopped> {
        if let Some(stopped) = self.stopped {
            return Err(stopped);
        }
        assert!(
            self.room() > 0,
            "more blocks than {} are not durable yet",
            self.limits.blocks_max
        );
        assert!(!self.ended, "block {} is after the end of the log", block.number);
        assert_eq!(
            block.number,
            self.submitted.0 + 1,
            "blocks are submitted in order"
        );
        assert_eq!(
            block.previous, self.submitted.1,
            "block {} continues the chain",
            block.number
        );
        assert_eq!(
            (block.term, block.writer),
            (self.accepted.term, self.accepted.writer),
            "block {} is of the own term",
            block.number
        );
        let is_of_a_term = match block.kind {
            BlockKind::Data | BlockKind::Resign | BlockKind::End | BlockKind::Level => true,
            BlockKind::Genesis | BlockKind::Claim | BlockKind::Halt | BlockKind::Unknown(_) => false,
        };
        assert!(is_of_a_term, "a leader does not write {:?} blocks", block.kind);
        self.submitted = (block.number, block.hash);
        self.ended = block.kind == BlockKind::End;
        self.pending.push_back(Pending { block, bytes });
        self.send();
        Ok(())
    }

    /// Reports the result of a request. The results of requests that were given up are ignored.
    pub fn result(&mut self, request: RequestId, outcome: Outcome) {
        if self.stopped.is_some() {
            return;
        }
        let at = self.in_flight.iter().position(|one| one.id == request);
        let found = at.and_then(|at| self.in_flight.get_mut(at));
        if let Some(one) = found {
            assert_eq!(one.outcome, None, "a request has one result");
            one.outcome = Some(outcome);
            let through = one.last;
            if planted("complete_out_of_order") && at > Some(0) && matches!(outcome, Outcome::Appended { .. })
            {
                self.actions.push_back(Action::Durable {
                    through,
                    next_offset: self.next_offset,
                });
            }
            self.complete();
        }
    }

    /// Reports that the connection that [`Action::Reconnect`] asked for is ready.
    ///
    /// # Panics
    /// If no connection was asked for.
    pub fn reconnected(&mut self) {
        if self.stopped.is_some() {
            return;
        }
        assert_eq!(self.link, Link::Down, "a connection was asked for");
        self.link = Link::Unproven;
        self.send();
        // If the appends keep failing, only a read can show that another process leads.
        let read = self.read_id();
        self.probe = Some(read);
        self.actions.push_back(Action::Read {
            read,
            from: self.next_offset,
            through: None,
        });
    }

    /// Reports the records of a read, in order. They must include all records from the first offset of the read to the
    /// last offset before `next_offset`. The answers to reads that were given up are ignored.
    pub fn read(&mut self, read: ReadId, records: &[Record], next_offset: u64) {
        if self.stopped.is_some() {
            return;
        }
        if self.gap == Some(read) {
            self.gap = None;
            self.read_gap(records, next_offset);
        } else if self.probe == Some(read) {
            self.probe = None;
            self.read_probe(records);
        }
    }

    /// Reports that the broker, in the current leader epoch, does not have the offset of a read. A record that cannot be
    /// lost was lost, or the log was trimmed although its records are needed.
    pub fn out_of_range(&mut self) {
        if self.stopped.is_none() {
            self.halt(HaltReason::LogLostData {
                offset: self.next_offset,
            });
        }
    }

    /// Sends the blocks that may be sent now.
    fn send(&mut self) {
        let requests_max = match self.link {
            Link::Up => self.limits.requests_max,
            Link::Unproven => 1,
            Link::Down => 0,
        };
        while self.in_flight.len() < requests_max {
            // A failed request ends the connection as soon as the requests before it are complete.
            let has_failed = |one: &Request| !matches!(one.outcome, None | Some(Outcome::Appended { .. }));
            if self.in_flight.iter().any(has_failed) {
                return;
            }
            let sent = self.in_flight.back().map_or(0, |one| one.last);
            let first = self.accepted.number.max(sent) + 1;
            let unsent = self.pending.iter().skip_while(|one| one.block.number < first);
            let mut bytes = 0_usize;
            let count = unsent
                .take(self.limits.request_blocks_max)
                .take_while(|one| {
                    let is_first = bytes == 0;
                    bytes = bytes.saturating_add(one.bytes.max(1));
                    is_first || bytes <= self.limits.request_bytes_max
                })
                .count();
            if count == 0 {
                return;
            }
            let id = RequestId(self.next_request);
            self.next_request += 1;
            let last = first + count as u64 - 1;
            self.in_flight.push_back(Request {
                id,
                first,
                last,
                outcome: None,
            });
            self.actions.push_back(Action::Send {
                request: id,
                first,
                last,
            });
        }
    }

    /// Completes the requests that have a result, the oldest first.
    fn complete(&mut self) {
        while let Some(&request) = self.in_flight.front() {
            match request.outcome {
                None => break,
                Some(Outcome::Refused | Outcome::Unresolved) => return self.fail(),
                Some(Outcome::Appended { base_offset }) => {
                    if base_offset < self.next_offset && !planted("visible_records_are_known") {
                        return self.halt(HaltReason::LogLostData { offset: base_offset });
                    }
                    if base_offset > self.next_offset && !planted("acknowledge_at_any_offset") {
                        self.read_before(base_offset);
                        break;
                    }
                    self.in_flight.pop_front();
                    self.complete_request(request, base_offset);
                }
            }
        }
        self.send();
    }

    /// Completes a request. All records before its blocks are known, so its blocks are the next records.
    fn complete_request(&mut self, request: Request, base_offset: u64) {
        let before = self.accepted.number;
        while self.accepted.number < request.last {
            // A late copy of an earlier request may already have been accepted in the gap. Then only the remaining
            // blocks are new.
            let own = self.pending.pop_front().map(|one| one.block);
            let Some(block) = own.filter(|block| block.number >= request.first) else {
                unreachable!("the blocks of a request are pending until they are accepted");
            };
            let accepted = self.accepted.accept(&block, Ok(()));
            assert_eq!(accepted, Ok(()), "own blocks have no wrong field");
        }
        self.next_offset = self
            .next_offset
            .max(base_offset + (request.last - request.first + 1));
        self.link = Link::Up;
        self.durable_after(before);
    }

    /// Reports the blocks that were accepted after block `before`. The caller has read only records before an
    /// acknowledged append.
    fn durable_after(&mut self, before: u64) {
        if self.accepted.number > before {
            self.actions.push_back(Action::Durable {
                through: self.accepted.number,
                next_offset: self.next_offset,
            });
        }
    }

    /// Asks for the records before an acknowledged append, unless they were already asked for.
    fn read_before(&mut self, base_offset: u64) {
        if self.gap.is_none() {
            let read = self.read_id();
            self.gap = Some(read);
            self.actions.push_back(Action::Read {
                read,
                from: self.next_offset,
                through: Some(base_offset - 1),
            });
        }
    }

    /// Judges the records before an acknowledged append.
    fn read_gap(&mut self, records: &[Record], next_offset: u64) {
        let Some(Request {
            outcome: Some(Outcome::Appended { base_offset }),
            ..
        }) = self.in_flight.front().copied()
        else {
            unreachable!("only an acknowledged append has a gap before it");
        };
        let before = self.accepted.number;
        // Records after the append are not acknowledged yet.
        for record in records.iter().filter(|record| record.offset < base_offset) {
            if record.offset < self.next_offset {
                continue;
            }
            match judge(&self.accepted, record, &self.pending) {
                Judged::Passed => {}
                Judged::Own(block) => {
                    let accepted = self.accepted.accept(&block, Ok(()));
                    assert_eq!(accepted, Ok(()), "own blocks have no wrong field");
                    self.pending.pop_front();
                }
                Judged::Fenced { term } => {
                    self.next_offset = record.offset;
                    self.durable_after(before);
                    return self.fence(term, record.offset);
                }
                Judged::Halt(reason) => {
                    self.next_offset = record.offset;
                    self.durable_after(before);
                    return self.halt(reason);
                }
            }
            self.next_offset = record.offset + 1;
        }
        self.next_offset = self.next_offset.max(next_offset.min(base_offset));
        self.durable_after(before);
        self.complete();
    }

    /// Judges records that may still be lost, only to learn early that the process must stop.
    fn read_probe(&mut self, records: &[Record]) {
        let mut accepted = self.accepted;
        let mut pending = self.pending.clone();
        for record in records.iter().filter(|record| record.offset >= self.next_offset) {
            match judge(&accepted, record, &pending) {
                Judged::Passed => {}
                Judged::Own(block) => {
                    let continued = accepted.accept(&block, Ok(()));
                    assert_eq!(continued, Ok(()), "own blocks have no wrong field");
                    pending.pop_front();
                }
                Judged::Fenced { term } => return self.fence(term, record.offset),
                Judged::Halt(reason) => return self.halt(reason),
            }
        }
        if planted("acknowledge_what_is_visible") && accepted.number > self.accepted.number {
            self.actions.push_back(Action::Durable {
                through: accepted.number,
                next_offset: self.next_offset,
            });
        }
        if planted("visible_records_are_known") {
            self.accepted = accepted;
            self.pending = pending;
            let end = records.last().map_or(0, |record| record.offset + 1);
            self.next_offset = self.next_offset.max(end);
        }
    }

    /// Gives up all requests in flight. Their blocks are sent again on a new connection.
    fn fail(&mut self) {
        self.in_flight.clear();
        self.gap = None;
        self.probe = None;
        self.link = Link::Down;
        self.actions.push_back(Action::Reconnect);
    }

    fn fence(&mut self, term: u64, offset: u64) {
        self.stop(Stopped::Fenced { term });
        self.actions.push_back(Action::Fenced { term, offset });
    }

    fn halt(&mut self, reason: HaltReason) {
        self.stop(Stopped::Halted(reason));
        self.actions.push_back(Action::Halted(reason));
    }

    fn stop(&mut self, stopped: Stopped) {
        assert_eq!(self.stopped, None, "an appender stops once");
        self.stopped = Some(stopped);
        self.in_flight.clear();
        self.pending.clear();
        // The reports of durable blocks stay valid. The appender takes back all other actions.
        self.actions
            .retain(|action| matches!(action, Action::Durable { .. }));
    }

    fn read_id(&mut self) -> ReadId {
        let id = ReadId(self.next_read);
        self.next_read += 1;
        id
    }
}

/// What a record means to a leader.
enum Judged {
    /// The record changes nothing.
    Passed,
    /// A block of this leader was accepted.
    Own(BlockFacts),
    /// Another process leads.
    Fenced { term: u64 },
    /// The process must stop.
    Halt(HaltReason),
}

/// Judges a record of the log. `pending` begins with the block after `accepted`.
fn judge(accepted: &Accepted, record: &Record, pending: &VecDeque<Pending>) -> Judged {
    let Some(block) = &record.block else {
        return Judged::Passed;
    };
    match accepted.judge(block) {
        Verdict::Known | Verdict::Skip(_) => Judged::Passed,
        Verdict::Halt(reason) => Judged::Halt(reason),
        Verdict::Accept => match pending.front() {
            // A block with another hash is foreign, even if it has this leader's term and writer: this process did not
            // write it.
            Some(own) if own.block.hash == block.hash => Judged::Own(own.block),
            _ if block.kind == BlockKind::Claim => Judged::Fenced { term: block.term },
            _ => Judged::Halt(HaltReason::ForeignBlockOfOwnTerm { number: block.number }),
        },
    }
}
