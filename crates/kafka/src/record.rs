//! A record of a partition.

use bytes::Bytes;

/// A record, or a batch of records with compression.
///
/// This client decompresses nothing: a few bytes could become any number. A batch with compression is one `Record` with
/// the offset of the batch's last record, so that the next fetch begins behind the batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The offset.
    pub offset: i64,
    /// The time in ms since 1970: the writer's, or the leader's if the topic has
    /// `message.timestamp.type=LogAppendTime`. Of a batch with compression: the writer's time of its first record.
    pub timestamp_ms: i64,
    /// The leader epoch of the batch, which the broker set when it took the batch. -1: unknown. The CRC does not cover it.
    pub leader_epoch: i32,
    /// The value. An absent value is empty. It shares its memory with the other records of the same fetch.
    /// Empty for a batch with compression.
    pub value: Bytes,
    /// The name of the compression if this stands for a batch with compression.
    pub compression: Option<&'static str>,
}
