//! Tests of revoked tokens. The service must reject a token that is no longer in the tokens file, and end the open streams of that token.

use std::{collections::BTreeSet, path::Path, process::Command, time::Duration};

use tally::{
    proto::{
        CreateAccountRequest, GetTransactionRequest, StreamTransactionsRequest, StreamTransactionsResponse,
        WatchCircuitStatsRequest, account_service_client::AccountServiceClient,
        engine_service_client::EngineServiceClient, transaction_result::Outcome,
        transaction_service_client::TransactionServiceClient,
    },
    security::hash_hex,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{
    ADMIN, READ, WRITE, token_lines,
    tokens::{code_and_reason, with_token},
    with_tokens,
};
use crate::support::{
    in_process::{account, pay},
    operators::get,
    server::{BINARY, TestServer},
};

/// Maximum time to wait for an expected event. No test measures this time.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Maximum number of answers of a stream after which the test fails. It is far more than the service needs to notice
/// that the token was revoked.
const ANSWERS_MAX: usize = 100_000;

/// Waits for the end of a stream, and returns its status.
async fn end_of<T>(answers: &mut Streaming<T>) -> Status {
    let ended = tokio::time::timeout(WAIT_MAX, answers.message()).await;
    match ended.expect("the stream ends") {
        Err(status) => status,
        Ok(_) => panic!("the stream returned an answer or ended without an error"),
    }
}

async fn channel(server: &TestServer) -> Channel {
    let channel = Channel::from_shared(server.endpoint()).unwrap();
    channel.connect().await.unwrap()
}

async fn create_accounts(channel: &Channel) {
    let mut accounts = AccountServiceClient::new(channel.clone());
    for id in ["a", "b"] {
        let request = CreateAccountRequest {
            account: Some(account(id)),
        };
        accounts
            .create_account(with_token(request, Some(ADMIN)))
            .await
            .unwrap();
    }
}

/// Returns whether the ledger contains the transaction.
async fn is_known(channel: &Channel, id: &str) -> bool {
    let mut client = TransactionServiceClient::new(channel.clone());
    let request = GetTransactionRequest {
        transaction_id: id.to_owned(),
        ..GetTransactionRequest::default()
    };
    match client.get_transaction(with_token(request, Some(ADMIN))).await {
        Ok(_) => true,
        Err(status) if status.code() == Code::NotFound => false,
        Err(status) => panic!("{status:?}"),
    }
}

/// Makes a call with a token, and returns its code and reason.
async fn call(channel: &Channel, token: &str) -> (Code, String) {
    let request = tally::proto::GetCircuitStatsRequest {};
    let mut client = EngineServiceClient::new(channel.clone());
    code_and_reason(client.get_circuit_stats(with_token(request, Some(token))).await)
}

fn line(role: &str, token: &str) -> String {
    format!("{role} somebody {}\n", hash_hex(token.as_bytes()))
}

/// Replaces the file atomically, and sends SIGHUP.
fn replace(file: &Path, text: &str, server: &TestServer) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, file).unwrap();
    server.hangup();
}

#[tokio::test]
async fn with_an_empty_file_every_call_is_rejected_and_a_missing_file_changes_nothing() {
    let (server, _home, file) = with_tokens();
    let channel = channel(&server).await;
    let ok = (Code::Ok, String::new());
    let stale = |value: u8| format!("tally_security_stale{{what=\"tokens\"}} {value}\n");
    assert_eq!(call(&channel, READ).await, ok);

    std::fs::rename(&file, file.with_extension("away")).unwrap();
    server.hangup();
    server.wait_for_stderr("the old contents stay in force").await;
    assert_eq!(call(&channel, READ).await, ok);
    let (_, _, text) = get(&server, "/metrics").await;
    assert!(
        text.contains(&stale(1)) && text.contains("tally_tokens 3\n"),
        "{text}"
    );
    std::fs::rename(file.with_extension("away"), &file).unwrap();
    server.hangup();
    server
        .wait_for_stderr("the files have the contents in force again")
        .await;
    assert!(get(&server, "/metrics").await.2.contains(&stale(0)));

    replace(&file, "", &server);
    server
        .wait_for_stderr("has no token: every call will be refused")
        .await;
    for token in [READ, WRITE, ADMIN, ""] {
        assert_eq!(call(&channel, token).await.0, Code::Unauthenticated);
    }
    assert!(get(&server, "/metrics").await.2.contains("tally_tokens 0\n"));
    // Health checks need no token.
    let mut health = HealthClient::new(channel.clone());
    health.check(HealthCheckRequest::default()).await.unwrap();

    replace(&file, &token_lines(), &server);
    server.wait_for_stderr("\"before\":0,\"after\":3").await;
    assert_eq!(call(&channel, READ).await, ok);
}

