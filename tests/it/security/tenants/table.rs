//! One table of every method, with every role, for own and foreign ids. The methods come from the descriptors, so the test fails if a new
//! method has no row.

use std::collections::BTreeSet;

use http::{Method, StatusCode};
use prost::Message;
use prost_reflect::DescriptorPool;
use prost_types::FieldMask;
use tally::proto::{
    AccountStatus, BatchCreateAccountsRequest, ConfirmClockRequest, CreateAccountRequest, GetAccountRequest,
    GetTransactionRequest, ListAccountEntriesRequest, ListAccountsRequest, ListHoldsRequest,
    ListTransactionsRequest, ProcessTransactionsRequest, SetCircuitModeRequest, StreamTransactionsRequest,
    UpdateAccountRequest, WatchTransactionsRequest, set_circuit_mode_request::Change,
};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_request::MessageRequest};

use super::{
    CREATE_ACCOUNT, CREATE_ACCOUNTS, GET_ACCOUNT, GET_TRANSACTION, LIST_ACCOUNTS, LIST_ENTRIES, LIST_HOLDS,
    LIST_TRANSACTIONS, PROCESS_MANY, PROCESS_ONE, STREAM, Seen, Tenants, UPDATE_ACCOUNT, WATCH_TRANSACTIONS,
};
use crate::support::{
    in_process::{account, transaction, transfer},
    operators::{ask, get},
};

/// The answer of each method to each caller. The first column is a call without a token. The next columns are the roles of a token for all
/// ids, of a token with the prefix `acme/` in a request with ids of `acme/`, and of the same token in a request with ids of `beta/`.
///
/// - `ok`: the call succeeds.
/// - `token`: UNAUTHENTICATED.
/// - `role`: FORBIDDEN, because the role is too low.
/// - `whole`: FORBIDDEN, because the method concerns the whole service.
/// - `id`: FORBIDDEN, because a field names a foreign id; the answer is the same whether or not this id exists.
/// - `embedded`: NOT_REPLICATED, because the service of the test has no replicas.
/// - `none`: the same answer as for an own id that does not exist.
/// - `-`: the request has no id.
const TABLE: &str = "
METHOD                                                          NO TOKEN | ALL IDS: READ WRITE ADMIN | OWN IDS    | FOREIGN IDS
/tally.v1.TransactionService/ProcessTransaction                 token | role  ok   ok  | role  ok    ok    | role  id    id
/tally.v1.TransactionService/ProcessTransactions                token | role  ok   ok  | role  ok    ok    | role  id    id
/tally.v1.TransactionService/StreamTransactions                 token | role  ok   ok  | role  ok    ok    | role  id    id
/tally.v1.TransactionService/GetTransaction                     token | ok    ok   ok  | ok    ok    ok    | none  none  none
/tally.v1.TransactionService/ListTransactions                   token | ok    ok   ok  | ok    ok    ok    | none  none  none
/tally.v1.TransactionService/WatchTransactions                  token | ok    ok   ok  | ok    ok    ok    | none  none  none
/tally.v1.TransactionService/GetChainHead                       token | ok    ok   ok  | ok    ok    ok    | -     -     -
/tally.v1.AccountService/CreateAccount                          token | role  ok   ok  | role  ok    ok    | role  id    id
/tally.v1.AccountService/BatchCreateAccounts                    token | role  ok   ok  | role  ok    ok    | role  id    id
/tally.v1.AccountService/UpdateAccount                          token | role  ok   ok  | role  ok    ok    | role  id    id
/tally.v1.AccountService/GetAccount                             token | ok    ok   ok  | ok    ok    ok    | none  none  none
/tally.v1.AccountService/ListAccounts                           token | ok    ok   ok  | ok    ok    ok    | none  none  none
/tally.v1.AccountService/ListAccountEntries                     token | ok    ok   ok  | ok    ok    ok    | none  none  none
/tally.v1.AccountService/ListHolds                              token | ok    ok   ok  | ok    ok    ok    | none  none  none
/tally.v1.EngineService/GetCircuitStats                         token | ok    ok   ok  | whole whole whole | -     -     -
/tally.v1.EngineService/WatchCircuitStats                       token | ok    ok   ok  | whole whole whole | -     -     -
/tally.v1.EngineService/SetCircuitMode                          token | role  role ok  | role  role  whole | -     -     -
/tally.v1.EngineService/GetTopology                             token | ok    ok   ok  | whole whole whole | -     -     -
/tally.v1.EngineService/GetBatchStats                           token | ok    ok   ok  | whole whole whole | -     -     -
/tally.v1.EngineService/GetClock                                token | ok    ok   ok  | whole whole whole | -     -     -
/tally.v1.EngineService/GetReplicaState                         token | ok    ok   ok  | whole whole whole | -     -     -
/tally.v1.EngineService/ResignLeadership                        token | role  role embedded | role  role  whole | -     -     -
/tally.v1.EngineService/ConfirmClock                            token | role  role ok  | role  role  whole | -     -     -
/grpc.health.v1.Health/Check                                    ok    | ok    ok   ok  | ok    ok    ok    | -     -     -
/grpc.health.v1.Health/Watch                                    token | ok    ok   ok  | ok    ok    ok    | -     -     -
/grpc.reflection.v1.ServerReflection/ServerReflectionInfo       token | ok    ok   ok  | ok    ok    ok    | -     -     -
/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo  token | ok    ok   ok  | ok    ok    ok    | -     -     -
";

