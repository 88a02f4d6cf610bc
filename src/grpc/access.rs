//! Who may call what: bearer tokens and the roles that calls need.

use std::sync::Arc;

use http::HeaderMap;
use tonic::Status;

use super::status;
use crate::security::{Principal, Role, Security, bearer_token};

/// Looks at the token of a call.
#[derive(Debug, Clone)]
pub(super) struct Access(Arc<Security>);

/// Calls that anybody may make: whether the service is up is no secret.
const HEALTH: &str = "/grpc.health.v1.Health/";

// ===== impl Access =====

impl Access {
    pub(super) const fn new(security: Arc<Security>) -> Self {
        Access(security)
    }

    /// Who calls; `None` if nobody is asked.
    ///
    /// # Errors
    /// UNAUTHENTICATED without a valid token, PERMISSION_DENIED with one that does not allow the call.
    pub(super) fn check(&self, path: &str, headers: &HeaderMap) -> Result<Option<Principal>, Status> {
        if !self.0.asks_for_tokens() || path.starts_with(HEALTH) {
            return Ok(None);
        }
        let Some(token) = bearer_token(headers) else {
            return Err(status::unauthenticated("authorization: a bearer token is needed"));
        };
        let Some(principal) = self.0.principal(token) else {
            return Err(status::unauthenticated("authorization: the token is not valid"));
        };
        let needed = needed(path);
        if principal.role < needed {
            return Err(status::forbidden(principal.role.as_str(), needed.as_str()));
        }
        Ok(Some(principal))
    }
}

/// The role that a call needs. What is not known is answered by the router, but not told to strangers.
fn needed(path: &str) -> Role {
    let Some((service, method)) = path.trim_start_matches('/').split_once('/') else {
        return Role::Read;
    };
    let reads = method.starts_with("Get") || method.starts_with("List") || method.starts_with("Watch");
    match service {
        "tally.v1.EngineService" if !reads => Role::Admin,
        "tally.v1.TransactionService" | "tally.v1.AccountService" if !reads => Role::Write,
        _ => Role::Read,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_of_the_api_needs_the_role_that_it_should() {
        let pool = prost_reflect::DescriptorPool::decode(crate::proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut seen = Vec::new();
        for service in pool
            .services()
            .filter(|service| service.package_name() == "tally.v1")
        {
            for method in service.methods() {
                let path = format!("/{}/{}", service.full_name(), method.name());
                seen.push((method.name().to_owned(), needed(&path)));
            }
        }
        seen.sort();
        let reads = seen.iter().filter(|(_, role)| *role == Role::Read);
        for (name, _) in reads {
            assert!(
                ["Get", "List", "Watch"].iter().any(|word| name.starts_with(word)),
                "{name}"
            );
        }
        let of = |name: &str| {
            seen.iter()
                .find(|(method, _)| method == name)
                .map(|(_, role)| *role)
        };
        for (name, role) in [
            ("ProcessTransaction", Role::Write),
            ("ProcessTransactions", Role::Write),
            ("StreamTransactions", Role::Write),
            ("CreateAccount", Role::Write),
            ("BatchCreateAccounts", Role::Write),
            ("GetTransaction", Role::Read),
            ("ListAccounts", Role::Read),
            ("GetTopology", Role::Read),
            ("WatchCircuitStats", Role::Read),
            ("SetCircuitMode", Role::Admin),
        ] {
            assert_eq!(of(name), Some(role), "{name}");
        }
    }
}
