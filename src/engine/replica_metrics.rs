//! The metrics of the replica of a replicated store. An embedded store has none of them.

use crate::{
    store::replicated::{ReplicaRole, ReplicaView},
    telemetry::Families,
};

/// Adds the metrics of a replica.
pub(super) fn collect_replica(families: &mut Families, view: &ReplicaView) {
    families.gauges(
        "tally_replica_role",
        "What the replica does: 1 for its role, 0 for all others.",
        ReplicaRole::ALL.map(|role| {
            (
                vec![("role", role.as_str())],
                f64::from(u8::from(role == view.role)),
            )
        }),
    );
    families.gauge(
        "tally_replica_leader_known",
        "Whether the replica leads or knows the leader: 1 or 0.",
        f64::from(u8::from(view.leader.is_some())),
    );
    families.gauge(
        "tally_replica_caught_up",
        "Whether the replica has applied everything that was in the log when it last learned the end of the log: 1 or 0.",
        f64::from(u8::from(view.caught_up)),
    );
    families.gauge(
        "tally_replica_term",
        "The term of the last accepted block.",
        view.term as f64,
    );
    families.gauge(
        "tally_replica_accepted_block",
        "The number of the last accepted block.",
        view.accepted_block as f64,
    );
    families.gauge(
        "tally_replica_next_offset",
        "The offset in the log from which the replica reads next.",
        view.next_offset as f64,
    );
    if let Some(lag) = view.lag_ms {
        families.gauge(
            "tally_replica_lag_seconds",
            "How far the replica is behind the log. Absent if this is unknown.",
            lag as f64 / 1e3,
        );
    }
    families.counter(
        "tally_replica_skipped_records_total",
        "Records of the log that the replica did not accept.",
        view.skipped_records as f64,
    );
    families.counter(
        "tally_replica_claims_total",
        "Claims of leadership that the replica has sent.",
        view.claims as f64,
    );
    families.counter(
        "tally_replica_term_changes_total",
        "Changes of the term that the replica has seen.",
        view.term_changes as f64,
    );
}
