//! Provokes every error that the service can return. Each error must have an `ErrorInfo` with the reason, the domain,
//! and whether the call was executed.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use bytesize::ByteSize;
use http::Request;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{body::Frame, client::conn::http2::SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use prost::Message;
use tally::{
    engine::CallKind,
    grpc::{
        MESSAGE_BYTES_MAX, NetConfig,
        error_kind::{ERROR_KINDS, ErrorKind, Retry},
    },
    proto::{
        Account, AccountStatus, BalanceRule, BatchCreateAccountsRequest, ConfirmClockRequest,
        CreateAccountRequest, GetAccountRequest, GetTransactionRequest, ListAccountsRequest,
        ListHoldsRequest, ProcessTransactionRequest, ProcessTransactionsRequest, ProcessTransactionsResponse,
        SetCircuitModeRequest, StreamTransactionsRequest, StreamTransactionsResponse, TransactionResult,
        Uint128, UpdateAccountRequest, WatchCircuitStatsRequest, WatchTransactionsRequest,
        set_circuit_mode_request::Change, transaction_result::Outcome, transfer,
    },
    security::{Security, SecurityConfig, hash_hex},
};
use tally_breaker::BreakerMode;
use tokio::net::TcpStream;
use tokio_stream::StreamExt;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_request::MessageRequest};
use tonic_types::StatusExt;

use super::{expected, summary};
use crate::support::{
    in_process::{Service, account, patient_config, pay, transaction, transfer as moved},
    sim_disk::SimDisk,
};

const PROCESS_ONE: &str = "/tally.v1.TransactionService/ProcessTransaction";
const PROCESS_MANY: &str = "/tally.v1.TransactionService/ProcessTransactions";
const STREAM: &str = "/tally.v1.TransactionService/StreamTransactions";
const WATCH_TRANSACTIONS: &str = "/tally.v1.TransactionService/WatchTransactions";
const GET_TRANSACTION: &str = "/tally.v1.TransactionService/GetTransaction";
const CREATE_ACCOUNT: &str = "/tally.v1.AccountService/CreateAccount";
const CREATE_ACCOUNTS: &str = "/tally.v1.AccountService/BatchCreateAccounts";
const GET_ACCOUNT: &str = "/tally.v1.AccountService/GetAccount";
const LIST_ACCOUNTS: &str = "/tally.v1.AccountService/ListAccounts";
const UPDATE_ACCOUNT: &str = "/tally.v1.AccountService/UpdateAccount";
const LIST_HOLDS: &str = "/tally.v1.AccountService/ListHolds";
const CIRCUITS: &str = "/tally.v1.EngineService/GetCircuitStats";
const WATCH: &str = "/tally.v1.EngineService/WatchCircuitStats";
const SET_MODE: &str = "/tally.v1.EngineService/SetCircuitMode";
const CONFIRM_CLOCK: &str = "/tally.v1.EngineService/ConfirmClock";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const REFLECTION_OLD: &str = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";

/// Methods with one request message that is decoded by Tally's own code.
const DECODED_BY_TALLY: [&str; 10] = [
    PROCESS_ONE,
    PROCESS_MANY,
    WATCH_TRANSACTIONS,
    GET_TRANSACTION,
    CREATE_ACCOUNT,
    CREATE_ACCOUNTS,
    GET_ACCOUNT,
    LIST_ACCOUNTS,
    UPDATE_ACCOUNT,
    LIST_HOLDS,
];
/// Methods with one request message that is decoded by tonic.
const DECODED_BY_TONIC: [&str; 6] = [CIRCUITS, WATCH, SET_MODE, CONFIRM_CLOCK, HEALTH, HEALTH_WATCH];

/// The file of the other rejections by the ledger.
const IN_REASONS: &str = "service/reasons.rs";

