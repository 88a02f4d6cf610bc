//! Two tenants on one ledger: tokens with prefixes. `table.rs` has a table of every method, role and kind of id. `writes.rs` tests every
//! field that has an id. `reads.rs` tests the lists, and transactions of an unrestricted caller with ids of several tenants.

mod reads;
mod table;
mod writes;

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tally::{
    proto::{
        Account, CreateAccountRequest, CreateAccountResponse, ProcessTransactionRequest,
        ProcessTransactionResponse, ProcessTransactionsResponse, StreamTransactionsResponse,
        TransactionPhase, TransactionResult, transaction_result::Outcome,
    },
    security::hash_hex,
};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::{
    in_process::{account, transaction, transfer},
    server::{ServerOptions, TestServer},
};

const CREATE_ACCOUNT: &str = "/tally.v1.AccountService/CreateAccount";
const CREATE_ACCOUNTS: &str = "/tally.v1.AccountService/BatchCreateAccounts";
const UPDATE_ACCOUNT: &str = "/tally.v1.AccountService/UpdateAccount";
const GET_ACCOUNT: &str = "/tally.v1.AccountService/GetAccount";
const LIST_ACCOUNTS: &str = "/tally.v1.AccountService/ListAccounts";
const LIST_HOLDS: &str = "/tally.v1.AccountService/ListHolds";
const LIST_ENTRIES: &str = "/tally.v1.AccountService/ListAccountEntries";
const WATCH_TRANSACTIONS: &str = "/tally.v1.TransactionService/WatchTransactions";
const LIST_TRANSACTIONS: &str = "/tally.v1.TransactionService/ListTransactions";
const PROCESS_ONE: &str = "/tally.v1.TransactionService/ProcessTransaction";
const PROCESS_MANY: &str = "/tally.v1.TransactionService/ProcessTransactions";
const STREAM: &str = "/tally.v1.TransactionService/StreamTransactions";
const GET_TRANSACTION: &str = "/tally.v1.TransactionService/GetTransaction";

/// The methods whose answers never end.
const WATCHES: [&str; 3] = [
    WATCH_TRANSACTIONS,
    "/tally.v1.EngineService/WatchCircuitStats",
    "/grpc.health.v1.Health/Watch",
];
/// The names of the tokens: the prefix without its separator, or `all`, and the role.
const TOKENS: [&str; 9] = [
    "all-read",
    "all-write",
    "all-admin",
    "acme-read",
    "acme-write",
    "acme-admin",
    "beta-read",
    "beta-write",
    "beta-admin",
];

/// A server with the tenants `acme/` and `beta/`. Each has the accounts `a` and `b`, the transaction `paid` and the hold `hold`.
struct Tenants {
    server: TestServer,
    callers: HashMap<&'static str, SendRequest<Full<Bytes>>>,
    _home: TempDir,
}

/// The parts of an answer that a caller can see.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    code: Code,
    message: String,
    reason: String,
    metadata: BTreeMap<String, String>,
    body: Bytes,
}

// ===== impl Tenants =====

impl Tenants {
    async fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("tokens");
        let lines = TOKENS.map(|name| {
            let (tenant, role) = name.split_once('-').unwrap();
            let prefix = match tenant {
                "all" => String::new(),
                tenant => format!(" prefix={tenant}/"),
            };
            format!("{role} {name} {}{prefix}\n", hash_hex(name.as_bytes()))
        });
        std::fs::write(&file, lines.concat()).unwrap();
        let server = ServerOptions::default()
            .env("TALLY__SECURITY__TOKENS_FILE", file.to_str().unwrap())
            .start();
        // The number of rejected calls on a connection is limited, so each caller has a separate connection.
        let mut callers = HashMap::new();
        for name in TOKENS.into_iter().chain([""]) {
            let stream = TcpStream::connect(server.address()).await.unwrap();
            let (sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                    .await
                    .unwrap();
            tokio::spawn(connection);
            callers.insert(name, sender);
        }
        let tenants = Tenants {
            server,
            callers,
            _home: home,
        };
        for tenant in ["acme", "beta"] {
            let (a, b) = (format!("{tenant}/a"), format!("{tenant}/b"));
            let writer = format!("{tenant}-write");
            for id in [&a, &b] {
                tenants.create(&writer, account(id)).await;
            }
            let paid = transaction(&format!("{tenant}/paid"), vec![transfer(&a, &b, 1)]);
            tenants.commits(&writer, &paid).await;
            let held = hold(&format!("{tenant}/hold"), &a, &b);
            tenants.commits(&writer, &held).await;
        }
        tenants
    }

