//! Reads of a leader: none shows less than what another leader has acknowledged before the read began.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tally::{
    engine::{EngineError, StoreFault},
    grpc::{self, ForwardingConfig, NetConfig},
    proto::{
        GetAccountRequest, GetChainHeadRequest, GetTransactionRequest, ListAccountEntriesRequest,
        ListAccountsRequest, ListHoldsRequest, ListTransactionsRequest, WatchTransactionsRequest,
        account_service_client::AccountServiceClient, get_account_request::AsOf,
        transaction_service_client::TransactionServiceClient,
    },
    replica::End,
    security::Security,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status, transport::Channel};
use tonic_types::StatusExt;

use super::{
    cluster::{Cluster, Running},
    replicas::is_committed,
};

/// The time that a call waits for an answer that never comes.
const WAIT: Duration = Duration::from_millis(300);

/// The gRPC port of a replica.
struct Port {
    channel: Channel,
    draining: CancellationToken,
    net: grpc::NetHandle,
}

// ===== impl Port =====

impl Port {
    async fn open(replica: &Running) -> Self {
        let (security, draining) = (Arc::new(Security::default()), CancellationToken::new());
        let (mut services, _reporter) = grpc::services(&replica.engine, &security, &draining)
            .await
            .unwrap();
        services
            .forward_calls(&replica.replica, ForwardingConfig::default())
            .unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let net = grpc::serve(
            grpc::Listener::bind(any).unwrap(),
            NetConfig::default(),
            &services,
            &security,
            &replica.engine,
            &draining,
        )
        .unwrap();
        let endpoint = Channel::from_shared(format!("http://{}", net.address())).unwrap();
        Port {
            channel: endpoint.connect().await.unwrap(),
            draining,
            net,
        }
    }

    async fn close(self) {
        self.draining.cancel();
        drop(self.channel);
        tokio::task::spawn_blocking(move || self.net.join())
            .await
            .unwrap();
    }
}

/// The reads of the API, by name.
const READS: [&str; 9] = [
    "GetChainHead",
    "ListTransactions",
    "GetTransaction",
    "WatchTransactions",
    "GetAccount",
    "GetAccount as of",
    "ListAccounts",
    "ListAccountEntries",
    "ListHolds",
];

fn limited<T>(message: T, wait: Option<Duration>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(wait) = wait {
        request.set_timeout(wait);
    }
    request
}

/// Makes a read. `wait` is its deadline.
async fn read(channel: Channel, name: &str, wait: Option<Duration>) -> Result<(), Status> {
    let mut transactions = TransactionServiceClient::new(channel.clone());
    let mut accounts = AccountServiceClient::new(channel);
    let account = |as_of| GetAccountRequest {
        account_id: "a".to_owned(),
        as_of,
    };
    match name {
        "GetChainHead" => transactions
            .get_chain_head(limited(GetChainHeadRequest {}, wait))
            .await
            .map(drop),
        "ListTransactions" => transactions
            .list_transactions(limited(ListTransactionsRequest::default(), wait))
            .await
            .map(drop),
        "GetTransaction" => {
            let request = GetTransactionRequest {
                transaction_id: "one".to_owned(),
                with_block: true,
            };
            transactions
                .get_transaction(limited(request, wait))
                .await
                .map(drop)
        }
        "WatchTransactions" => {
            // The other leader has shown this place.
            let request = WatchTransactionsRequest {
                from_sequence: 3,
                ..WatchTransactionsRequest::default()
            };
            let opened = transactions.watch_transactions(limited(request, wait)).await?;
            opened.into_inner().message().await.map(drop)
        }
        "GetAccount" => accounts.get_account(limited(account(None), wait)).await.map(drop),
        "GetAccount as of" => accounts
            .get_account(limited(account(Some(AsOf::AsOfSequence(1))), wait))
            .await
            .map(drop),
        "ListAccounts" => accounts
            .list_accounts(limited(ListAccountsRequest::default(), wait))
            .await
            .map(drop),
        "ListAccountEntries" => {
            let request = ListAccountEntriesRequest {
                account_id: "a".to_owned(),
                ..ListAccountEntriesRequest::default()
            };
            accounts
                .list_account_entries(limited(request, wait))
                .await
                .map(drop)
        }
        "ListHolds" => accounts
            .list_holds(limited(ListHoldsRequest::default(), wait))
            .await
            .map(drop),
        _ => panic!("no read has the name {name}"),
    }
}

async fn all_reads(channel: &Channel, wait: Option<Duration>) -> Vec<(&'static str, Result<(), Status>)> {
    let mut reads = JoinSet::new();
    for name in READS {
        let channel = channel.clone();
        reads.spawn(async move { (name, read(channel, name, wait).await) });
    }
    reads.join_all().await
}

