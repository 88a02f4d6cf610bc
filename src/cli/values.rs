//! Parsers of option values. Their errors say what is expected.

use std::{net::SocketAddr, time::Duration};

/// Parses a time with a unit.
pub(super) fn duration(text: &str) -> Result<Duration, &'static str> {
    humantime::parse_duration(text).map_err(|_| "expected a time with a unit, for example 500ms, 2s or 1h")
}

/// Parses the time between two updates of a view: 100ms to 1h.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    duration_between(text, Duration::from_millis(100), Duration::from_secs(3600))
}

/// Parses a time for which an operator opens a circuit: 1ms to 1day.
pub(super) fn open_time(text: &str) -> Result<Duration, String> {
    duration_between(text, Duration::from_millis(1), Duration::from_secs(86_400))
}

fn duration_between(text: &str, min: Duration, max: Duration) -> Result<Duration, String> {
    let time = duration(text)?;
    if (min..=max).contains(&time) {
        return Ok(time);
    }
    let [min, max] = [min, max].map(humantime::format_duration);
    Err(format!("must be {min} to {max}"))
}

/// Parses an IP address with a port.
pub(super) fn socket_address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse()
        .map_err(|_| "expected an IP address with a port, for example 127.0.0.1:50051 or [::1]:50051")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_need_a_unit_and_addresses_need_a_port() {
        assert_eq!(duration("1s 500ms"), Ok(Duration::from_millis(1500)));
        assert!(duration("1").is_err() && duration("").is_err());
        assert_eq!(interval("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(interval("99ms"), Err("must be 100ms to 1h".to_owned()));
        assert_eq!(open_time("2days"), Err("must be 1ms to 1day".to_owned()));
        assert!(socket_address("[::1]:1").is_ok() && socket_address("127.0.0.1").is_err());
    }
}
