//! `tally bench`: load for a service, and figures that can be repeated.
//!
//! Closed loop: so many calls are kept under way, each followed by the next as soon as it is answered. Open loop
//! (`--rate`): calls are made by a schedule, and their latency counts from when they should have been made.
//!
//! With `--baseline`, a bare echo server of the same message shape, on the same runtime layout, is measured in the same
//! run, a round of one after a round of the other, because machines are noisy and only ratios of one run can be compared.

mod disk;
mod echo;
mod export;
mod growth;
mod load;
mod message;
mod pace;
mod report;
mod round;
mod source;
mod target;
mod zipf;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, ValueEnum};
use thiserror::Error;

use self::{
    load::{Kind, Load},
    report::{Figures, Report},
    target::{Target, TargetError},
};
use super::{Credentials, OutputFormat, block_on, exit, fail};

pub(super) use self::echo::{EchoArgs, run as run_echo};

/// Options of `tally bench`.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// The service to load; https:// for TLS. Left out: --self-contained.
    #[arg(long, env = "TALLY_ENDPOINT", conflicts_with = "self_contained")]
    endpoint: Option<String>,
    /// What it wants to see.
    #[command(flatten)]
    credentials: Credentials,
    /// Start a service of its own on a temporary directory, and stop it at the end.
    #[arg(long)]
    self_contained: bool,
    /// Also measure a bare echo server of the same message shape, round by round. Unary calls only.
    #[arg(long)]
    baseline: bool,
    /// How transactions are sent.
    #[arg(long, value_enum, default_value_t)]
    mode: Mode,
    /// Calls under way (unary and batch), or messages under way on each stream; with --rate, at most.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    in_flight: u32,
    /// Transactions of a call; batch mode only. [default: 8192]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=8192))]
    batch: Option<u32>,
    /// Open loop: transactions a second, by a schedule from which latency is counted. Left out: as many as are answered.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rate: Option<u32>,
    /// Connections, dealt out to the calls in turn; in stream mode, as many streams.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    connections: u32,
    /// Threads of the client, each with connections of its own. [default: as many as CPUs, at most one for each connection]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=256))]
    client_threads: Option<u32>,
    /// Accounts between which money moves.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..=100_000_000))]
    accounts: u32,
    /// Every transfer debits the same account.
    #[arg(long, conflicts_with = "zipf")]
    hot: bool,
    /// Accounts by Zipf's distribution: the k-th most popular one k^THETA times less often than the first.
    #[arg(long, value_name = "THETA", value_parser = theta)]
    zipf: Option<f64>,
    /// Transaction ids like random UUIDs instead of counted ones.
    #[arg(long)]
    random_ids: bool,
    /// How long each round of load lasts: 1 ms to 1 day.
    #[arg(long, default_value = "3s", value_parser = duration)]
    duration: Duration,
    /// Rounds; the figures are the medians.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=101))]
    rounds: u32,
    /// Instead of rounds: so many transactions in all, with the throughput, memory and restart time as they grow.
    #[arg(
        long,
        value_parser = clap::value_parser!(u64).range(1..=TRANSACTIONS_MAX),
        conflicts_with_all = ["rate", "baseline", "rounds", "duration"]
    )]
    transactions: Option<u64>,
    /// From which accounts and ids are drawn; the same seed sends the same load.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The data directory of the service of its own; it must be new. Left out: a temporary one.
    #[arg(long, conflicts_with = "endpoint")]
    data: Option<PathBuf>,
    /// Instead of a service: the disk of --data, or of the directory for temporary files.
    #[arg(
        long,
        conflicts_with_all = [
            "endpoint", "self_contained", "baseline", "mode", "in_flight", "batch", "rate", "connections",
            "client_threads", "accounts", "hot", "zipf", "random_ids", "duration", "rounds", "transactions", "seed",
            "plot", "hdr"
        ]
    )]
    disk: bool,
    /// Draw the latencies and the throughput of each second into this SVG file.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Write the service's latencies into this file, as HdrHistogram's plotter reads them.
    #[arg(long, value_name = "FILE")]
    hdr: Option<PathBuf>,
    /// How to print the figures.
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
    /// The same as --output json.
    #[arg(long)]
    json: bool,
}

/// Most transactions of one run.
const TRANSACTIONS_MAX: u64 = 10_000_000_000;
/// Transactions of a call, if nothing is said.
const BATCH_DEFAULT: u32 = 8192;
/// The longest round.
const DURATION_MAX: Duration = Duration::from_secs(86_400);
/// The steepest distribution: nearly every draw is the first account.
const THETA_MAX: f64 = 10.0;

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
    #[error("a stream ended with {0} messages unanswered")]
    Unanswered(u64),
    #[error("after the restart the last sequence is {after}, and was {before}")]
    Lost { before: i64, after: i64 },
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Disk(#[from] disk::DiskBenchError),
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    /// There is nothing more to say.
    #[error("the service can't be reached")]
    Told(ExitCode),
}

