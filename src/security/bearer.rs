//! The bearer token of a request.

use http::{HeaderMap, header::AUTHORIZATION};

/// The scheme of the header. Its case does not matter (RFC 9110, 11.1).
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
