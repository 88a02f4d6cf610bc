//! Parsers of option values. Their errors say what is expected.

use std::{net::SocketAddr, time::Duration};

/// Parses a time with a unit.
pub(super) fn duration(text: &str) -> Result<Duration, &'static str> {
    humantime::parse_duration(text).map_err(|_| "expected a time with a unit, for example 500ms, 2s or 1h")
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
        assert!(socket_address("[::1]:1").is_ok() && socket_address("127.0.0.1").is_err());
    }
}
