//! The operations that a replica needs of its log, which is one partition of a topic. The Kafka client and the in-memory log of the
//! tests implement them.

use std::{future::Future, pin::Pin, time::Duration};

use bytes::Bytes;
use thiserror::Error;
use tokio::time::Instant;

/// One partition of a replicated log.
///
/// An implementation repeats no request by itself. It sends each append once, in the order of the calls. Each future ends within the
/// time limit of a request.
pub trait PartitionLog: Send + 'static {
    /// Sends blocks as the records of one request, which the log stores together or not at all. The request is sent when this method
    /// returns, even if the future is not polled.
    fn append(&mut self, blocks: Vec<Bytes>) -> Doing<Result<Appended, AppendError>>;

    /// Reads records from `offset` on. If there is none, waits up to `wait` for one.
    fn read(&mut self, offset: u64, wait: Duration) -> Doing<Result<LogRecords, ReadError>>;

    /// Drops all connections, so that every append in flight ends as unresolved, and connects again.
    fn reconnect(&mut self) -> Doing<Result<(), ReadError>>;

    /// Returns the time by which to call [`reconnect`](Self::reconnect), because the brokers end the session of the connection soon
    /// afterwards. `None`: never.
    fn session_ends(&self) -> Option<Instant> {
        None
    }

    /// Asks for the identity and the settings of the topic.
    fn inspect(&mut self) -> Doing<Result<TopicFacts, ReadError>>;
}

/// The future of an operation.
pub type Doing<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The identity of a topic. A topic that was deleted and made again has another identity.
pub type TopicId = [u8; 16];

/// An append that the log has acknowledged: every in-sync broker has it on its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The offset of the first record.
    pub first_offset: u64,
}

/// Why an append was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The records may be in the log, now or later.
    #[error("it is unknown whether the log has taken the blocks: {0}")]
    Unresolved(String),
    /// The records are not in the log, and never will be.
    #[error("the log refused the blocks: {0}")]
    Refused(String),
}

/// Records of the log.
#[derive(Debug, Clone, Default)]
pub struct LogRecords {
    /// The records, in the order of their offsets. Offsets can have gaps.
    pub records: Vec<LogRecord>,
    /// The offset at which the next read begins.
    pub next_offset: u64,
    /// The end of the log: the offset after the last record that readers may see.
    pub end_offset: u64,
}

/// A record of the log.
#[derive(Debug, Clone)]
pub struct LogRecord {
    /// The offset.
    pub offset: u64,
    /// The epoch of the broker that took the record. It grows with every change of the partition's leading broker.
    pub epoch: i32,
    /// The content. Its checksum was right.
    pub value: Bytes,
}

/// Why the log could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No broker answers, or none leads the partition. A later read can succeed.
    #[error("the log can't be reached: {0}")]
    Unavailable(String),
    /// A record has a wrong checksum. The replica must not skip the record; a later read can succeed.
    #[error("a record of the log is damaged: {0}")]
    Damaged(String),
    /// The log has no record at the offset any longer, or not yet.
    #[error("the log has only the records from {start} to {end}")]
    OutOfRange {
        /// The first offset that the log has.
        start: u64,
        /// The offset after the last record.
        end: u64,
    },
    /// The topic was deleted and made again, so the blocks of the replica are not in it.
    #[error("the topic of the log was deleted and made again: {0}")]
    Replaced(String),
    /// The topic does not exist, or the replica may not read it.
    #[error("the log can't be used: {0}")]
    Unusable(String),
}

/// The identity and the settings of a topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicFacts {
    /// The identity.
    pub topic_id: TopicId,
    /// The number of partitions.
    pub partitions: usize,
    /// The number of brokers that have a copy.
    pub replication_factor: usize,
    /// The settings by their names. A setting that the brokers do not report is absent.
    pub settings: Vec<(String, String)>,
    /// The first offset that the log has.
    pub start_offset: u64,
    /// The offset after the last record.
    pub end_offset: u64,
}

// ===== impl TopicFacts =====

impl TopicFacts {
    /// Returns a setting of the topic.
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<&str> {
        let found = self.settings.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str())
    }
}
