//! `SetCircuitMode`: checks the request, and changes one circuit or all circuits.

use std::{ops::RangeInclusive, time::Duration};

use tally_breaker::{BreakerMode, CircuitState, LatencyCircuitBreaker};
use tonic::Status;

use super::{
    circuit,
    values::{check_comment, duration_in},
};
use crate::{
    engine::TallyEngine,
    grpc::status,
    proto::{CircuitMode, SetCircuitModeRequest, set_circuit_mode_request::Change as Wanted},
    security::{Administrator, CircuitChange},
};

/// Bounds of the time for which a request can open a circuit.
const OPEN_FOR: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(24 * 60 * 60);

/// A change of a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Sets the mode.
    Mode(BreakerMode),
    /// Closes the circuit and clears its statistics.
    Reset,
    /// Opens the circuit for this long.
    OpenFor(Duration),
}

/// Returns the circuit with this key, or all circuits if `key` is empty.
///
/// # Errors
/// NOT_FOUND if no circuit has this key.
pub(crate) fn named(engine: &TallyEngine, key: &str) -> Result<Vec<LatencyCircuitBreaker>, Status> {
    if key.is_empty() {
        return Ok(engine.circuits().to_vec());
    }
    let circuit = engine.circuit(key).ok_or_else(|| {
        let known: Vec<_> = engine.circuits().iter().map(LatencyCircuitBreaker::key).collect();
        status::circuit_not_found(key, &known.join(", "))
    })?;
    Ok(vec![circuit.clone()])
}

// ===== impl Change =====

impl Change {
    /// Checks a request.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if the comment is too long, or if the change is missing or out of its bounds.
    pub(crate) fn parse(request: &SetCircuitModeRequest) -> Result<Self, Status> {
        check_comment(&request.comment)?;
        match &request.change {
            None => {
                let rule = "one of mode, reset, open_for must be set";
                Err(status::invalid_field("change", rule))
            }
            Some(Wanted::Reset(_)) => Ok(Change::Reset),
            Some(Wanted::Mode(number)) => CircuitMode::try_from(*number)
                .ok()
                .and_then(circuit::wanted_mode)
                .map(Change::Mode)
                .ok_or_else(|| {
                    let bound = "must be AUTO, METRICS_ONLY, FORCED_OPEN or DISABLED";
                    status::invalid_field("mode", format!("{number}: {bound}"))
                }),
            Some(Wanted::OpenFor(given)) => {
                duration_in(&OPEN_FOR, "1ms to 86400s", "open_for", given).map(Change::OpenFor)
            }
        }
    }

    /// Changes a circuit, and writes an audit event with `who` and `comment`. Does nothing if the circuit already has the
    /// requested mode, or if a reset would change nothing: the circuit is closed, and its window is empty.
    pub(crate) fn apply(self, breaker: &LatencyCircuitBreaker, who: &Administrator, comment: &str) {
        let state = breaker.state().as_str();
        let (action, before, after) = match self {
            Change::Mode(mode) => {
                let before = breaker.set_mode(mode);
                if before == mode {
                    return;
                }
                ("set_mode".to_owned(), before.as_str(), mode.as_str())
            }
            Change::Reset => {
                let stats = breaker.stats();
                if stats.state == CircuitState::Closed && stats.window.calls == 0 {
                    return;
                }
                breaker.reset();
                ("reset".to_owned(), state, breaker.state().as_str())
            }
            Change::OpenFor(time) => {
                breaker.open_for(time);
                let action = format!("open_for {}", humantime::format_duration(time));
                (action, state, breaker.state().as_str())
            }
        };
        who.changed_circuit(&CircuitChange {
            key: breaker.key(),
            action: &action,
            before,
            after,
            comment,
        });
    }
}
