//! What a client sends can't harm the forwarded calls of others, or make the standby claim leadership.

use prost::Message;
use tally::{proto::transaction_service_client::TransactionServiceClient, store::replicated::ReplicaCommand};
use tonic::transport::Endpoint;

use super::*;

/// Number of calls with unread answers.
const UNREAD: usize = 300;
/// Number of transactions.
const PAGE: usize = 1000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_forwarded_calls_with_unread_answers_do_not_block_another_client() {
    let pair = Pair::start().await;
    pair.standby.open_accounts(&["a", "b"]).await;
    let mut honest = pair.standby.transactions().await;
    let transactions = (0..PAGE).map(|number| pay(&format!("page-{number}"))).collect();
    honest
        .process_transactions(ProcessTransactionsRequest { transactions })
        .await
        .unwrap();

    // All answers together have far more bytes than HTTP/2's default window of a connection, 64 KiB. Both clients have
    // the same address, so they use the same connection to the leader.
    let unread = Endpoint::from_shared(pair.standby.endpoint())
        .unwrap()
        .initial_stream_window_size(1);
    let unread = TransactionServiceClient::new(unread.connect().await.unwrap());
    let calls: Vec<_> = (0..UNREAD)
        .map(|_| {
            let mut client = unread.clone();
            let page = ListTransactionsRequest {
                page_size: 1000,
                ..ListTransactionsRequest::default()
            };
            tokio::spawn(async move { client.list_transactions(page).await })
        })
        .collect();
    for number in 0..20 {
        let paid = tokio::time::timeout(
            WAIT_MAX,
            honest.process_transaction(pay(&format!("paid-{number}"))),
        )
        .await;
        assert!(
            !paid
                .expect("the honest client is served")
                .unwrap()
                .into_inner()
                .replayed
        );
    }
    let page = ListTransactionsRequest {
        page_size: 1000,
        ..ListTransactionsRequest::default()
    };
    let page = tokio::time::timeout(WAIT_MAX, honest.list_transactions(page)).await;
    let page = page.expect("the honest client is served").unwrap().into_inner();
    // The page must be longer than the window of a forwarded answer. It may have fewer transactions than `page_size`, because they are long.
    assert!(page.encoded_len() > 16 << 10, "{} bytes", page.encoded_len());
    for call in calls {
        call.abort();
    }
    drop(pair.drivers);
}

/// Asserts that the driver of a replica was not told that a call could not be forwarded. Otherwise a client could start an election.
fn assert_no_failure_reported(driver: &mut ReplicaDriver) {
    while let Ok(command) = driver.commands.try_recv() {
        assert!(
            !matches!(command, ReplicaCommand::ForwardFailed { .. }),
            "{command:?}"
        );
    }
}

/// The mark of the standby must not take a call beyond a limit of the leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_with_many_or_long_headers_is_forwarded_or_refused_and_is_no_failure_of_the_leader() {
    let mut pair = Pair::start().await;
    pair.leader.open_accounts(&["a"]).await;
    let (mut leader, mut standby) = (pair.leader.accounts().await, pair.standby.accounts().await);
    let (mut answered, mut refused) = (0, 0);
    for count in 40..70 {
        let call = || {
            let mut request = Request::new(get_account("a"));
            for number in 0..count {
                let name = format!("x-{number}");
                let name: tonic::metadata::MetadataKey<tonic::metadata::Ascii> = name.parse().unwrap();
                request.metadata_mut().insert(name, "1".parse().unwrap());
            }
            request
        };
        let direct = leader.get_account(call()).await.map(|_| ());
        let forwarded = standby.get_account(call()).await.map(|_| ());
        match (direct, forwarded) {
            (Ok(()), Ok(())) => answered += 1,
            (Err(direct), Err(forwarded)) => {
                assert_eq!(summary(&direct), summary(&forwarded), "{count} headers");
                refused += 1;
            }
            outcomes => panic!("{count} headers: {outcomes:?}"),
        }
    }
    assert!(answered > 0 && refused > 0);
    let (mut answered, mut refused) = (0, 0);
    for bytes in (15_300..16_400).step_by(10) {
        let mut request = Request::new(get_account("a"));
        let value = "a".repeat(bytes).parse().unwrap();
        request.metadata_mut().insert("x", value);
        match standby.get_account(request).await {
            Ok(_) => answered += 1,
            // The HTTP/2 library of the standby itself refuses even longer headers, without details.
            Err(error) if !error.details().is_empty() => {
                let wanted = expected(Code::ResourceExhausted, "TOO_MANY_HEADERS", "false");
                assert_eq!(summary(&error), wanted, "{bytes} bytes");
                refused += 1;
            }
            Err(_) => {}
        }
    }
    assert!(answered > 0 && refused > 0);
    let [_, driver] = &mut pair.drivers;
    assert_no_failure_reported(driver);
}

/// More refused calls than a connection may have (256).
const REFUSED: usize = 300;

/// Many clients share a connection to the leader. The leader must not close it because it refuses the calls of one of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_only_the_leader_refuses_do_not_end_the_calls_of_others() {
    let security = |tokens: &[&str]| {
        let file = tempfile::NamedTempFile::new().unwrap();
        let lines = tokens
            .iter()
            .map(|token| format!("write {token} {}\n", hash_hex(token.as_bytes())));
        std::fs::write(file.path(), lines.collect::<String>()).unwrap();
        let config = SecurityConfig {
            tokens: Some(file.path().to_owned()),
            ..SecurityConfig::default()
        };
        Arc::new(Security::load(&config).unwrap())
    };
    let (leader, _leader_driver) =
        Service::start_replica(view(ReplicaRole::Leader, Some(OWN)), security(&["both"])).await;
    let following = view(ReplicaRole::Standby, Some(&leader.endpoint()));
    let (standby, mut driver) = Service::start_replica(following, security(&["both", "one"])).await;
    let channel = standby.channel().await;
    let with = |token: &'static str, id: &str| {
        let mut request = Request::new(get_account(id));
        let value = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        request
    };
    let mut watcher = TransactionServiceClient::new(channel.clone());
    let mut watch = Request::new(WatchTransactionsRequest::default());
    watch
        .metadata_mut()
        .insert("authorization", "Bearer both".parse().unwrap());
    let mut watch = watcher.watch_transactions(watch).await.unwrap().into_inner();
    let mut client = AccountServiceClient::new(channel);
    for _ in 0..REFUSED {
        let error = client.get_account(with("one", "a")).await.unwrap_err();
        assert_eq!(error.code(), Code::Unauthenticated);
    }
    let error = client.get_account(with("both", "a")).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    // The stream of the other client still waits for transactions.
    let next = tokio::time::timeout(Duration::from_millis(200), watch.message()).await;
    assert!(!matches!(next, Ok(Ok(None) | Err(_))), "{next:?}");
    assert_no_failure_reported(&mut driver);
}
