//! Numbers and durations in the form of the API.

use std::time::Duration;

/// A count as the wire has it.
pub(crate) fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A duration as the wire has it.
pub(crate) fn duration(value: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or_default(),
    }
}

/// A small number as the wire has it.
pub(crate) fn small(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// The size of something as the wire has it.
pub(crate) fn size(value: usize) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}
