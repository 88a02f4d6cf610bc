//! A record of a partition.

use bytes::Bytes;

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The offset.
    pub offset: i64,
    /// The time in ms since 1970: the writer's, or the leader's if the topic has
    /// `message.timestamp.type=LogAppendTime`.
    pub timestamp_ms: i64,
    /// The leader epoch of the batch, which the broker set when it took the batch. -1: unknown. The CRC does not cover it.
    pub leader_epoch: i32,
    /// The value; empty if the record has none. The value shares its memory with the other records of the same fetch.
    pub value: Bytes,
}
