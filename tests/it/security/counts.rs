//! The counts of connections, errors and failed authentications, in the metrics and in the data of the operators' page.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tally::proto::{
    GetCircuitStatsRequest, ProcessTransactionsRequest, SetCircuitModeRequest,
    engine_service_client::EngineServiceClient, transaction_service_client::TransactionServiceClient,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Code;

use super::{ADMIN, READ, WRITE, tokens::with_token, with_accounts, with_tokens};
use crate::support::{
    in_process::{pay, transaction, transfer},
    operators::{ask, get},
    server::{ServerOptions, TestServer},
};

/// The value of a series without labels, or with the labels in its name.
async fn metric(server: &TestServer, series: &str) -> f64 {
    let text = get(server, "/metrics").await.2;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let value = value.unwrap_or_else(|| panic!("{series} is not in\n{text}"));
    value.parse().unwrap()
}

/// The part `service` of the page's data.
async fn service(server: &TestServer) -> Value {
    let text = get(server, "/stats.json").await.2;
    let mut stats: Value = serde_json::from_str(&text).unwrap();
    stats["service"].take()
}

#[tokio::test]
async fn failed_authentications_are_counted_by_kind_on_both_ports() {
    let (server, _home, _file) = with_tokens();
    let mut engine = EngineServiceClient::connect(server.endpoint()).await.unwrap();
    let request = GetCircuitStatsRequest {};
    for (token, times, expected) in [
        (None, 3, Code::Unauthenticated),
        (Some("wrong"), 2, Code::Unauthenticated),
        (Some(READ), 1, Code::Ok),
    ] {
        for _ in 0..times {
            let answer = engine.get_circuit_stats(with_token(request, token)).await;
            assert_eq!(answer.map_or_else(|status| status.code(), |_| Code::Ok), expected);
        }
    }
    let mode = with_token(SetCircuitModeRequest::default(), Some(WRITE));
    let refused = engine.set_circuit_mode(mode).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    for (token, expected) in [
        (None, StatusCode::UNAUTHORIZED),
        (Some("wrong"), StatusCode::UNAUTHORIZED),
        (Some(WRITE), StatusCode::FORBIDDEN),
        (Some(ADMIN), StatusCode::NO_CONTENT),
    ] {
        let (status, _, text) = ask(&server, Method::PUT, "/log-level", token, "info").await;
        assert_eq!(status, expected, "{text}");
    }
    for (kind, expected) in [
        ("missing_token", 4.0),
        ("invalid_token", 3.0),
        ("role_too_low", 2.0),
        ("token_revoked", 0.0),
        ("client_certificate", 0.0),
        ("tls_handshake", 0.0),
    ] {
        let series = format!("tally_auth_failures_total{{kind=\"{kind}\"}}");
        assert_eq!(metric(&server, &series).await, expected, "{kind}");
    }
    let shown = service(&server).await;
    let failures = json!([["missing_token", 4], ["invalid_token", 3], ["role_too_low", 2]]);
    assert_eq!(shown["auth_failures"], failures);
    assert_eq!(shown["errors"], json!([["UNAUTHENTICATED", 5], ["FORBIDDEN", 1]]));
}

#[tokio::test]
async fn rejections_are_counted_by_reason_and_committed_transactions_are_not() {
    let (server, client) = with_accounts(ServerOptions::default()).await;
    assert_eq!(service(&server).await["errors"], json!([]));
    let mut transactions = TransactionServiceClient::connect(server.endpoint())
        .await
        .unwrap();
    let to_nobody = |id: &str| transaction(id, vec![transfer("a", "nobody", 1)]);
    let many = ProcessTransactionsRequest {
        transactions: vec![
            pay("one"),
            to_nobody("two"),
            to_nobody("three"),
            transaction("four", vec![transfer("a", "a", 1)]),
        ],
    };
    let answer = transactions
        .process_transactions(many)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.results.len(), 4);
    client.process_transaction(to_nobody("five")).await.unwrap_err();
    let expected = [
        ("ACCOUNT_NOT_FOUND", 3.0),
        ("SAME_ACCOUNT", 1.0),
        ("QUEUE_FULL", 0.0),
    ];
    for (reason, count) in expected {
        let series = format!("tally_errors_total{{reason=\"{reason}\"}}");
        assert_eq!(metric(&server, &series).await, count, "{reason}");
    }
    let errors = json!([["ACCOUNT_NOT_FOUND", 3], ["SAME_ACCOUNT", 1]]);
    assert_eq!(service(&server).await["errors"], errors);
}

const GRPC_CONNECTIONS: &str = "tally_connections{port=\"grpc\"}";
const GRPC_CONNECTIONS_MAX: &str = "tally_connections_max{port=\"grpc\"}";

