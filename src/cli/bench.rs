//! `tally bench` and `tally echo`: the command line of the benchmark ([`crate::bench`]).

use std::{net::SocketAddr, process::ExitCode};

use clap::Args;

use super::{
    client_args::Credentials,
    exit::{self, Failure, call_code, connect_code, fail},
    output::{OutputFormat, print_or_fail},
    signals::until_signal,
};
use crate::{
    bench::{self, BenchError, BenchSettings},
    client::ClientConfig,
    json,
};

/// Options of `tally bench`.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// Address of the service to load; https:// for TLS. Without this option, the benchmark starts its own service.
    /// TALLY_ENDPOINT has no effect on the benchmark, because a load on a running service must be intended. Several addresses,
    /// with commas between them, are those of its replicas: calls then go on at another replica if one is lost, so the longest
    /// latency shows how long a failover takes. Streams do not go on.
    #[arg(
        long,
        value_name = "URL",
        conflicts_with = "self_contained",
        value_delimiter = ','
    )]
    endpoint: Vec<String>,
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
    #[arg(short, long, env = "TALLY_OUTPUT", value_enum, default_value_t)]
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
    let remote = (!args.endpoint.is_empty()).then(|| args.credentials.config(&args.endpoint));
    // A signal drops the future, which kills the service and removes its temporary directory.
    match until_signal(bench::run(&args.settings, remote.clone())) {
        Ok(Ok(report)) if args.json || args.output == OutputFormat::Json => {
            print_or_fail(json::to_pretty(&report))
        }
        Ok(Ok(report)) => {
            report.print_table();
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => failure(&error, remote.as_ref()).report(),
        Err(stopped) => stopped.report(),
    }
}

pub(super) fn run_echo(args: &EchoArgs) -> ExitCode {
    match bench::serve_echo(args.listen) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(exit_code(&error), &error),
    }
}

/// Returns the failure to report. For a failed call to a service that the benchmark did not start, the text says what to do.
fn failure(error: &BenchError, remote: Option<&ClientConfig>) -> Failure {
    match (error, remote) {
        (
            BenchError::Call {
                call,
                status,
                timeout,
            },
            Some(config),
        ) => {
            let text = match timeout {
                Some(timeout) => config.explain_within(status, *timeout),
                None => config.explain(status),
            };
            let text = format!("{call} failed: {text}");
            Failure::with_message(exit_code(error), text)
        }
        (error, _) => Failure::new(exit_code(error), error),
    }
}

fn exit_code(error: &BenchError) -> u8 {
    match error {
        BenchError::Connect(error) => connect_code(error),
        BenchError::Call { status, .. } => call_code(status),
        BenchError::Usage(_) => exit::USAGE,
        BenchError::Write { .. } | BenchError::Disk(_) => exit::IO,
        BenchError::ClientSetup(_) | BenchError::Panicked | BenchError::Affinity(_) => exit::SOFTWARE,
        BenchError::SequenceChanged { .. } | BenchError::HoldsRemain { .. } => exit::FAILED,
        BenchError::Start(_)
        | BenchError::Exited
        | BenchError::Stop(_)
        | BenchError::MemoryLimit { .. }
        | BenchError::HoldsTooLate { .. }
        | BenchError::Rejected(_)
        | BenchError::Unanswered(_)
        | BenchError::Echo(_) => exit::UNAVAILABLE,
    }
}
