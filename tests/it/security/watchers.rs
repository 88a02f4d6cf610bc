//! Tests of the limits of watches. Their number is limited, because each watch uses memory for as long as the client wants.

use tally::proto::{WatchTransactionsRequest, transaction_service_client::TransactionServiceClient};
use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{
    READ, WRITE,
    tokens::{code_and_reason, with_token},
    with_tokens,
};
use crate::support::server::TestServer;

/// Maximum number of watchers of one client address.
const OF_CLIENT_MAX: usize = 256;
/// Maximum number of watchers of the ledger with tokens of one name.
const OF_PRINCIPAL_MAX: usize = 1024;

#[tokio::test]
async fn the_number_of_health_watchers_is_limited_and_ended_calls_do_not_count() {
    let server = TestServer::start();
    let channel = Channel::from_shared(server.endpoint()).unwrap();
    let channel = channel.connect().await.unwrap();
    let watch = || HealthClient::new(channel.clone());
    let request = HealthCheckRequest::default();
    let mut watching = Vec::new();
    for _ in 0..OF_CLIENT_MAX {
        let mut answers = watch().watch(request.clone()).await.unwrap().into_inner();
        answers.message().await.unwrap().expect("the present state");
        watching.push(answers);
    }
    let rejected = (Code::ResourceExhausted, "TOO_MANY_WATCHERS".to_owned());
    assert_eq!(code_and_reason(watch().watch(request.clone()).await), rejected);
    // A call of `Check` is not limited.
    watch().check(request.clone()).await.unwrap();
    drop(watching.pop());
    while watch().watch(request.clone()).await.is_err() {
        tokio::task::yield_now().await;
    }
    // Also, a call that ended with an error must not count any more.
    let nowhere = HealthCheckRequest {
        service: "nowhere".to_owned(),
    };
    drop(watching);
    for _ in 0..=OF_CLIENT_MAX {
        let answer = watch().watch(nowhere.clone()).await;
        let code = match answer {
            Err(status) => status.code(),
            Ok(answers) => answers.into_inner().message().await.unwrap_err().code(),
        };
        assert!(
            matches!(code, Code::NotFound | Code::ResourceExhausted),
            "{code:?}"
        );
    }
    while let Err(status) = watch().watch(request.clone()).await {
        assert_eq!(status.code(), Code::ResourceExhausted);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn watches_of_the_ledger_are_limited_by_token_and_not_by_address() {
    let (server, _home, _file) = with_tokens();
    let mut channels = Vec::new();
    for _ in 0..4 {
        let channel = Channel::from_shared(server.endpoint()).unwrap();
        channels.push(channel.connect().await.unwrap());
    }
    let watch = |number: usize, token| {
        let mut client = TransactionServiceClient::new(channels[number % channels.len()].clone());
        let request = with_token(WatchTransactionsRequest::default(), Some(token));
        async move { client.watch_transactions(request).await }
    };
    let mut watching = Vec::new();
    for number in 0..OF_PRINCIPAL_MAX {
        watching.push(watch(number, READ).await.unwrap());
    }
    let rejected = (Code::ResourceExhausted, "TOO_MANY_WATCHERS".to_owned());
    assert_eq!(code_and_reason(watch(0, READ).await), rejected);
    // The limit applies to each token separately, even if two tokens come from the same address.
    for number in 0..8 {
        watching.push(watch(number, WRITE).await.unwrap());
    }
    assert_eq!(code_and_reason(watch(1, READ).await), rejected);
}
