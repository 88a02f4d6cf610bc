//! `tally circuit`: look at the circuits of a service, follow them, change them.

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use tonic::{Code, Status};

use super::{
    ClientArgs, OutputFormat, block_on, exit, fail,
    show::{connect, print_circuit, print_json},
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
    /// Which circuit, for example ProcessTransaction; all of them if none is named.
    #[arg(long, global = true, default_value = "", hide_default_value = true)]
    key: String,
    /// How to print it.
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(subcommand)]
    action: Action,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum Action {
    /// Show state, window, latencies and history.
    Show,
    /// Show it again after every change, and at intervals if asked for, until interrupted.
    Watch {
        /// How often besides, 100ms to 1h.
        #[arg(long, value_parser = humantime::parse_duration)]
        interval: Option<Duration>,
    },
    /// Set who decides: the breaker, or you.
    Mode {
        /// The mode.
        mode: ModeName,
        /// Why, for the audit event.
        #[arg(long, default_value = "", hide_default_value = true)]
        comment: String,
    },
    /// Close, with a clean slate.
    Reset {
        /// Why, for the audit event.
        #[arg(long, default_value = "", hide_default_value = true)]
        comment: String,
    },
    /// Open for a time, then recover by way of probes.
    OpenFor {
        /// For how long, 1ms to 1day.
        #[arg(value_parser = humantime::parse_duration)]
        time: Duration,
        /// Why, for the audit event.
        #[arg(long, default_value = "", hide_default_value = true)]
        comment: String,
    },
}

/// The modes by their names.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ModeName {
    /// The breaker decides.
    Auto,
    /// The breaker keeps its books and rejects nothing.
    MetricsOnly,
    /// Everything is rejected.
    ForcedOpen,
    /// Nothing is recorded and nothing rejected.
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
        let done = match &args.action {
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
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(Failure::Told(code)) => code,
            Err(Failure::Status(status)) => {
                let wrong = matches!(status.code(), Code::InvalidArgument | Code::NotFound);
                let code = if wrong { exit::USAGE } else { exit::UNAVAILABLE };
                fail(code, &*status)
            }
        }
    })
}

/// Why a command was not carried out.
enum Failure {
    /// The user has been told.
    Told(ExitCode),
    /// The service refused.
    Status(Box<Status>),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Failure::Status(Box::new(status))
    }
}

async fn show(args: &CircuitArgs) -> Result<(), Failure> {
    let mut client = connect(&args.client).await.map_err(Failure::Told)?;
    let response = client
        .get_circuit_stats(GetCircuitStatsRequest {})
        .await?
        .into_inner();
    let known = response.circuits.iter().any(|circuit| circuit.key == args.key);
    if !args.key.is_empty() && !known {
        return Err(Status::not_found(format!("key: there is no circuit {:?}", args.key)).into());
    }
    print(args, response.circuits)
}

async fn watch(args: &CircuitArgs, interval: Option<Duration>) -> Result<(), Failure> {
    let mut client = connect(&args.client).await.map_err(Failure::Told)?;
    let interval = interval
        .map(prost_types::Duration::try_from)
        .transpose()
        .map_err(|error| Failure::Told(fail(exit::USAGE, &error)))?;
    let request = WatchCircuitStatsRequest { interval };
    let mut snapshots = client.watch_circuit_stats(request).await?.into_inner();
    while let Some(snapshot) = snapshots.message().await? {
        print(args, snapshot.circuits)?;
    }
    Ok(())
}

async fn change(args: &CircuitArgs, change: Change, comment: &str) -> Result<(), Failure> {
    let mut client = connect(&args.client).await.map_err(Failure::Told)?;
    let request = SetCircuitModeRequest {
        key: args.key.clone(),
        change: Some(change),
        comment: comment.to_owned(),
    };
    let response = client.set_circuit_mode(request).await?.into_inner();
    print(args, response.circuits)
}

fn print(args: &CircuitArgs, circuits: Vec<CircuitStats>) -> Result<(), Failure> {
    let named = |circuit: &CircuitStats| args.key.is_empty() || circuit.key == args.key;
    let circuits: Vec<_> = circuits.into_iter().filter(named).collect();
    if args.output == OutputFormat::Json {
        let code = print_json("SetCircuitModeResponse", &SetCircuitModeResponse { circuits });
        return if code == ExitCode::SUCCESS {
            Ok(())
        } else {
            Err(Failure::Told(code))
        };
    }
    circuits.iter().for_each(print_circuit);
    Ok(())
}