/// Reasons that this file does not provoke, each with the explanation or the file of another test.
const NOT_PROVOKED: [(&str, &str); 24] = [
    ("CLOCK_NOT_CONFIRMED", "service/clock.rs sets the clock"),
    ("REPLY_LOST", "a bug of the engine; status.rs has a unit test"),
    ("ACCOUNTS_FULL", "needs 2^32 accounts; the ledger has a unit test"),
    (
        "ASSETS_FULL",
        "needs more assets than a test can create; the ledger has a unit test",
    ),
    ("DATA_DAMAGED", "service/streams.rs damages the journal"),
    ("DISK_FULL", "service/full_disk.rs fills the disk"),
    ("STREAM_INTERRUPTED", "service/streams.rs"),
    ("QUEUE_FULL", "service/overload.rs"),
    (
        "CALL_CANCELLED",
        "the client has cancelled the call and sees no status; status.rs has a unit test",
    ),
    ("MEMORY_LIMIT", "security/slow.rs and the hostile suite"),
    ("NOTHING_AVAILABLE", IN_REASONS),
    ("VELOCITY_LIMIT", IN_REASONS),
    ("PENDING_NOT_FOUND", IN_REASONS),
    ("PENDING_ALREADY_POSTED", IN_REASONS),
    ("PENDING_ALREADY_VOIDED", IN_REASONS),
    ("PENDING_EXPIRED", IN_REASONS),
    ("PENDING_AMOUNT_EXCEEDED", IN_REASONS),
    ("PENDING_TRANSFERS_DIFFER", IN_REASONS),
    ("REVERSED_NOT_FOUND", IN_REASONS),
    ("NOT_REVERSIBLE", IN_REASONS),
    ("ALREADY_REVERSED", IN_REASONS),
    ("HOLDS_FULL", IN_REASONS),
    ("ACCOUNT_NOT_EMPTY", IN_REASONS),
    ("ACCOUNT_CHANGED", IN_REASONS),
];

/// Returns an encoded message with the gRPC header before it: a flag and the length.
fn framed(message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], length.as_slice(), &message].concat()
}

/// A client that can send any bytes, and that collects the reasons of the errors that it receives.
struct Wire {
    sender: SendRequest<Full<Bytes>>,
    endpoint: String,
    reasons: Arc<Mutex<BTreeSet<String>>>,
}

impl Wire {
    async fn connect(service: &Service, reasons: &Arc<Mutex<BTreeSet<String>>>) -> Self {
        let stream = TcpStream::connect(service.address()).await.unwrap();
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        Wire {
            sender,
            endpoint: service.endpoint(),
            reasons: Arc::clone(reasons),
        }
    }

