//! Who may call what: bearer tokens, and the roles that methods need.

use std::sync::Arc;

use http::Request;
use tonic::Status;

use super::{
    methods::{self, Method, Need},
    status,
};
use crate::security::{Grant, Security, bearer_token};

/// Looks at the token of a call.
#[derive(Debug, Clone)]
pub(crate) struct Access(Arc<Security>);

/// A call that may be made. There is no other way to a [`Method`], so nothing is dispatched that was not authorised.
#[derive(Debug)]
pub(crate) struct Authorised {
    pub(crate) method: &'static Method,
    /// Whose token it is; `None` if none is asked for.
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

    /// Returns what the request calls, if its caller may.
    ///
    /// # Errors
    /// UNAUTHENTICATED without a valid token, PERMISSION_DENIED with one that does not allow the call, UNIMPLEMENTED if
    /// there is no such method. Strangers do not learn which methods there are: they get UNAUTHENTICATED in any case.
    pub(crate) fn check<B>(&self, request: &Request<B>) -> Result<Authorised, Status> {
        let method = methods::find(request);
        let open = method.filter(|method| method.need == Need::Nothing || !self.0.asks_for_tokens());
        if let Some(method) = open {
            return Ok(Authorised { method, grant: None });
        }
        let grant = self.grant(request)?;
        let method = method.ok_or_else(status::unknown_method)?;
        if let Some(grant) = &grant {
            refuse_role(method, grant)?;
        }
        Ok(Authorised { method, grant })
    }

    /// Whose token the request has; `None` if none is asked for.
    fn grant<B>(&self, request: &Request<B>) -> Result<Option<Grant>, Status> {
        if !self.0.asks_for_tokens() {
            return Ok(None);
        }
        let Some(token) = bearer_token(request.headers()) else {
            return Err(status::unauthenticated("authorization: a bearer token is needed"));
        };
        match self.0.grant(token) {
            None => Err(status::unauthenticated("authorization: the token is not valid")),
            grant => Ok(grant),
        }
    }
}

/// Refuses a role that is too low for a method.
///
/// # Errors
/// PERMISSION_DENIED.
pub(crate) fn refuse_role(method: &Method, grant: &Grant) -> Result<(), Status> {
    match method.need {
        Need::Role(needed) if grant.principal.role < needed => {
            Err(status::forbidden(grant.principal.role.as_str(), needed.as_str()))
        }
        Need::Role(_) | Need::Nothing => Ok(()),
    }
}
