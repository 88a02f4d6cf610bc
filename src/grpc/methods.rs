//! The table of methods: the path of each, who may call it, and which code answers it.
//!
//! One lookup in this table decides both who may call and what is called. Two parsers of the path once decided that,
//! and they disagreed on `/tally.v1.TransactionService/Get/ProcessTransaction`: one saw a call that reads, the other a
//! call that moves money.

use http::{Method as HttpMethod, Request};

use crate::security::Role;

/// Who may call a method, if the service asks for tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Everybody, also without a token.
    Nothing,
    /// A caller whose token has this role or a higher one.
    Role(Role),
}

/// The methods of `AccountService`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AccountCall {
    /// `CreateAccount`.
    Create,
    /// `BatchCreateAccounts`.
    BatchCreate,
    /// `GetAccount`.
    Get,
    /// `ListAccounts`.
    List,
}

/// Which code answers a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handler {
    /// `TransactionService`, the hot path.
    ProcessTransaction,
    /// `TransactionService`.
    ProcessTransactions,
    /// `TransactionService`.
    StreamTransactions,
    /// `TransactionService`.
    GetTransaction,
    /// `AccountService`.
    Accounts(AccountCall),
    /// tonic's router. The call has one answer.
    Unary,
    /// tonic's router. The call has any number of answers, until one side ends it.
    Stream,
    /// As [`Handler::Stream`], with a limit on the number of calls.
    HealthWatch,
}

/// A method that the service answers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Method {
    /// `/package.Service/Method`, as it is on the wire.
    pub(crate) path: &'static str,
    pub(crate) need: Need,
    pub(crate) handler: Handler,
}

const READ: Need = Need::Role(Role::Read);
const WRITE: Need = Need::Role(Role::Write);
const ADMIN: Need = Need::Role(Role::Admin);

/// All methods. A lookup searches in this order, so the most frequent method is first.
const METHODS: [Method; 17] = [
    method(
        "/tally.v1.TransactionService/ProcessTransaction",
        WRITE,
        Handler::ProcessTransaction,
    ),
    method(
        "/tally.v1.TransactionService/ProcessTransactions",
        WRITE,
        Handler::ProcessTransactions,
    ),
    method(
        "/tally.v1.TransactionService/StreamTransactions",
        WRITE,
        Handler::StreamTransactions,
    ),
    method(
        "/tally.v1.TransactionService/GetTransaction",
        READ,
        Handler::GetTransaction,
    ),
    method(
        "/tally.v1.AccountService/GetAccount",
        READ,
        Handler::Accounts(AccountCall::Get),
    ),
    method(
        "/tally.v1.AccountService/ListAccounts",
        READ,
        Handler::Accounts(AccountCall::List),
    ),
    method(
        "/tally.v1.AccountService/CreateAccount",
        WRITE,
        Handler::Accounts(AccountCall::Create),
    ),
    method(
        "/tally.v1.AccountService/BatchCreateAccounts",
        WRITE,
        Handler::Accounts(AccountCall::BatchCreate),
    ),
    method("/tally.v1.EngineService/GetCircuitStats", READ, Handler::Unary),
    method("/tally.v1.EngineService/WatchCircuitStats", READ, Handler::Stream),
    method("/tally.v1.EngineService/GetTopology", READ, Handler::Unary),
    method("/tally.v1.EngineService/GetBatchStats", READ, Handler::Unary),
    method("/tally.v1.EngineService/SetCircuitMode", ADMIN, Handler::Unary),
    // The health of the service is not a secret, and probes have no token.
    method("/grpc.health.v1.Health/Check", Need::Nothing, Handler::Unary),
    // A watcher holds memory as long as it wants, so it needs a token.
    method("/grpc.health.v1.Health/Watch", READ, Handler::HealthWatch),
    method(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        READ,
        Handler::Stream,
    ),
    method(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        READ,
        Handler::Stream,
    ),
];

