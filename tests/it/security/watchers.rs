//! Calls of the health service's `Watch`. Each holds memory for as long as the client wants, so their number is limited.

use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::tokens::code_and_reason;
use crate::support::server::TestServer;

/// The limit of watchers of one client address.
const OF_CLIENT_MAX: usize = 256;

#[tokio::test]
async fn watchers_of_health_are_limited_and_free_their_places() {
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
    let refused = (Code::ResourceExhausted, "TOO_MANY_WATCHERS".to_owned());
    assert_eq!(code_and_reason(watch().watch(request.clone()).await), refused);
    // A check is not a watcher.
    watch().check(request.clone()).await.unwrap();
    drop(watching.pop());
    while watch().watch(request.clone()).await.is_err() {
        tokio::task::yield_now().await;
    }
    // A call that has ended holds no place, however it ended.
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
