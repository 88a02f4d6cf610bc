//! Reads times.

use prost_types::Timestamp;
use thiserror::Error;

/// Why a text is not a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TimeError {
    /// The text has not the format of RFC 3339.
    #[error("must be a time like 2026-01-31T12:00:00Z")]
    Format,
    /// The time is a leap second. The library would read it as the second before it, so two different texts would be the same time.
    #[error("must be a time with seconds from 0 to 59: the times of the ledger have no leap seconds")]
    LeapSecond,
}

/// Reads a time of RFC 3339, or a date, which means its midnight in UTC.
///
/// # Errors
/// [`TimeError`].
pub fn parse_time(text: &str) -> Result<Timestamp, TimeError> {
    let time = text.parse().map_err(|_| TimeError::Format)?;
    // The text is a date, or has HH:MM:SS behind the letter or the blank that ends the date.
    let clock = text.split_once(['T', 't', ' ']).map_or("", |(_, clock)| clock);
    if clock.get(6..8) == Some("60") {
        return Err(TimeError::LeapSecond);
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leap_second_is_refused() {
        for text in [
            "2016-12-31T23:59:60Z",
            "2016-12-31 23:59:60.5Z",
            "2016-12-31t15:59:60-08:00",
            "2026-01-31T12:00:60Z",
        ] {
            assert_eq!(parse_time(text), Err(TimeError::LeapSecond), "{text}");
        }
        for text in [
            "2016-12-31T23:59:59.60Z",
            "2016-12-31T23:60:00Z",
            "1960-12-31",
            "soon",
            "",
        ] {
            assert_ne!(parse_time(text), Err(TimeError::LeapSecond), "{text}");
        }
        assert_eq!(parse_time("2016-12-31T23:59:61Z"), Err(TimeError::Format));
        let before = Timestamp {
            seconds: 1_483_228_799,
            nanos: 0,
        };
        assert_eq!(parse_time("2016-12-31T23:59:59Z"), Ok(before));
    }
}
