//! Tests of calls at replicas that do not lead, between real servers and with a leader that fails. The tests set the views of the
//! replicas, as drivers do.

mod failures;
mod fake_leader;
mod limits;
mod state;

use std::{sync::Arc, time::Duration};

use tally::{
    proto::{
        CreateAccountRequest, GetAccountRequest, GetTransactionRequest, ListTransactionsRequest,
        ProcessTransactionsRequest, StreamTransactionsRequest, WatchTransactionsRequest,
        account_service_client::AccountServiceClient, transaction_result::Outcome,
    },
    security::{Security, SecurityConfig, hash_hex},
    store::replicated::{ReplicaDriver, ReplicaRole, ReplicaView},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, transport::Channel};

use self::fake_leader::{Conduct, FakeLeader};
use super::{expected, summary};
use crate::support::in_process::{Service, account, pay, transaction, transfer};

/// Maximum time to wait for an event. No test measures this time.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// The advertised address of a replica that no test calls.
const OWN: &str = "http://127.0.0.1:9";

/// Returns the view of a replica with this role.
fn view(role: ReplicaRole, leader: Option<&str>) -> ReplicaView {
    ReplicaView {
        role,
        leader: leader.map(str::to_owned),
        own_address: OWN.to_owned(),
        caught_up: true,
        ..ReplicaView::default()
    }
}

/// A leader and a standby that forwards to it.
struct Pair {
    leader: Service,
    standby: Service,
    drivers: [ReplicaDriver; 2],
}

impl Pair {
    async fn start() -> Self {
        Pair::start_secured(|| Arc::new(Security::default())).await
    }

    async fn start_secured(security: impl Fn() -> Arc<Security>) -> Self {
        let leading = view(ReplicaRole::Leader, Some(OWN));
        let (leader, leader_driver) = Service::start_replica(leading, security()).await;
        let following = view(ReplicaRole::Standby, Some(&leader.endpoint()));
        let (standby, standby_driver) = Service::start_replica(following, security()).await;
        Pair {
            leader,
            standby,
            drivers: [leader_driver, standby_driver],
        }
    }
}

/// Starts a standby of a leader with this address.
async fn standby_of(leader: &str) -> (Service, ReplicaDriver) {
    let following = view(ReplicaRole::Standby, Some(leader));
    Service::start_replica(following, Arc::new(Security::default())).await
}

fn stale<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("tally-consistency", "stale-ok".parse().unwrap());
    request
}

fn get_account(id: &str) -> GetAccountRequest {
    GetAccountRequest {
        account_id: id.to_owned(),
        ..GetAccountRequest::default()
    }
}

