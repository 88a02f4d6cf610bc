//! Provokes errors, one group with each function.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tally::{
    engine::CallKind,
    grpc::MESSAGE_BYTES_MAX,
    proto::{
        Account, AccountStatus, BalanceRule, BatchCreateAccountsRequest, ConfirmClockRequest,
        CreateAccountRequest, GetAccountRequest, GetTransactionRequest, ListAccountEntriesRequest,
        ListAccountsRequest, ListHoldsRequest, ListTransactionsRequest, ProcessTransactionsRequest,
        SetCircuitModeRequest, Uint128, UpdateAccountRequest, WatchCircuitStatsRequest,
        WatchTransactionsRequest, set_circuit_mode_request::Change, transfer,
    },
    security::{Security, SecurityConfig, hash_hex},
};
use tally_breaker::BreakerMode;
use tokio::net::TcpStream;
use tokio_stream::StreamExt;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_request::MessageRequest};

use super::{
    CIRCUITS, CONFIRM_CLOCK, CREATE_ACCOUNT, CREATE_ACCOUNTS, DECODED_BY_TALLY, DECODED_BY_TONIC,
    GET_ACCOUNT, GET_TRANSACTION, HEALTH, HEALTH_WATCH, LIST_ACCOUNTS, LIST_ENTRIES, LIST_HOLDS,
    LIST_TRANSACTIONS, PROCESS_MANY, PROCESS_ONE, REFLECTION, REFLECTION_OLD, SET_MODE, STREAM,
    UPDATE_ACCOUNT, WATCH, WATCH_TRANSACTIONS, Wire, wire::framed,
};
use crate::support::{
    in_process::{Service, account, patient_config, pay, transaction, transfer as moved},
    sim_disk::SimDisk,
};
/// Sends requests with errors in the gRPC framing or in the protobuf encoding to every method.
pub(super) async fn malformed_calls(wire: &mut Wire) {
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
pub(super) async fn invalid_fields(wire: &mut Wire) {
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
    let list = ListTransactionsRequest {
        from_sequence: -1,
        ..ListTransactionsRequest::default()
    };
    wire.rejects_fields(LIST_TRANSACTIONS, &list).await;
    let entries = ListAccountEntriesRequest {
        account_id: "a".to_owned(),
        to_sequence: 5,
        to_time: Some(prost_types::Timestamp::default()),
        ..ListAccountEntriesRequest::default()
    };
    wire.rejects_fields(LIST_ENTRIES, &entries).await;
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
pub(super) async fn rejections(wire: &mut Wire) {
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
pub(super) async fn introspection(wire: &mut Wire, service: &Service) {
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
pub(super) async fn states(wire: &mut Wire, service: &Service) {
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
pub(super) async fn slow_requests(service: &Service, wire: &Wire) {
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
pub(super) async fn security(reasons: &Arc<Mutex<BTreeSet<String>>>) {
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
