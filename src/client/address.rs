//! The addresses of services.

use http::Uri;

/// Checks that `endpoint` is an address, before a connection is opened.
///
/// # Errors
/// What is wrong with the endpoint, in words.
pub fn check_endpoint(endpoint: &str) -> Result<(), &'static str> {
    address(endpoint).map(drop)
}

/// Parses an endpoint. Returns a problem in words if the endpoint is not an address.
pub(super) fn address(endpoint: &str) -> Result<Uri, &'static str> {
    let has_scheme = endpoint.contains("://");
    let text = if has_scheme {
        endpoint.to_owned()
    } else {
        format!("http://{endpoint}")
    };
    let uri: Uri = text.parse().map_err(|_| "the text is not an address")?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err("the scheme must be http or https");
    }
    let authority = uri.authority().ok_or("the host is missing")?;
    if authority.as_str().contains('@') {
        return Err("a user name and a password are not accepted, a token is passed with --token-file");
    }
    if authority.host().is_empty() {
        return Err("the host is missing");
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err("the address must end after the port, without a path");
    }
    let has_port = !authority.as_str().ends_with(authority.host());
    match authority.port_u16() {
        Some(1..) => Ok(uri),
        Some(0) => Err("the port must be 1 to 65535"),
        None if has_port => Err("the port must be 1 to 65535"),
        // Without a scheme, an address must have a port. Otherwise any word would be accepted as an address.
        None if !has_scheme => Err("the port is missing"),
        None => Ok(uri),
    }
}

/// Returns whether `endpoint` has TLS.
pub(super) fn is_secure(endpoint: &str) -> bool {
    endpoint
        .get(..8)
        .is_some_and(|start| start.eq_ignore_ascii_case("https://"))
}

/// Returns whether `one` and `other` are the same address. The case of the host, a missing scheme, a missing port and a slash at the
/// end make no difference.
pub(super) fn is_same(one: &str, other: &str) -> bool {
    let parts = |text: &str| {
        let uri = address(text).ok()?;
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Some((secure, uri.host()?.to_ascii_lowercase(), port))
    };
    parts(one).is_some_and(|one| Some(one) == parts(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_endpoint_is_described() {
        for (endpoint, problem) in [
            ("nowhere", "the port is missing"),
            ("http://127.0.0.1:99999", "the port must be 1 to 65535"),
            ("127.0.0.1:0", "the port must be 1 to 65535"),
            ("http://127.0.0.1:", "the port must be 1 to 65535"),
            ("ftp://127.0.0.1:1", "the scheme must be http or https"),
            ("http://", "the text is not an address"),
            ("a b:1", "the text is not an address"),
            (
                "http://user:secret@host:1",
                "a user name and a password are not accepted, a token is passed with --token-file",
            ),
            (
                "user:secret@host:1",
                "a user name and a password are not accepted, a token is passed with --token-file",
            ),
            (
                "http://host:1/tally",
                "the address must end after the port, without a path",
            ),
            (
                "host:1?x=y",
                "the address must end after the port, without a path",
            ),
        ] {
            assert_eq!(address(endpoint), Err(problem), "{endpoint}");
        }
        for endpoint in [
            "http://host",
            "host:1",
            "host:1/",
            "https://[::1]:50051",
            "http://[::1]",
        ] {
            assert!(address(endpoint).is_ok(), "{endpoint}");
        }
    }

    #[test]
    fn the_same_address_can_be_written_differently() {
        for (one, other, same) in [
            ("http://a:1", "http://a:1", true),
            ("http://a:1", "a:1", true),
            ("http://A:1/", "http://a:1", true),
            ("http://a", "a:80", true),
            ("https://a", "https://a:443", true),
            ("https://a:1", "http://a:1", false),
            ("http://a:1", "http://a:2", false),
            ("http://a:1", "http://b:1", false),
            ("nonsense", "nonsense", false),
        ] {
            assert_eq!(is_same(one, other), same, "{one} {other}");
        }
    }
}
