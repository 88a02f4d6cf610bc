//! The bearer token of a request.

use http::{HeaderMap, header::AUTHORIZATION};

/// The authentication scheme in the header, in lower case. Upper and lower case are equal (RFC 9110, 11.1).
const BEARER: &[u8] = b"bearer ";

/// Returns the bearer token in the header `authorization`; `None` if it is missing or empty.
#[must_use]
pub fn bearer_token(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, token) = headers
        .get(AUTHORIZATION)?
        .as_bytes()
        .split_at_checked(BEARER.len())?;
    (scheme.eq_ignore_ascii_case(BEARER) && !token.is_empty()).then_some(token)
}
