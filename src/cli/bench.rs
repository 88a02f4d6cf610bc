//! `tally bench` and `tally echo`: the command line of the benchmark ([`crate::bench`]).

use std::{net::SocketAddr, process::ExitCode};

use clap::Args;

use super::{
    client_args::Credentials,
    exit::{self, block_on, connect_code, fail},
    output::{OutputFormat, print_or_fail},
};
use crate::bench::{self, BenchError, BenchSettings};

/// Options of `tally bench`.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// Address of the service to load; https:// for TLS. Without this option, the benchmark starts its own service.
    #[arg(
        long,
        value_name = "URL",
        env = "TALLY_ENDPOINT",
        conflicts_with = "self_contained"
    )]
    endpoint: Option<String>,
    /// How to authenticate.
    #[command(flatten)]
    credentials: Credentials,
    /// Start a service for the benchmark and stop it at the end. This is the default without --endpoint.
    #[arg(long)]
    self_contained: bool,
    /// What to measure.
    #[command(flatten)]
    settings: BenchSettings,
    /// How to print the results.
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
    /// The same as --output json.
    #[arg(long)]
    json: bool,
}

/// Options of `tally echo`.
#[derive(Debug, Args)]
pub struct EchoArgs {
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

pub(super) fn run(args: &BenchArgs) -> ExitCode {
    let remote = args
        .endpoint
        .as_ref()
        .map(|endpoint| args.credentials.config(endpoint));
    block_on(async {
        match bench::run(&args.settings, remote).await {
            Ok(report) if args.json || args.output == OutputFormat::Json => {
                print_or_fail(serde_json::to_string_pretty(&report))
            }
            Ok(report) => {
                report.print_table();
                ExitCode::SUCCESS
            }
            Err(error) => fail(exit_code(&error), &error),
        }
    })
}

pub(super) fn run_echo(args: &EchoArgs) -> ExitCode {
    match bench::serve_echo(args.listen) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(exit_code(&error), &error),
    }
}

const fn exit_code(error: &BenchError) -> u8 {
    match error {
        BenchError::Connect(error) => connect_code(error),
        BenchError::Usage(_) => exit::USAGE,
        BenchError::Write { .. } | BenchError::Disk(_) => exit::IO,
        BenchError::ClientSetup(_) | BenchError::ClientPanicked | BenchError::Affinity(_) => exit::SOFTWARE,
        BenchError::SequenceChanged { .. } => exit::FAILED,
        BenchError::Start(_)
        | BenchError::Exited
        | BenchError::Stop(_)
        | BenchError::Call { .. }
        | BenchError::Rejected(_)
        | BenchError::Unanswered(_)
        | BenchError::Echo(_) => exit::UNAVAILABLE,
    }
}