    /// Makes a call. Returns its status and the bytes of its messages.
    async fn call(&mut self, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> (Status, Bytes) {
        let mut request = Request::builder()
            .method("POST")
            .uri(format!("{}{path}", self.endpoint))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let response = self.sender.send_request(request).await.unwrap();
        if let Some(status) = Status::from_header_map(response.headers()) {
            return (status, Bytes::new());
        }
        let collected = response.into_body().collect().await.unwrap();
        let status = Status::from_header_map(collected.trailers().expect("trailers")).expect("a status");
        (status, collected.to_bytes())
    }

    /// Makes a call that must fail with this code and reason, and that must not be executed.
    async fn fails(&mut self, path: &str, headers: &[(&str, &str)], body: Vec<u8>, code: Code, reason: &str) {
        let (status, _) = self.call(path, headers, body).await;
        self.check(path, &status, code, reason, "false");
    }

    /// Does the same as [`Wire::fails`], with a complete message.
    async fn rejects(&mut self, path: &str, message: &impl Message, code: Code, reason: &str) {
        self.fails(path, &[], framed(message), code, reason).await;
    }

    /// Does the same as [`Wire::rejects`], with a message that has an invalid field.
    async fn rejects_fields(&mut self, path: &str, message: &impl Message) {
        self.rejects(path, message, Code::InvalidArgument, "INVALID_FIELD")
            .await;
    }

    fn check(&self, call: &str, status: &Status, code: Code, reason: &str, executed: &str) {
        assert_eq!(
            summary(status),
            expected(code, reason, executed),
            "{call}: {status:?}"
        );
        let kind = ERROR_KINDS.iter().find(|kind| kind.reason == reason);
        let kind = kind.unwrap_or_else(|| panic!("{reason} is not in ERROR_KINDS"));
        let retry = &status.get_details_error_info().unwrap().metadata["retry"];
        assert_eq!(retry, kind.retry.as_str(), "{call}: {status:?}");
        assert!(
            kind.codes.contains(&code) || *kind == ErrorKind::LIBRARY_ERROR,
            "{reason}"
        );
        let delay = status.get_details_retry_info().is_some();
        assert_eq!(delay, kind.retry == Retry::SameIdAfterDelay, "{call}: {status:?}");
        if let Some(documented) = kind.executed.as_str() {
            assert_eq!(executed, documented, "{call}: {status:?}");
        }
        self.reasons.lock().insert(reason.to_owned());
    }

    /// Checks that a transaction fails with the same error in all three ways to send it: alone, in a batch, and in a stream.
    async fn rejects_transaction(&mut self, request: ProcessTransactionRequest, code: Code, reason: &str) {
        self.rejects(PROCESS_ONE, &request, code, reason).await;
        let many = ProcessTransactionsRequest {
            transactions: vec![request.clone()],
        };
        let (status, body) = self.call(PROCESS_MANY, &[], framed(&many)).await;
        assert_eq!(status.code(), Code::Ok);
        let response = ProcessTransactionsResponse::decode(&body[5..]).unwrap();
        self.check_result(response.results[0].clone(), code, reason);
        let one = StreamTransactionsRequest {
            transaction: Some(request),
        };
        let (status, body) = self.call(STREAM, &[], framed(&one)).await;
        assert_eq!(status.code(), Code::Ok);
        let response = StreamTransactionsResponse::decode(&body[5..]).unwrap();
        self.check_result(response.result.unwrap(), code, reason);
    }

    fn check_result(&self, result: TransactionResult, code: Code, reason: &str) {
        let Some(Outcome::Error(error)) = result.outcome else {
            panic!("{result:?}")
        };
        let details = error.encode_to_vec();
        let status = Status::with_details(Code::from(error.code), error.message, details.into());
        self.check("a result", &status, code, reason, "false");
    }
}

/// Sends requests with errors in the gRPC framing or in the protobuf encoding to every method.
async fn provoke_malformed_calls(wire: &mut Wire) {
    // A message with one unknown field of three bytes, which is valid for every method.
    let whole = vec![0, 0, 0, 0, 5, 0x7a, 3, 0, 0, 0];
    let too_long = u32::try_from(MESSAGE_BYTES_MAX + 1).unwrap().to_be_bytes();
    let too_long = [&[0], too_long.as_slice()].concat();
    let gzip = [("grpc-encoding", "gzip")];
    let unsupported = (Code::Unimplemented, "COMPRESSION_NOT_SUPPORTED");
    let malformed = (Code::Internal, "MALFORMED_CALL");
    let undecodable = (Code::Internal, "MALFORMED_MESSAGE");
    let too_large = (Code::OutOfRange, "MESSAGE_TOO_LARGE");
    let second = [whole.as_slice(), &whole].concat();
    for path in DECODED_BY_TALLY {
        for (headers, body, (code, reason)) in [
            (&[][..], Vec::new(), malformed),
            (&[], whole[..3].to_vec(), malformed),
            (&[], whole[..whole.len() - 1].to_vec(), malformed),
            (&[], vec![1, 0, 0, 0, 0], malformed),
            (&[], vec![9, 0, 0, 0, 0], malformed),
            (&[], vec![0, 0, 0, 0, 1, 0xff], undecodable),
            (&[], too_long.clone(), too_large),
            (&gzip[..], whole.clone(), unsupported),
        ] {
            wire.fails(path, headers, body, code, reason).await;
        }
    }
    wire.fails(GET_TRANSACTION, &[], second, malformed.0, malformed.1)
        .await;
    for (headers, body, (code, reason)) in [
        (&[][..], whole[..3].to_vec(), malformed),
        (&[], vec![1, 0, 0, 0, 0], malformed),
        (&[], vec![0, 0, 0, 0, 1, 0xff], undecodable),
        (&[], too_long.clone(), too_large),
        (&gzip[..], whole.clone(), unsupported),
    ] {
        wire.fails(STREAM, headers, body, code, reason).await;
    }
    for path in DECODED_BY_TONIC {
        for (headers, body, (code, reason)) in [
            (&[][..], Vec::new(), undecodable),
            (&[], vec![0, 0, 0, 0, 1, 0xff], undecodable),
            (&[], too_long.clone(), too_large),
            (&gzip[..], whole.clone(), unsupported),
        ] {
            wire.fails(path, headers, body, code, reason).await;
        }
    }
    let many: Vec<(String, String)> = (0..70).map(|n| (format!("x-{n}"), "y".to_owned())).collect();
    let many: Vec<(&str, &str)> = many
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    for path in [PROCESS_ONE, CIRCUITS, HEALTH] {
        let rejected = (Code::ResourceExhausted, "TOO_MANY_HEADERS");
        wire.fails(path, &many, whole.clone(), rejected.0, rejected.1)
            .await;
    }
    for path in ["/", "/tally.v1.TransactionService/Nothing", "/x.Y/Z"] {
        wire.fails(path, &[], whole.clone(), Code::Unimplemented, "UNKNOWN_METHOD")
            .await;
    }
}

/// Sends requests with invalid fields.
async fn provoke_invalid_fields(wire: &mut Wire) {
    let invalid = (Code::InvalidArgument, "INVALID_FIELD");
    wire.rejects_transaction(pay(""), invalid.0, invalid.1).await;
    let soon = [("grpc-timeout", "soon")];
    wire.fails(PROCESS_ONE, &soon, framed(&pay("t")), invalid.0, invalid.1)
        .await;
    wire.rejects_fields(PROCESS_MANY, &ProcessTransactionsRequest::default())
        .await;
    wire.rejects_fields(GET_TRANSACTION, &GetTransactionRequest::default())
        .await;
    wire.rejects_fields(GET_ACCOUNT, &GetAccountRequest::default())
        .await;
    wire.rejects_fields(CREATE_ACCOUNT, &CreateAccountRequest::default())
        .await;
    wire.rejects_fields(CREATE_ACCOUNTS, &BatchCreateAccountsRequest::default())
        .await;
    let page = ListAccountsRequest {
        page_size: -1,
        ..ListAccountsRequest::default()
    };
    wire.rejects_fields(LIST_ACCOUNTS, &page).await;
    let page = ListHoldsRequest {
        page_size: 1001,
        ..ListHoldsRequest::default()
    };
    wire.rejects_fields(LIST_HOLDS, &page).await;
    wire.rejects_fields(UPDATE_ACCOUNT, &UpdateAccountRequest::default())
        .await;
    wire.rejects_fields(SET_MODE, &SetCircuitModeRequest::default())
        .await;
    wire.rejects_fields(CONFIRM_CLOCK, &ConfirmClockRequest::default())
        .await;
    let watch = WatchCircuitStatsRequest {
        interval: Some(prost_types::Duration::default()),
    };
    wire.rejects_fields(WATCH, &watch).await;
    let watch = WatchTransactionsRequest {
        from_sequence: i64::MAX,
        ..WatchTransactionsRequest::default()
    };
    wire.rejects_fields(WATCH_TRANSACTIONS, &watch).await;
    wire.rejects(
        REFLECTION,
        &ServerReflectionRequest::default(),
        invalid.0,
        "LIBRARY_ERROR",
    )
    .await;
    wire.rejects(
        REFLECTION_OLD,
        &ServerReflectionRequest::default(),
        invalid.0,
        "LIBRARY_ERROR",
    )
    .await;
}

/// Sends requests that the ledger rejects.
async fn provoke_rejections(wire: &mut Wire) {
    let with = |change: fn(&mut Account), id: &str| {
        let mut account = account(id);
        change(&mut account);
        account
    };
    for account in [
        with(|account| account.asset = "USD".into(), "usd"),
        with(|account| account.status = AccountStatus::Frozen.into(), "frozen"),
        with(|account| account.status = AccountStatus::Closed.into(), "closed"),
        with(
            |account| account.balance_rule = BalanceRule::CreditBalance.into(),
            "wallet",
        ),
    ] {
        let request = CreateAccountRequest {
            account: Some(account),
        };
        let (status, _) = wire.call(CREATE_ACCOUNT, &[], framed(&request)).await;
        assert_eq!(status.code(), Code::Ok, "{status:?}");
    }
    let mut most = moved("a", "b", 1);
    most.amount = Some(transfer::Amount::WideMinorUnits(Uint128 {
        high: u64::MAX,
        low: u64::MAX,
    }));
    let precondition = Code::FailedPrecondition;
    for (id, transfers, code, reason) in [
        (
            "r1",
            vec![moved("a", "nobody", 1)],
            Code::NotFound,
            "ACCOUNT_NOT_FOUND",
        ),
        ("r2", vec![moved("a", "a", 1)], precondition, "SAME_ACCOUNT"),
        ("r3", vec![moved("a", "usd", 1)], precondition, "ASSET_MISMATCH"),
        (
            "r4",
            vec![moved("a", "frozen", 1)],
            precondition,
            "ACCOUNT_FROZEN",
        ),
        (
            "r5",
            vec![moved("a", "closed", 1)],
            precondition,
            "ACCOUNT_CLOSED",
        ),
        (
            "r6",
            vec![moved("wallet", "a", 1)],
            precondition,
            "INSUFFICIENT_FUNDS",
        ),
        (
            "r7",
            vec![most.clone(), most],
            Code::OutOfRange,
            "BALANCE_OVERFLOW",
        ),
    ] {
        wire.rejects_transaction(transaction(id, transfers), code, reason)
            .await;
    }
    let (status, _) = wire.call(PROCESS_ONE, &[], framed(&pay("once"))).await;
    assert_eq!(status.code(), Code::Ok);
    let other = transaction("once", vec![moved("a", "b", 2)]);
    wire.rejects_transaction(other, Code::AlreadyExists, "TRANSACTION_ID_REUSED")
        .await;
    let reused = CreateAccountRequest {
        account: Some(with(|account| account.asset = "USD".into(), "a")),
    };
    wire.rejects(CREATE_ACCOUNT, &reused, Code::AlreadyExists, "ACCOUNT_ID_REUSED")
        .await;
    let unknown = GetTransactionRequest {
        transaction_id: "unknown".into(),
        ..GetTransactionRequest::default()
    };
    wire.rejects(GET_TRANSACTION, &unknown, Code::NotFound, "TRANSACTION_NOT_FOUND")
        .await;
    let unknown = GetAccountRequest {
        account_id: "unknown".into(),
        ..GetAccountRequest::default()
    };
    wire.rejects(GET_ACCOUNT, &unknown, Code::NotFound, "ACCOUNT_NOT_FOUND")
        .await;
}

/// Sends requests that the engine service rejects.
async fn provoke_introspection(wire: &mut Wire, service: &Service) {
    let unknown = SetCircuitModeRequest {
        key: "unknown".into(),
        change: Some(Change::Mode(1)),
        ..SetCircuitModeRequest::default()
    };
    wire.rejects(SET_MODE, &unknown, Code::NotFound, "CIRCUIT_NOT_FOUND")
        .await;
    let unknown = HealthCheckRequest {
        service: "unknown".into(),
    };
    wire.rejects(HEALTH, &unknown, Code::NotFound, "NOT_FOUND").await;
    wire.rejects(HEALTH_WATCH, &unknown, Code::NotFound, "NOT_FOUND")
        .await;
    let unknown = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol("unknown".into())),
    };
    wire.rejects(REFLECTION, &unknown, Code::NotFound, "NOT_FOUND")
        .await;
    let mut watchers = Vec::new();
    let status = loop {
        let request = WatchCircuitStatsRequest::default();
        match service.stats().await.watch_circuit_stats(request).await {
            Ok(watcher) => watchers.push(watcher),
            Err(status) => break status,
        }
    };
    wire.check(
        WATCH,
        &status,
        Code::ResourceExhausted,
        "TOO_MANY_WATCHERS",
        "false",
    );
}

