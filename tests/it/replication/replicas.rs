//! Tests of leaders, followers and failover.

use tally::{
    engine::{Condition, EngineError, StoreFault},
    replica::{End, PublishError},
    store::replicated::{ReplicaRole, ResignError},
};
use tally_ledger::Outcome;

use super::{
    cluster::{Cluster, address, noise},
    memory_log::AppendFault,
};

pub(super) fn is_committed(outcome: &Result<Outcome, EngineError>, replayed: bool) -> bool {
    matches!(outcome, Ok(Outcome::Committed { replayed: found, .. }) if *found == replayed)
}

/// Every replica gets the blocks whose calls the leader has answered, and can continue the ledger without the leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_has_the_same_bytes_and_continues_when_the_leader_is_gone() {
    let mut cluster = Cluster::new(2).await;
    let first = cluster.start(0).await;
    first.until_leader().await;
    first.open_accounts(&["a", "b"]).await;
    assert!(is_committed(&first.pay("one", 5).await, false));
    let second = cluster.start(1).await;
    let view = first.replica.view();
    second
        .until("caught up", |second| {
            second.caught_up && second.accepted_block >= view.accepted_block
        })
        .await;
    assert_eq!(second.paid().await.unwrap(), 5);
    assert_eq!(second.replica.view().leader, Some(address(0)));
    assert_eq!(
        second.pay("no", 1).await.unwrap_err(),
        EngineError::Store(StoreFault::NotLeader)
    );

    assert_eq!(first.kill().await, End::Stopped);
    let view = second.until_leader().await;
    assert_eq!((view.term, view.leader), (2, Some(address(1))));
    assert!(is_committed(&second.pay("one", 5).await, true));
    assert!(is_committed(&second.pay("two", 7).await, false));
    assert_eq!(second.paid().await.unwrap(), 12);

    let first = cluster.start(0).await;
    first
        .until("caught up", |view| view.caught_up && view.term == 2)
        .await;
    assert_eq!(first.paid().await.unwrap(), 12);
    second.kill().await;
    first.kill().await;
    let (one, two) = (cluster.bytes(0), cluster.bytes(1));
    // The first replica may have sent a claim before it was stopped.
    for ((name, one), (other, two)) in one.iter().zip(&two) {
        assert_eq!(name, other);
        let common = one.len().min(two.len());
        assert!(one[..common] == two[..common], "{name} differs");
    }
}

/// The successor that the leader names leads next, and the former leader follows it in the same process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_resigns_follows_its_successor() {
    let mut cluster = Cluster::new(3).await;
    let first = cluster.start(0).await;
    first.until_leader().await;
    first.open_accounts(&["a", "b"]).await;
    let (second, third) = (cluster.start(1).await, cluster.start(2).await);
    for follower in [&second, &third] {
        follower
            .until("caught up", |view| view.caught_up && view.leader.is_some())
            .await;
    }
    assert_eq!(second.replica.resign(None).await, Err(ResignError::NotLeader));
    assert_eq!(
        first.replica.resign(Some("http://elsewhere:1".to_owned())).await,
        Err(ResignError::UnknownSuccessor {
            address: "http://elsewhere:1".to_owned()
        })
    );
    for (leader, next, index) in [(&first, &third, 2), (&third, &second, 1), (&second, &first, 0)] {
        let resigned = leader.replica.resign(Some(address(index))).await.unwrap();
        let view = next.until_leader().await;
        assert!(view.term > resigned.term);
        leader
            .until("follows", |view| view.leader == Some(address(index)))
            .await;
        assert!(is_committed(&next.pay(&format!("by {index}"), 1).await, false));
    }
    for replica in [first, second, third] {
        replica.kill().await;
    }
}

