//! Watches the other replicas: asks for their states, and notices when the leader closes its connection.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::peers::{PeerState, Peers};

/// Interval at which the other replicas are asked.
const INTERVAL: Duration = Duration::from_millis(500);
/// Longest time of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(400);

/// Asks another replica for its state.
pub trait AskPeer: Send + Sync + 'static {
    /// Asks the replica with this address. Returns `None` if it does not answer.
    fn ask(&self, address: &str) -> futures_util::future::BoxFuture<'static, Option<PeerState>>;
}

/// Asks the replicas with these addresses again and again, for ever.
pub async fn watch_peers(addresses: Vec<String>, peers: Peers, ask: Arc<dyn AskPeer>) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let asked = addresses.iter().map(|address| timeout(ANSWER_TIMEOUT, ask.ask(address)));
        let states = join_all(asked).await.into_iter().filter_map(|answer| answer.ok().flatten());
        peers.set(states.collect());
    }
}
