//! What a replica knows about the other replicas.

use std::sync::Arc;

use parking_lot::Mutex;
use tally_ledger::Timestamp;
use tally_replication::{PEERS_MAX, PeerPoint, is_clock_wrong};

use crate::store::replicated::{IgnoredPeer, ReplicaIdentity, ReplicaRole};

/// What another replica has said about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerState {
    /// Its address.
    pub address: String,
    /// Its ledger and its topic.
    pub identity: ReplicaIdentity,
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
    /// How far the clock of this replica is ahead of its clock: [`clock_ahead_ms`].
    pub clock_ahead_ms: i64,
}

/// The newest states of the other replicas that can be reached. Clones share them.
///
/// A replica of another ledger, or one that reads another topic, is ignored: it knows nothing about the log of this replica. A wrong address
/// in the settings, and a log that was published again, lead to such replicas.
#[derive(Debug, Clone)]
pub struct Peers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    own: ReplicaIdentity,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The answers of the last round.
    states: Vec<PeerState>,
    /// The replicas that are ignored, until another answer comes from their address.
    ignored: Arc<[IgnoredPeer]>,
}

/// Returns by how many milliseconds a clock that showed `sent` before a question and `received` after the answer is ahead of a clock that
/// showed `other` in between. This is the least difference that explains the times: 0 if there may be none, negative if the clock is behind.
#[must_use]
pub fn clock_ahead_ms(sent: Timestamp, other: Timestamp, received: Timestamp) -> i64 {
    let ms = |later: Timestamp, earlier: Timestamp| {
        let nanos = later.as_nanos().saturating_sub(earlier.as_nanos());
        i64::try_from(nanos / 1_000_000).map_or(i64::MAX, |ms| ms)
    };
    // The clock can step back between the question and the answer.
    let (first, last) = (sent.min(received), sent.max(received));
    if other < first {
        ms(first, other)
    } else {
        -ms(other, last)
    }
}

// ===== impl Peers =====

impl Peers {
    /// Makes the list of the other replicas of a replica with this identity. It is empty at first.
    #[must_use]
    pub fn new(own: ReplicaIdentity) -> Self {
        Peers(Arc::new(Shared {
            own,
            known: Mutex::default(),
        }))
    }

    /// Replaces the states. `states` are those of the replicas that have answered.
    pub fn set(&self, states: Vec<PeerState>) {
        let (own, others): (Vec<_>, Vec<_>) =
            states.into_iter().partition(|state| state.identity == self.0.own);
        let mut known = self.0.known.lock();
        let mut ignored = known.ignored.to_vec();
        ignored.retain(|one| own.iter().all(|state| state.address != one.address));
        for state in others {
            let reason = difference(&state.identity, &self.0.own);
            if ignored
                .iter()
                .any(|one| one.address == state.address && one.reason == reason)
            {
                continue;
            }
            tracing::warn!(
                address = state.address,
                reason,
                "ignores a replica that does not belong to this one; look at store.replicated.peers"
            );
            ignored.retain(|one| one.address != state.address);
            ignored.push(IgnoredPeer {
                address: state.address,
                reason,
            });
        }
        if *ignored != *known.ignored {
            known.ignored = ignored.into();
        }
        known.states = own;
    }

    /// Returns the states of the replicas that belong to this one.
    #[must_use]
    pub fn states(&self) -> Vec<PeerState> {
        self.0.known.lock().states.clone()
    }

    /// Returns the replicas that are ignored.
    #[must_use]
    pub fn ignored(&self) -> Arc<[IgnoredPeer]> {
        Arc::clone(&self.0.known.lock().ignored)
    }

    /// Returns the address of the replica that should lead next: one that has read the most, and if possible one whose clock is right.
    #[must_use]
    pub fn successor(&self) -> Option<String> {
        self.best_standby(|_| true)
    }

