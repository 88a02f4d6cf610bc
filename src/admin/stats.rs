//! `/stats.json`: the data of the operators' page.

use serde::Serialize;

use super::{
    places::AdminConnections,
    readiness::{Phase, Readiness},
};
use crate::{
    engine::{Condition, TallyEngine},
    grpc::{self, ConnectionMetrics, ErrorMetrics},
    json::{JsonError, to_json},
    ledger_clock::ClockStep,
    security::Security,
    telemetry::{ProcessMetrics, resident_bytes},
};

/// The parts of the service that `/stats.json` shows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown<'a> {
    pub(super) engine: &'a TallyEngine,
    pub(super) security: &'a Security,
    pub(super) readiness: &'a Readiness,
    pub(super) connections: &'a ConnectionMetrics,
    pub(super) own_connections: &'a AdminConnections,
    pub(super) process: &'a ProcessMetrics,
}

/// What operators need to know about the service as a whole. Counts begin at the start of the process. Each value is read by
/// itself, so two values may be from different moments.
#[derive(Debug, Serialize)]
struct ServiceStats {
    state: State,
    uptime_seconds: f64,
    started_unix_seconds: f64,
    resident_bytes: Option<u64>,
    disk_free_bytes: Option<u64>,
    disk_total_bytes: Option<u64>,
    /// Whether the disk has no space for the next segment of the journal.
    disk_full: bool,
    /// The step of the system clock that the ledger does not follow, in seconds; negative if it is a step back.
    clock_held_seconds: Option<f64>,
    connections: usize,
    connections_max: usize,
    connections_rejected: u64,
    operators_connections: usize,
    certificate_expires_unix_seconds: Option<f64>,
    /// How often calls and the scrub found damage in the journal.
    journal_damages: u64,
    /// The reasons that occurred, with their counts, the most frequent first.
    errors: Vec<(&'static str, u64)>,
    /// The kinds that occurred, with their counts.
    auth_failures: Vec<(&'static str, u64)>,
}

/// Whether the service works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum State {
    Starting,
    Serving,
    Draining,
    /// A write or a sync of the journal failed.
    StoreFailed,
    /// A thread of the service panicked.
    Panicked,
}

/// Returns the JSON text. Its parts `circuits`, `batches`, `topology` and `replica` have the JSON form of the API's messages.
///
/// # Errors
/// [`JsonError`] if a part can't be encoded. This is a bug.
pub(super) fn stats(shown: Shown<'_>) -> Result<String, JsonError> {
    let engine = shown.engine;
    let histogram = engine.commit_histogram();
    let parts = [
        ("version", serde_json::to_string(env!("CARGO_PKG_VERSION"))?),
        ("commit", serde_json::to_string(env!("TALLY_COMMIT"))?),
        ("service", serde_json::to_string(&service(shown))?),
        (
            "circuits",
            to_json("GetCircuitStatsResponse", &grpc::circuit_stats_response(engine))?,
        ),
        (
            "batches",
            to_json("GetBatchStatsResponse", &grpc::batch_stats_response(engine))?,
        ),
        (
            "topology",
            to_json(
                "GetTopologyResponse",
                &grpc::topology_response(&engine.affinity().topology()),
            )?,
        ),
        (
            "replica",
            to_json("GetReplicaStateResponse", &grpc::replica_state_response(engine))?,
        ),
        ("commit_histogram_ns", serde_json::to_string(&histogram)?),
    ];
    let members = parts.map(|(name, json)| format!("\"{name}\":{json}"));
    Ok(format!("{{{}}}", members.join(",")))
}

fn service(shown: Shown<'_>) -> ServiceStats {
    let Shown {
        engine,
        security,
        readiness,
        connections,
        own_connections,
        process,
    } = shown;
    let space = engine.disk_space();
    let mut errors: Vec<_> = ErrorMetrics.read().filter(|(_, count)| *count > 0).collect();
    errors.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let failures = security
        .auth_failures()
        .map(|(failure, count)| (failure.as_str(), count));
    ServiceStats {
        state: state(engine.health().condition(), readiness.phase()),
        uptime_seconds: process.uptime().as_secs_f64(),
        started_unix_seconds: process.started_unix_seconds(),
        resident_bytes: resident_bytes(),
        disk_free_bytes: space.map(|space| space.free),
        disk_total_bytes: space.map(|space| space.total),
        disk_full: engine.disk_is_full(),
        clock_held_seconds: engine.clock().held.map(ClockStep::seconds),
        connections: connections.open(),
        connections_max: connections.open_max(),
        connections_rejected: connections.rejected(),
        operators_connections: own_connections.open(),
        certificate_expires_unix_seconds: security.certificate_expires_unix_seconds(),
        journal_damages: engine
            .journal_condition()
            .damages
            .iter()
            .map(|(_, count)| count)
            .sum(),
        errors,
        auth_failures: failures.into_iter().filter(|(_, count)| *count > 0).collect(),
    }
}

/// A failed engine never works again in this process, so its condition comes before the phase.
const fn state(condition: Condition, phase: Phase) -> State {
    match (condition, phase) {
        (Condition::StoreFailed, _) => State::StoreFailed,
        // The process starts again at once.
        (Condition::SteppedDown, _) => State::Draining,
        (Condition::Panicked, _) => State::Panicked,
        (Condition::Running, Phase::Starting) => State::Starting,
        (Condition::Running, Phase::Serving) => State::Serving,
        (Condition::Running, Phase::Draining) => State::Draining,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_the_phase_unless_the_engine_has_failed() {
        for (condition, phase, expected) in [
            (Condition::Running, Phase::Starting, "\"STARTING\""),
            (Condition::Running, Phase::Serving, "\"SERVING\""),
            (Condition::Running, Phase::Draining, "\"DRAINING\""),
            (Condition::StoreFailed, Phase::Serving, "\"STORE_FAILED\""),
            (Condition::StoreFailed, Phase::Draining, "\"STORE_FAILED\""),
            (Condition::Panicked, Phase::Draining, "\"PANICKED\""),
        ] {
            let text = serde_json::to_string(&state(condition, phase)).unwrap();
            assert_eq!(text, expected, "{condition:?} {phase:?}");
        }
    }
}
