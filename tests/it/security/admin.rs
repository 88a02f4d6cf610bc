//! Tests of the operators' port: health, metrics, statistics, the status page, and the filter of the log.

use http::{Method, StatusCode};
use tally::proto::{
    SetCircuitModeRequest, engine_service_client::EngineServiceClient, set_circuit_mode_request::Change,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{ADMIN, WRITE, with_tokens};
use crate::support::{
    operators::{ask, get},
    server::TestServer,
};

#[tokio::test]
async fn the_port_shows_health_metrics_and_state_while_the_circuit_is_open() {
    let server = TestServer::start();
    let mut engine = EngineServiceClient::connect(server.endpoint()).await.unwrap();
    let hour = prost_types::Duration {
        seconds: 3600,
        nanos: 0,
    };
    engine
        .set_circuit_mode(SetCircuitModeRequest {
            key: "ProcessTransaction".to_owned(),
            change: Some(Change::OpenFor(hour)),
            comment: String::new(),
        })
        .await
        .unwrap();
    assert_eq!(get(&server, "/live").await.0, StatusCode::OK);
    assert_eq!(
        get(&server, "/ready").await,
        (
            StatusCode::OK,
            "text/plain; charset=utf-8".to_owned(),
            "ready\n".to_owned()
        )
    );

    let (status, content_type, text) = get(&server, "/metrics").await;
    assert_eq!(
        (status, content_type.as_str()),
        (StatusCode::OK, "text/plain; version=0.0.4")
    );
    for line in [
        "tally_breaker_state{key=\"ProcessTransaction\",state=\"open\"} 1",
        "tally_breaker_state{key=\"ProcessTransactions\",state=\"closed\"} 1",
        "tally_breaker_transitions_total{key=\"ProcessTransaction\",from=\"closed\",to=\"open\",reason=\"forced\"} 1",
        "# TYPE tally_fsync_seconds histogram",
        "tally_store_failed 0",
        &format!("tally_build_info{{version=\"{}\"", env!("CARGO_PKG_VERSION")),
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }

    let (status, _, text) = get(&server, "/stats.json").await;
    assert_eq!(status, StatusCode::OK);
    let stats: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(stats["circuits"]["circuits"][0]["state"], "CIRCUIT_STATE_OPEN");
    assert!(stats["topology"]["threads"].as_array().unwrap().len() >= 3);
    assert_eq!(stats["commit_histogram_ns"].as_array().unwrap().len(), 18);

    let (status, content_type, page) = get(&server, "/").await;
    assert_eq!(
        (status, content_type.as_str()),
        (StatusCode::OK, "text/html; charset=utf-8")
    );
    assert!(page.starts_with("<!doctype html>"));
    let expected = "there is no /nowhere; the paths are /, /ledger, /live, /log-level, /metrics, /ready and /stats.json\n";
    let (status, _, text) = get(&server, "/nowhere").await;
    assert_eq!((status, text.as_str()), (StatusCode::NOT_FOUND, expected));
    let expected = "/metrics does not accept POST; every path accepts GET, and /log-level also PUT\n";
    let (status, _, text) = ask(&server, Method::POST, "/metrics", None, "").await;
    assert_eq!(
        (status, text.as_str()),
        (StatusCode::METHOD_NOT_ALLOWED, expected)
    );
}

#[tokio::test]
async fn only_administrators_can_change_the_log_level() {
    let (server, _home, _file) = with_tokens();
    assert_eq!(get(&server, "/log-level").await.2, "info\n");
    for (token, filter, expected) in [
        (None, "debug", StatusCode::UNAUTHORIZED),
        (Some("wrong"), "debug", StatusCode::UNAUTHORIZED),
        (Some(WRITE), "debug", StatusCode::FORBIDDEN),
        (Some(ADMIN), "tally=loud", StatusCode::BAD_REQUEST),
        (Some(ADMIN), "debgu", StatusCode::BAD_REQUEST),
        (Some(ADMIN), "info,,warn", StatusCode::BAD_REQUEST),
        (Some(ADMIN), "taly=debug", StatusCode::BAD_REQUEST),
        (Some(ADMIN), "tally=debug,warn", StatusCode::NO_CONTENT),
    ] {
        let (status, _, text) = ask(&server, Method::PUT, "/log-level", token, filter).await;
        assert_eq!(status, expected, "{text}");
        if filter == "debgu" {
            let levels = "the levels are off, error, warn, info, debug, trace";
            assert!(
                text.contains(levels) && text.contains("did you mean debug?"),
                "{text}"
            );
        }
    }
    assert_eq!(get(&server, "/log-level").await.2, "tally=debug,warn\n");
    let event = "\"token\":\"root\",\"before\":\"info\",\"after\":\"tally=debug,warn\"";
    server.wait_for_stderr(event).await;
    let (status, _, text) = ask(&server, Method::PUT, "/log-level", Some(ADMIN), &"x".repeat(5000)).await;
    assert_eq!(text, "the body must be at most 4096 bytes\n");
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    // A request that announces too large a body is refused at once. The server does not wait for the body.
    let mut stream = tokio::net::TcpStream::connect(server.admin()).await.unwrap();
    let request = format!(
        "PUT /log-level HTTP/1.1\r\nhost: operators\r\nauthorization: Bearer {ADMIN}\r\ncontent-length: 1000000000000\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 413 ") && answer.ends_with("the body must be at most 4096 bytes\n"),
        "{answer}"
    );
    // The body is sent in chunks, and the length of the first chunk is not a number.
    let mut stream = tokio::net::TcpStream::connect(server.admin()).await.unwrap();
    let request = format!(
        "PUT /log-level HTTP/1.1\r\nhost: operators\r\nauthorization: Bearer {ADMIN}\r\ntransfer-encoding: chunked\r\n\r\nno\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("it must arrive whole, and be UTF-8 text\n"),
        "{answer}"
    );
}
