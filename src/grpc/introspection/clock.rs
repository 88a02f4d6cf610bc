//! `GetClock` and `ConfirmClock`: the time of the ledger and of the system clock.

use std::time::Duration;

use tonic::Status;

use super::values::{check_comment, check_duration, duration};
use crate::{
    engine::TallyEngine,
    grpc::{fields::from_time, status},
    ledger_clock::{ClockReading, ClockStep, date},
    proto::{ClockStatus, ConfirmClockRequest},
    security::{Administrator, ClockChange},
};

/// Converts a reading of the clocks.
#[must_use]
pub(crate) fn clock_status(reading: &ClockReading) -> ClockStatus {
    ClockStatus {
        system_time: Some(from_time(reading.wall)),
        ledger_time: Some(from_time(reading.ledger)),
        held_step: reading.held.map(step_message),
    }
}

/// Converts a step. A step back is negative.
pub(crate) fn step_message(step: ClockStep) -> prost_types::Duration {
    let size = duration(step.size());
    match step {
        ClockStep::Forward(_) => size,
        ClockStep::Back(_) => prost_types::Duration {
            seconds: -size.seconds,
            nanos: -size.nanos,
        },
    }
}

/// Lets the ledger follow the step that the request names, and writes an audit event with `who`.
///
/// # Errors
/// INVALID_ARGUMENT if a field is missing or out of its bounds. FAILED_PRECONDITION if the step can't be confirmed.
pub(crate) fn confirm(
    engine: &TallyEngine,
    request: &ConfirmClockRequest,
    who: &Administrator,
) -> Result<ClockStatus, Status> {
    check_comment(&request.comment)?;
    let seen = seen_step(request)?;
    let before = engine.clock();
    let confirmed = engine
        .confirm_clock(seen)
        .map_err(|error| status::clock_not_confirmed(&error))?;
    let after = engine.clock();
    if confirmed.is_some() {
        who.confirmed_clock(&ClockChange {
            before: &date(before.ledger),
            after: &date(after.ledger),
            comment: &request.comment,
        });
    }
    Ok(clock_status(&after))
}

fn seen_step(request: &ConfirmClockRequest) -> Result<ClockStep, Status> {
    let field = "held_step";
    let given = request.held_step.as_ref();
    let given = given.ok_or_else(|| status::invalid_field(field, "must be set"))?;
    check_duration(field, given)?;
    let size = Duration::new(given.seconds.unsigned_abs(), given.nanos.unsigned_abs());
    Ok(if given.seconds < 0 || given.nanos < 0 {
        ClockStep::Back(size)
    } else {
        ClockStep::Forward(size)
    })
}