    /// Makes a call with the token of this name, or without a token if the name is empty. Returns the status, and the messages with
    /// their headers. Of an answer that never ends, returns the first message.
    async fn raw(&self, token: &str, path: &str, message: &[u8]) -> (Status, Bytes) {
        self.raw_messages(token, path, &[message.to_vec()]).await
    }

    /// Does the same as [`Tenants::raw`], for a call with several messages.
    async fn raw_messages(&self, token: &str, path: &str, messages: &[Vec<u8>]) -> (Status, Bytes) {
        let framed = messages.iter().map(|message| {
            let length = u32::try_from(message.len()).unwrap().to_be_bytes();
            [&[0], length.as_slice(), message].concat()
        });
        let body: Vec<u8> = framed.flatten().collect();
        let mut request = Request::post(format!("{}{path}", self.server.endpoint()))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let mut sender = self.callers[token].clone();
        let response = sender.send_request(request).await.unwrap();
        if let Some(status) = Status::from_header_map(response.headers()) {
            return (status, Bytes::new());
        }
        let (mut body, mut messages) = (response.into_body(), Vec::new());
        loop {
            let frame = body.frame().await.expect("trailers").unwrap();
            match frame.into_data() {
                Ok(data) => messages.extend_from_slice(&data),
                Err(frame) => {
                    let status = Status::from_header_map(frame.trailers_ref().unwrap());
                    return (status.expect("a status"), messages.into());
                }
            }
            if WATCHES.contains(&path) {
                return (Status::ok(""), messages.into());
            }
        }
    }

    /// Makes a call, and returns what the caller sees. For a call with many transactions, this is the result of the first one.
    async fn sees(&self, token: &str, path: &str, message: &[u8]) -> Seen {
        let (status, body) = self.raw(token, path, message).await;
        let result = match path {
            PROCESS_MANY if !body.is_empty() => {
                let results = ProcessTransactionsResponse::decode(&body[5..]).unwrap().results;
                results.into_iter().next()
            }
            STREAM if !body.is_empty() => StreamTransactionsResponse::decode(&body[5..]).unwrap().result,
            _ => None,
        };
        match result {
            None => Seen::of(&status, body),
            Some(result) => Seen::of_result(&result),
        }
    }

    /// Makes a call that must succeed, and returns its answer.
    async fn asks<A: Message + Default>(&self, token: &str, path: &str, message: &impl Message) -> A {
        let (status, body) = self.raw(token, path, &message.encode_to_vec()).await;
        assert_eq!(status.code(), Code::Ok, "{token} {path}: {status:?}");
        A::decode(&body[5..]).unwrap()
    }

    async fn create(&self, token: &str, account: Account) {
        let request = CreateAccountRequest {
            account: Some(account),
        };
        let _created: CreateAccountResponse = self.asks(token, CREATE_ACCOUNT, &request).await;
    }

    async fn commits(&self, token: &str, request: &ProcessTransactionRequest) -> ProcessTransactionResponse {
        self.asks(token, PROCESS_ONE, request).await
    }
}

// ===== impl Seen =====

impl Seen {
    fn of(status: &Status, body: Bytes) -> Self {
        let (reason, metadata) = match status.get_details_error_info() {
            Some(info) => (info.reason, info.metadata.into_iter().collect()),
            None => {
                assert_eq!(status.code(), Code::Ok, "an error without a reason: {status:?}");
                (String::new(), BTreeMap::new())
            }
        };
        Seen {
            code: status.code(),
            message: status.message().to_owned(),
            reason,
            metadata,
            body,
        }
    }

    fn of_result(result: &TransactionResult) -> Self {
        match result.outcome.as_ref().expect("an outcome") {
            Outcome::Committed(committed) => Seen::of(&Status::ok(""), committed.encode_to_vec().into()),
            Outcome::Error(error) => {
                let details = error.encode_to_vec().into();
                let status = Status::with_details(Code::from(error.code), &error.message, details);
                Seen::of(&status, Bytes::new())
            }
        }
    }

    /// Replaces an id of the request by a word, so that the answers to requests with different ids can be compared.
    fn without(mut self, id: &str) -> Self {
        self.message = self.message.replace(id, "THE-ID");
        for value in self.metadata.values_mut() {
            *value = value.replace(id, "THE-ID");
        }
        self
    }

    fn has(&self, key: &str) -> bool {
        self.metadata.contains_key(key)
    }

    /// Whether any part of the answer contains this text.
    fn contains(&self, text: &str) -> bool {
        let everything = format!("{} {:?}", self.message, self.metadata);
        everything.contains(text) || contains(&self.body, text)
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|part| part == text.as_bytes())
}

fn hold(id: &str, debit: &str, credit: &str) -> ProcessTransactionRequest {
    ProcessTransactionRequest {
        phase: TransactionPhase::Pending.into(),
        ..transaction(id, vec![transfer(debit, credit, 1)])
    }
}
