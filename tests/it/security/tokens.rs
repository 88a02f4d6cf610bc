//! Tests of calls with a valid token, without a token, with a wrong token, and with a token whose role does not allow
//! the call.

use tally::proto::{
    CircuitMode, GetAccountRequest, GetCircuitStatsRequest, SetCircuitModeRequest,
    account_service_client::AccountServiceClient, engine_service_client::EngineServiceClient,
    set_circuit_mode_request::Change, transaction_service_client::TransactionServiceClient,
};
use tally::security::hash_hex;
use tonic::{Code, Request, Status, transport::Channel};
use tonic_types::StatusExt;

use super::{ADMIN, READ, WRITE, with_tokens};
use crate::support::{in_process::pay, server::TestServer};

pub(super) fn with_token<T>(message: T, token: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    request
}

/// Returns the code and the reason of an answer, and checks that an error says `executed=false`. The reason shows
/// whether authorisation or a later check rejected the call.
pub(super) fn code_and_reason<T>(answer: Result<T, Status>) -> (Code, String) {
    match answer {
        Ok(_) => (Code::Ok, String::new()),
        Err(status) => {
            let info = status
                .get_details_error_info()
                .expect("every error has its reason");
            assert_eq!(info.metadata["executed"], "false");
            (status.code(), info.reason)
        }
    }
}

/// A proxy in front of the service could check another one of two tokens than the service.
#[tokio::test]
async fn a_call_with_two_tokens_is_refused() {
    let (server, _home, _file) = with_tokens();
    let channel = Calls::to(&server).await.0;
    for second in [ADMIN, "wrong"] {
        let mut request = with_token(GetCircuitStatsRequest {}, Some(ADMIN));
        let second = format!("Bearer {second}").parse().unwrap();
        request.metadata_mut().append("authorization", second);
        let refused = EngineServiceClient::new(channel.clone())
            .get_circuit_stats(request)
            .await;
        let message = refused.as_ref().unwrap_err().message().to_owned();
        assert_eq!(
            message,
            "authorization: the call has several of this header, it must have one"
        );
        assert_eq!(
            code_and_reason(refused),
            (Code::Unauthenticated, "UNAUTHENTICATED".to_owned())
        );
    }
}

struct Calls(Channel);

impl Calls {
    async fn to(server: &TestServer) -> Self {
        Calls(
            Channel::from_shared(server.endpoint())
                .unwrap()
                .connect()
                .await
                .unwrap(),
        )
    }

    async fn read(&self, token: Option<&str>) -> (Code, String) {
        let request = GetAccountRequest {
            account_id: "nobody".to_owned(),
            ..GetAccountRequest::default()
        };
        let mut client = AccountServiceClient::new(self.0.clone());
        code_and_reason(client.get_account(with_token(request, token)).await)
    }

    async fn stats(&self, token: Option<&str>) -> (Code, String) {
        let mut client = EngineServiceClient::new(self.0.clone());
        code_and_reason(
            client
                .get_circuit_stats(with_token(GetCircuitStatsRequest {}, token))
                .await,
        )
    }

    async fn write(&self, token: Option<&str>) -> (Code, String) {
        let mut client = TransactionServiceClient::new(self.0.clone());
        code_and_reason(client.process_transaction(with_token(pay("t"), token)).await)
    }

    async fn administer(&self, token: Option<&str>) -> (Code, String) {
        let request = SetCircuitModeRequest {
            change: Some(Change::Mode(CircuitMode::MetricsOnly.into())),
            ..SetCircuitModeRequest::default()
        };
        let mut client = EngineServiceClient::new(self.0.clone());
        code_and_reason(client.set_circuit_mode(with_token(request, token)).await)
    }
}

#[tokio::test]
async fn each_role_may_call_its_methods_and_no_others() {
    let (server, _home, _file) = with_tokens();
    let calls = Calls::to(&server).await;
    let nobody = (Code::Unauthenticated, "UNAUTHENTICATED".to_owned());
    for token in [None, Some("wrong"), Some("")] {
        assert_eq!(calls.read(token).await, nobody);
        assert_eq!(calls.stats(token).await, nobody);
        assert_eq!(calls.write(token).await, nobody);
        assert_eq!(calls.administer(token).await, nobody);
    }
    // An authorised call fails with this error, because the account does not exist.
    let passed = (Code::NotFound, "ACCOUNT_NOT_FOUND".to_owned());
    let ok = (Code::Ok, String::new());
    let forbidden = (Code::PermissionDenied, "FORBIDDEN".to_owned());
    for (token, writes, administers) in [(READ, false, false), (WRITE, true, false), (ADMIN, true, true)] {
        assert_eq!(calls.read(Some(token)).await, passed);
        assert_eq!(calls.stats(Some(token)).await, ok);
        assert_eq!(
            calls.write(Some(token)).await,
            if writes { passed.clone() } else { forbidden.clone() }
        );
        let administration = if administers {
            ok.clone()
        } else {
            forbidden.clone()
        };
        assert_eq!(calls.administer(Some(token)).await, administration);
    }
    // The audit event names the owner of the token.
    server.wait_for_stderr("\"token\":\"root\"").await;
    assert!(
        !server.stderr().contains(ADMIN),
        "the log does not contain the token"
    );
    // A health check needs no token. A watch of the health needs a token, because it uses memory of the server.
    let mut health = tonic_health::pb::health_client::HealthClient::new(calls.0.clone());
    let request = tonic_health::pb::HealthCheckRequest::default();
    health.check(request.clone()).await.unwrap();
    assert_eq!(code_and_reason(health.watch(request.clone()).await), nobody);
    health.watch(with_token(request, Some(READ))).await.unwrap();
}

#[tokio::test]
async fn tokens_are_renewed_without_a_restart_and_a_broken_file_changes_nothing() {
    let (server, _home, file) = with_tokens();
    let calls = Calls::to(&server).await;
    assert_eq!(calls.stats(Some(READ)).await.0, Code::Ok);
    std::fs::write(&file, "this is not a tokens file\n").unwrap();
    server.hangup();
    // The log line shows that the file has been read.
    server.wait_for_stderr("the old contents stay in force").await;
    assert_eq!(calls.stats(Some(READ)).await.0, Code::Ok);

    std::fs::write(&file, format!("read new {}\n", hash_hex(b"renewed"))).unwrap();
    server.hangup();
    while calls.stats(Some("renewed")).await.0 != Code::Ok {
        tokio::task::yield_now().await;
    }
    assert_eq!(calls.stats(Some(READ)).await.0, Code::Unauthenticated);
}
