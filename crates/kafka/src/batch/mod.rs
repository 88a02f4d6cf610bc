//! Batches of records, format version 2 ("magic 2").
//!
//! | bytes | field | covered by the CRC |
//! |---|---|---|
//! | 0–7 | offset of the first record | no |
//! | 8–11 | length of the batch after this field | no |
//! | 12–15 | leader epoch | no |
//! | 16 | magic, 2 | no |
//! | 17–20 | CRC32C | |
//! | 21–22 | attributes | yes |
//! | 23–26 | offset of the last record, relative to the first | yes |
//! | 27–42 | timestamps of the first record and the newest record, in ms | yes |
//! | 43–56 | producer id, producer epoch, first sequence | yes |
//! | 57–60 | number of records | yes |
//! | 61– | records | yes |

mod decode;
mod encode;
mod layout;

pub(crate) use decode::decode;
pub(crate) use encode::{Encoded, encode};

#[cfg(test)]
mod tests;