/// Provokes the errors that depend on the state of the service.
async fn provoke_states(wire: &mut Wire, service: &Service) {
    let circuit = service.engine.breaker(CallKind::Unary);
    circuit.set_mode(BreakerMode::ForcedOpen);
    wire.rejects(PROCESS_ONE, &pay("open"), Code::Unavailable, "CIRCUIT_OPEN")
        .await;
    circuit.set_mode(BreakerMode::Auto);
    let now = [("grpc-timeout", "0n")];
    let expired = (Code::DeadlineExceeded, "EXPIRED_IN_QUEUE");
    wire.fails(PROCESS_ONE, &now, framed(&pay("late")), expired.0, expired.1)
        .await;
    // The deadline of the transaction passes while the transaction is being written.
    service.disk.stall_syncs();
    let (status, _) = wire
        .call(PROCESS_ONE, &[("grpc-timeout", "200m")], framed(&pay("slow")))
        .await;
    let expired = (Code::DeadlineExceeded, "EXPIRED_IN_EXECUTION");
    wire.check(PROCESS_ONE, &status, expired.0, expired.1, "unknown");
    service.disk.release_syncs();
    // A call with the same id is answered when the first write is durable.
    let (status, _) = wire.call(PROCESS_ONE, &[], framed(&pay("slow"))).await;
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    service
        .disk
        .fail_syncs_of(Path::new("/data/journal/0000000000.segment"));
    let (status, _) = wire.call(PROCESS_ONE, &[], framed(&pay("doubtful"))).await;
    wire.check(PROCESS_ONE, &status, Code::Unavailable, "STORE_FAILED", "unknown");
    wire.rejects(PROCESS_ONE, &pay("after"), Code::Unavailable, "STORE_FAILED")
        .await;
}