/// The HTTP status of each request to the operators' port. Reading needs no token, so the port must not be public.
const OPERATORS_TABLE: &str = "
METHOD  PATH        NO TOKEN | ALL IDS: READ WRITE ADMIN | PREFIX
GET     /           200 | 200 200 200 | 200 200 200
GET     /ledger     200 | 200 200 200 | 200 200 200
GET     /live       200 | 200 200 200 | 200 200 200
GET     /log-level  200 | 200 200 200 | 200 200 200
GET     /metrics    200 | 200 200 200 | 200 200 200
GET     /ready      200 | 200 200 200 | 200 200 200
GET     /stats.json 200 | 200 200 200 | 200 200 200
PUT     /log-level  401 | 403 403 204 | 403 403 403
";

/// The callers of the columns: the token and the prefix of the ids.
const COLUMNS: [(&str, &str); 10] = [
    ("", "acme/"),
    ("all-read", "acme/"),
    ("all-write", "acme/"),
    ("all-admin", "acme/"),
    ("acme-read", "acme/"),
    ("acme-write", "acme/"),
    ("acme-admin", "acme/"),
    ("acme-read", "beta/"),
    ("acme-write", "beta/"),
    ("acme-admin", "beta/"),
];

/// Returns the paths of all methods that the service answers.
fn methods() -> BTreeSet<String> {
    let mut pool = DescriptorPool::decode(tally::proto::FILE_DESCRIPTOR_SET).unwrap();
    for set in [
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ] {
        pool.decode_file_descriptor_set(set).unwrap();
    }
    let paths = pool.services().flat_map(|service| {
        let name = service.full_name().to_owned();
        let methods: Vec<_> = service.methods().collect();
        methods
            .into_iter()
            .map(move |method| format!("/{name}/{}", method.name()))
    });
    paths.collect()
}

