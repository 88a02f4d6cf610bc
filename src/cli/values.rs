//! Parsers of option values. Their errors say what is expected.

use std::{net::SocketAddr, num::IntErrorKind, time::Duration};

use crate::{client::check_endpoint, grpc::COMMENT_BYTES_MAX, settings::parse_time_between};

/// Parses the time between two updates of a view: 100ms to 1h.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    parse_time_between(text, Duration::from_millis(100), Duration::from_secs(3600))
}

/// Parses a time for which an operator opens a circuit: 1ms to 1day.
pub(super) fn open_time(text: &str) -> Result<Duration, String> {
    parse_time_between(text, Duration::from_millis(1), Duration::from_secs(86_400))
}

/// Parses the longest time to wait for a service: 1ms to 1day.
pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    parse_time_between(text, Duration::from_millis(1), Duration::from_secs(86_400))
}

/// Parses the time for which an import tries again: 1ms to 30days.
pub(super) fn give_up_after(text: &str) -> Result<Duration, String> {
    parse_time_between(text, Duration::from_millis(1), Duration::from_secs(30 * 86_400))
}

/// Parses the number of transactions in a call: 1 to 8192.
pub(super) fn batch(text: &str) -> Result<u16, &'static str> {
    match text.parse::<u16>() {
        Ok(number @ 1..=8192) => Ok(number),
        Ok(_) => Err("must be 1 to 8192"),
        Err(error) if *error.kind() == IntErrorKind::PosOverflow => Err("must be 1 to 8192"),
        Err(_) => Err("must be a whole number"),
    }
}

/// Parses the comment of a change: at most [`COMMENT_BYTES_MAX`] bytes.
pub(super) fn comment(text: &str) -> Result<String, String> {
    let length = text.len();
    if length > COMMENT_BYTES_MAX {
        return Err(format!("must be at most {COMMENT_BYTES_MAX} bytes, has {length}"));
    }
    Ok(text.to_owned())
}

/// Parses the address of a service.
pub(super) fn endpoint(text: &str) -> Result<String, String> {
    check_endpoint(text)
        .map(|()| text.to_owned())
        .map_err(|problem| format!("must be an address, for example http://127.0.0.1:50051; {problem}"))
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
        assert_eq!(timeout("1s 500ms"), Ok(Duration::from_millis(1500)));
        assert!(timeout("1").is_err() && timeout("").is_err());
        assert_eq!(interval("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(interval("99ms"), Err("must be 100ms to 1h".to_owned()));
        assert_eq!(open_time("2days"), Err("must be 1ms to 1day".to_owned()));
        for text in ["0s", "31days", "9999999999999y", "99999999999999999999999s"] {
            assert_eq!(
                give_up_after(text),
                Err("must be 1ms to 30days".to_owned()),
                "{text}"
            );
        }
        assert!(give_up_after("soon").is_err_and(|error| error.starts_with("expected a time with a unit")));
        assert_eq!(timeout("0s"), Err("must be 1ms to 1day".to_owned()));
        assert_eq!(batch("8192"), Ok(8192));
        for text in ["0", "8193", "99999999"] {
            assert_eq!(batch(text), Err("must be 1 to 8192"), "{text}");
        }
        assert_eq!(comment(&"é".repeat(128)), Ok("é".repeat(128)));
        assert_eq!(
            comment(&"x".repeat(257)),
            Err("must be at most 256 bytes, has 257".to_owned())
        );
        assert_eq!(batch("many"), Err("must be a whole number"));
        assert!(socket_address("[::1]:1").is_ok() && socket_address("127.0.0.1").is_err());
    }
}
