//! The token of a request.

use http::{HeaderMap, header::AUTHORIZATION};

/// The scheme of the header, which is compared without regard to case (RFC 9110, 11.1).
const BEARER: &[u8] = b"bearer ";

/// The bearer token in `authorization`, if there is one that is not empty.
#[must_use]
pub fn bearer_token(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, token) = headers
        .get(AUTHORIZATION)?
        .as_bytes()
        .split_at_checked(BEARER.len())?;
    (scheme.eq_ignore_ascii_case(BEARER) && !token.is_empty()).then_some(token)
}