/// A leader that was replaced, and does not know it, answers no read. When it learns it, the callers get an error after which they ask
/// elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_replaced_answers_no_read() {
    let mut cluster = Cluster::new(2).await;
    let mut first = cluster.start(0).await;
    first.until_leader().await;
    first.open_accounts(&["a", "b"]).await;
    assert!(is_committed(&first.pay("one", 1).await, false));
    let second = cluster.start(1).await;
    second
        .until("caught up", |view| view.caught_up && view.leader.is_some())
        .await;
    let port = Port::open(&first).await;
    for (name, result) in all_reads(&port.channel, None).await {
        // Nobody has shown the place from which the watch goes on.
        let expected = if name == "WatchTransactions" {
            Code::InvalidArgument
        } else {
            Code::Ok
        };
        assert_eq!(
            result.err().map_or(Code::Ok, |status| status.code()),
            expected,
            "{name}"
        );
    }

    first.link.set_cut(true);
    second.until_leader().await;
    assert!(is_committed(&second.pay("two", 1).await, false));
    assert_eq!(second.engine.durable().order().next_sequence, 3);
    for (name, result) in all_reads(&port.channel, Some(WAIT)).await {
        let status = result.expect_err(name);
        // The client of tonic ends a call itself at the deadline, with another code.
        let expected = [Code::DeadlineExceeded, Code::Cancelled];
        assert!(expected.contains(&status.code()), "{name}: {status:?}");
    }
    let (reads, ()) = tokio::join!(all_reads(&port.channel, None), async {
        // A read of the engine is behind the reads of the port that have arrived, and neither gets an answer.
        let waiting = tokio::time::timeout(WAIT, first.engine.read_point(None)).await;
        assert!(waiting.is_err(), "{waiting:?}");
        first.link.set_cut(false);
    });
    for (name, result) in reads {
        let status = result.expect_err(name);
        let info = status.get_details_error_info().unwrap();
        assert_eq!(status.code(), Code::Unavailable, "{name}: {status:?}");
        match info.reason.as_str() {
            "LEADER_LOST" => assert_eq!(info.metadata["executed"], "unknown", "{name}"),
            "NOT_LEADER" => assert_eq!(info.metadata["executed"], "false", "{name}"),
            reason => panic!("{name}: {reason}"),
        }
        assert!(status.get_details_retry_info().is_some(), "{name}");
    }
    assert!(matches!(first.ended().await, End::SteppedDown { term: 2 }));
    port.close().await;
    first.drain().await;
    second.kill().await;
}

/// A replica that follows shows what it has applied, without asking the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_follows_reads_what_it_has_applied() {
    let mut cluster = Cluster::new(2).await;
    let first = cluster.start(0).await;
    first.until_leader().await;
    first.open_accounts(&["a", "b"]).await;
    let second = cluster.start(1).await;
    second
        .until("caught up", |view| view.caught_up && view.leader.is_some())
        .await;
    second.link.set_cut(true);
    assert!(is_committed(&first.pay("one", 1).await, false));
    assert_eq!(
        first.engine.read_point(None).await.unwrap().order().next_sequence,
        2
    );
    assert_eq!(
        second
            .engine
            .read_point(None)
            .await
            .unwrap()
            .order()
            .next_sequence,
        1
    );
    first.kill().await;
    second.kill().await;
}

/// The block of the first transaction may be in the log, and the one of the second transaction was never sent. So the caller of the
/// second one learns that it was not executed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_leader_that_was_replaced_has_never_sent_was_not_executed() {
    let mut cluster = Cluster::new(2).await;
    let mut first = cluster.start(0).await;
    first.until_leader().await;
    first.open_accounts(&["a", "b"]).await;
    let second = cluster.start(1).await;
    second
        .until("caught up", |view| view.caught_up && view.leader.is_some())
        .await;
    first.link.set_cut(true);
    let mut sent = Box::pin(first.pay("sent", 1));
    let mut unsent = Box::pin(first.pay("unsent", 1));
    // The first block is in flight, so the next transaction waits for the next block.
    let waiting = tokio::time::timeout(WAIT, &mut sent).await;
    assert!(waiting.is_err(), "{waiting:?}");
    let waiting = tokio::time::timeout(WAIT, &mut unsent).await;
    assert!(waiting.is_err(), "{waiting:?}");
    second.until_leader().await;
    assert!(is_committed(&second.pay("won", 4).await, false));
    first.link.set_cut(false);
    let error = sent.await.unwrap_err();
    assert_eq!(error, EngineError::Store(StoreFault::LeaderLost));
    assert!(!error.is_not_executed());
    let error = unsent.await.unwrap_err();
    assert_eq!(error, EngineError::Store(StoreFault::NotLeader));
    assert!(error.is_not_executed());
    let late = first.pay("late", 1).await.unwrap_err();
    assert_eq!(late, EngineError::Store(StoreFault::NotLeader));
    assert!(matches!(first.ended().await, End::SteppedDown { term: 2 }));
    first.drain().await;
    for id in ["sent", "unsent", "late"] {
        assert!(is_committed(&second.pay(id, 1).await, false), "{id}");
    }
    second.kill().await;
}