/// Sends to every method a message that does not arrive in time.
async fn provoke_slow_requests(service: &Service, wire: &Wire) {
    let stream = TcpStream::connect(service.address()).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let calls = DECODED_BY_TALLY
        .iter()
        .chain(&DECODED_BY_TONIC)
        .chain(&[STREAM])
        .map(|path| {
            let mut sender = sender.clone();
            // The header announces 100 bytes, and only one of them arrives.
            let part = Frame::data(Bytes::from_static(&[0, 0, 0, 0, 100, 10]));
            let body =
                tokio_stream::once(Ok::<_, std::convert::Infallible>(part)).chain(tokio_stream::pending::<
                    Result<Frame<Bytes>, std::convert::Infallible>,
                >());
            let request = Request::post(format!("{}{path}", service.endpoint()))
                .header("content-type", "application/grpc")
                .body(StreamBody::new(body))
                .unwrap();
            async move {
                let response = sender.send_request(request).await.unwrap();
                if let Some(status) = Status::from_header_map(response.headers()) {
                    return (path, status);
                }
                let collected = response.into_body().collect().await.unwrap();
                let status = Status::from_header_map(collected.trailers().expect("trailers"));
                (path, status.expect("a status"))
            }
        });
    for (path, status) in futures_util::future::join_all(calls).await {
        wire.check(path, &status, Code::DeadlineExceeded, "REQUEST_TOO_SLOW", "false");
    }
}

