//! A replicated log in memory, for several replicas of one process. A test can cut a replica off, and lose answers.

use std::{collections::VecDeque, future::ready, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use tally::store::replicated::{
    AppendError, Appended, Doing, LogRecord, LogRecords, PartitionLog, ReadError, TopicFacts,
};
use tokio::sync::Notify;

/// The log. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryLog(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    grown: Notify,
}

#[derive(Debug, Default)]
struct State {
    records: Vec<Bytes>,
    /// What happens to the next appends of all replicas together.
    faults: VecDeque<AppendFault>,
}

/// What happens to an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AppendFault {
    /// The records are stored, but the answer is lost.
    AnswerLost,
    /// The request is lost.
    RequestLost,
    /// The log refuses the request.
    Refused,
}

/// The connection of a replica to the log.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    log: MemoryLog,
    is_cut: Arc<Mutex<bool>>,
    /// Whether every read fails until the replica connects again.
    is_broken: Arc<Mutex<bool>>,
}

const SETTINGS: [(&str, &str); 8] = [
    ("compression.type", "producer"),
    ("min.insync.replicas", "2"),
    ("unclean.leader.election.enable", "false"),
    ("cleanup.policy", "delete"),
    ("retention.ms", "-1"),
    ("retention.bytes", "-1"),
    ("flush.messages", "1"),
    ("max.message.bytes", "8388608"),
];

// ===== impl MemoryLog =====

impl MemoryLog {
    /// Connects a replica.
    pub(crate) fn link(&self) -> Link {
        Link {
            log: self.clone(),
            is_cut: Arc::default(),
            is_broken: Arc::default(),
        }
    }

    /// Causes this fault at the next append.
    pub(crate) fn fail_next(&self, fault: AppendFault) {
        self.0.state.lock().faults.push_back(fault);
    }

    /// The bytes of a record.
    pub(crate) fn record(&self, offset: usize) -> Bytes {
        self.0.state.lock().records[offset].clone()
    }

    /// The number of records.
    pub(crate) fn len(&self) -> usize {
        self.0.state.lock().records.len()
    }

    /// Appends a record as a foreign process could.
    pub(crate) fn push(&self, record: Bytes) {
        self.0.state.lock().records.push(record);
        self.0.grown.notify_waiters();
    }

    fn append(&self, blocks: Vec<Bytes>) -> Result<Appended, AppendError> {
        let mut state = self.0.state.lock();
        let fault = state.faults.pop_front();
        match fault {
            Some(AppendFault::RequestLost) => return Err(AppendError::Unresolved("request lost".to_owned())),
            Some(AppendFault::Refused) => return Err(AppendError::Refused("refused".to_owned())),
            Some(AppendFault::AnswerLost) | None => {}
        }
        let first_offset = state.records.len() as u64;
        state.records.extend(blocks);
        drop(state);
        self.0.grown.notify_waiters();
        match fault {
            Some(AppendFault::AnswerLost) => Err(AppendError::Unresolved("answer lost".to_owned())),
            Some(_) | None => Ok(Appended { first_offset }),
        }
    }

    fn read(&self, offset: u64) -> Result<LogRecords, ReadError> {
        let state = self.0.state.lock();
        let end = state.records.len() as u64;
        if offset > end {
            return Err(ReadError::OutOfRange { start: 0, end });
        }
        let from = usize::try_from(offset).unwrap();
        let records: Vec<LogRecord> = (offset..)
            .zip(state.records.iter().skip(from).take(100))
            .map(|(offset, value)| LogRecord {
                offset,
                epoch: 0,
                value: value.clone(),
            })
            .collect();
        Ok(LogRecords {
            next_offset: offset + records.len() as u64,
            records,
            end_offset: end,
        })
    }
}

// ===== impl Link =====

impl Link {
    /// Cuts the replica off, or connects it again. An append in between is lost.
    pub(crate) fn set_cut(&self, is_cut: bool) {
        *self.is_cut.lock() = is_cut;
        self.log.0.grown.notify_waiters();
    }

    /// Ends the connection for reads: every read fails until the replica connects again.
    pub(crate) fn break_reads(&self) {
        *self.is_broken.lock() = true;
    }

    fn is_cut(&self) -> bool {
        *self.is_cut.lock()
    }
}

fn unavailable() -> ReadError {
    ReadError::Unavailable("cut off".to_owned())
}

impl PartitionLog for Link {
    fn append(&mut self, blocks: Vec<Bytes>) -> Doing<Result<Appended, AppendError>> {
        let result = if self.is_cut() {
            Err(AppendError::Unresolved("cut off".to_owned()))
        } else {
            self.log.append(blocks)
        };
        Box::pin(ready(result))
    }

    fn read(&mut self, offset: u64, wait: Duration) -> Doing<Result<LogRecords, ReadError>> {
        let link = self.clone();
        Box::pin(async move {
            let until = tokio::time::Instant::now() + wait;
            loop {
                let grown = link.log.0.grown.notified();
                if link.is_cut() || *link.is_broken.lock() {
                    return Err(unavailable());
                }
                let found = link.log.read(offset)?;
                if !found.records.is_empty() || tokio::time::timeout_at(until, grown).await.is_err() {
                    return Ok(found);
                }
            }
        })
    }

    fn reconnect(&mut self) -> Doing<Result<(), ReadError>> {
        let result = if self.is_cut() { Err(unavailable()) } else { Ok(()) };
        *self.is_broken.lock() &= result.is_err();
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            result
        })
    }

    fn inspect(&mut self) -> Doing<Result<TopicFacts, ReadError>> {
        let result = if self.is_cut() {
            Err(unavailable())
        } else {
            Ok(TopicFacts {
                topic_id: [7; 16],
                partitions: 1,
                replication_factor: 3,
                settings: SETTINGS
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .to_vec(),
                start_offset: 0,
                end_offset: self.log.len() as u64,
            })
        };
        Box::pin(ready(result))
    }
}