#[tokio::test]
async fn the_connections_to_the_operators_port_are_counted_with_their_own_label() {
    let server = TestServer::start();
    // The request for the metrics is one connection.
    assert!(metric(&server, "tally_connections{port=\"admin\"}").await >= 1.0);
    assert_eq!(
        metric(&server, "tally_connections_max{port=\"admin\"}").await,
        256.0
    );
    assert_eq!(metric(&server, GRPC_CONNECTIONS).await, 0.0);
    assert!(
        service(&server).await["operators_connections"]
            .as_u64()
            .is_some_and(|open| open >= 1)
    );
}

#[tokio::test]
async fn open_and_rejected_connections_are_counted() {
    let server = ServerOptions::default()
        .env("TALLY__SERVER__CONNECTIONS_PER_CLIENT_MAX", "3")
        .start();
    assert!(metric(&server, GRPC_CONNECTIONS_MAX).await >= 1.0);
    let open: Vec<TcpStream> = {
        let mut open = Vec::new();
        for _ in 0..3 {
            open.push(TcpStream::connect(server.address()).await.unwrap());
        }
        open
    };
    // The service accepts connections after the system has.
    while metric(&server, GRPC_CONNECTIONS).await < 3.0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(service(&server).await["connections"], json!(3));
    assert_eq!(metric(&server, "tally_connections_rejected_total").await, 0.0);
    // The limit of a client is 3.
    let mut fourth = TcpStream::connect(server.address()).await.unwrap();
    let _ended = fourth.read_to_end(&mut Vec::new()).await;
    assert_eq!(metric(&server, "tally_connections_rejected_total").await, 1.0);
    assert_eq!(service(&server).await["connections_rejected"], json!(1));
    drop(open);
    while metric(&server, GRPC_CONNECTIONS).await > 0.0 {
        tokio::task::yield_now().await;
    }
}

/// The preface of HTTP/2 and an empty SETTINGS frame (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
/// The length of the header of a frame, in bytes.
const FRAME_HEADER_BYTES: usize = 9;
/// The method of the unfinished call.
const PATH: &[u8] = b"/tally.v1.TransactionService/ProcessTransaction";
/// A PING frame, and the first bytes of its answer: length 8, type PING, flag ACK (RFC 9113, 6.7).
const PING: &[u8] = b"\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678";
const PONG: &[u8] = b"\x00\x00\x08\x06\x01";

/// Opens a connection with a call whose message never arrives. The service has read the head of the call when this returns.
async fn unfinished_call(server: &TestServer) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    // HPACK: the method POST, the scheme http and the name `:path` are in the static table (RFC 7541, appendix A).
    let block = [&[0x83, 0x86, 0x04, u8::try_from(PATH.len()).unwrap()], PATH].concat();
    // HEADERS on stream 1, with the flag END_HEADERS.
    let head = [0, 0, u8::try_from(block.len()).unwrap(), 1, 4, 0, 0, 0, 1];
    stream
        .write_all(&[PREFACE, &head, &block, PING].concat())
        .await
        .unwrap();
    loop {
        let mut header = [0; FRAME_HEADER_BYTES];
        stream.read_exact(&mut header).await.unwrap();
        let length = usize::from(header[1]) << 8 | usize::from(header[2]);
        stream.read_exact(&mut vec![0; length]).await.unwrap();
        if header.starts_with(PONG) {
            return stream;
        }
    }
}

#[tokio::test]
async fn the_port_says_that_the_service_stops_while_it_waits_for_calls_in_flight() {
    let mut server = ServerOptions::default()
        .env("TALLY__SERVER__DRAIN", "10m")
        .env("TALLY__SERVER__MESSAGE_TIME_MAX", "10m")
        .start();
    assert_eq!(get(&server, "/ready").await.2, "ready\n");
    let call = unfinished_call(&server).await;
    server.terminate();
    let stopping = loop {
        let (status, _, text) = get(&server, "/ready").await;
        if status != StatusCode::OK {
            break (status, text);
        }
    };
    let expected = (
        StatusCode::SERVICE_UNAVAILABLE,
        "the service is stopping\n".to_owned(),
    );
    assert_eq!(stopping, expected);
    assert_eq!(service(&server).await["state"], "DRAINING");
    drop(call);
    assert!(server.wait().success());
}

#[tokio::test]
async fn the_process_reports_its_start_and_memory() {
    let since_epoch = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let before = since_epoch();
    let server = TestServer::start();
    let after = since_epoch();
    let started = Duration::from_secs_f64(metric(&server, "process_start_time_seconds").await);
    // The metric has microseconds.
    let microsecond = Duration::from_micros(1);
    assert!(
        before <= started + microsecond && started <= after + microsecond,
        "{before:?} {started:?} {after:?}"
    );
    assert!(metric(&server, "process_resident_memory_bytes").await > f64::from(1 << 20));
    let shown = service(&server).await;
    assert_eq!(shown["state"], "SERVING");
    assert!(shown["resident_bytes"].as_u64().unwrap() > 1 << 20);
    assert!(shown["disk_free_bytes"].as_u64() <= shown["disk_total_bytes"].as_u64());
    assert_eq!(shown["certificate_expires_unix_seconds"], Value::Null);
}
