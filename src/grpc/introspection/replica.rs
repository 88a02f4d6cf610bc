//! `GetReplicaState` and `ResignLeadership`: the replica of a replicated store.

use std::time::Duration;

use tonic::Status;

use super::values::{check_comment, count, duration};
use crate::{
    engine::TallyEngine,
    grpc::{fields::from_time, status::replica as replica_status},
    proto::{self, GetReplicaStateResponse, IgnoredReplica, ReplicaState, ResignLeadershipRequest},
    security::{Administrator, Resignation},
    store::replicated::{IgnoredPeer, ReplicaRole, ReplicaView},
};

/// Returns the state of the engine's replica. The response is empty if the store is embedded.
#[must_use]
pub fn replica_state_response(engine: &TallyEngine) -> GetReplicaStateResponse {
    let replica = engine.replica().map(|replica| ReplicaState {
        clock: Some(from_time(engine.clock().ledger)),
        ..replica_state(&replica.view())
    });
    GetReplicaStateResponse { replica }
}

/// Converts the view of a replica, which does not have the clock.
#[must_use]
fn replica_state(view: &ReplicaView) -> ReplicaState {
    let identity = view.identity;
    ReplicaState {
        role: role(view.role).into(),
        role_since: Some(from_time(view.since)),
        term: count(view.term),
        leader: view.leader.clone().unwrap_or_default(),
        address: view.own_address.clone(),
        accepted_block: count(view.accepted_block),
        last_sequence: count(view.next_sequence.saturating_sub(1)),
        next_offset: view.next_offset,
        end_offset: view.end_offset,
        lag: view.lag_ms.map(|lag| duration(Duration::from_millis(lag))),
        caught_up: view.caught_up,
        skipped_records: count(view.skipped_records),
        claims: count(view.claims),
        term_changes: count(view.term_changes),
        fault: view.fault.clone().unwrap_or_default(),
        accepted_hash: view.accepted_hash.to_vec(),
        data_id: identity.map_or_else(Vec::new, |identity| identity.data_id.as_bytes().to_vec()),
        topic_id: identity.map_or_else(Vec::new, |identity| identity.topic_id.to_vec()),
        ignored: view.ignored.iter().map(ignored_replica).collect(),
        clock: None,
    }
}

fn ignored_replica(peer: &IgnoredPeer) -> IgnoredReplica {
    IgnoredReplica {
        address: peer.address.clone(),
        reason: peer.reason.clone(),
    }
}

const fn role(role: ReplicaRole) -> proto::ReplicaRole {
    match role {
        ReplicaRole::Starting => proto::ReplicaRole::Starting,
        ReplicaRole::Standby => proto::ReplicaRole::Standby,
        ReplicaRole::Candidate => proto::ReplicaRole::Candidate,
        ReplicaRole::Leader => proto::ReplicaRole::Leader,
        ReplicaRole::Stopped => proto::ReplicaRole::Stopped,
    }
}

/// Lets the leader give up leadership, and writes an audit event with `who`. Returns the term that has ended.
///
/// # Errors
/// INVALID_ARGUMENT if a field is out of its bounds, FAILED_PRECONDITION if the store is embedded, UNAVAILABLE if this replica does not
/// lead or the log did not accept the resignation in time.
pub(crate) async fn resign(
    engine: &TallyEngine,
    request: ResignLeadershipRequest,
    who: &Administrator,
) -> Result<i64, Status> {
    let ResignLeadershipRequest { successor, comment } = request;
    check_comment(&comment)?;
    let replica = engine.replica().ok_or_else(replica_status::not_replicated)?;
    let successor = Some(successor).filter(|successor| !successor.is_empty());
    match replica.resign(successor.clone()).await {
        Ok(resigned) => {
            who.resigned_leadership(&Resignation {
                term: resigned.term,
                successor: successor.as_deref(),
                comment: &comment,
            });
            Ok(count(resigned.term))
        }
        Err(error) => {
            let leader = replica.view().leader;
            Err(replica_status::not_resigned(&error, leader.as_deref()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_values_are_unset_and_the_last_sequence_precedes_the_next() {
        let view = ReplicaView {
            role: ReplicaRole::Standby,
            next_sequence: 8,
            lag_ms: Some(1500),
            end_offset: Some(4),
            ..ReplicaView::default()
        };
        let state = replica_state(&view);
        assert_eq!(state.role(), proto::ReplicaRole::Standby);
        assert_eq!((state.last_sequence, state.end_offset), (7, Some(4)));
        assert_eq!(
            state.lag,
            Some(prost_types::Duration {
                seconds: 1,
                nanos: 500_000_000
            })
        );
        let state = replica_state(&ReplicaView::default());
        assert_eq!(
            (state.last_sequence, state.end_offset, state.lag),
            (0, None, None)
        );
        assert_eq!((&*state.leader, &*state.fault), ("", ""));
    }
}
