//! `tally circuit`: shows, watches and changes the circuits of a service.

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use tonic::{Code, Status};

use super::{
    client_args::ClientArgs,
    exit::{self, block_on, fail},
    output::{OutputFormat, print_json},
    show::print_circuit,
};
use crate::proto::{
    CircuitMode, CircuitReset, CircuitStats, GetCircuitStatsRequest, SetCircuitModeRequest,
    SetCircuitModeResponse, WatchCircuitStatsRequest, set_circuit_mode_request::Change,
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
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(subcommand)]
    action: Action,
}

/// The subcommands of `tally circuit`.
#[derive(Debug, Subcommand)]
enum Action {
    /// Show the state, the window of recent calls, and the history of state changes.
    Show,
    /// Show the circuits now and after every change, until interrupted.
    Watch {
        /// Also show the circuits at this interval, 100ms to 1h.
        #[arg(long, value_parser = humantime::parse_duration)]
        interval: Option<Duration>,
    },
    /// Set the mode: the breaker opens and closes the circuit, or an operator overrides it.
    Mode {
        /// The mode.
        mode: ModeName,
        /// The reason for the change. It is recorded in the audit log.
        #[arg(long, default_value = "", hide_default_value = true)]
        comment: String,
    },
    /// Close the circuit and clear its window.
    Reset {
        /// The reason for the change. It is recorded in the audit log.
        #[arg(long, default_value = "", hide_default_value = true)]
        comment: String,
    },
    /// Open the circuit for a limited time. Afterwards it admits probe calls, and closes if they succeed.
    OpenFor {
        /// How long the circuit stays open, 1ms to 1day.
        #[arg(value_parser = humantime::parse_duration)]
        time: Duration,
        /// The reason for the change. It is recorded in the audit log.
        #[arg(long, default_value = "", hide_default_value = true)]
        comment: String,
    },
}

/// The modes of a circuit.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ModeName {
    /// The breaker opens and closes the circuit.
    Auto,
    /// The breaker measures calls but rejects none.
    MetricsOnly,
    /// Every call is rejected.
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
        let result = match &args.action {
            Action::Show => show(args).await,
            Action::Watch { interval } => watch(args, *interval).await,
            Action::Mode { mode, comment } => {
                let mode = CircuitMode::from(*mode);
                change(args, Change::Mode(mode.into()), comment).await
            }
            Action::Reset { comment } => change(args, Change::Reset(CircuitReset {}), comment).await,
            Action::OpenFor { time, comment } => match prost_types::Duration::try_from(*time) {
                Ok(time) => change(args, Change::OpenFor(time), comment).await,
                Err(error) => return fail(exit::USAGE, &error),
            },
        };
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(Failure::Printed(code)) => code,
            Err(Failure::Status(status)) => {
                let wrong = matches!(status.code(), Code::InvalidArgument | Code::NotFound);
                let code = if wrong { exit::USAGE } else { exit::UNAVAILABLE };
                fail(code, &*status)
            }
        }
    })
}

/// Why a subcommand failed.
enum Failure {
    /// The error is already printed.
    Printed(ExitCode),
    /// A call failed.
    Status(Box<Status>),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Failure::Status(Box::new(status))
    }
}

async fn show(args: &CircuitArgs) -> Result<(), Failure> {
    let mut client = args.client.connect_to_engine().await.map_err(Failure::Printed)?;
    let response = client
        .get_circuit_stats(GetCircuitStatsRequest {})
        .await?
        .into_inner();
    let exists = response.circuits.iter().any(|circuit| circuit.key == args.key);
    if !args.key.is_empty() && !exists {
        return Err(Status::not_found(format!("there is no circuit {:?}", args.key)).into());
    }
    print(args, response.circuits)
}

async fn watch(args: &CircuitArgs, interval: Option<Duration>) -> Result<(), Failure> {
    let mut client = args.client.connect_to_engine().await.map_err(Failure::Printed)?;
    let interval = interval
        .map(prost_types::Duration::try_from)
        .transpose()
        .map_err(|error| Failure::Printed(fail(exit::USAGE, &error)))?;
    let request = WatchCircuitStatsRequest { interval };
    let mut snapshots = client.watch_circuit_stats(request).await?.into_inner();
    while let Some(snapshot) = snapshots.message().await? {
        print(args, snapshot.circuits)?;
    }
    Ok(())
}

async fn change(args: &CircuitArgs, change: Change, comment: &str) -> Result<(), Failure> {
    let mut client = args.client.connect_to_engine().await.map_err(Failure::Printed)?;
    let request = SetCircuitModeRequest {
        key: args.key.clone(),
        change: Some(change),
        comment: comment.to_owned(),
    };
    let response = client.set_circuit_mode(request).await?.into_inner();
    print(args, response.circuits)
}

fn print(args: &CircuitArgs, circuits: Vec<CircuitStats>) -> Result<(), Failure> {
    let selected = |circuit: &CircuitStats| args.key.is_empty() || circuit.key == args.key;
    let circuits: Vec<_> = circuits.into_iter().filter(selected).collect();
    if args.output == OutputFormat::Json {
        let code = print_json("SetCircuitModeResponse", &SetCircuitModeResponse { circuits });
        return if code == ExitCode::SUCCESS {
            Ok(())
        } else {
            Err(Failure::Printed(code))
        };
    }
    circuits.iter().for_each(print_circuit);
    Ok(())
}
