//! Tests that changes by administrators are logged with any filter of the log.

use http::{Method, StatusCode};
use tally::proto::{
    CircuitMode, SetCircuitModeRequest, engine_service_client::EngineServiceClient,
    set_circuit_mode_request::Change,
};

use super::{ADMIN, token_lines, tokens::with_token};
use crate::support::{operators::ask, server::ServerOptions};

#[tokio::test]
async fn changes_by_administrators_are_logged_with_every_filter() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("tokens");
    std::fs::write(&file, token_lines()).unwrap();
    // The filter is set in the configuration, so it applies from the start.
    let server = ServerOptions::default()
        .env("TALLY__SECURITY__TOKENS_FILE", file.to_str().unwrap())
        .env("TALLY__TELEMETRY__LOG", "off")
        .start();
    let mut before = "off";
    for after in [
        "error",
        "off",
        "tally::audit=off",
        "tally::audit[{token}]=off,off",
        "info",
        "off",
    ] {
        let (status, _, text) = ask(&server, Method::PUT, "/log-level", Some(ADMIN), after).await;
        assert_eq!(status, StatusCode::NO_CONTENT, "{text}");
        server
            .wait_for_stderr(&format!(
                "\"token\":\"root\",\"before\":\"{before}\",\"after\":\"{after}\""
            ))
            .await;
        before = after;
    }
    // The filter is "off", so these requests change nothing.
    let (status, _, _) = ask(&server, Method::PUT, "/log-level", Some(ADMIN), " off\n").await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert!(!server.stderr().contains("\"before\":\"off\",\"after\":\"off\""));
    let mut engine = EngineServiceClient::connect(server.endpoint()).await.unwrap();
    for (mode, comment) in [
        (CircuitMode::Auto, "the circuits already have this mode"),
        (CircuitMode::MetricsOnly, "while the log is off"),
    ] {
        let request = SetCircuitModeRequest {
            change: Some(Change::Mode(mode.into())),
            comment: comment.to_owned(),
            ..SetCircuitModeRequest::default()
        };
        engine
            .set_circuit_mode(with_token(request, Some(ADMIN)))
            .await
            .unwrap();
    }
    server.wait_for_stderr("while the log is off").await;
    // A request that changes nothing is not logged.
    assert!(!server.stderr().contains("already have this mode"));
    // A change of the tokens file is logged, too.
    let fewer = token_lines().lines().skip(1).collect::<Vec<_>>().join("\n");
    std::fs::write(&file, fewer).unwrap();
    server.hangup();
    server.wait_for_stderr("\"before\":3,\"after\":2").await;
    // The filter still applies to other events.
    assert!(
        !server.stderr().contains("new contents came into force"),
        "{}",
        server.stderr()
    );
}