/// A leader that was replaced while it was cut off answers nothing, and its process must start again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_cut_off_steps_down() {
    let mut cluster = Cluster::new(2).await;
    let mut first = cluster.start(0).await;
    first.until_leader().await;
    first.open_accounts(&["a", "b"]).await;
    let second = cluster.start(1).await;
    second
        .until("caught up", |view| view.caught_up && view.leader.is_some())
        .await;
    // The block of this read is accepted. So no heartbeat is in flight, behind which the next block would wait unsent.
    first.paid().await.unwrap();
    first.link.set_cut(true);
    let (lost, read) = (first.pay("lost", 3), first.paid());
    let replaced = async {
        second.until_leader().await;
        assert!(is_committed(&second.pay("won", 4).await, false));
        first.link.set_cut(false);
    };
    let (lost, read, ()) = tokio::join!(lost, read, replaced);
    assert_eq!(lost.unwrap_err(), EngineError::Store(StoreFault::LeaderLost));
    // The read is in the same block or in the next one, which was never sent.
    let read = read.unwrap_err();
    let expected = [StoreFault::LeaderLost, StoreFault::NotLeader].map(EngineError::Store);
    assert!(expected.contains(&read), "{read:?}");
    assert!(matches!(first.ended().await, End::SteppedDown { term: 2 }));
    assert_eq!(first.engine.health().condition(), Condition::SteppedDown);
    let engine = first.engine.clone();
    tokio::task::spawn_blocking(move || engine.drain()).await.unwrap();
    drop(first);
    let first = cluster.start(0).await;
    first
        .until("caught up", |view| view.caught_up && view.term == 2)
        .await;
    assert_eq!(first.paid().await.unwrap(), 4);
    assert!(is_committed(&second.pay("lost", 3).await, false));
    first.kill().await;
    second.kill().await;
}

/// After the *end* block, no replica leads. Only the directory that the block names can be continued, as an embedded store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_ends_and_one_directory_goes_on_alone() {
    let mut cluster = Cluster::new(2).await;
    let first = cluster.start(0).await;
    first.until_leader().await;
    first.open_accounts(&["a", "b"]).await;
    assert!(is_committed(&first.pay("one", 5).await, false));
    first.kill().await;
    // The second directory is a copy of the first one in all files.
    cluster.copy(0, 1);
    let name = cluster.name(0);
    assert_eq!(cluster.name(0), name);
    let mut first = cluster.start(0).await;
    first.until_leader().await;
    let mut second = cluster.start(1).await;
    second
        .until("caught up", |view| view.caught_up && view.leader.is_some())
        .await;
    assert_eq!(second.replica.end_log(name).await, Err(ResignError::NotLeader));
    first.replica.end_log(name).await.unwrap();
    for replica in [&mut first, &mut second] {
        let ended = replica.ended().await;
        assert!(
            matches!(&ended, End::LogEnded { address: Some(found) } if *found == address(0)),
            "{ended:?}"
        );
        replica
            .until("stopped", |view| view.role == ReplicaRole::Stopped)
            .await;
        assert_eq!(replica.paid().await.unwrap(), 5);
        replica.drain().await;
    }
    assert!(cluster.bytes(0) == cluster.bytes(1));
    drop((first, second));
    // A start after the end finds the end, and does not claim.
    let records = cluster.log.len();
    for index in [0, 1] {
        let mut again = cluster.start(index).await;
        assert!(matches!(again.ended().await, End::LogEnded { .. }));
        again.drain().await;
    }
    assert_eq!(cluster.log.len(), records);
    assert!(matches!(cluster.go_on_alone(1), Err(PublishError::InUse(_))));
    assert_ne!(cluster.name(1), name);
    assert!(matches!(cluster.go_on_alone(1), Err(PublishError::InUse(_))));
    for _ in 0..2 {
        cluster.go_on_alone(0).unwrap();
    }
    assert_eq!(cluster.paid_alone(0).await, 5);
    // No replica would accept what the embedded store has written. So the directory stays one of the embedded store.
    assert!(matches!(
        cluster.publish(0).await,
        Err(PublishError::Ended { .. })
    ));
    assert_eq!(cluster.paid_alone(0).await, 5);
}

/// Lost requests, lost answers, refusals and foreign records do not affect the callers of the leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_the_log_are_resolved_by_the_chain() {
    let mut cluster = Cluster::new(1).await;
    let leader = cluster.start(0).await;
    leader.until_leader().await;
    leader.open_accounts(&["a", "b"]).await;
    let faults = [
        AppendFault::AnswerLost,
        AppendFault::RequestLost,
        AppendFault::Refused,
    ];
    for (round, fault) in faults.into_iter().cycle().take(30).enumerate() {
        cluster.log.fail_next(fault);
        if round % 4 == 0 {
            cluster.log.push(noise());
        }
        assert!(is_committed(&leader.pay(&format!("pay {round}"), 1).await, false));
    }
    assert_eq!(leader.paid().await.unwrap(), 30);
    assert_eq!(leader.replica.view().role, ReplicaRole::Leader);
    leader.kill().await;
    let again = cluster.start(0).await;
    again.until_leader().await;
    assert_eq!(again.paid().await.unwrap(), 30);
    again.kill().await;
}