fn message(id: &str) -> StreamTransactionsRequest {
    StreamTransactionsRequest {
        transaction: Some(pay(id)),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_forwards_unary_calls_batches_and_reads_with_their_errors() {
    let pair = Pair::start().await;
    pair.standby.open_accounts(&["a", "b"]).await;
    let mut client = pair.standby.transactions().await;
    let first = client.process_transaction(pay("one")).await.unwrap().into_inner();
    assert!(!first.replayed);
    // The leader has the transaction, and the standby's own engine has executed nothing.
    let mut direct = pair.leader.transactions().await;
    assert!(
        direct
            .process_transaction(pay("one"))
            .await
            .unwrap()
            .into_inner()
            .replayed
    );
    assert_eq!(pair.standby.engine.stats().ledger.last_sequence, 0);

    let transactions = (0..3000).map(|number| pay(&format!("batch-{number}"))).collect();
    let answer = client
        .process_transactions(ProcessTransactionsRequest { transactions })
        .await;
    let results = answer.unwrap().into_inner().results;
    let is_committed = |outcome: &Option<Outcome>| matches!(outcome, Some(Outcome::Committed(_)));
    assert!(results.len() == 3000 && results.iter().all(|result| is_committed(&result.outcome)));
    // A page can have fewer transactions than its maximum.
    let (mut listed, mut token) = (0, String::new());
    loop {
        let page = ListTransactionsRequest {
            page_size: 1000,
            page_token: token,
            ..ListTransactionsRequest::default()
        };
        let page = client.list_transactions(page).await.unwrap().into_inner();
        listed += page.transactions.len();
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, 3001);

    let wrong = transaction("two", vec![transfer("a", "nobody", 1)]);
    let error = client.process_transaction(wrong).await.unwrap_err();
    assert_eq!(
        summary(&error),
        expected(Code::NotFound, "ACCOUNT_NOT_FOUND", "false")
    );
    drop(pair.drivers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_forwards_streams_in_both_directions_while_they_are_open() {
    let pair = Pair::start().await;
    pair.standby.open_accounts(&["a", "b"]).await;
    let mut watching = pair.standby.transactions().await;
    let watch = WatchTransactionsRequest {
        from_sequence: 1,
        ..WatchTransactionsRequest::default()
    };
    let mut watch = watching.watch_transactions(watch).await.unwrap().into_inner();
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let mut client = pair.standby.transactions().await;
    let answers = client.stream_transactions(ReceiverStream::new(receiver)).await;
    let mut answers = answers.unwrap().into_inner();
    for number in 0..3 {
        // Each answer arrives before the next message is sent, so nothing waits for the end of the stream.
        sender.send(message(&format!("t{number}"))).await.unwrap();
        let answer = tokio::time::timeout(WAIT_MAX, answers.message()).await.unwrap();
        assert!(answer.unwrap().is_some());
    }
    drop(sender);
    assert!(answers.message().await.unwrap().is_none());
    let mut seen = 0;
    while seen < 3 {
        let event = tokio::time::timeout(WAIT_MAX, watch.message()).await.unwrap();
        seen += event.unwrap().unwrap().transactions.len();
    }
    // An open watch does not delay the end of the standby.
    pair.standby.begin_drain();
    let status = loop {
        match watch.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the watch ended without a reason"),
            Err(status) => break status,
        }
    };
    assert_eq!(
        summary(&status),
        expected(Code::Unavailable, "SHUTTING_DOWN", "false")
    );
    drop(pair.drivers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_stops_lets_a_stream_finish_what_the_leader_has_received() {
    let pair = Pair::start().await;
    pair.standby.open_accounts(&["a", "b"]).await;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let mut client = pair.standby.transactions().await;
    let answers = client.stream_transactions(ReceiverStream::new(receiver)).await;
    let mut answers = answers.unwrap().into_inner();
    sender.send(message("before")).await.unwrap();
    assert!(answers.message().await.unwrap().is_some());
    pair.standby.begin_drain();
    let status = tokio::time::timeout(WAIT_MAX, answers.message())
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(
        summary(&status),
        expected(Code::Unavailable, "SHUTTING_DOWN", "false")
    );
    drop((sender, pair.drivers));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_headers_of_a_call_reach_the_leader_and_the_deadline_shrinks() {
    let leader = FakeLeader::start(Conduct::Answer).await;
    let (standby, _driver) = standby_of(leader.endpoint()).await;
    let mut client = standby.patient_transactions().await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut request = Request::new(pay("t"));
    for (name, value) in [
        ("traceparent", trace),
        ("authorization", "Bearer secret"),
        ("tally-test", "x"),
        ("grpc-timeout", "10S"),
    ] {
        request.metadata_mut().insert(name, value.parse().unwrap());
    }
    let error = client.process_transaction(request).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    let headers = leader.headers().remove(0);
    let value = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(value("traceparent").as_deref(), Some(trace));
    assert_eq!(value("authorization").as_deref(), Some("Bearer secret"));
    assert_eq!(value("tally-test").as_deref(), Some("x"));
    assert_eq!(value("tally-forwarded").as_deref(), Some("1"));
    assert_eq!(value("content-type").as_deref(), Some("application/grpc"));
    let timeout = value("grpc-timeout").unwrap();
    let (digits, unit) = timeout.split_at(timeout.len() - 1);
    assert!(
        unit == "u" && digits.parse::<u64>().unwrap() < 10_000_000,
        "{timeout}"
    );
}

/// Returns a `Security` with the tokens `all` and `acme`. The token `acme` is for ids that begin with `acme/`.
fn two_tokens() -> Arc<Security> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let lines = [("all", ""), ("acme", " prefix=acme/")]
        .map(|(token, prefix)| format!("write {token} {}{prefix}\n", hash_hex(token.as_bytes())));
    std::fs::write(file.path(), lines.concat()).unwrap();
    let config = SecurityConfig {
        tokens: Some(file.path().to_owned()),
        ..SecurityConfig::default()
    };
    Arc::new(Security::load(&config).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_replicas_check_the_token_and_the_prefix() {
    let pair = Pair::start_secured(two_tokens).await;
    let channel = pair.standby.channel().await;
    let with = |token: &'static str| {
        let add = move |mut request: Request<()>| {
            if !token.is_empty() {
                request
                    .metadata_mut()
                    .insert("authorization", format!("Bearer {token}").parse().unwrap());
            }
            Ok::<_, tonic::Status>(request)
        };
        AccountServiceClient::with_interceptor(channel.clone(), add)
    };
    let create = |id: &str| CreateAccountRequest {
        account: Some(account(id)),
    };
    with("all").create_account(create("acme/a")).await.unwrap();
    with("acme").create_account(create("acme/b")).await.unwrap();
    let error = with("acme").create_account(create("beta/a")).await.unwrap_err();
    assert_eq!(
        summary(&error),
        expected(Code::PermissionDenied, "FORBIDDEN", "false")
    );
    for token in ["", "other"] {
        let error = with(token).create_account(create("acme/c")).await.unwrap_err();
        assert_eq!(
            summary(&error),
            expected(Code::Unauthenticated, "UNAUTHENTICATED", "false")
        );
    }
    // The leader checks the token as well: a standby that asks for no tokens must not give access to the leader.
    let (open, _driver) = standby_of(&pair.leader.endpoint()).await;
    let error = open
        .accounts()
        .await
        .create_account(create("acme/d"))
        .await
        .unwrap_err();
    assert_eq!(
        summary(&error),
        expected(Code::Unauthenticated, "UNAUTHENTICATED", "false")
    );
    drop(pair.drivers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_read_is_answered_by_the_standby_itself() {
    let pair = Pair::start().await;
    let [_, driver] = &pair.drivers;
    // While the second replica leads, it gets an account that the first replica does not have.
    driver.view.send_modify(|view| view.role = ReplicaRole::Leader);
    pair.standby.open_accounts(&["local"]).await;
    driver.view.send_modify(|view| view.role = ReplicaRole::Standby);
    let mut accounts = pair.standby.accounts().await;
    let found = accounts.get_account(stale(get_account("local"))).await.unwrap();
    assert_eq!(found.into_inner().account.unwrap().id, "local");
    let error = accounts.get_account(get_account("local")).await.unwrap_err();
    assert_eq!(
        summary(&error),
        expected(Code::NotFound, "ACCOUNT_NOT_FOUND", "false")
    );
    // The header has no effect on a write.
    let create = CreateAccountRequest {
        account: Some(account("new")),
    };
    accounts.create_account(stale(create)).await.unwrap();
    assert!(
        pair.leader
            .accounts()
            .await
            .get_account(get_account("new"))
            .await
            .is_ok()
    );
    // A replica that only starts has no copy to read from, and knows the leader.
    driver.view.send_modify(|view| view.role = ReplicaRole::Starting);
    assert!(accounts.get_account(stale(get_account("local"))).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_calls_of_a_replica_follow_its_view() {
    let (first, _first_driver) = Service::start_replica(
        view(ReplicaRole::Leader, Some(OWN)),
        Arc::new(Security::default()),
    )
    .await;
    let (second, _second_driver) = Service::start_replica(
        view(ReplicaRole::Leader, Some(OWN)),
        Arc::new(Security::default()),
    )
    .await;
    first.open_accounts(&["first"]).await;
    second.open_accounts(&["second"]).await;
    let (standby, driver) = standby_of(&first.endpoint()).await;
    let mut accounts: AccountServiceClient<Channel> = standby.accounts().await;
    assert!(accounts.get_account(get_account("first")).await.is_ok());
    driver
        .view
        .send_modify(|view| view.leader = Some(second.endpoint()));
    assert!(accounts.get_account(get_account("second")).await.is_ok());
    assert!(accounts.get_account(get_account("first")).await.is_err());
    let get = GetTransactionRequest {
        transaction_id: "t".to_owned(),
        ..GetTransactionRequest::default()
    };
    driver.view.send_modify(|view| view.role = ReplicaRole::Leader);
    let error = standby
        .transactions()
        .await
        .get_transaction(get)
        .await
        .unwrap_err();
    assert_eq!(
        summary(&error),
        expected(Code::NotFound, "TRANSACTION_NOT_FOUND", "false")
    );
}
