//! Finds the bearer token in the headers of a request.

use http::{HeaderMap, header::AUTHORIZATION};

/// Why a request has no bearer token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoToken {
    /// There is no header `authorization`, or it has another scheme, or its token is empty.
    Missing,
    /// There are several headers `authorization`. A proxy in front of the service could check another one than the service.
    Repeated,
}

/// The authentication scheme in the header, in lower case. The case of the scheme does not matter (RFC 9110, 11.1).
const BEARER: &[u8] = b"bearer ";

/// Returns the bearer token in the header `authorization`.
///
/// # Errors
/// [`NoToken`].
pub fn bearer_token(headers: &HeaderMap) -> Result<&[u8], NoToken> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        let is_repeated = headers.contains_key(AUTHORIZATION);
        return Err(if is_repeated {
            NoToken::Repeated
        } else {
            NoToken::Missing
        });
    };
    match value.as_bytes().split_at_checked(BEARER.len()) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(BEARER) && !token.is_empty() => Ok(token),
        Some(_) | None => Err(NoToken::Missing),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_request_has_exactly_one_token() {
        let found = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, HeaderValue::from_static(value));
            }
            bearer_token(&headers).map(<[u8]>::to_vec)
        };
        assert_eq!(found(&["Bearer t"]), Ok(b"t".to_vec()));
        assert_eq!(found(&["bEARER t"]), Ok(b"t".to_vec()));
        for values in [&[][..], &[""], &["Bearer "], &["Basic t"], &["t"]] {
            assert_eq!(found(values), Err(NoToken::Missing), "{values:?}");
        }
        for values in [
            ["Bearer t", "Bearer t"],
            ["Bearer t", "Bearer other"],
            ["Basic t", "Bearer t"],
        ] {
            assert_eq!(found(&values), Err(NoToken::Repeated), "{values:?}");
        }
    }
}
