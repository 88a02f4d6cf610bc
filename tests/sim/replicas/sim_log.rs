//! The simulated log: one partition on brokers that delay, lose, refuse and repeat requests, as the seed decides.
//!
//! A record is *stored* when the leading broker has it, *visible* when readers may see it, and *acknowledged* when all in-sync brokers have
//! it. With enough brokers, what is visible is acknowledged. If only one broker is in sync, the append is answered with an error, but its
//! records become visible; they may be lost until a later append was acknowledged.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use tally::store::replicated::{AppendError, Appended, LogRecord, LogRecords, ReadError};
use tokio::{sync::oneshot, time::Instant};

use super::plan::LogFaults;
use crate::random::Random;

/// The log. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct SimLog(pub(super) Arc<Mutex<State>>);

/// What does not pass between a replica and the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) requests: bool,
    pub(crate) answers: bool,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) random: Random,
    pub(super) faults: LogFaults,
    /// Whether everything happens at once.
    pub(super) instant: bool,
    pub(super) records: Vec<Stored>,
    /// Readers see the records before this offset.
    pub(super) visible: u64,
    /// The records before this offset were acknowledged, or could have been.
    pub(super) acknowledged: u64,
    pub(super) epoch: i32,
    /// Whether no broker leads.
    pub(super) down: bool,
    pub(super) last_replicated: Instant,
    pub(super) events: BTreeMap<(Instant, u64), Event>,
    pub(super) next_event: u64,
    pub(super) calls: BTreeMap<u64, Call>,
    pub(super) next_call: u64,
    /// Reads that wait for a record at this offset.
    pub(super) parked: BTreeMap<u64, u64>,
    pub(super) links: Vec<LinkState>,
}

#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) epoch: i32,
    pub(super) value: Bytes,
}

#[derive(Debug)]
pub(super) struct LinkState {
    pub(super) cut: Cut,
    pub(super) connection: u64,
    /// The epoch of the broker to which the replica is connected.
    pub(super) epoch: i32,
    pub(super) last_arrival: Instant,
}

#[derive(Debug)]
pub(super) struct Call {
    pub(super) link: usize,
    pub(super) waiting: Waiting,
}

#[derive(Debug)]
pub(super) enum Waiting {
    Append(oneshot::Sender<Result<Appended, AppendError>>),
    Read(oneshot::Sender<Result<LogRecords, ReadError>>),
    Connect(oneshot::Sender<Result<(), ReadError>>),
}

#[derive(Debug)]
pub(super) enum Answer {
    Append(Result<Appended, AppendError>),
    Read(Result<LogRecords, ReadError>),
    Connect(Result<(), ReadError>),
}

#[derive(Debug)]
pub(super) enum Event {
    /// A request to append arrives. A copy has no call.
    Append {
        call: Option<u64>,
        link: usize,
        connection: u64,
        blocks: Vec<Bytes>,
    },
    /// The in-sync brokers have the records before this offset.
    Replicated {
        epoch: i32,
        through: u64,
        is_acknowledged: bool,
        answer: Option<(u64, Result<Appended, AppendError>)>,
    },
    Read {
        call: u64,
        offset: u64,
        wait: Duration,
    },
    /// A read has waited long enough at the broker.
    ReadExpired {
        call: u64,
    },
    Answer {
        call: u64,
        answer: Answer,
    },
    Timeout {
        call: u64,
    },
    BrokerLeads,
}

/// The time limit of a request.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
/// How much later a copy of a request can arrive.
const ZOMBIE_DELAY_MAX: Duration = Duration::from_secs(15);
/// Maximum number of records of a read.
const READ_RECORDS_MAX: u64 = 60;
// ===== impl SimLog =====

impl SimLog {
    /// Makes an empty log for some replicas. Everything happens at once until [`SimLog::begin`].
    pub(crate) fn new(random: Random, replicas: usize) -> Self {
        let now = Instant::now();
        let links = (0..replicas).map(|_| LinkState {
            cut: Cut::default(),
            connection: 0,
            epoch: 1,
            last_arrival: now,
        });
        SimLog(Arc::new(Mutex::new(State {
            random,
            faults: LogFaults::none(),
            instant: true,
            records: Vec::new(),
            visible: 0,
            acknowledged: 0,
            epoch: 1,
            down: false,
            last_replicated: now,
            events: BTreeMap::new(),
            next_event: 0,
            calls: BTreeMap::new(),
            next_call: 0,
            parked: BTreeMap::new(),
            links: links.collect(),
        })))
    }

