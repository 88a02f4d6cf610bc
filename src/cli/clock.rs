//! `tally clock`: shows the clock of a service, and confirms a step of its system clock.

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand};

use super::{
    client_args::{ClientArgs, Engine, TIMEOUT, within},
    exit::{Failure, block_on, finish},
    output::{OutputFormat, json_document, named},
    values::comment,
};
use crate::{
    proto::{ClockStatus, ConfirmClockRequest, GetClockRequest, GetClockResponse},
    terminal::{outln, units},
};

/// Options of `tally clock`.
#[derive(Debug, Args)]
pub struct ClockArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// How to print the clock.
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(subcommand)]
    action: Action,
}

/// The subcommands of `tally clock`.
#[derive(Debug, Subcommand)]
enum Action {
    /// Show the time of the ledger and of the system clock, and the step that the ledger does not follow, if there is one.
    Show,
    /// Let the ledger follow a step of the system clock. First make sure that the time of the system clock is right: the times
    /// of commits never go back.
    Confirm {
        /// The reason for the change. It is recorded in the audit log.
        #[arg(long, default_value = "", hide_default_value = true, value_parser = comment)]
        comment: String,
    },
}

pub(super) fn run(args: &ClockArgs) -> ExitCode {
    block_on(async {
        finish(match &args.action {
            Action::Show => show(args).await,
            Action::Confirm { comment } => confirm(args, comment).await,
        })
    })
}

async fn show(args: &ClockArgs) -> Result<(), Failure> {
    let mut engine = args.client.connect().await?;
    let clock = clock(&mut engine).await?;
    print(args, clock)
}

async fn confirm(args: &ClockArgs, comment: &str) -> Result<(), Failure> {
    let mut engine = args.client.connect().await?;
    let seen = clock(&mut engine).await?;
    let request = ConfirmClockRequest {
        // If there is no held step, the call changes nothing, unless the clock makes a step at this moment.
        held_step: Some(seen.held_step.unwrap_or_default()),
        comment: comment.to_owned(),
    };
    let answer = engine.client.confirm_clock(within(TIMEOUT, request)).await;
    let answer = answer.map_err(|status| engine.failure(&status))?;
    print(args, answer.into_inner().clock.unwrap_or_default())
}

async fn clock(engine: &mut Engine) -> Result<ClockStatus, Failure> {
    let answer = engine.client.get_clock(within(TIMEOUT, GetClockRequest {})).await;
    let answer = answer.map_err(|status| engine.failure(&status))?;
    Ok(answer.into_inner().clock.unwrap_or_default())
}

fn print(args: &ClockArgs, clock: ClockStatus) -> Result<(), Failure> {
    match args.output {
        OutputFormat::Json => {
            let answer = GetClockResponse { clock: Some(clock) };
            outln!("{}", json_document("GetClockResponse", &answer)?);
        }
        OutputFormat::Table => {
            outln!("{}", named("system clock", &time_text(clock.system_time)));
            outln!("{}", named("ledger", &time_text(clock.ledger_time)));
            outln!("{}", named("state", &state_text(clock.held_step)));
        }
    }
    Ok(())
}

/// Returns a time in UTC, with milliseconds.
fn time_text(time: Option<prost_types::Timestamp>) -> String {
    time.and_then(|time| std::time::SystemTime::try_from(time).ok())
        .map_or_else(
            || "unknown".to_owned(),
            |time| humantime::format_rfc3339_millis(time).to_string(),
        )
}

fn state_text(held: Option<prost_types::Duration>) -> String {
    let Some(step) = held else {
        return "the ledger follows the system clock".to_owned();
    };
    format!("HELD: {}, and the ledger does not follow", step_text(step))
}

/// Returns a step of the system clock in words, for example `the system clock stepped 1 h back`.
pub(super) fn step_text(step: prost_types::Duration) -> String {
    let (size, direction) = match Duration::try_from(step) {
        Ok(size) => (size, "forward"),
        // If the duration is negative, the error contains its absolute value.
        Err(prost_types::DurationError::NegativeDuration(size)) => (size, "back"),
        Err(_) => (Duration::ZERO, "forward"),
    };
    format!("the system clock stepped {} {direction}", units::time(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_a_size_and_a_direction() {
        for (seconds, nanos, expected) in [
            (3600, 0, "the system clock stepped 1 h forward"),
            (-61, -500_000_000, "the system clock stepped 1 min 2 s back"),
        ] {
            let step = prost_types::Duration { seconds, nanos };
            assert_eq!(step_text(step), expected);
        }
    }
}