pub(super) fn run(args: &BenchArgs) -> ExitCode {
    let output = if args.json {
        OutputFormat::Json
    } else {
        args.output
    };
    block_on(async {
        let done = if args.disk {
            disk::measure(args.data.as_deref())
                .map(|report| report.print(output))
                .map_err(BenchError::from)
        } else {
            bench(args).await.map(|report| report.print(output))
        };
        done.unwrap_or_else(|error| error.tell())
    })
}

async fn bench(args: &BenchArgs) -> Result<Report, BenchError> {
    args.check()?;
    let mut service = match &args.endpoint {
        Some(endpoint) => Target::remote(endpoint, &args.credentials),
        None => Target::service(args.data.as_deref())?,
    };
    let load = Load::new(args);
    let empty_bytes = service.rss_bytes();
    load.create_accounts(&service).await?;
    if let Some(transactions) = args.transactions {
        let (growth, rounds) = growth::run(&load, &mut service, transactions, empty_bytes).await?;
        export::write(args, &rounds, &[])?;
        return Ok(Report::new(args, Figures::of(&rounds), None, None).with_growth(growth));
    }
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
    let sync = service.stats().await?.sync;
    let sync = sync.and_then(|sync| sync.p50?.try_into().ok());
    export::write(args, &rounds, &baseline)?;
    let baseline = (!baseline.is_empty()).then(|| Figures::of(&baseline));
    Ok(Report::new(args, Figures::of(&rounds), baseline, sync))
}

// ===== impl BenchError =====

impl BenchError {
    /// Tells it, unless it has been told, and says with which code to exit.
    fn tell(&self) -> ExitCode {
        let code = match self {
            BenchError::Told(code) => return *code,
            BenchError::Usage(_) => exit::USAGE,
            BenchError::Write { .. } | BenchError::Disk(_) => exit::IO,
            BenchError::Runtime(_) | BenchError::ClientThread => exit::SOFTWARE,
            BenchError::Lost { .. } => exit::FAILED,
            BenchError::Target(_)
            | BenchError::Call { .. }
            | BenchError::Refused(_)
            | BenchError::Unanswered(_) => exit::UNAVAILABLE,
        };
        fail(code, self)
    }
}

// ===== impl BenchArgs =====

impl BenchArgs {
    /// What clap can't see: it knows which options there are, and not what their values mean together.
    fn check(&self) -> Result<(), BenchError> {
        let refuse = |why: String| Err(BenchError::Usage(why));
        let mode = self.mode.name();
        if self.baseline && self.mode != Mode::Unary {
            return refuse(format!(
                "--baseline measures unary calls only: there is nothing to echo in --mode {mode}"
            ));
        }
        if self.batch.is_some() && self.mode != Mode::Batch {
            return refuse(format!(
                "--batch is for --mode batch: in --mode {mode} each transaction is sent by itself"
            ));
        }
        let (batch, seconds) = (self.for_each_call(), self.duration.as_secs_f64());
        match self.rate {
            Some(rate) if f64::from(rate) * seconds < f64::from(batch) => refuse(format!(
                "--rate {rate} makes a call of {batch} transactions every {:.1} s, and a round lasts {seconds} s: none would \
                 be made for sure; take a higher --rate, a longer --duration or a smaller --batch",
                f64::from(batch) / f64::from(rate)
            )),
            _ => Ok(()),
        }
    }

    fn batch(&self) -> u32 {
        self.batch.unwrap_or(BATCH_DEFAULT)
    }

    fn for_each_call(&self) -> u32 {
        if self.mode == Mode::Batch { self.batch() } else { 1 }
    }

    /// As many as there are CPUs, so that a client of one thread is not what is measured; none without a call to make.
    fn client_threads(&self) -> u32 {
        let cpus = std::thread::available_parallelism()
            .map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX));
        let calls = if self.mode == Mode::Stream {
            u32::MAX
        } else {
            self.in_flight
        };
        self.client_threads
            .unwrap_or(cpus)
            .min(self.connections)
            .min(calls)
            .max(1)
    }

    /// How accounts are drawn, in words.
    fn distribution(&self) -> String {
        match self.zipf {
            Some(theta) => format!("zipf {theta}"),
            None if self.hot => "hot".to_owned(),
            None => "uniform".to_owned(),
        }
    }
}

// ===== impl Mode =====

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Mode::Unary => "unary",
            Mode::Stream => "stream",
            Mode::Batch => "batch",
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_millis(1)..=DURATION_MAX).contains(&duration) {
        Ok(duration)
    } else {
        Err("1ms to 1day".to_owned())
    }
}

fn theta(text: &str) -> Result<f64, String> {
    let theta: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if theta > 0.0 && theta <= THETA_MAX {
        Ok(theta)
    } else {
        Err(format!("more than 0, at most {THETA_MAX}"))
    }
}
