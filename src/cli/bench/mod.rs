//! `tally bench`: load for a service, and figures that can be repeated.
//!
//! Closed loop: so many calls are kept under way, each followed by the next as soon as it is answered. With
//! `--baseline`, a bare echo server of the same message shape, on the same runtime layout, is measured in the same run,
//! a round of one after a round of the other, because machines are noisy and only ratios of one run can be compared.

mod disk;
mod echo;
mod load;
mod report;
mod target;

use std::{process::ExitCode, time::Duration};

use clap::{Args, ValueEnum};
use thiserror::Error;

use self::{
    load::{Kind, Load},
    report::{Figures, Report},
    target::{Target, TargetError},
};
use super::{OutputFormat, block_on, exit, fail};

pub(super) use self::echo::{EchoArgs, run as run_echo};

/// Options of `tally bench`.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// The service to load. Left out: --self-contained.
    #[arg(long, env = "TALLY_ENDPOINT", conflicts_with = "self_contained")]
    endpoint: Option<String>,
    /// Start a service of its own on a temporary directory, and stop it at the end.
    #[arg(long)]
    self_contained: bool,
    /// Also measure a bare echo server of the same message shape, round by round.
    #[arg(long)]
    baseline: bool,
    /// How transactions are sent.
    #[arg(long, value_enum, default_value_t)]
    mode: Mode,
    /// Calls under way (unary and batch), or messages under way on each stream.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    in_flight: u32,
    /// Transactions of a call (batch mode).
    #[arg(long, default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..=8192))]
    batch: u32,
    /// Connections, dealt out to the calls in turn.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    connections: u32,
    /// Threads of the client, each with connections of its own. [default: as many as CPUs, at most one for each connection]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=256))]
    client_threads: Option<u32>,
    /// Accounts between which money moves.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..=100_000_000))]
    accounts: u32,
    /// Every transfer debits the same account.
    #[arg(long)]
    hot: bool,
    /// Transaction ids like random UUIDs instead of counted ones.
    #[arg(long)]
    random_ids: bool,
    /// How long each round of load lasts.
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Rounds; the figures are the medians.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=101))]
    rounds: u32,
    /// From which accounts and ids are drawn; the same seed sends the same load.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The data directory of the service of its own; it must be new. Left out: a temporary one.
    #[arg(long)]
    data: Option<std::path::PathBuf>,
    /// Instead of a service, measure one durable append in this directory, by the ways there are to do it.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["endpoint", "self_contained", "baseline"])]
    disk: Option<std::path::PathBuf>,
    /// Appends of each way and length (with --disk).
    #[arg(long, default_value_t = 300, requires = "disk", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    appends: u32,
    /// How to print the figures.
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
    /// The same as --output json.
    #[arg(long)]
    json: bool,
}

/// How transactions are sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    /// `ProcessTransaction`: one for each call.
    #[default]
    Unary,
    /// `StreamTransactions`: one for each message.
    Stream,
    /// `ProcessTransactions`: `--batch` for each call.
    Batch,
}

/// Why there are no figures.
#[derive(Debug, Error)]
enum BenchError {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("{call}: {status}")]
    Call {
        call: &'static str,
        status: tonic::Status,
    },
    #[error("a client thread: {0}")]
    Runtime(#[from] std::io::Error),
    #[error("a client thread panicked")]
    ClientThread,
    #[error("a transaction was refused: {0}")]
    Refused(String),
    #[error("--baseline measures unary calls only: there is nothing to echo in {0:?} mode")]
    NoBaseline(Mode),
}

pub(super) fn run(args: &BenchArgs) -> ExitCode {
    let output = if args.json {
        OutputFormat::Json
    } else {
        args.output
    };
    if let Some(directory) = &args.disk {
        return disk::run(directory, args.appends, output);
    }
    block_on(async {
        match bench(args).await {
            Ok(report) => report.print(output),
            Err(error @ BenchError::NoBaseline(_)) => fail(exit::USAGE, &error),
            Err(error) => fail(exit::UNAVAILABLE, &error),
        }
    })
}

async fn bench(args: &BenchArgs) -> Result<Report, BenchError> {
    if args.baseline && args.mode != Mode::Unary {
        return Err(BenchError::NoBaseline(args.mode));
    }
    let service = match &args.endpoint {
        Some(endpoint) => Target::remote(endpoint),
        None => Target::service(args.data.as_deref())?,
    };
    let load = Load::new(args);
    load.create_accounts(&service).await?;
    let echo = args.baseline.then(Target::echo).transpose()?;

    let mut rounds = Vec::new();
    let mut baseline = Vec::new();
    // One round to warm up, not counted.
    for round in 0..=args.rounds {
        let tally = load.round(&service, Kind::Service, args.duration).await?;
        let echoed = match &echo {
            Some(echo) => Some(load.round(echo, Kind::Echo, args.duration).await?),
            None => None,
        };
        if round > 0 {
            rounds.push(tally);
            baseline.extend(echoed);
        }
    }
    let sync = service.sync_p50().await;
    let baseline = (!baseline.is_empty()).then(|| Figures::of(&baseline));
    Ok(Report::new(args, Figures::of(&rounds), baseline, sync))
}

// ===== impl BenchArgs =====

impl BenchArgs {
    /// As many as there are CPUs, so that a client of one thread is not what is measured.
    fn client_threads(&self) -> u32 {
        let cpus = std::thread::available_parallelism()
            .map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX));
        self.client_threads.unwrap_or(cpus).min(self.connections).max(1)
    }
}
