//! `SetCircuitMode`: what an administrator wants of a circuit.

use std::time::Duration;

use tonic::Status;

use super::circuit;
use crate::{
    breaker::{BreakerMode, LatencyCircuitBreaker},
    engine::TallyEngine,
    grpc::status,
    proto::{SetCircuitModeRequest, set_circuit_mode_request::Change as Wanted},
    security::{Administrator, CircuitChange},
};

/// Longest comment, in bytes.
const COMMENT_BYTES_MAX: usize = 256;
/// How long a circuit can be opened for.
const OPEN_FOR_MIN: Duration = Duration::from_millis(1);
const OPEN_FOR_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Set the mode.
    Mode(BreakerMode),
    /// Close with a clean slate.
    Reset,
    /// Open for so long.
    OpenFor(Duration),
}

/// The circuits that `key` names: one, or all if it is empty.
pub(crate) fn named(engine: &TallyEngine, key: &str) -> Result<Vec<LatencyCircuitBreaker>, Status> {
    if key.is_empty() {
        return Ok(engine.circuits().to_vec());
    }
    match engine.circuit(key) {
        Some(breaker) => Ok(vec![breaker.clone()]),
        None => {
            let known: Vec<_> = engine.circuits().iter().map(LatencyCircuitBreaker::key).collect();
            Err(status::circuit_not_found(key, &known.join(", ")))
        }
    }
}

// ===== impl Change =====

impl Change {
    /// Checks what is asked for.
    pub(crate) fn parse(request: &SetCircuitModeRequest) -> Result<Self, Status> {
        let comment_bytes = request.comment.len();
        if comment_bytes > COMMENT_BYTES_MAX {
            let bound = format!("{comment_bytes} bytes: must be at most {COMMENT_BYTES_MAX}");
            return Err(status::invalid_field("comment", bound));
        }
        match &request.change {
            None => Err(status::invalid_field(
                "change",
                "one of mode, reset, open_for must be set",
            )),
            Some(Wanted::Reset(_)) => Ok(Change::Reset),
            Some(Wanted::Mode(number)) => crate::proto::CircuitMode::try_from(*number)
                .ok()
                .and_then(circuit::wanted_mode)
                .map(Change::Mode)
                .ok_or_else(|| {
                    let bound = "must be AUTO, METRICS_ONLY, FORCED_OPEN or DISABLED";
                    status::invalid_field("mode", format!("{number}: {bound}"))
                }),
            Some(Wanted::OpenFor(given)) => Duration::try_from(*given)
                .ok()
                .filter(|time| (OPEN_FOR_MIN..=OPEN_FOR_MAX).contains(time))
                .map(Change::OpenFor)
                .ok_or_else(|| status::invalid_field("open_for", format!("{given}: must be 1ms to 86400s"))),
        }
    }

    /// Does it, and writes down who did.
    pub(crate) fn apply(self, breaker: &LatencyCircuitBreaker, who: &Administrator, comment: &str) {
        let told = |breaker: &LatencyCircuitBreaker| match self {
            Change::Mode(_) => breaker.mode().as_str(),
            Change::Reset | Change::OpenFor(_) => breaker.state().as_str(),
        };
        let before = told(breaker);
        let action = match self {
            Change::Mode(mode) => {
                breaker.set_mode(mode);
                "set_mode".to_owned()
            }
            Change::Reset => {
                breaker.reset();
                "reset".to_owned()
            }
            Change::OpenFor(time) => {
                breaker.open_for(time);
                format!("open_for {}", humantime::format_duration(time))
            }
        };
        who.changed_circuit(&CircuitChange {
            key: breaker.key(),
            action: &action,
            before,
            after: told(breaker),
            comment,
        });
    }
}
