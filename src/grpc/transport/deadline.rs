//! Reads the caller's deadline from the header `grpc-timeout`.
//!
//! tonic's own server would drop the handler at the deadline and answer CANCELLED, and the caller would not know
//! whether the call was executed. Here the command carries the deadline to the engine, and the answer says whether the
//! engine executed the command.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;
use tonic::Status;

use crate::grpc::status;

/// The header's name.
pub(crate) const HEADER: &str = "grpc-timeout";
/// Maximum number of digits of a timeout in the gRPC specification.
const DIGITS_MAX: usize = 8;

/// Returns the deadline in the headers of a call, or `None` if the call has no deadline.
///
/// # Errors
/// INVALID_ARGUMENT if the header is not a timeout by the gRPC specification.
pub(crate) fn from_headers(headers: &HeaderMap) -> Result<Option<Instant>, Status> {
    let Some(value) = headers.get(HEADER) else {
        return Ok(None);
    };
    let timeout = value.to_str().ok().and_then(parse);
    let rule = "must be one to eight digits and a unit of H, M, S, m, u or n";
    let timeout = timeout.ok_or_else(|| status::invalid_field(HEADER, rule))?;
    // A deadline beyond the range of the clock counts as no deadline.
    Ok(Instant::now().checked_add(timeout))
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > DIGITS_MAX || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_unit_and_rejects_other_texts() {
        for (text, expected) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("99999999n", Duration::from_nanos(99_999_999)),
        ] {
            assert_eq!(parse(text), Some(expected), "{text}");
        }
        for text in ["", "S", "1", "1s", "123456789S", "-1S", "+1S", "1 S", "1é"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