    /// Returns the address of the replica that should lead next if the clock of this one is wrong according to the others; `None` also if no
    /// replica with a right clock can lead.
    #[must_use]
    pub(super) fn successor_of_wrong_clock(&self) -> Option<String> {
        self.best_standby(|is_right| is_right)
            .filter(|_| self.is_clock_wrong())
    }

    /// Returns whether the clock of this replica differs from those of the others so much that it should not lead.
    #[must_use]
    pub(super) fn is_clock_wrong(&self) -> bool {
        let known = self.0.known.lock();
        let differences: Vec<i64> = known.states.iter().map(|peer| peer.clock_ahead_ms).collect();
        is_clock_wrong(&differences)
    }

    /// Returns the address of the best standby whose clock `may_have`: the argument says whether the clock is right.
    fn best_standby(&self, may_have: impl Fn(bool) -> bool) -> Option<String> {
        let known = self.0.known.lock();
        let candidates = known
            .states
            .iter()
            .filter(|peer| peer.role == ReplicaRole::Standby && peer.caught_up)
            .map(|peer| (has_right_clock(peer, &known.states), peer.accepted_block, peer))
            .filter(|(is_right, _, _)| may_have(*is_right));
        let (_, _, best) = candidates.max_by_key(|(is_right, block, _)| (*is_right, *block))?;
        Some(best.address.clone())
    }

    /// Returns the address of a replica that says that it leads.
    #[must_use]
    pub(super) fn leader(&self) -> Option<String> {
        let known = self.0.known.lock();
        let found = known
            .states
            .iter()
            .find(|peer| peer.role == ReplicaRole::Leader)?;
        Some(found.address.clone())
    }

    /// Returns the points with which a candidate compares itself.
    #[must_use]
    pub(super) fn points(&self) -> Vec<PeerPoint> {
        let known = self.0.known.lock();
        let peers = known.states.iter().filter(|peer| peer.accepted_block > 0);
        let points = peers.map(|peer| PeerPoint {
            number: peer.accepted_block,
            hash: peer.accepted_hash,
            next_offset: peer.next_offset,
        });
        points.take(PEERS_MAX).collect()
    }
}

/// Returns whether the clock of a peer is right, compared with the clock of this replica and of all `peers`.
fn has_right_clock(peer: &PeerState, peers: &[PeerState]) -> bool {
    let others = peers.iter().filter(|other| other.address != peer.address);
    let mut differences: Vec<i64> = others
        .map(|other| other.clock_ahead_ms.saturating_sub(peer.clock_ahead_ms))
        .collect();
    differences.push(peer.clock_ahead_ms.saturating_neg());
    !is_clock_wrong(&differences)
}

/// Returns how the identity of another replica differs.
fn difference(other: &ReplicaIdentity, own: &ReplicaIdentity) -> String {
    if other.data_id == own.data_id {
        "it reads another topic, or the topic before it was made anew".to_owned()
    } else {
        format!(
            "it holds the ledger {}, and this replica the ledger {}",
            other.data_id, own.data_id
        )
    }
}

#[cfg(test)]
mod tests {
    use tally_journal::DataId;

    use super::*;

    const OWN: ReplicaIdentity = ReplicaIdentity {
        data_id: DataId::from_bytes([1; 16]),
        topic_id: [2; 16],
    };

    fn peer(address: &str, role: ReplicaRole, accepted_block: u64, caught_up: bool) -> PeerState {
        PeerState {
            address: address.to_owned(),
            identity: OWN,
            role,
            accepted_block,
            accepted_hash: [1; 32],
            next_offset: 9,
            caught_up,
            clock_ahead_ms: 0,
        }
    }

    fn standby(address: &str, accepted_block: u64, clock_ahead_ms: i64) -> PeerState {
        PeerState {
            clock_ahead_ms,
            ..peer(address, ReplicaRole::Standby, accepted_block, true)
        }
    }

