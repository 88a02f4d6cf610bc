//! Authorisation: bearer tokens, and the roles that methods need.

use std::sync::Arc;

use http::Request;
use tonic::Status;

use super::{
    methods::{self, Method, Need},
    status,
};
use crate::security::{AuthFailure, Grant, Security, bearer_token};

/// Checks the token of a call.
#[derive(Debug, Clone)]
pub(crate) struct Access(Arc<Security>);

/// An authorised call. Only [`Access::check`] makes one, so no call is dispatched without authorisation.
#[derive(Debug)]
pub(crate) struct Authorised {
    pub(crate) method: &'static Method,
    /// The grant of its token; `None` if the service asks for no tokens.
    pub(crate) grant: Option<Grant>,
}

// ===== impl Access =====

impl Access {
    pub(crate) const fn new(security: Arc<Security>) -> Self {
        Access(security)
    }

    pub(crate) const fn security(&self) -> &Arc<Security> {
        &self.0
    }

    /// Finds the method of a request, and checks that the caller may call it.
    ///
    /// # Errors
    /// UNAUTHENTICATED without a valid token, PERMISSION_DENIED if the token's role is too low, UNIMPLEMENTED for an
    /// unknown method. A caller without a token always gets UNAUTHENTICATED, so that it does not learn which methods
    /// exist.
    pub(crate) fn check<B>(&self, request: &Request<B>) -> Result<Authorised, Status> {
        let method = methods::find(request);
        let open = method.filter(|method| method.need == Need::Nothing || !self.0.asks_for_tokens());
        if let Some(method) = open {
            return Ok(Authorised { method, grant: None });
        }
        let grant = self.grant(request)?;
        let method = method.ok_or_else(status::unknown_method)?;
        if let Some(grant) = &grant {
            refuse_role(method, grant).inspect_err(|_| self.0.count_failure(AuthFailure::RoleTooLow))?;
        }
        Ok(Authorised { method, grant })
    }

    /// Returns the grant of the request's token; `None` if the service asks for no tokens.
    fn grant<B>(&self, request: &Request<B>) -> Result<Option<Grant>, Status> {
        if !self.0.asks_for_tokens() {
            return Ok(None);
        }
        let Some(token) = bearer_token(request.headers()) else {
            self.0.count_failure(AuthFailure::MissingToken);
            return Err(status::unauthenticated(
                "authorization: the call needs a bearer token",
            ));
        };
        match self.0.grant(token) {
            None => {
                self.0.count_failure(AuthFailure::InvalidToken);
                Err(status::unauthenticated("authorization: the token is not valid"))
            }
            grant => Ok(grant),
        }
    }
}

/// Checks that the role of `grant` is high enough for `method`.
///
/// # Errors
/// PERMISSION_DENIED if it is not.
pub(crate) fn refuse_role(method: &Method, grant: &Grant) -> Result<(), Status> {
    match method.need {
        Need::Role(needed) if grant.principal.role < needed => {
            Err(status::forbidden(grant.principal.role.as_str(), needed.as_str()))
        }
        Need::Role(_) | Need::Nothing => Ok(()),
    }
}