/// Returns a request with ids of `prefix`, and the id that the answer may repeat. `exists` says whether the ids that the request refers to
/// exist. `number` makes the ids that the request creates unique.
fn request(path: &str, prefix: &str, exists: bool, number: usize) -> (String, Vec<u8>) {
    let id = |name: &str| format!("{prefix}{}", if exists { name } else { "nothing" });
    let own = |name: &str| format!("{prefix}{name}-{number}");
    let payment = || {
        // For a foreign prefix, the request has the id of an existing transaction.
        let id = if prefix == "acme/" { own("t") } else { id("paid") };
        transaction(
            &id,
            vec![transfer(&format!("{prefix}a"), &format!("{prefix}b"), 1)],
        )
    };
    let created = || CreateAccountRequest {
        account: Some(account(&if prefix == "acme/" { own("new") } else { id("a") })),
    };
    match path {
        PROCESS_ONE => with(payment().transaction_id, &payment()),
        PROCESS_MANY => {
            let transactions = vec![payment()];
            with(
                payment().transaction_id,
                &ProcessTransactionsRequest { transactions },
            )
        }
        STREAM => {
            let transaction = Some(payment());
            with(
                payment().transaction_id,
                &StreamTransactionsRequest { transaction },
            )
        }
        GET_TRANSACTION => {
            let transaction_id = id("paid");
            with(
                transaction_id.clone(),
                &GetTransactionRequest {
                    transaction_id,
                    ..GetTransactionRequest::default()
                },
            )
        }
        CREATE_ACCOUNT => with(created().account.unwrap().id, &created()),
        CREATE_ACCOUNTS => {
            let request = BatchCreateAccountsRequest {
                requests: vec![created()],
                skip_existing: false,
            };
            with(created().account.unwrap().id, &request)
        }
        UPDATE_ACCOUNT => {
            let mut account = account(&id("a"));
            account.status = AccountStatus::Open.into();
            let request = UpdateAccountRequest {
                account: Some(account),
                update_mask: Some(FieldMask {
                    paths: vec!["status".to_owned()],
                }),
            };
            with(id("a"), &request)
        }
        GET_ACCOUNT => {
            let account_id = id("a");
            with(
                account_id.clone(),
                &GetAccountRequest {
                    account_id,
                    ..GetAccountRequest::default()
                },
            )
        }
        LIST_ACCOUNTS => {
            let request = ListAccountsRequest {
                id_prefix: id("a"),
                ..ListAccountsRequest::default()
            };
            with(id("a"), &request)
        }
        LIST_ENTRIES => {
            let account_id = id("a");
            let request = ListAccountEntriesRequest {
                account_id: account_id.clone(),
                ..ListAccountEntriesRequest::default()
            };
            with(account_id, &request)
        }
        LIST_TRANSACTIONS => {
            let id_prefix = id("paid");
            let request = ListTransactionsRequest {
                id_prefix: id_prefix.clone(),
                ..ListTransactionsRequest::default()
            };
            with(id_prefix, &request)
        }
        WATCH_TRANSACTIONS => {
            let id_prefix = id("paid");
            let request = WatchTransactionsRequest {
                from_sequence: 1,
                id_prefix: id_prefix.clone(),
            };
            with(id_prefix, &request)
        }
        LIST_HOLDS => {
            let request = ListHoldsRequest {
                account_id: id("a"),
                ..ListHoldsRequest::default()
            };
            with(id("a"), &request)
        }
        path => (String::new(), request_without_id(path)),
    }
}

fn request_without_id(path: &str) -> Vec<u8> {
    let hour = prost_types::Duration {
        seconds: 3600,
        nanos: 0,
    };
    let (service, method) = path[1..].split_once('/').unwrap();
    match (service, method) {
        ("tally.v1.EngineService", "SetCircuitMode") => SetCircuitModeRequest {
            change: Some(Change::Mode(1)),
            ..SetCircuitModeRequest::default()
        }
        .encode_to_vec(),
        // No step is held, so nothing changes.
        ("tally.v1.EngineService", "ConfirmClock") => ConfirmClockRequest {
            held_step: Some(hour),
            ..ConfirmClockRequest::default()
        }
        .encode_to_vec(),
        ("tally.v1.TransactionService", "GetChainHead") | ("tally.v1.EngineService", "ResignLeadership") => {
            Vec::new()
        }
        ("tally.v1.EngineService", method) if method.contains("Get") || method.contains("Watch") => {
            Vec::new()
        }
        ("grpc.health.v1.Health", _) => HealthCheckRequest::default().encode_to_vec(),
        // Both versions have the same messages.
        (_, "ServerReflectionInfo") => ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        }
        .encode_to_vec(),
        _ => panic!("{path} is new: it needs a request here, and a row in TABLE"),
    }
}

fn with(id: String, message: &impl Message) -> (String, Vec<u8>) {
    (id, message.encode_to_vec())
}

/// Returns the word of the table for an answer.
fn word(seen: &Seen) -> &'static str {
    match (seen.code, seen.reason.as_str()) {
        (Code::Ok, _) => "ok",
        (Code::FailedPrecondition, "NOT_REPLICATED") => "embedded",
        (Code::Unauthenticated, "UNAUTHENTICATED") => "token",
        (Code::PermissionDenied, "FORBIDDEN") => {
            match ["needed_role", "prefix", "field"].map(|key| seen.has(key)) {
                [true, false, false] => "role",
                [false, true, false] => "whole",
                [false, true, true] => "id",
                _ => panic!("{seen:?}"),
            }
        }
        _ => panic!("{seen:?}"),
    }
}

