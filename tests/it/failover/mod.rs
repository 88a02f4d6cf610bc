//! Tests of a client with several endpoints: which endpoint it uses, and what it does when it loses one.

mod fake_replica;

use std::{net::TcpListener, time::Duration};

use tally::client::{CallError, Client, ClientConfig, ConnectError, Executed, RetryPolicy, TransactionWatch};

use self::fake_replica::{Conduct, FakeLedger, FakeReplica};
use crate::support::in_process::{Service, config, pay};

const LEAD: Conduct = Conduct::Lead { term: 1 };
const FOLLOW: Conduct = Conduct::Follow {
    term: 1,
    leader: None,
};

fn config_of(endpoints: &[String]) -> ClientConfig {
    ClientConfig {
        endpoints: endpoints.to_vec(),
        ..ClientConfig::default()
    }
}

async fn connect(replicas: &[&FakeReplica]) -> Client {
    let endpoints: Vec<String> = replicas.iter().map(|replica| replica.endpoint()).collect();
    Client::connect_with(&config_of(&endpoints)).await.unwrap()
}

/// Sends a batch with these ids. Returns the sequences of its transactions, and whether they were replayed.
async fn send(client: &Client, ids: &[&str]) -> Result<Vec<(i64, bool)>, CallError> {
    let transactions = ids.iter().map(|id| pay(id)).collect();
    let results = client.process_transactions(transactions).await?;
    let outcomes = results.into_iter().map(|result| match result.outcome {
        Some(tally::proto::transaction_result::Outcome::Committed(response)) => {
            (response.sequence, response.replayed)
        }
        other => panic!("{other:?}"),
    });
    Ok(outcomes.collect())
}

/// An endpoint at which nothing listens.
fn closed() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// An endpoint at which the kernel accepts connections, and nothing answers.
fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    (listener, endpoint)
}

fn following(leader: &str) -> Conduct {
    Conduct::Follow {
        term: 1,
        leader: Some(leader.to_owned()),
    }
}

#[tokio::test]
async fn endpoints_that_refuse_or_never_answer_do_not_hold_up_the_others() {
    let ledger = FakeLedger::default();
    let leader = FakeReplica::start(&ledger, LEAD);
    let (_listener, silent) = silent();
    let client = Client::connect_with(&config_of(&[closed(), silent, leader.endpoint()]))
        .await
        .unwrap();
    assert_eq!(send(&client, &["a"]).await.unwrap(), [(1, false)]);
}

#[tokio::test]
async fn the_leader_is_used_wherever_it_is_in_the_list() {
    let ledger = FakeLedger::default();
    let standby = FakeReplica::start(&ledger, FOLLOW);
    let deposed = FakeReplica::start(&ledger, Conduct::Pretend { term: 1 });
    let leader = FakeReplica::start(&ledger, Conduct::Lead { term: 2 });
    let client = connect(&[&standby, &deposed, &leader]).await;
    assert_eq!(send(&client, &["a"]).await.unwrap(), [(1, false)]);
    assert_eq!(
        (standby.calls(), deposed.calls(), leader.calls()),
        (0, 0, 1),
        "a leader of an old term leads no more"
    );
}

#[tokio::test]
async fn an_error_names_every_endpoint() {
    let (one, other) = (closed(), closed());
    let error = Client::connect_with(&config_of(&[one.clone(), other.clone()]))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "no connection to any of the 2 endpoints: {one}: nothing listens at this address, {other}: nothing listens at this \
             address; start the service with `tally serve`, or correct --endpoint"
        )
    );
    assert!(matches!(error, ConnectError::Unreachable { .. }) && error.is_temporary());
}

#[tokio::test]
async fn a_service_with_an_embedded_store_can_be_one_of_the_endpoints() {
    let service = Service::start(&config()).await;
    service.open_accounts(&["alice", "bob"]).await;
    let client = Client::connect_with(&config_of(&[closed(), service.endpoint()]))
        .await
        .unwrap();
    assert!(client.get_account("alice").await.unwrap().is_some());
}

#[tokio::test]
async fn the_address_in_not_leader_is_followed_if_it_is_an_endpoint() {
    let ledger = FakeLedger::default();
    let old = FakeReplica::start(&ledger, LEAD);
    let new = FakeReplica::start(&ledger, FOLLOW);
    let client = connect(&[&old, &new]).await;
    old.set(following(&new.endpoint().replace("http://", "HTTP://")));
    new.set(LEAD);
    assert_eq!(send(&client, &["a"]).await.unwrap(), [(1, false)]);
    assert_eq!((old.calls(), new.calls()), (1, 1));
    assert_eq!(new.questions(), 1, "the client asked only when it connected");
}

#[tokio::test]
async fn another_address_in_not_leader_gets_no_connection() {
    let ledger = FakeLedger::default();
    let old = FakeReplica::start(&ledger, LEAD);
    let new = FakeReplica::start(&ledger, FOLLOW);
    let stranger = FakeReplica::start(&ledger, LEAD);
    let client = connect(&[&old, &new]).await;
    old.set(following(&stranger.endpoint()));
    new.set(LEAD);
    assert_eq!(send(&client, &["a"]).await.unwrap(), [(1, false)]);
    assert_eq!(new.calls(), 1);
    assert_eq!((stranger.calls(), stranger.questions()), (0, 0));
}