#[test]
fn the_service_does_not_start_with_a_missing_file() {
    let home = tempfile::tempdir().unwrap();
    let check = |file: &Path| {
        let output = Command::new(BINARY)
            .args(["serve", "--check"])
            .env("TALLY__SECURITY__TOKENS_FILE", file)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let file = home.path().join("tokens");
    let (code, text) = check(&file);
    assert_eq!(code, Some(78), "{text}");
    assert!(text.contains(file.to_str().unwrap()), "{text}");
    // The setting is present, but the file does not exist.
    assert_eq!(check(Path::new("")).0, Some(78));
    // The path is a directory.
    assert_eq!(check(home.path()).0, Some(78));
    std::fs::write(&file, "").unwrap();
    assert_eq!(
        check(&file).0,
        Some(0),
        "an empty file is valid: no caller has a token"
    );
}

/// An open stream of transactions with a token.
struct OpenStream {
    requests: mpsc::Sender<StreamTransactionsRequest>,
    answers: Streaming<StreamTransactionsResponse>,
}

impl OpenStream {
    async fn with(channel: &Channel, token: &str) -> Self {
        let (requests, receiver) = mpsc::channel(1024);
        let mut client = TransactionServiceClient::new(channel.clone());
        let opened = client
            .stream_transactions(with_token(ReceiverStream::new(receiver), Some(token)))
            .await;
        OpenStream {
            requests,
            answers: opened.unwrap().into_inner(),
        }
    }

    /// Sends a transaction. Returns false if the stream has ended.
    async fn send(&self, id: &str) -> bool {
        let request = StreamTransactionsRequest {
            transaction: Some(pay(id)),
        };
        self.requests.send(request).await.is_ok()
    }

    async fn commit(&mut self, id: &str) {
        assert!(self.send(id).await);
        let answer = self.answers.message().await.unwrap().unwrap();
        let outcome = answer.result.unwrap().outcome.unwrap();
        assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
    }
}

#[tokio::test]
async fn an_open_stream_ends_only_when_its_own_token_is_revoked() {
    let (server, _home, file) = with_tokens();
    let channel = channel(&server).await;
    create_accounts(&channel).await;
    let (root, reader) = (line("admin", ADMIN), line("read", READ));
    let narrow = format!("{} prefix=acme/\n", line("write", WRITE).trim_end());
    for (name, without, expected) in [
        ("gone", String::new(), (Code::Unauthenticated, "UNAUTHENTICATED")),
        ("narrow", narrow, (Code::Unauthenticated, "UNAUTHENTICATED")),
        ("less", line("read", WRITE), (Code::PermissionDenied, "FORBIDDEN")),
    ] {
        replace(&file, &[root.clone(), line("write", WRITE)].concat(), &server);
        while call(&channel, WRITE).await.0 != Code::Ok || call(&channel, READ).await.0 == Code::Ok {
            tokio::task::yield_now().await;
        }
        let mut open = OpenStream::with(&channel, WRITE).await;
        open.commit(&format!("{name}-before")).await;
        // The file is replaced by a file with another token in addition. The stream must stay open.
        replace(
            &file,
            &[root.clone(), line("write", WRITE), reader.clone()].concat(),
            &server,
        );
        while call(&channel, READ).await.0 != Code::Ok {
            tokio::task::yield_now().await;
        }
        open.commit(&format!("{name}-between")).await;

        // The stream is idle when its token is revoked.
        replace(&file, &[root.clone(), without].concat(), &server);
        let ended = end_of(&mut open.answers).await;
        // `code_and_reason` also checks that the status says whether the call was executed.
        assert_eq!(
            code_and_reason::<()>(Err(ended)),
            (expected.0, expected.1.to_owned()),
            "{name}"
        );
    }
    assert!(is_known(&channel, "gone-between").await);
    let revoked = "tally_auth_failures_total{kind=\"token_revoked\"} 3\n";
    assert!(get(&server, "/metrics").await.2.contains(revoked));
}

#[tokio::test]
async fn unanswered_transactions_of_a_stream_with_a_revoked_token_were_not_executed() {
    let (server, _home, file) = with_tokens();
    let channel = channel(&server).await;
    create_accounts(&channel).await;
    let mut open = OpenStream::with(&channel, WRITE).await;
    open.commit("first").await;
    let sending = tokio::spawn({
        let requests = open.requests.clone();
        async move {
            let mut sent = 0_usize;
            loop {
                let request = StreamTransactionsRequest {
                    transaction: Some(pay(&format!("t-{sent}"))),
                };
                if requests.send(request).await.is_err() {
                    return sent;
                }
                sent += 1;
            }
        }
    });
    let (mut answered, mut rejected) = (BTreeSet::new(), 0);
    let status = loop {
        let next = tokio::time::timeout(WAIT_MAX, open.answers.message()).await;
        match next.expect("an answer, or the end") {
            Err(status) => break status,
            Ok(answer) => {
                let result = answer.expect("the stream ends with an error").result.unwrap();
                match result.outcome.unwrap() {
                    Outcome::Committed(_) => {
                        assert_eq!(rejected, 0, "{} was executed after a gap", result.transaction_id);
                        answered.insert(result.transaction_id);
                    }
                    Outcome::Error(error) => {
                        assert_eq!(error.code, Code::Unauthenticated as i32, "{error:?}");
                        rejected += 1;
                    }
                }
                assert!(answered.len() < ANSWERS_MAX, "the stream does not end");
                // Revoke the token while the stream is busy.
                if answered.len() == 500 {
                    replace(&file, &line("admin", ADMIN), &server);
                }
            }
        }
    };
    assert_eq!(code_and_reason::<()>(Err(status)).0, Code::Unauthenticated);
    drop(open);
    let sent = sending.await.unwrap();
    assert!(answered.len() >= 500 && sent >= answered.len());
    for number in 0..sent {
        let id = format!("t-{number}");
        assert_eq!(is_known(&channel, &id).await, answered.contains(&id), "{id}");
    }
}

#[tokio::test]
async fn watchers_end_when_their_token_is_revoked() {
    let (server, _home, file) = with_tokens();
    let channel = channel(&server).await;
    let request = with_token(WatchCircuitStatsRequest::default(), Some(READ));
    let mut engine = EngineServiceClient::new(channel.clone());
    let mut circuits = engine.watch_circuit_stats(request).await.unwrap().into_inner();
    circuits.message().await.unwrap().expect("a snapshot");
    let request = with_token(HealthCheckRequest::default(), Some(READ));
    let mut health = HealthClient::new(channel.clone());
    let mut health = health.watch(request).await.unwrap().into_inner();
    health.message().await.unwrap().expect("a state");
    replace(&file, &line("admin", ADMIN), &server);
    let ended = [end_of(&mut circuits).await, end_of(&mut health).await];
    for status in ended {
        assert_eq!(code_and_reason::<()>(Err(status)).0, Code::Unauthenticated);
    }
}
