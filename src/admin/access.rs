//! Decides what a caller may do on the operators' port.

use std::{
    borrow::Cow,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use axum::{
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::security::{Administrator, AuthFailure, Grant, NoToken, Role, Scope, Security, bearer_token};

/// A request that is refused, with the text of the answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) text: Cow<'static, str>,
}

// ===== impl Refusal =====

impl Refusal {
    pub(super) fn new(status: StatusCode, text: impl Into<Cow<'static, str>>) -> Self {
        let text = text.into();
        Refusal { status, text }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, self.text).into_response()
    }
}

/// Checks that the caller may make changes, and returns the caller for the audit event.
///
/// # Errors
/// The refusal.
pub(super) fn administrator(
    security: &Security,
    peer: SocketAddr,
    headers: &HeaderMap,
) -> Result<Administrator, Refusal> {
    let administrator = |principal| Administrator {
        peer: Some(peer),
        principal,
    };
    if !security.asks_for_tokens() {
        let from_afar = "without security.tokens_file, changes are accepted from this machine only\n";
        let foreign_host = "without security.tokens_file, changes are accepted only at an address such as http://127.0.0.1:9090 or http://localhost:9090\n";
        this_machine(peer, headers, from_afar, foreign_host)?;
        return Ok(administrator(None));
    }
    let grant = grant(security, headers)?;
    if grant.principal.role < Role::Admin {
        security.count_failure(AuthFailure::RoleTooLow);
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "the token's role is not admin\n",
        ));
    }
    if grant.principal.scope.prefix().is_some() {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "the token is for ids with a prefix only, and the request concerns the whole service\n",
        ));
    }
    Ok(administrator(Some(grant.principal)))
}

/// Checks that the caller may read the ledger, and returns what the caller may see. Every role may read.
///
/// # Errors
/// The refusal.
pub(super) fn reader(security: &Security, peer: SocketAddr, headers: &HeaderMap) -> Result<Scope, Refusal> {
    if security.asks_for_tokens() {
        return Ok(grant(security, headers)?.principal.scope);
    }
    // The gRPC port can ask for client certificates, and this port can't. So nobody reads the ledger through the network here.
    let from_afar = "without security.tokens_file, the ledger is shown on this machine only\n";
    let foreign_host = "without security.tokens_file, the ledger is shown only at an address such as http://127.0.0.1:9090 or http://localhost:9090\n";
    this_machine(peer, headers, from_afar, foreign_host)?;
    Ok(Scope::ALL)
}

/// Checks that the caller is on this machine, and asked for this machine.
///
/// # Errors
/// The refusal, with the text `from_afar` or `foreign_host`.
fn this_machine(
    peer: SocketAddr,
    headers: &HeaderMap,
    from_afar: &'static str,
    foreign_host: &'static str,
) -> Result<(), Refusal> {
    if !peer.ip().is_loopback() {
        return Err(Refusal::new(StatusCode::FORBIDDEN, from_afar));
    }
    if !names_this_machine(headers) {
        return Err(Refusal::new(StatusCode::FORBIDDEN, foreign_host));
    }
    Ok(())
}

/// Returns the grant of the request's token.
fn grant(security: &Security, headers: &HeaderMap) -> Result<Grant, Refusal> {
    let unauthorised = |text: &'static str| Refusal::new(StatusCode::UNAUTHORIZED, text);
    let token = bearer_token(headers).map_err(|why| match why {
        NoToken::Missing => {
            security.count_failure(AuthFailure::MissingToken);
            unauthorised("the request needs a bearer token\n")
        }
        NoToken::Repeated => {
            security.count_failure(AuthFailure::InvalidToken);
            unauthorised("the request has several headers authorization, it must have one\n")
        }
    })?;
    security.grant(token).ok_or_else(|| {
        security.count_failure(AuthFailure::InvalidToken);
        unauthorised("the bearer token is not valid\n")
    })
}

/// Whether the host of the request is an IP address or `localhost`. The owner of any other name can let the name point to this machine
/// after a browser on this machine has loaded a page from it. The page could then read the ledger, and change the log.
fn names_this_machine(headers: &HeaderMap) -> bool {
    // If a request has two such headers, a proxy and this port could choose different ones.
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let Ok(host) = host.to_str() else {
        return false;
    };
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<Ipv6Addr>().is_ok() => (None, port),
            Some(_) | None => return false,
        },
        None => match host.find(':') {
            Some(at) => {
                let (name, port) = host.split_at(at);
                (Some(name), port)
            }
            None => (Some(host), ""),
        },
    };
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let has_port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
    has_port
        && name.is_none_or(|name| name.eq_ignore_ascii_case("localhost") || name.parse::<Ipv4Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    /// Returns the answer to a read and to a change.
    fn read(peer: &str, host: Option<&'static str>) -> StatusCode {
        let mut headers = HeaderMap::new();
        if let Some(host) = host {
            headers.insert(header::HOST, HeaderValue::from_static(host));
        }
        let (security, peer) = (Security::default(), peer.parse().unwrap());
        let read = reader(&security, peer, &headers).map(|scope| assert_eq!(scope, Scope::ALL));
        let changed = administrator(&security, peer, &headers).map(|_| ());
        let status =
            |answer: Result<(), Refusal>| answer.map_or_else(|refusal| refusal.status, |()| StatusCode::OK);
        let statuses = [read, changed].map(status);
        assert_eq!(statuses[0], statuses[1], "{host:?}");
        statuses[0]
    }

    #[test]
    fn without_tokens_only_this_machine_reads_and_changes_and_only_under_its_own_address() {
        for host in [
            "127.0.0.1:9090",
            "localhost:9090",
            "LOCALHOST",
            "[::1]:9090",
            "10.0.0.7",
        ] {
            assert_eq!(read("127.0.0.1:5000", Some(host)), StatusCode::OK, "{host}");
        }
        assert_eq!(read("[::1]:5000", Some("localhost:9090")), StatusCode::OK);
        for host in [
            "evil.example",
            "evil.example:9090",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "user@evil.example",
            "user@127.0.0.1",
            "127.0.0.1:",
            "127.0.0.1:+80",
            "127.0.0.1:65536",
            "127.0.0.1:80:80",
            "localhost:port",
            "localhost ",
            "localhost/",
            "127.0.0.1, evil.example",
            "[::1",
            "[::1]9090",
            "[127.0.0.1]",
            "::1",
            "",
        ] {
            assert_eq!(
                read("127.0.0.1:5000", Some(host)),
                StatusCode::FORBIDDEN,
                "{host}"
            );
        }
        assert_eq!(read("127.0.0.1:5000", None), StatusCode::FORBIDDEN);
        let mut twice = HeaderMap::new();
        for _ in 0..2 {
            twice.append(header::HOST, HeaderValue::from_static("localhost:9090"));
        }
        let refused = reader(&Security::default(), "127.0.0.1:5000".parse().unwrap(), &twice);
        assert_eq!(refused.unwrap_err().status, StatusCode::FORBIDDEN);
        assert_eq!(
            read("10.0.0.7:5000", Some("localhost:9090")),
            StatusCode::FORBIDDEN
        );
    }
}
