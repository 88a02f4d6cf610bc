//! `Produce`.

use bytes::Bytes;

use super::{PRODUCE, only, target::Target};
use crate::{
    batch::Encoded,
    error::{ErrorCode, Malformed},
};

/// The first version that names the topic by id.
pub(crate) const TOPIC_IDS_FROM: i16 = 13;
/// The value of `acks` with which the broker answers only when all in-sync replicas have the records.
const ACKS_ALL: i16 = -1;

/// Returns the body in pieces, so that the records are not copied.
pub(crate) fn request(version: i16, target: Target<'_>, batch: Encoded, limit_ms: i32) -> Vec<Bytes> {
    let mut encoder = PRODUCE.encoder(version);
    encoder.null_string();
    encoder.i16(ACKS_ALL);
    encoder.i32(limit_ms);
    encoder.array(1);
    if version >= TOPIC_IDS_FROM {
        encoder.uuid(target.topic_id.0);
    } else {
        encoder.string(target.topic);
    }
    encoder.array(1);
    encoder.i32(target.partition);
    encoder.bytes_length(batch.length);
    let mut pieces = Vec::with_capacity(batch.pieces.len() + 2);
    pieces.push(encoder.take());
    pieces.extend(batch.pieces);
    encoder.tags();
    encoder.tags();
    encoder.tags();
    pieces.push(encoder.finish());
    pieces
}

/// The answer to `Produce`.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: ErrorCode,
    pub(crate) message: Option<String>,
    pub(crate) base_offset: i64,
    pub(crate) log_append_time_ms: i64,
    pub(crate) log_start: i64,
}

pub(crate) fn answer(version: i16, partition: i32, answer: Bytes) -> Result<Answer, Malformed> {
    let mut decoder = PRODUCE.decoder(version, answer)?;
    let topics = decoder.array(3, |topic| {
        if version >= TOPIC_IDS_FROM {
            topic.uuid()?;
        } else {
            topic.string()?;
        }
        let partitions = topic.array(30, |item| {
            let index = item.i32()?;
            let code = ErrorCode(item.i16()?);
            let (base_offset, log_append_time_ms, log_start) = (item.i64()?, item.i64()?, item.i64()?);
            let message = if version >= 8 {
                item.array(5, |error| {
                    error.i32()?;
                    error.nullable_string()?;
                    error.tags()
                })?;
                item.nullable_string()?
            } else {
                None
            };
            item.tags()?;
            let answer = Answer {
                code,
                message,
                base_offset,
                log_append_time_ms,
                log_start,
            };
            Ok((index, answer))
        })?;
        topic.tags()?;
        only(partitions)
    })?;
    let (index, answer) = only(topics)?;
    if index != partition {
        return Err(Malformed("the answer is about another partition"));
    }
    if answer.code == ErrorCode::NONE && answer.base_offset < 0 {
        return Err(Malformed("an offset is negative"));
    }
    Ok(answer)
}