    /// Lets requests take time and meet these faults from now on.
    pub(crate) fn begin(&self, faults: LogFaults) {
        let mut state = self.0.lock();
        (state.faults, state.instant) = (faults, false);
    }

    /// Ends all faults.
    pub(crate) fn heal(&self) {
        let mut state = self.0.lock();
        state.faults = LogFaults::none();
        for link in &mut state.links {
            link.cut = Cut::default();
        }
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.0.lock().events.first_key_value().map(|((at, _), _)| *at)
    }

    /// Lets happen what is due.
    pub(crate) fn process(&self) {
        let now = Instant::now();
        let mut state = self.0.lock();
        while let Some(entry) = state.events.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let event = entry.remove();
            state.happen(now, event);
        }
    }

    pub(crate) fn set_cut(&self, link: usize, cut: Cut) {
        self.0.lock().links[link].cut = cut;
    }

    /// The process of this replica dies. Its requests may still arrive.
    pub(crate) fn disconnect(&self, link: usize) {
        self.0.lock().disconnect(link);
    }

    /// Another broker takes the lead. What not all in-sync brokers have may be lost; nobody has seen it. Appends fail for a while.
    pub(crate) fn change_broker(&self, time: Duration) {
        let mut state = self.0.lock();
        let (least, most) = (state.visible, state.records.len() as u64);
        let kept = state.random.within(&(least..most + 1));
        state.truncate(kept);
        if !state.down {
            state.down = true;
            state.schedule(Instant::now() + time, Event::BrokerLeads);
        }
    }

    /// The only in-sync broker loses records that were not acknowledged. Returns whether a reader could have seen one of them.
    pub(crate) fn lose_unacknowledged(&self) -> bool {
        let mut state = self.0.lock();
        let (least, most) = (state.acknowledged, state.records.len() as u64);
        if least == most {
            return false;
        }
        let kept = state.random.within(&(least..most));
        let was_visible = kept < state.visible;
        state.truncate(kept);
        was_visible
    }

    /// Somebody appends a record.
    pub(crate) fn inject(&self, value: Bytes) {
        let mut state = self.0.lock();
        if state.down {
            return;
        }
        let epoch = state.epoch;
        state.records.push(Stored { epoch, value });
        let through = state.records.len() as u64;
        let replicated = Event::Replicated {
            epoch,
            through,
            is_acknowledged: true,
            answer: None,
        };
        let at = state.replicated_at(Instant::now());
        state.schedule(at, replicated);
    }

    /// All records that are stored, in order.
    pub(crate) fn records(&self) -> Vec<Bytes> {
        self.0
            .lock()
            .records
            .iter()
            .map(|record| record.value.clone())
            .collect()
    }

    /// The number of records that are stored.
    pub(crate) fn len(&self) -> u64 {
        self.0.lock().records.len() as u64
    }

    /// The record at this offset.
    pub(crate) fn record(&self, offset: usize) -> Bytes {
        self.0.lock().records[offset].value.clone()
    }
}

// ===== impl State =====

impl State {
    pub(super) fn schedule(&mut self, at: Instant, event: Event) {
        self.events.insert((at, self.next_event), event);
        self.next_event += 1;
    }

    pub(super) fn latency(&mut self) -> Duration {
        self.random.up_to(self.faults.latency_max)
    }

    /// The time after which the in-sync brokers have what was stored now. Records are replicated in order.
    fn replicated_at(&mut self, now: Instant) -> Instant {
        let at = self.last_replicated.max(now + self.latency());
        self.last_replicated = at;
        at
    }

    /// Another broker leads, which has only the first records. Who was connected to the old one must connect again.
    fn truncate(&mut self, kept: u64) {
        self.records.truncate(usize::try_from(kept).unwrap());
        self.visible = self.visible.min(kept);
        self.epoch += 1;
        for call in std::mem::take(&mut self.parked).into_keys() {
            let failed = ReadError::Unavailable("another broker leads".to_owned());
            self.settle(call, Answer::Read(Err(failed)));
        }
    }

    pub(super) fn call(&mut self, link: usize, waiting: Waiting, limit: Duration) -> u64 {
        let call = self.next_call;
        self.next_call += 1;
        self.calls.insert(call, Call { link, waiting });
        self.schedule(Instant::now() + limit, Event::Timeout { call });
        call
    }

