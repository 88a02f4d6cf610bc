//! Watches the other replicas: asks for their states, and notices when the leader is gone.

use std::{sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, join_all};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::peers::{PeerState, Peers};
use crate::store::replicated::Replica;

/// Interval at which the other replicas are asked. A standby notices after this time that the process of the leader has ended.
const INTERVAL: Duration = Duration::from_millis(100);
/// Maximum time to wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(400);

/// What another replica answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerAnswer {
    /// Its state.
    State(PeerState),
    /// Its process has closed the connection, or accepts no connection.
    Closed,
    /// The replica did not answer, or its answer has another form.
    Unknown,
}

/// Asks other replicas.
pub trait AskPeer: Send + Sync + 'static {
    /// Asks the replica with this address.
    fn ask(&self, address: &str) -> BoxFuture<'static, PeerAnswer>;
}

/// Asks the replicas with these addresses again and again, for ever. Reports to `replica` when the leader is gone.
pub async fn watch_peers(addresses: Vec<String>, peers: Peers, replica: Replica, ask: Arc<dyn AskPeer>) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let asked = addresses
            .iter()
            .map(|address| timeout(ANSWER_TIMEOUT, ask.ask(address)));
        let mut states = Vec::with_capacity(addresses.len());
        for (address, answer) in addresses.iter().zip(join_all(asked).await) {
            match answer {
                Ok(PeerAnswer::State(state)) => states.push(state),
                Ok(PeerAnswer::Closed) if replica.read(|view| view.leader.as_deref() == Some(address)) => {
                    replica.leader_closed(address);
                }
                Ok(PeerAnswer::Closed | PeerAnswer::Unknown) | Err(_) => {}
            }
        }
        peers.set(states);
    }
}
