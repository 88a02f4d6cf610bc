//! The table of methods: the path of each method, who may call the method, and which code answers the call.
//!
//! One lookup in this table decides both who may call and which code runs. In an earlier version two parsers of the
//! path decided this, and they disagreed on `/tally.v1.TransactionService/Get/ProcessTransaction`: one parser saw a
//! call that reads, the other parser a call that moves money.

use http::{Method as HttpMethod, Request};

use crate::security::Role;

/// The methods of `AccountService`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AccountCall {
    /// `CreateAccount`.
    Create,
    /// `BatchCreateAccounts`.
    BatchCreate,
    /// `UpdateAccount`.
    Update,
    /// `GetAccount`.
    Get,
    /// `ListAccounts`.
    List,
    /// `ListAccountEntries`.
    ListEntries,
    /// `ListHolds`.
    ListHolds,
}

/// Which code answers a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handler {
    /// The function of this name in `TransactionService`. This method is the hot path.
    ProcessTransaction,
    /// The function of this name in `TransactionService`.
    ProcessTransactions,
    /// The function of this name in `TransactionService`.
    StreamTransactions,
    /// The function of this name in `TransactionService`.
    GetTransaction,
    /// `history::list_transactions`.
    ListTransactions,
    /// `history::watch`. The call has any number of answers, until the client or the service ends the call.
    WatchTransactions,
    /// `history::chain_head`.
    GetChainHead,
    /// `AccountService::call`.
    Accounts(AccountCall),
    /// tonic's router. The call has one answer.
    Unary,
    /// tonic's router. The call has any number of answers, until the client or the service ends the call.
    Stream,
    /// tonic's router. The same as [`Handler::Stream`], but the number of open calls is limited.
    HealthWatch,
}

/// A method that the service answers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Method {
    /// The path of a call in HTTP/2: `/package.Service/Method`.
    pub(crate) path: &'static str,
    /// The lowest role that the caller's token must have, if the service asks for tokens. `None`: the call needs no
    /// token.
    pub(crate) needed_role: Option<Role>,
    pub(crate) handler: Handler,
}

const EVERYBODY: Option<Role> = None;
const READ: Option<Role> = Some(Role::Read);
const WRITE: Option<Role> = Some(Role::Write);
const ADMIN: Option<Role> = Some(Role::Admin);

/// All methods. A lookup searches in this order, so the most frequent method is first.
#[rustfmt::skip] // One line for each method.
static METHODS: [Method; 27] = [
    method("/tally.v1.TransactionService/ProcessTransaction", WRITE, Handler::ProcessTransaction),
    method("/tally.v1.TransactionService/ProcessTransactions", WRITE, Handler::ProcessTransactions),
    method("/tally.v1.TransactionService/StreamTransactions", WRITE, Handler::StreamTransactions),
    method("/tally.v1.TransactionService/GetTransaction", READ, Handler::GetTransaction),
    method("/tally.v1.TransactionService/ListTransactions", READ, Handler::ListTransactions),
    method("/tally.v1.TransactionService/WatchTransactions", READ, Handler::WatchTransactions),
    method("/tally.v1.TransactionService/GetChainHead", READ, Handler::GetChainHead),
    method("/tally.v1.AccountService/GetAccount", READ, Handler::Accounts(AccountCall::Get)),
    method("/tally.v1.AccountService/ListAccounts", READ, Handler::Accounts(AccountCall::List)),
    method("/tally.v1.AccountService/CreateAccount", WRITE, Handler::Accounts(AccountCall::Create)),
    method("/tally.v1.AccountService/BatchCreateAccounts", WRITE, Handler::Accounts(AccountCall::BatchCreate)),
    method("/tally.v1.AccountService/UpdateAccount", WRITE, Handler::Accounts(AccountCall::Update)),
    method("/tally.v1.AccountService/ListAccountEntries", READ, Handler::Accounts(AccountCall::ListEntries)),
    method("/tally.v1.AccountService/ListHolds", READ, Handler::Accounts(AccountCall::ListHolds)),
    method("/tally.v1.EngineService/GetCircuitStats", READ, Handler::Unary),
    method("/tally.v1.EngineService/WatchCircuitStats", READ, Handler::Stream),
    method("/tally.v1.EngineService/GetTopology", READ, Handler::Unary),
    method("/tally.v1.EngineService/GetBatchStats", READ, Handler::Unary),
    method("/tally.v1.EngineService/GetClock", READ, Handler::Unary),
    method("/tally.v1.EngineService/GetReplicaState", READ, Handler::Unary),
    method("/tally.v1.EngineService/ResignLeadership", ADMIN, Handler::Unary),
    method("/tally.v1.EngineService/SetCircuitMode", ADMIN, Handler::Unary),
    method("/tally.v1.EngineService/ConfirmClock", ADMIN, Handler::Unary),
    // The health of the service is not a secret, and health checks have no token.
    method("/grpc.health.v1.Health/Check", EVERYBODY, Handler::Unary),
    // A watcher decides how long its call holds memory, so the call needs a token.
    method("/grpc.health.v1.Health/Watch", READ, Handler::HealthWatch),
    method("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", READ, Handler::Stream),
    method("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", READ, Handler::Stream),
];