#[tokio::test]
async fn replicas_that_name_each_other_do_not_hold_up_the_client() {
    let ledger = FakeLedger::default();
    let one = FakeReplica::start(&ledger, LEAD);
    let two = FakeReplica::start(&ledger, FOLLOW);
    let leader = FakeReplica::start(&ledger, FOLLOW);
    let client = connect(&[&one, &two, &leader]).await;
    one.set(following(&two.endpoint()));
    two.set(following(&one.endpoint()));
    leader.set(Conduct::Lead { term: 2 });
    assert_eq!(send(&client, &["a"]).await.unwrap(), [(1, false)]);
    assert_eq!((one.calls(), two.calls(), leader.calls()), (1, 1, 1));
}

#[tokio::test]
async fn without_a_leader_the_attempts_are_bounded_and_nothing_was_executed() {
    let ledger = FakeLedger::default();
    let one = FakeReplica::start(&ledger, FOLLOW);
    let two = FakeReplica::start(&ledger, FOLLOW);
    let pretender = FakeReplica::start(&ledger, Conduct::Pretend { term: 1 });
    one.set(following(&two.endpoint()));
    two.set(following(&one.endpoint()));
    let policy = RetryPolicy {
        attempts_max: 8,
        backoff_base: Duration::from_millis(1),
        ..RetryPolicy::default()
    };
    let client = connect(&[&one, &two, &pretender]).await.with_retry(policy);
    let error = send(&client, &["a"]).await.unwrap_err();
    assert_eq!((error.attempts(), error.executed()), (8, Executed::No));
    assert_eq!(error.reason().as_deref(), Some("NOT_LEADER"), "{error}");
    assert_eq!(one.calls() + two.calls() + pretender.calls(), 8);
    for replica in [&one, &two, &pretender] {
        assert!(replica.calls() > 0, "each replica was tried");
    }
}

#[tokio::test]
async fn a_batch_whose_leader_is_lost_is_executed_once() {
    for conduct in [
        Conduct::ExecuteAndClose { term: 1 },
        Conduct::ExecuteAndStop { term: 1 },
    ] {
        let ledger = FakeLedger::default();
        let old = FakeReplica::start(&ledger, LEAD);
        let new = FakeReplica::start(&ledger, FOLLOW);
        let client = connect(&[&old, &new]).await;
        assert_eq!(send(&client, &["a"]).await.unwrap(), [(1, false)]);
        old.set(conduct);
        new.set(Conduct::Lead { term: 2 });
        assert_eq!(
            send(&client, &["b", "c"]).await.unwrap(),
            [(2, true), (3, true)],
            "the lost leader had executed the batch"
        );
        assert_eq!(ledger.ids(), ["a", "b", "c"]);
        assert_eq!(send(&client, &["d"]).await.unwrap(), [(4, false)]);
    }
}

#[tokio::test]
async fn an_unknown_outcome_stays_unknown_while_nobody_leads() {
    let ledger = FakeLedger::default();
    let old = FakeReplica::start(&ledger, LEAD);
    let other = FakeReplica::start(&ledger, FOLLOW);
    let policy = RetryPolicy {
        attempts_max: 4,
        backoff_base: Duration::from_millis(1),
        ..RetryPolicy::default()
    };
    let client = connect(&[&old, &other]).await.with_retry(policy);
    old.set(Conduct::ExecuteAndClose { term: 0 });
    let error = send(&client, &["a"]).await.unwrap_err();
    assert_eq!(error.executed(), Executed::Unknown, "{error}");
}

/// Receives up to the sequence `last`. Returns the ids.
async fn receive(watch: &mut TransactionWatch, last: i64) -> Vec<String> {
    let mut ids = Vec::new();
    while watch.next_sequence() <= last {
        let response = watch.next().await.unwrap();
        ids.extend(response.transactions.into_iter().map(|one| one.transaction_id));
    }
    ids
}

#[tokio::test]
async fn a_watch_goes_on_at_the_new_leader_without_gap_and_without_duplicate() {
    let (ledger, behind) = (FakeLedger::default(), FakeLedger::default());
    let ids = |range: std::ops::Range<u32>| range.map(|number| format!("t{number}"));
    ledger.add(ids(1..4));
    behind.add(ids(1..3));
    let old = FakeReplica::start(&ledger, LEAD);
    let new = FakeReplica::start(&behind, FOLLOW);
    let client = connect(&[&old, &new]).await;
    let mut watch = client.watch_transactions(0, "");
    let mut received = receive(&mut watch, 3).await;
    // The new leader is behind the old leader for a moment, and answers that the sequence does not exist yet.
    new.set(Conduct::Lead { term: 2 });
    old.set(FOLLOW);
    old.close();
    let catch_up = async {
        while new.calls() == 0 {
            tokio::task::yield_now().await;
        }
        behind.add(ids(3..6));
    };
    let (more, ()) = tokio::join!(receive(&mut watch, 5), catch_up);
    received.extend(more);
    assert_eq!(received, ids(1..6).collect::<Vec<_>>());
}