    fn happen(&mut self, now: Instant, event: Event) {
        match event {
            Event::Append {
                call, link, blocks, ..
            } => self.append_arrives(now, call, link, blocks),
            Event::Replicated {
                epoch,
                through,
                is_acknowledged,
                answer,
            } => {
                if epoch != self.epoch {
                    // The broker that had the records leads no longer. The caller gets no answer.
                    return;
                }
                self.visible = self.visible.max(through);
                if is_acknowledged {
                    self.acknowledged = self.acknowledged.max(through);
                }
                if let Some((call, result)) = answer {
                    let at = self.answer_at(now);
                    let answer = Answer::Append(result);
                    self.schedule(at, Event::Answer { call, answer });
                }
                self.answer_parked(now);
            }
            Event::Read { call, offset, wait } => self.read_arrives(now, call, offset, wait),
            Event::ReadExpired { call } => {
                if let Some(offset) = self.parked.remove(&call) {
                    self.answer_read(now, call, offset);
                }
            }
            Event::Answer { call, answer } => {
                let link = self.calls.get(&call).map(|call| call.link);
                if link.is_some_and(|link| !self.links[link].cut.answers) {
                    self.settle(call, answer);
                }
            }
            Event::Timeout { call } => {
                let answer = match self.calls.get(&call).map(|call| &call.waiting) {
                    Some(waiting) => waiting.failure("timeout"),
                    None => return,
                };
                self.settle(call, answer);
            }
            Event::BrokerLeads => {
                self.down = false;
                (self.visible, self.acknowledged) = (self.records.len() as u64, self.records.len() as u64);
                self.answer_parked(now);
            }
        }
    }

    fn answer_at(&mut self, now: Instant) -> Instant {
        let slow = if self.random.percent(self.faults.slow_answers) {
            self.random.up_to(REQUEST_TIMEOUT)
        } else {
            Duration::ZERO
        };
        now + self.latency() + slow
    }

    pub(super) fn settle(&mut self, call: u64, answer: Answer) {
        self.parked.remove(&call);
        // A caller that waits no longer has dropped its receiver.
        match (self.calls.remove(&call).map(|call| call.waiting), answer) {
            (Some(Waiting::Append(sender)), Answer::Append(result)) => drop(sender.send(result)),
            (Some(Waiting::Read(sender)), Answer::Read(result)) => drop(sender.send(result)),
            (Some(Waiting::Connect(sender)), Answer::Connect(result)) => drop(sender.send(result)),
            (None, _) => {}
            (Some(waiting), answer) => unreachable!("{waiting:?} gets {answer:?}"),
        }
    }

    fn append_arrives(&mut self, now: Instant, call: Option<u64>, link: usize, blocks: Vec<Bytes>) {
        if let Some(call) = call {
            if self.links[link].cut.requests {
                return;
            }
            if self.random.percent(self.faults.lost_requests) {
                self.copy_later(now, link, blocks);
                return;
            }
            let is_refused = self.down
                || self.links[link].epoch != self.epoch
                || self.random.percent(self.faults.refusals);
            if is_refused {
                let refused = Err(AppendError::Refused("the broker can't append now".to_owned()));
                let at = self.answer_at(now);
                let answer = Answer::Append(refused);
                self.schedule(at, Event::Answer { call, answer });
                return;
            }
        } else if self.down {
            return;
        }
        if self.random.percent(self.faults.duplicates) {
            self.copy_after(now, Duration::from_millis(3), link, blocks.clone());
        }
        self.copy_later(now, link, blocks.clone());
        let (first_offset, epoch) = (self.records.len() as u64, self.epoch);
        self.records
            .extend(blocks.into_iter().map(|value| Stored { epoch, value }));
        let is_acknowledged = !self.random.percent(self.faults.under_replicated);
        let result = if is_acknowledged {
            Ok(Appended { first_offset })
        } else {
            Err(AppendError::Unresolved("only one broker is in sync".to_owned()))
        };
        let is_lost = self.random.percent(self.faults.lost_answers);
        let replicated = Event::Replicated {
            epoch,
            through: self.records.len() as u64,
            is_acknowledged,
            answer: call.filter(|_| !is_lost).map(|call| (call, result)),
        };
        let at = self.replicated_at(now);
        self.schedule(at, replicated);
    }

    /// Sometimes, another copy of a request arrives much later.
    fn copy_later(&mut self, now: Instant, link: usize, blocks: Vec<Bytes>) {
        if self.random.percent(self.faults.zombies) {
            self.copy_after(now, ZOMBIE_DELAY_MAX, link, blocks);
        }
    }