/// Makes calls without a token, with an unknown token, and with a token whose role does not allow the calls.
async fn provoke_security(reasons: &Arc<Mutex<BTreeSet<String>>>) {
    const TOKEN: &str = "token-of-the-reader";
    let home = tempfile::tempdir().unwrap();
    let tokens = home.path().join("tokens");
    std::fs::write(&tokens, format!("read reader {}\n", hash_hex(TOKEN.as_bytes()))).unwrap();
    let security = Security::load(&SecurityConfig {
        tokens: Some(tokens),
        ..SecurityConfig::default()
    })
    .unwrap();
    let service = Service::start_secured(SimDisk::new(1), &patient_config(), Arc::new(security)).await;
    let mut wire = Wire::connect(&service, reasons).await;
    let (bearer, wrong) = (format!("Bearer {TOKEN}"), "Bearer of-nobody");
    for path in [
        PROCESS_ONE,
        PROCESS_MANY,
        STREAM,
        CREATE_ACCOUNT,
        SET_MODE,
        CONFIRM_CLOCK,
    ] {
        let rejected = (Code::Unauthenticated, "UNAUTHENTICATED");
        wire.fails(path, &[], Vec::new(), rejected.0, rejected.1).await;
        wire.fails(
            path,
            &[("authorization", wrong)],
            Vec::new(),
            rejected.0,
            rejected.1,
        )
        .await;
        let rejected = (Code::PermissionDenied, "FORBIDDEN");
        wire.fails(
            path,
            &[("authorization", &bearer)],
            Vec::new(),
            rejected.0,
            rejected.1,
        )
        .await;
    }
}