    #[test]
    fn the_successor_is_a_standby_that_is_caught_up_and_has_read_the_most() {
        let peers = Peers::new(OWN);
        assert_eq!(peers.successor(), None);
        peers.set(vec![
            peer("a", ReplicaRole::Standby, 7, true),
            peer("b", ReplicaRole::Standby, 8, true),
            peer("c", ReplicaRole::Standby, 9, false),
            peer("d", ReplicaRole::Stopped, 9, true),
        ]);
        assert_eq!(peers.successor().as_deref(), Some("b"));
        assert_eq!(peers.points().len(), 4);
        assert_eq!(peers.successor_of_wrong_clock(), None);
    }

    #[test]
    fn replicas_of_another_ledger_or_another_topic_are_ignored_until_they_belong_to_this_one() {
        let of = |address: &str, identity| PeerState {
            identity,
            ..peer(address, ReplicaRole::Leader, 9, true)
        };
        let other_ledger = ReplicaIdentity {
            data_id: DataId::from_bytes([9; 16]),
            ..OWN
        };
        let other_topic = ReplicaIdentity {
            topic_id: [9; 16],
            ..OWN
        };
        let peers = Peers::new(OWN);
        let shown = || -> Vec<String> {
            let ignored = peers.ignored();
            ignored
                .iter()
                .map(|one| format!("{}: {}", one.address, one.reason))
                .collect()
        };
        let reasons = [
            "a: it holds the ledger 09090909090909090909090909090909, and this replica the ledger 01010101010101010101010101010101",
            "b: it reads another topic, or the topic before it was made anew",
        ];
        peers.set(vec![of("a", other_ledger), of("b", other_topic)]);
        assert_eq!(shown(), reasons);
        assert_eq!(
            (peers.points(), peers.leader(), peers.successor()),
            (vec![], None, None)
        );
        // A replica that does not answer has not changed.
        peers.set(vec![]);
        assert_eq!(shown(), reasons);
        peers.set(vec![of("a", OWN), of("b", other_ledger)]);
        assert_eq!(shown(), [reasons[0].replace("a:", "b:")]);
        assert_eq!((peers.points().len(), peers.leader().as_deref()), (1, Some("a")));
    }

    #[test]
    fn a_replica_with_a_wrong_clock_names_a_successor_whose_clock_is_right() {
        let peers = Peers::new(OWN);
        for (ahead, wanted) in [
            ([2_000, 2_100], Some("b")),
            // The clock of `b` differs from all others, too.
            ([2_000, 9_000], Some("a")),
            ([-2_000, -9_000], Some("a")),
            ([2_000, 0], None),
            ([2_000, -2_000], None),
        ] {
            peers.set(vec![standby("a", 7, ahead[0]), standby("b", 8, ahead[1])]);
            assert_eq!(peers.successor_of_wrong_clock().as_deref(), wanted, "{ahead:?}");
        }
        // Nobody knows which of two clocks is wrong.
        peers.set(vec![standby("a", 7, 9_000)]);
        assert_eq!(peers.successor_of_wrong_clock(), None);
        // A successor with a wrong clock is better than none, but no reason to resign.
        peers.set(vec![
            standby("a", 7, 9_000),
            peer("b", ReplicaRole::Starting, 8, false),
        ]);
        assert_eq!(peers.successor().as_deref(), Some("a"));
        assert_eq!(peers.successor_of_wrong_clock(), None);
    }

    #[test]
    fn the_difference_of_two_clocks_is_the_least_that_explains_their_times() {
        let ms = |ms: u64| Timestamp::from_nanos(ms * 1_000_000);
        for (sent, other, received, ahead) in [
            (1_000, 1_100, 1_200, 0),
            (1_000, 900, 1_200, 100),
            (1_000, 1_500, 1_200, -300),
            // The clock was set back meanwhile.
            (1_000, 500, 400, 0),
            (1_000, 300, 400, 100),
        ] {
            assert_eq!(clock_ahead_ms(ms(sent), ms(other), ms(received)), ahead);
        }
        let end = Timestamp::from_nanos(u64::MAX);
        assert!(clock_ahead_ms(ms(0), end, ms(0)) < 0);
    }
}
