//! Authorisation: checks the bearer token of a call, and whether the token's role allows the method.

use http::Request;
use tonic::Status;

use super::{
    methods::{self, Method},
    status,
};
use crate::security::{AuthFailure, Grant, NoToken, Security, bearer_token};

/// The proof that a call is authorised. Only [`check`] makes this value, and the dispatch of a call needs it.
#[derive(Debug)]
pub(crate) struct Authorised {
    pub(crate) method: &'static Method,
    /// The grant of the call's token. `None` if the service asks for no tokens, or if the method needs no token.
    pub(crate) grant: Option<Grant>,
}

/// Finds the method of a request, and checks that the caller may call it.
///
/// # Errors
/// UNAUTHENTICATED without a valid token, PERMISSION_DENIED if the token's role is too low, UNIMPLEMENTED for an unknown
/// method. A caller without a valid token gets UNAUTHENTICATED also for an unknown method, so that the caller does not
/// learn which methods exist.
pub(crate) fn check<B>(security: &Security, request: &Request<B>) -> Result<Authorised, Status> {
    let method = methods::find(request);
    let needs_token = security.asks_for_tokens() && method.is_none_or(|method| method.needed_role.is_some());
    let grant = needs_token.then(|| grant(security, request)).transpose()?;
    let method = method.ok_or_else(status::unknown_method)?;
    if let Some(grant) = &grant {
        check_role(method, grant).inspect_err(|_| security.count_failure(AuthFailure::RoleTooLow))?;
    }
    Ok(Authorised { method, grant })
}

/// Returns the grant of the request's token.
fn grant<B>(security: &Security, request: &Request<B>) -> Result<Grant, Status> {
    let token = bearer_token(request.headers()).map_err(|why| match why {
        NoToken::Missing => {
            security.count_failure(AuthFailure::MissingToken);
            status::unauthenticated("authorization: the call needs a bearer token")
        }
        NoToken::Repeated => {
            security.count_failure(AuthFailure::InvalidToken);
            status::unauthenticated("authorization: the call has several of this header, it must have one")
        }
    })?;
    security.grant(token).ok_or_else(|| {
        security.count_failure(AuthFailure::InvalidToken);
        status::unauthenticated("authorization: the token is not valid")
    })
}

/// Checks that the role of `grant` is high enough for `method`, and that a token for ids with a prefix calls no method that shows
/// or changes the whole service.
///
/// # Errors
/// PERMISSION_DENIED if not.
pub(crate) fn check_role(method: &Method, grant: &Grant) -> Result<(), Status> {
    let role = grant.principal.role;
    match method.needed_role {
        Some(needed) if role < needed => Err(status::forbidden(role.as_str(), needed.as_str())),
        Some(_) if method.concerns_whole_service() => match grant.principal.scope.prefix() {
            Some(prefix) => Err(status::restricted_token(prefix)),
            None => Ok(()),
        },
        Some(_) | None => Ok(()),
    }
}