#[tokio::test]
async fn every_error_has_a_reason_a_domain_and_whether_the_call_was_executed() {
    let reasons = Arc::new(Mutex::new(BTreeSet::new()));
    let limits = NetConfig {
        message_time_max: Duration::from_secs(1),
        memory_max: ByteSize::mib(64),
        ..NetConfig::default()
    };
    let security = Arc::new(Security::default());
    let service = Service::start_limited(SimDisk::new(1), &patient_config(), security, limits).await;
    service.open_accounts(&["a", "b"]).await;
    // The number of rejected calls per connection is limited, so the malformed calls have their own connection.
    provoke_malformed_calls(&mut Wire::connect(&service, &reasons).await).await;
    let mut wire = Wire::connect(&service, &reasons).await;
    provoke_invalid_fields(&mut wire).await;
    provoke_rejections(&mut wire).await;
    provoke_introspection(&mut wire, &service).await;
    provoke_slow_requests(&service, &wire).await;
    provoke_security(&reasons).await;
    // A service that drains ends an open stream with a reason.
    let draining = Service::start(&patient_config()).await;
    let mut client = draining.transactions().await;
    let requests = tokio_stream::pending::<StreamTransactionsRequest>();
    let mut answers = client.stream_transactions(requests).await.unwrap().into_inner();
    draining.begin_drain();
    let status = answers.message().await.unwrap_err();
    wire.check(STREAM, &status, Code::Unavailable, "SHUTTING_DOWN", "false");
    provoke_states(&mut wire, &service).await;

    let mut provoked = reasons.lock().clone();
    provoked.extend(NOT_PROVOKED.map(|(reason, _)| reason.to_owned()));
    let reasons = ERROR_KINDS.iter().map(|kind| kind.reason.to_owned()).collect();
    assert_eq!(provoked, reasons);
}