#[tokio::test]
async fn every_method_answers_every_role_and_prefix_as_the_table_says() {
    let tenants = Tenants::start().await;
    let mut rows = BTreeSet::new();
    let mut number = 0;
    for line in TABLE.lines().filter(|line| line.starts_with('/')) {
        let mut words = line.split_whitespace().filter(|word| *word != "|");
        let path = words.next().unwrap();
        assert!(rows.insert(path.to_owned()), "{path} has two rows");
        let expected: Vec<_> = words.collect();
        assert_eq!(expected.len(), COLUMNS.len(), "{line}");
        for ((token, prefix), expected) in COLUMNS.into_iter().zip(expected) {
            number += 1;
            let call = format!("{path} with {token:?} and ids of {prefix}");
            let answer = async |prefix: &str, exists: bool| {
                let (id, message) = request(path, prefix, exists, number);
                (tenants.sees(token, path, &message).await, id)
            };
            match expected {
                "-" => assert_eq!(request(path, prefix, true, number).0, "", "{call}"),
                "none" => {
                    let (seen, id) = answer(prefix, true).await;
                    let seen = seen.without(&id);
                    assert!(!seen.contains("beta/"), "{call}: {seen:?}");
                    for missing in [prefix, "acme/"] {
                        let (nothing, id) = answer(missing, false).await;
                        assert_eq!(seen, nothing.without(&id), "{call}");
                    }
                }
                "id" => {
                    let (seen, id) = answer(prefix, true).await;
                    assert_eq!(word(&seen), expected, "{call}");
                    let (nothing, other) = answer(prefix, false).await;
                    assert_eq!(seen.without(&id), nothing.without(&other), "{call}");
                }
                expected => {
                    let (seen, _) = answer(prefix, true).await;
                    assert_eq!(word(&seen), expected, "{call}: {seen:?}");
                    // An empty list would prove nothing.
                    let is_list = path.contains("/List") && expected == "ok";
                    assert!(!is_list || seen.contains("acme/"), "{call}");
                }
            }
        }
    }
    assert_eq!(rows, methods());
}

#[tokio::test]
async fn the_operators_port_answers_every_role_and_prefix_as_the_table_says() {
    let tenants = Tenants::start().await;
    let server = &tenants.server;
    let mut paths = BTreeSet::new();
    for line in OPERATORS_TABLE.lines().skip(2) {
        let mut words = line.split_whitespace().filter(|word| *word != "|");
        let method: Method = words.next().unwrap().parse().unwrap();
        let path = words.next().unwrap();
        paths.insert(path);
        let expected: Vec<StatusCode> = words.map(|word| word.parse().unwrap()).collect();
        let callers = COLUMNS.map(|(token, _)| token).into_iter().take(7);
        assert_eq!(callers.len(), expected.len(), "{line}");
        for (token, expected) in callers.zip(expected) {
            let token = (!token.is_empty()).then_some(token);
            let (status, _, text) = ask(server, method.clone(), path, token, "info").await;
            assert_eq!(status, expected, "{method} {path} with {token:?}: {text}");
            // No page, no metric and no label names an account, a transaction or a prefix.
            assert!(
                !["acme", "beta"].iter().any(|id| text.contains(id)),
                "{path}: {text}"
            );
        }
    }
    let (_, _, text) = get(server, "/nowhere").await;
    let listed = text.trim_end().rsplit("the paths are ").next().unwrap();
    let listed: BTreeSet<_> = listed
        .split([',', ' '])
        .filter(|word| word.starts_with('/'))
        .collect();
    assert_eq!(paths, listed);
}

#[tokio::test]
async fn a_command_that_needs_a_token_without_a_prefix_says_so() {
    let tenants = Tenants::start().await;
    let output = tenants.server.tally(&["stats", "--token", "acme-admin"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(77), "{error}");
    assert!(error.ends_with("; pass a token without a prefix\n"), "{error}");
}