const fn method(path: &'static str, need: Need, handler: Handler) -> Method {
    Method { path, need, handler }
}

/// Returns the method that a request calls. `None` if the request is not a POST to exactly one of the paths of the table,
/// byte for byte: no other segment, slash, case, percent-encoding or query.
pub(crate) fn find<B>(request: &Request<B>) -> Option<&'static Method> {
    const TABLE: &[Method] = &METHODS;
    if request.method() != HttpMethod::POST {
        return None;
    }
    let path = request.uri().path_and_query()?.as_str();
    TABLE.iter().find(|method| method.path == path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost_reflect::DescriptorPool;

    use super::*;

    /// The path of every method of every service, and whether its answers are a stream.
    fn served() -> BTreeMap<String, bool> {
        let mut pool = DescriptorPool::decode(crate::proto::FILE_DESCRIPTOR_SET).unwrap();
        for set in [
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ] {
            pool.decode_file_descriptor_set(set).unwrap();
        }
        let of_service = |service: prost_reflect::ServiceDescriptor| {
            let paths = service.methods().map(|method| {
                let path = format!("/{}/{}", service.full_name(), method.name());
                (path, method.is_server_streaming())
            });
            paths.collect::<Vec<_>>()
        };
        pool.services().flat_map(of_service).collect()
    }

    #[test]
    fn every_method_that_is_served_has_an_entry_and_every_entry_a_method() {
        let entries = METHODS.iter().map(|method| {
            let streams = matches!(
                method.handler,
                Handler::StreamTransactions | Handler::Stream | Handler::HealthWatch
            );
            (method.path.to_owned(), streams)
        });
        // If they differ, a new method has no role, or a stream would not end when its token is revoked.
        assert_eq!(served(), entries.collect::<BTreeMap<_, _>>());
        assert_eq!(served().len(), METHODS.len(), "a path has two entries");
    }

    #[test]
    fn a_method_that_does_not_read_by_its_name_needs_more_than_a_read_token() {
        for method in &METHODS {
            let (service, name) = method.path[1..].split_once('/').unwrap();
            let reads = ["Get", "List", "Watch"].iter().any(|word| name.starts_with(word))
                || ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"].contains(&service)
                || service == "grpc.reflection.v1alpha.ServerReflection";
            let expected = match service {
                _ if name == "Check" => Need::Nothing,
                _ if reads => READ,
                "tally.v1.EngineService" => ADMIN,
                _ => WRITE,
            };
            assert_eq!(method.need, expected, "{}", method.path);
        }
    }

    #[test]
    fn only_the_exact_path_is_a_method() {
        let find = |http_method: &str, path: &str| {
            let request = Request::builder().method(http_method).uri(path).body(()).unwrap();
            find(&request).map(|method| method.path)
        };
        for method in &METHODS {
            let path = method.path;
            assert_eq!(find("POST", path), Some(path));
            assert_eq!(find("POST", &format!("http://localhost:1{path}")), Some(path));
            let (service, name) = path[1..].split_once('/').unwrap();
            for odd in [
                format!("/{service}/Get/{name}"),
                format!("/{service}/List/{name}"),
                format!("/{service}//{name}"),
                format!("//{service}/{name}"),
                format!("{path}/"),
                format!("{path}?"),
                format!("{path}?x=1"),
                format!("/{service}/{}", name.to_lowercase()),
                format!("/{}/{name}", service.to_uppercase()),
                format!("/{service}/%{:02x}{}", name.as_bytes()[0], &name[1..]),
                format!("/{service}%2f{name}"),
                format!("/x{path}"),
                format!("/{service}"),
                "/".to_owned(),
            ] {
                assert_eq!(find("POST", &odd), None, "{odd}");
            }
            for other in ["GET", "PUT", "HEAD", "OPTIONS", "post", "CONNECTED"] {
                assert_eq!(find(other, path), None, "{other}");
            }
        }
    }
}