impl Method {
    /// Whether only the leader of a replicated store answers the method. The other methods concern this process.
    pub(crate) const fn is_answered_by_leader(&self) -> bool {
        !matches!(
            self.handler,
            Handler::Unary | Handler::Stream | Handler::HealthWatch
        )
    }

    /// Whether the method only reads.
    pub(crate) fn only_reads(&self) -> bool {
        self.needed_role == READ
    }

    /// Whether the method shows or changes the service as a whole, and not single accounts and transactions.
    pub(crate) fn concerns_whole_service(&self) -> bool {
        self.path.starts_with("/tally.v1.EngineService/")
    }
}

const fn method(path: &'static str, needed_role: Option<Role>, handler: Handler) -> Method {
    Method {
        path,
        needed_role,
        handler,
    }
}

/// Returns the method that a request calls. Returns `None` if the request is not a POST, or if its path differs by a
/// byte from every path of the table: by a segment, a slash, upper or lower case, percent-encoding or a query.
pub(crate) fn find<B>(request: &Request<B>) -> Option<&'static Method> {
    if request.method() != HttpMethod::POST {
        return None;
    }
    let path = request.uri().path_and_query()?.as_str();
    METHODS.iter().find(|method| method.path == path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost_reflect::DescriptorPool;

    use super::*;

    /// Returns the path of every method in the compiled descriptors, and whether the method answers with a stream.
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
    fn every_method_has_one_entry_and_every_entry_a_method() {
        let entries = METHODS.iter().map(|method| {
            let streams = matches!(
                method.handler,
                Handler::StreamTransactions
                    | Handler::WatchTransactions
                    | Handler::Stream
                    | Handler::HealthWatch
            );
            (method.path.to_owned(), streams)
        });
        // If they differ, a method cannot be called, or a stream would not end when its token is revoked.
        assert_eq!(served(), entries.collect::<BTreeMap<_, _>>());
        assert_eq!(served().len(), METHODS.len(), "a path has two entries");
    }

    #[test]
    fn a_method_needs_more_than_the_read_role_unless_its_name_begins_with_get_list_or_watch() {
        for method in &METHODS {
            let (service, name) = method.path[1..].split_once('/').unwrap();
            let reads = ["Get", "List", "Watch"].iter().any(|word| name.starts_with(word))
                || ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"].contains(&service)
                || service == "grpc.reflection.v1alpha.ServerReflection";
            let expected = match service {
                _ if name == "Check" => EVERYBODY,
                _ if reads => READ,
                "tally.v1.EngineService" => ADMIN,
                _ => WRITE,
            };
            assert_eq!(method.needed_role, expected, "{}", method.path);
        }
    }

    #[test]
    fn only_the_exact_path_finds_a_method() {
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
