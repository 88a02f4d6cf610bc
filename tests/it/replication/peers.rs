//! What a replica does with what it learns of the others.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tally::{
    engine::TallyEngine,
    replica::{AskPeer, End, PeerAnswer, PeerState, clock_ahead_ms, watch_peers},
    store::replicated::{Replica, ReplicaIdentity, ReplicaRole},
};
use tally_journal::{DataId, Genesis};
use tokio::task::JoinHandle;

use super::{
    cluster::{Cluster, Running, address},
    replicas::is_committed,
};

/// Asks the replicas of a test.
#[derive(Clone)]
struct Asker {
    own: TallyEngine,
    others: Arc<Mutex<Vec<(String, Replica, TallyEngine)>>>,
}

impl AskPeer for Asker {
    fn ask(&self, address: &str) -> BoxFuture<'static, PeerAnswer> {
        let sent = self.own.clock().ledger;
        let others = self.others.lock();
        let other = others.iter().find(|(found, _, _)| found == address);
        let answer = other.map_or(PeerAnswer::Closed, |(address, replica, engine)| {
            let (view, clock) = (replica.view(), engine.clock().ledger);
            PeerAnswer::State(PeerState {
                address: address.clone(),
                identity: view.identity.unwrap(),
                role: view.role,
                accepted_block: view.accepted_block,
                accepted_hash: view.accepted_hash,
                next_offset: u64::try_from(view.next_offset).unwrap(),
                caught_up: view.caught_up,
                clock_ahead_ms: clock_ahead_ms(sent, clock, self.own.clock().ledger),
            })
        });
        Box::pin(std::future::ready(answer))
    }
}

/// Lets each replica ask the others until the result is dropped.
struct Watching(Vec<JoinHandle<()>>);

impl Watching {
    fn start(replicas: &[&Running]) -> Self {
        let all = replicas.iter().enumerate();
        let all: Vec<_> = all
            .map(|(index, one)| (address(index), one.replica.clone(), one.engine.clone()))
            .collect();
        let tasks = replicas.iter().enumerate().map(|(index, one)| {
            let asker = Asker {
                own: one.engine.clone(),
                others: Arc::new(Mutex::new(all.clone())),
            };
            let others = (0..replicas.len()).filter(|other| *other != index);
            let addresses = others.map(address).collect();
            let (peers, replica) = (one.peers.clone(), one.replica.clone());
            tokio::spawn(watch_peers(addresses, peers, replica, Arc::new(asker)))
        });
        Watching(tasks.collect())
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// A leader whose clock differs from those of both others gives up leadership to one whose clock is right, and does not take it back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_with_a_wrong_clock_resigns() {
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
    let watching = Watching::start(&[&first, &second, &third]);
    first.clock.set_ahead(Duration::from_secs(5));
    first
        .until("follows another one", |view| {
            view.role == ReplicaRole::Standby
                && view.leader.as_ref().is_some_and(|leader| *leader != address(0))
        })
        .await;
    let view = second.until("a new leader", |view| view.leader.is_some()).await;
    let leader = if view.leader == Some(address(1)) {
        &second
    } else {
        &third
    };
    leader.until_leader().await;
    assert!(is_committed(&leader.pay("one", 1).await, false));
    drop(watching);
    for replica in [first, second, third] {
        replica.kill().await;
    }
}

/// Returns the answer of a replica that has read much more of a log.
fn ahead(identity: ReplicaIdentity) -> PeerState {
    PeerState {
        address: address(1),
        identity,
        role: ReplicaRole::Standby,
        accepted_block: 1 << 40,
        accepted_hash: [9; 32],
        next_offset: 1 << 41,
        caught_up: true,
        clock_ahead_ms: 0,
    }
}

/// A replica of another ledger at one of the addresses, or one that still reads the topic of a lost log, does not stop a candidate. One that
/// belongs to the candidate and has read more does: the log was rolled back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_compares_itself_only_with_replicas_of_its_ledger_and_topic() {
    let mut cluster = Cluster::new(2).await;
    let own = ReplicaIdentity {
        data_id: Genesis::decode(&cluster.log.record(0)).unwrap().data_id(),
        topic_id: [7; 16],
    };
    let other_ledger = ReplicaIdentity {
        data_id: DataId::from_bytes([9; 16]),
        ..own
    };
    let other_topic = ReplicaIdentity {
        topic_id: [9; 16],
        ..own
    };
    for other in [other_ledger, other_topic] {
        let replica = cluster.start(0).await;
        replica.peers.set(vec![ahead(other)]);
        let view = replica.until_leader().await;
        assert_eq!(view.identity, Some(own));
        let view = replica.until("shows it", |view| !view.ignored.is_empty()).await;
        assert_eq!(view.ignored[0].address, address(1));
        replica.kill().await;
    }
    let mut replica = cluster.start(0).await;
    replica.peers.set(vec![ahead(own)]);
    let end = replica.ended().await;
    assert!(
        matches!(&end, End::Halted(reason) if reason.contains("which the log does not hold")),
        "{end:?}"
    );
    replica.drain().await;
}