    fn copy_after(&mut self, now: Instant, longest: Duration, link: usize, blocks: Vec<Bytes>) {
        let at = now + self.random.up_to(longest);
        let copy = Event::Append {
            call: None,
            link,
            connection: 0,
            blocks,
        };
        self.schedule(at, copy);
    }

    fn read_arrives(&mut self, now: Instant, call: u64, offset: u64, wait: Duration) {
        let Some(link) = self.calls.get(&call).map(|call| call.link) else {
            return;
        };
        if self.links[link].cut.requests {
            return;
        }
        let is_failed = self.down
            || self.links[link].epoch != self.epoch
            || self.random.percent(self.faults.failed_reads);
        let end = self.records.len() as u64;
        let error = if is_failed && self.random.percent(20) {
            ReadError::Damaged("a wrong checksum".to_owned())
        } else if is_failed {
            ReadError::Unavailable("no broker leads".to_owned())
        } else if offset > end {
            ReadError::OutOfRange { start: 0, end }
        } else {
            if offset < self.visible || wait.is_zero() {
                self.answer_read(now, call, offset);
            } else {
                self.parked.insert(call, offset);
                self.schedule(now + wait, Event::ReadExpired { call });
            }
            return;
        };
        let at = self.answer_at(now);
        let answer = Answer::Read(Err(error));
        self.schedule(at, Event::Answer { call, answer });
    }

    fn answer_parked(&mut self, now: Instant) {
        let visible = self.visible;
        let ready: Vec<(u64, u64)> = self
            .parked
            .extract_if(.., |_, offset| *offset < visible)
            .collect();
        for (call, offset) in ready {
            self.answer_read(now, call, offset);
        }
    }

    /// Answers a read with the records that the broker shows now, or with fewer.
    fn answer_read(&mut self, now: Instant, call: u64, offset: u64) {
        let behind = if self.random.percent(self.faults.stale_reads) {
            self.random.within(&(1..30))
        } else {
            0
        };
        let end_offset = self.visible.saturating_sub(behind);
        // A batch of the brokers has several records, so a read may begin before the offset that was asked for.
        let from = offset.saturating_sub(if self.random.percent(5) { 2 } else { 0 });
        let most = 1 + self.random.within(&(0..READ_RECORDS_MAX));
        let to = end_offset.min(offset + most);
        let offsets = if to > offset { from..to } else { 0..0 };
        let records: Vec<LogRecord> = offsets
            .map(|offset| {
                let stored = &self.records[usize::try_from(offset).unwrap()];
                LogRecord {
                    offset,
                    epoch: stored.epoch,
                    value: stored.value.clone(),
                }
            })
            .collect();
        let found = LogRecords {
            records,
            next_offset: to.max(offset),
            end_offset,
        };
        let at = self.answer_at(now);
        let answer = Answer::Read(Ok(found));
        self.schedule(at, Event::Answer { call, answer });
    }

    /// Drops the connection of a replica. Requests on their way may arrive, also later than they would have, or get lost.
    pub(super) fn disconnect(&mut self, link: usize) {
        let connection = self.links[link].connection;
        self.links[link].connection += 1;
        let is_of_connection = |event: &Event| matches!(event, Event::Append { call: Some(_), link: of, connection: at, .. } if *of == link && *at == connection);
        let sent: Vec<_> = self
            .events
            .extract_if(.., |_, event| is_of_connection(event))
            .collect();
        for ((at, number), event) in sent {
            let Event::Append { blocks, .. } = event else {
                unreachable!("only appends were taken");
            };
            let copy = Event::Append {
                call: None,
                link,
                connection,
                blocks,
            };
            match self.random.below(10) {
                0..5 => {}
                5..8 => {
                    self.events.insert((at, number), copy);
                }
                _ => {
                    let later = at + self.random.up_to(ZOMBIE_DELAY_MAX);
                    self.schedule(later, copy);
                }
            }
        }
        let open: Vec<u64> = self
            .calls
            .iter()
            .filter(|(_, call)| call.link == link)
            .map(|(number, _)| *number)
            .collect();
        for call in open {
            let answer = self.calls[&call].waiting.failure("the connection was closed");
            self.settle(call, answer);
        }
    }
}

impl Waiting {
    /// The answer that says that there is none.
    fn failure(&self, why: &str) -> Answer {
        let why = why.to_owned();
        match self {
            Waiting::Append(_) => Answer::Append(Err(AppendError::Unresolved(why))),
            Waiting::Read(_) => Answer::Read(Err(ReadError::Unavailable(why))),
            Waiting::Connect(_) => Answer::Connect(Err(ReadError::Unavailable(why))),
        }
    }
}
