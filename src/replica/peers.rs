//! What a replica knows about the other replicas.

use std::sync::Arc;

use parking_lot::Mutex;
use tally_replication::{PEERS_MAX, PeerPoint};

use crate::store::replicated::ReplicaRole;

/// What another replica has said about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerState {
    /// Its address.
    pub address: String,
    /// What it does.
    pub role: ReplicaRole,
    /// The number of its last accepted block.
    pub accepted_block: u64,
    /// The hash of this block.
    pub accepted_hash: [u8; 32],
    /// The offset at which it reads the log next.
    pub next_offset: u64,
    /// Whether it has applied everything that is in the log.
    pub caught_up: bool,
}

/// The newest states of the other replicas that can be reached. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Peers(Arc<Mutex<Vec<PeerState>>>);

// ===== impl Peers =====

impl Peers {
    /// Replaces the states. `states` are those of the replicas that have answered.
    pub fn set(&self, states: Vec<PeerState>) {
        *self.0.lock() = states;
    }

    /// Returns the states.
    #[must_use]
    pub fn states(&self) -> Vec<PeerState> {
        self.0.lock().clone()
    }

    /// Returns the address of the replica that should lead next: a replica that has read the most of the log.
    #[must_use]
    pub fn successor(&self) -> Option<String> {
        let states = self.0.lock();
        let candidates = states
            .iter()
            .filter(|peer| peer.role == ReplicaRole::Standby && peer.caught_up);
        let best = candidates.max_by_key(|peer| peer.accepted_block);
        best.map(|peer| peer.address.clone())
    }

    /// Returns the address of a replica that says that it leads.
    #[must_use]
    pub(super) fn leader(&self) -> Option<String> {
        let states = self.0.lock();
        let found = states.iter().find(|peer| peer.role == ReplicaRole::Leader)?;
        Some(found.address.clone())
    }

    /// Returns the points with which a candidate compares itself.
    #[must_use]
    pub(super) fn points(&self) -> Vec<PeerPoint> {
        let states = self.0.lock();
        let known = states.iter().filter(|peer| peer.accepted_block > 0);
        let points = known.map(|peer| PeerPoint {
            number: peer.accepted_block,
            hash: peer.accepted_hash,
            next_offset: peer.next_offset,
        });
        points.take(PEERS_MAX).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_successor_is_a_standby_that_is_caught_up_and_has_read_the_most() {
        let peer = |address: &str, role, accepted_block, caught_up| PeerState {
            address: address.to_owned(),
            role,
            accepted_block,
            accepted_hash: [1; 32],
            next_offset: 9,
            caught_up,
        };
        let peers = Peers::default();
        assert_eq!(peers.successor(), None);
        peers.set(vec![
            peer("a", ReplicaRole::Standby, 7, true),
            peer("b", ReplicaRole::Standby, 8, true),
            peer("c", ReplicaRole::Standby, 9, false),
            peer("d", ReplicaRole::Stopped, 9, true),
        ]);
        assert_eq!(peers.successor().as_deref(), Some("b"));
        assert_eq!(peers.points().len(), 4);
    }
}
