//! Finds the bearer token in the headers of a request.

use http::{HeaderMap, header::AUTHORIZATION};

/// The authentication scheme in the header, in lower case. The case of the scheme does not matter (RFC 9110, 11.1).
const BEARER: &[u8] = b"bearer ";

/// Returns the bearer token in the header `authorization`; `None` if the header has no bearer token, or the token is
/// empty.
#[must_use]
pub fn bearer_token(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, token) = headers
        .get(AUTHORIZATION)?
        .as_bytes()
        .split_at_checked(BEARER.len())?;
    (scheme.eq_ignore_ascii_case(BEARER) && !token.is_empty()).then_some(token)
}
