//! `Fetch` and `ListOffsets`.

use bytes::Bytes;

use super::{FETCH, LIST_OFFSETS, only, target::Target};
use crate::{
    error::{ErrorCode, Malformed},
    topic_id::TopicId,
};

/// The first version of `Fetch` that names the topic by id.
pub(crate) const TOPIC_IDS_FROM: i16 = 13;
/// The replica number in the requests of a client, which is not a replica.
const NO_REPLICA: i32 = -1;
/// Reads every record up to the high watermark, whatever transaction it belongs to.
const READ_UNCOMMITTED: i8 = 0;
/// Stands for an absent value.
const NONE: i32 = -1;

/// One fetch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fetch {
    pub(crate) offset: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) max_wait_ms: i32,
    pub(crate) bytes_max: i32,
}

pub(crate) fn fetch_request(version: i16, target: Target<'_>, fetch: Fetch) -> Bytes {
    let mut encoder = FETCH.encoder(version);
    encoder.i32(NO_REPLICA);
    encoder.i32(fetch.max_wait_ms);
    encoder.i32(1); // The least number of bytes: the broker waits until there is a record.
    encoder.i32(fetch.bytes_max);
    encoder.i8(READ_UNCOMMITTED);
    encoder.i32(0); // No session:
    encoder.i32(NONE); // every request is complete.
    encoder.array(1);
    if version >= TOPIC_IDS_FROM {
        encoder.uuid(target.topic_id.0);
    } else {
        encoder.string(target.topic);
    }
    encoder.array(1);
    encoder.i32(target.partition);
    encoder.i32(fetch.leader_epoch);
    encoder.i64(fetch.offset);
    if version >= 12 {
        encoder.i32(NONE); // The epoch of the last record, which only followers compare.
    }
    encoder.i64(i64::from(NONE)); // The first offset, which only followers have.
    encoder.i32(fetch.bytes_max);
    encoder.tags();
    encoder.tags();
    encoder.array(0);
    encoder.string(""); // No rack, so the leader answers.
    encoder.tags();
    encoder.finish()
}

/// The answer to `Fetch`.
#[derive(Debug)]
pub(crate) struct FetchAnswer {
    pub(crate) code: ErrorCode,
    pub(crate) high_watermark: i64,
    pub(crate) log_start: i64,
    pub(crate) records: Bytes,
}

pub(crate) fn fetch_answer(
    version: i16,
    target: Target<'_>,
    answer: Bytes,
) -> Result<FetchAnswer, Malformed> {
    let mut decoder = FETCH.decoder(version, answer)?;
    decoder.i32()?;
    let code = ErrorCode(decoder.i16()?);
    decoder.i32()?;
    let topics = decoder.array(6, |topic| {
        let is_target = if version >= TOPIC_IDS_FROM {
            TopicId(topic.uuid()?) == target.topic_id
        } else {
            topic.string()? == target.topic
        };
        let partitions = topic.array(34, |item| {
            let is_target = item.i32()? == target.partition && is_target;
            let code = ErrorCode(item.i16()?);
            let high_watermark = item.i64()?;
            item.i64()?;
            let log_start = item.i64()?;
            item.array(16, |aborted| {
                aborted.i64()?;
                aborted.i64()?;
                aborted.tags()
            })?;
            item.i32()?;
            let records = item.bytes()?.unwrap_or_default();
            item.tags()?;
            if !is_target {
                return Err(Malformed("the answer is about another partition"));
            }
            Ok(FetchAnswer {
                code,
                high_watermark,
                log_start,
                records,
            })
        })?;
        topic.tags()?;
        only(partitions)
    })?;
    if code != ErrorCode::NONE {
        return Ok(FetchAnswer {
            code,
            high_watermark: -1,
            log_start: -1,
            records: Bytes::new(),
        });
    }
    only(topics)
}

/// Which offset `ListOffsets` returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// The first offset of the log.
    Start,
    /// The offset after the last committed record (the high watermark).
    End,
}

pub(crate) fn list_offsets_request(version: i16, target: Target<'_>, leader_epoch: i32, edge: Edge) -> Bytes {
    let mut encoder = LIST_OFFSETS.encoder(version);
    encoder.i32(NO_REPLICA);
    encoder.i8(READ_UNCOMMITTED);
    encoder.array(1);
    encoder.string(target.topic);
    encoder.array(1);
    encoder.i32(target.partition);
    encoder.i32(leader_epoch);
    encoder.i64(match edge {
        Edge::Start => -2,
        Edge::End => -1,
    });
    encoder.finish()
}

/// Returns the error code and the offset.
pub(crate) fn list_offsets_answer(
    version: i16,
    target: Target<'_>,
    answer: Bytes,
) -> Result<(ErrorCode, i64), Malformed> {
    let mut decoder = LIST_OFFSETS.decoder(version, answer)?;
    decoder.i32()?;
    let topics = decoder.array(6, |topic| {
        topic.string()?;
        only(topic.array(26, |item| {
            let index = item.i32()?;
            let code = ErrorCode(item.i16()?);
            item.i64()?;
            let offset = item.i64()?;
            item.i32()?;
            Ok((index, code, offset))
        })?)
    })?;
    let (index, code, offset) = only(topics)?;
    if index != target.partition {
        return Err(Malformed("the answer is about another partition"));
    }
    if code == ErrorCode::NONE && offset < 0 {
        return Err(Malformed("an offset is negative"));
    }
    Ok((code, offset))
}
