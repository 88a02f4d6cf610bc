//! Converts numbers, times and texts for the API, and checks the durations of requests.

use std::{ops::RangeInclusive, time::Duration};

use tonic::Status;

use crate::grpc::status;

/// Largest absolute value of the nanoseconds of a duration in a message.
const NANOS_MAX: u32 = 999_999_999;
/// Longest comment of a request by an administrator, in bytes.
pub const COMMENT_BYTES_MAX: usize = 256;

/// Converts a count. A count beyond the range of the API becomes the largest number of the API.
pub(crate) fn count(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

/// Converts a small number. A number beyond the range of the API becomes the largest number of the API.
pub(crate) fn small(value: impl TryInto<i32>) -> i32 {
    value.try_into().unwrap_or(i32::MAX)
}

/// Converts a duration.
pub(crate) fn duration(value: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: count(value.as_secs()),
        nanos: small(value.subsec_nanos()),
    }
}

/// Converts a value to text. Returns an empty text for `None`.
pub(crate) fn text(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// Checks the comment of a request by an administrator.
///
/// # Errors
/// INVALID_ARGUMENT if the comment is longer than [`COMMENT_BYTES_MAX`].
pub(crate) fn check_comment(comment: &str) -> Result<(), Status> {
    let bytes = comment.len();
    if bytes > COMMENT_BYTES_MAX {
        let bound = format!("{bytes} bytes: must be at most {COMMENT_BYTES_MAX}");
        return Err(status::invalid_field("comment", bound));
    }
    Ok(())
}

/// Checks that a duration of a request is a well-formed `google.protobuf.Duration`: its nanoseconds are at most 999,999,999,
/// with the sign of the seconds.
///
/// # Errors
/// INVALID_ARGUMENT if it is not.
pub(crate) fn check_duration(field: &str, given: &prost_types::Duration) -> Result<(), Status> {
    let prost_types::Duration { seconds, nanos } = *given;
    let has_one_sign = (seconds >= 0 && nanos >= 0) || (seconds <= 0 && nanos <= 0);
    if !has_one_sign || nanos.unsigned_abs() > NANOS_MAX {
        let rule = format!("nanos must be at most {NANOS_MAX} and have the sign of the seconds");
        return Err(status::invalid_field(
            field,
            format!("seconds {seconds}, nanos {nanos}: {rule}"),
        ));
    }
    Ok(())
}

/// Checks a duration of a request. `bounds` describes `range` for people.
///
/// # Errors
/// INVALID_ARGUMENT if the duration is not in `range`, and as [`check_duration`].
pub(crate) fn duration_in(
    range: &RangeInclusive<Duration>,
    bounds: &str,
    field: &str,
    given: &prost_types::Duration,
) -> Result<Duration, Status> {
    check_duration(field, given)?;
    let value = Duration::try_from(*given).ok();
    let value = value.filter(|value| range.contains(value));
    value.ok_or_else(|| status::invalid_field(field, format!("{given}: must be {bounds}")))
}
