//! Faults of the parts of a replica: its connection, its engine, and a stop at any time.

use std::time::Duration;

use bytes::Bytes;
use tally::{
    engine::{Condition, EngineError, StoreFault},
    replica::End,
    store::replicated::{ClaimBody, ReplicaRole, ResignError},
};
use tally_journal::{BlockBuffer, BlockKind, BlockMeta, BlockSealer, BlockStamp, Genesis};

use super::{
    cluster::{Cluster, noise},
    replicas::is_committed,
};

/// Maximum time to wait for an event. No test measures this time.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A leader that is stopped while the log can't be reached ends, although the log never accepts its last blocks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_stopped_does_not_wait_for_the_blocks_in_flight() {
    let mut cluster = Cluster::new(1).await;
    let first = cluster.start(0).await;
    first.until_leader().await;
    first.open_accounts(&["a", "b"]).await;
    first.link.set_cut(true);
    let (lost, ()) = tokio::join!(first.pay("lost", 3), async { first.stop() });
    let lost = lost.unwrap_err();
    let expected = [StoreFault::WriteFailed, StoreFault::Failed].map(EngineError::Store);
    assert!(expected.contains(&lost), "{lost:?}");
    let end = tokio::time::timeout(WAIT_MAX, first.kill()).await;
    assert_eq!(end.expect("the engine ends"), End::Stopped);
    let again = cluster.start(0).await;
    again.until_leader().await;
    assert_eq!(again.paid().await.unwrap(), 0);
    assert!(is_committed(&again.pay("lost", 3).await, false));
    again.kill().await;
}

/// A leader must read the records of others that are before its blocks in the log. If its connection for reads has ended, it makes a new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_reads_fail_connects_again() {
    let mut cluster = Cluster::new(1).await;
    let leader = cluster.start(0).await;
    leader.until_leader().await;
    leader.open_accounts(&["a", "b"]).await;
    for round in 0..5 {
        leader.link.break_reads();
        cluster.log.push(noise());
        let id = format!("pay {round}");
        let paid = tokio::time::timeout(WAIT_MAX, leader.pay(&id, 1)).await;
        assert!(is_committed(&paid.expect("the leader can go on"), false));
    }
    let view = leader.replica.view();
    assert_eq!((view.role, view.term), (ReplicaRole::Leader, 1));
    leader.kill().await;
}

/// A leader that resigns answers no reads from the moment at which it sends its last block: the log may have accepted this block, and another
/// replica may lead, before the leader knows. A call to end the log must not succeed then, because the other replica continues the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_resigns_takes_no_calls_and_does_not_end_the_log() {
    let mut cluster = Cluster::new(1).await;
    let leader = cluster.start(0).await;
    leader.until_leader().await;
    leader.link.set_cut(true);
    let (resigned, ()) = tokio::join!(leader.replica.resign(None), async {
        assert_eq!(leader.replica.end_log().await, Err(ResignError::NotLeader));
        assert_eq!(leader.replica.view().role, ReplicaRole::Standby);
        leader.link.set_cut(false);
    });
    assert_eq!(resigned.unwrap().term, 1);
    leader
        .until("leads again", |view| {
            view.role == ReplicaRole::Leader && view.term > 1
        })
        .await;
    leader.kill().await;
}

/// A service ends its engine before the driver. The driver may still have blocks for the engine then, which must not count as a fault.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_whose_engine_has_ended_ends_without_a_fault() {
    let mut cluster = Cluster::new(2).await;
    let leader = cluster.start(0).await;
    leader.until_leader().await;
    let mut follower = cluster.start(1).await;
    follower
        .until("caught up", |view| view.caught_up && view.leader.is_some())
        .await;
    follower.drain().await;
    assert_eq!(follower.ended().await, End::Stopped);
    assert_eq!(follower.engine.health().condition(), Condition::Running);
    leader.kill().await;
}

/// Seals a block that continues the chain, with this kind and body.
fn sealed(sealer: &mut BlockSealer, kind: BlockKind, body: &[u8], base_time_ns: u64) -> Bytes {
    let stamp = BlockStamp {
        term: 1,
        writer: 77,
        kind,
    };
    let meta = BlockMeta {
        position: sealer.end().position,
        first_entry: 1,
        first_sequence: 1,
        base_time_ns,
        record_count: u32::from(kind == BlockKind::Data),
    };
    let mut buffer = BlockBuffer::with_capacity(0);
    buffer.push(body);
    sealer.seal(&meta, stamp, &mut buffer).unwrap();
    Bytes::copy_from_slice(buffer.sealed_bytes())
}

/// If a block turns out to be invalid, a part of it may have been applied already. So no read may be answered after that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_read_after_an_accepted_block_that_does_not_fit_the_ledger() {
    let mut cluster = Cluster::new(1).await;
    let genesis = Genesis::decode(&cluster.log.record(0)).unwrap();
    let mut sealer = BlockSealer::new(genesis.data_id(), genesis.geometry(), genesis.start());
    let claim = ClaimBody {
        address: "http://elsewhere:1".to_owned(),
        version: "test".to_owned(),
    };
    cluster
        .log
        .push(sealed(&mut sealer, BlockKind::Claim, &claim.encode(), 1));
    cluster
        .log
        .push(sealed(&mut sealer, BlockKind::Data, b"not a record", 2));
    let mut replica = cluster.start(0).await;
    let end = replica.ended().await;
    // EXEC reports the failure before it answers, so the driver can learn it in either way.
    let is_failed = matches!(end, End::Engine(_) | End::Failed(Condition::StoreFailed));
    assert!(is_failed, "{end:?}");
    assert_eq!(replica.engine.health().condition(), Condition::StoreFailed);
    assert_eq!(
        replica.paid().await.unwrap_err(),
        EngineError::Store(StoreFault::Failed)
    );
    replica.drain().await;
}
