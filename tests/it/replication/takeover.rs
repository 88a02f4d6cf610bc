//! A replica becomes the leader while calls wait for its engine.

use std::{pin::pin, sync::Arc};

use futures_util::FutureExt;
use tally::{engine::TallyEngine, store::replicated::Exchange, wall_clock::SystemWallClock};
use tally_journal::RealDisk;

use super::cluster::{Cluster, no_affinity};

/// The driver of a replica sends blocks to the log only after the engine has said that it leads. A read that the engine executes directly
/// behind waits for a block. If the engine answered both together, neither answer would ever come.
#[tokio::test]
async fn the_engine_says_that_it_leads_before_its_first_block_is_accepted() {
    let cluster = Cluster::new(1).await;
    let (disk, clock) = (Arc::new(RealDisk), Arc::new(SystemWallClock));
    let exchange = Exchange::default();
    let opened = TallyEngine::replica_without_threads(
        cluster.config(),
        disk,
        &cluster.directory(0),
        clock,
        &no_affinity(),
        &exchange,
    );
    let (engine, mut cores, _) = opened.unwrap();
    let mut lead = pin!(engine.lead());
    let mut read = pin!(engine.account("a".to_owned(), None));
    assert_eq!((&mut lead).now_or_never(), None);
    assert!((&mut read).now_or_never().is_none());
    cores.step_exec();
    assert_eq!((&mut lead).now_or_never(), Some(Ok(())));
    assert!(
        (&mut read).now_or_never().is_none(),
        "the log has accepted no block"
    );
}
