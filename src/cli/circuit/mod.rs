//! `tally circuit`: shows, watches and changes the circuits of a service.

mod select;
pub(super) mod text;
mod watch;

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand, ValueEnum};

use self::{select::select, text::circuit_text};
use super::{
    client_args::{ClientArgs, TIMEOUT, within},
    exit::{self, Failure, block_on, finish},
    output::{OutputFormat, json_document},
    values::{comment, interval, open_time},
};
use crate::{
    proto::{
        CircuitMode, CircuitReset, CircuitStats, GetCircuitStatsRequest, SetCircuitModeRequest,
        SetCircuitModeResponse, set_circuit_mode_request::Change,
    },
    terminal::outln,
};

/// Options of `tally circuit`.
#[derive(Debug, Args)]
pub struct CircuitArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// Name of the circuit, for example ProcessTransaction. [default: all circuits]
    #[arg(long, global = true, default_value = "", hide_default_value = true)]
    key: String,
    /// How to print the circuits.
    #[arg(short, long, env = "TALLY_OUTPUT", global = true, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(subcommand)]
    action: Action,
}

/// The subcommands of `tally circuit`.
#[derive(Debug, Subcommand)]
enum Action {
    /// Show the state, the window of recent calls, and the history of state changes.
    Show,
    /// Print one line for each circuit now, and one line for each change of state or mode, until interrupted.
    Watch {
        /// Also print one line for each circuit at this interval, 100ms to 1h.
        #[arg(long, value_parser = interval)]
        interval: Option<Duration>,
    },
    /// Set the mode: the breaker opens and closes the circuit, or an operator overrides it.
    Mode {
        /// The mode, in any case.
        #[arg(ignore_case = true)]
        mode: ModeName,
        /// The reason for the change, at most 256 bytes. It is recorded in the audit log.
        #[arg(long, default_value = "", hide_default_value = true, value_parser = comment)]
        comment: String,
    },
    /// Close the circuit and clear its window.
    Reset {
        /// The reason for the change, at most 256 bytes. It is recorded in the audit log.
        #[arg(long, default_value = "", hide_default_value = true, value_parser = comment)]
        comment: String,
    },
    /// Open the circuit for a limited time. Afterwards it admits probe calls, and closes if they succeed.
    OpenFor {
        /// How long the circuit stays open, 1ms to 1day.
        #[arg(value_parser = open_time)]
        time: Duration,
        /// The reason for the change, at most 256 bytes. It is recorded in the audit log.
        #[arg(long, default_value = "", hide_default_value = true, value_parser = comment)]
        comment: String,
    },
}

/// The modes of a circuit, with the words of the setting `breaker.mode`. The API and the outputs have the same words in capitals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum ModeName {
    /// The breaker opens and closes the circuit.
    Auto,
    /// The breaker measures calls but rejects none.
    #[value(alias = "metrics-only")]
    MetricsOnly,
    /// Every call is rejected.
    #[value(alias = "forced-open")]
    ForcedOpen,
    /// The breaker neither measures nor rejects calls.
    Disabled,
}

// ===== impl ModeName =====

impl From<ModeName> for CircuitMode {
    fn from(name: ModeName) -> Self {
        match name {
            ModeName::Auto => CircuitMode::Auto,
            ModeName::MetricsOnly => CircuitMode::MetricsOnly,
            ModeName::ForcedOpen => CircuitMode::ForcedOpen,
            ModeName::Disabled => CircuitMode::Disabled,
        }
    }
}

pub(super) fn run(args: &CircuitArgs) -> ExitCode {
    block_on(async {
        finish(match &args.action {
            Action::Show => show(args).await,
            Action::Watch { interval } => {
                watch::watch(args.client.config(), &args.key, args.output, *interval).await
            }
            Action::Mode { mode, comment } => {
                let mode = CircuitMode::from(*mode);
                change(args, Change::Mode(mode.into()), comment).await
            }
            Action::Reset { comment } => change(args, Change::Reset(CircuitReset {}), comment).await,
            Action::OpenFor { time, comment } => match prost_types::Duration::try_from(*time) {
                Ok(time) => change(args, Change::OpenFor(time), comment).await,
                Err(error) => Err(Failure::new(exit::USAGE, &error)),
            },
        })
    })
}

async fn show(args: &CircuitArgs) -> Result<(), Failure> {
    let mut engine = args.client.connect().await?;
    let answer = engine
        .client
        .get_circuit_stats(within(TIMEOUT, GetCircuitStatsRequest {}))
        .await;
    let circuits = answer
        .map_err(|status| engine.failure(&status))?
        .into_inner()
        .circuits;
    print(args, select(circuits, &args.key)?)
}

async fn change(args: &CircuitArgs, change: Change, comment: &str) -> Result<(), Failure> {
    let mut engine = args.client.connect().await?;
    let request = SetCircuitModeRequest {
        key: args.key.clone(),
        change: Some(change),
        comment: comment.to_owned(),
    };
    let answer = engine.client.set_circuit_mode(within(TIMEOUT, request)).await;
    let circuits = answer
        .map_err(|status| engine.failure(&status))?
        .into_inner()
        .circuits;
    print(args, circuits)
}

fn print(args: &CircuitArgs, circuits: Vec<CircuitStats>) -> Result<(), Failure> {
    match args.output {
        OutputFormat::Json => {
            let document = json_document("SetCircuitModeResponse", &SetCircuitModeResponse { circuits })?;
            outln!("{document}");
        }
        OutputFormat::Table => {
            for circuit in &circuits {
                outln!("{}", circuit_text(circuit));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tally_breaker::BreakerMode;

    use super::*;
    use crate::cli::output::mode_name;

    #[test]
    fn a_mode_has_the_words_of_the_setting_and_of_the_outputs() {
        for mode in [
            BreakerMode::Auto,
            BreakerMode::MetricsOnly,
            BreakerMode::ForcedOpen,
            BreakerMode::Disabled,
        ] {
            let word = mode.as_str();
            let parsed = ModeName::from_str(word, true).unwrap();
            let value = parsed.to_possible_value().unwrap();
            assert_eq!(value.get_name(), word);
            let printed = mode_name(CircuitMode::from(parsed));
            for other in [printed.to_owned(), printed.to_lowercase(), word.replace('_', "-")] {
                assert_eq!(ModeName::from_str(&other, true), Ok(parsed), "{other}");
            }
        }
    }
}
