//! The settings of a benchmark: the options of `tally bench` except those of the connection and the output.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::error::BenchError;
use crate::settings::parse_time_between;

/// The settings of a benchmark.
#[derive(Debug, Clone, Args)]
pub struct BenchSettings {
    /// Also measure a bare echo server with the same message shape, in alternate rounds. Unary calls only.
    #[arg(long)]
    pub(super) baseline: bool,
    /// How transactions are sent.
    #[arg(long, value_enum, default_value_t)]
    pub(super) mode: Mode,
    /// Calls in flight (unary and batch), or messages in flight on each stream. With --rate: the upper limit. [default: 256; in
    /// batch mode: 4]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    in_flight: Option<u32>,
    /// Transactions in each call, in batch mode only. [default: 8192]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=8192))]
    batch: Option<u32>,
    /// Open loop: send this many transactions per second on a schedule. Latency counts from the scheduled time. Without this
    /// option, each caller sends its next call when the previous call is answered (closed loop).
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(super) rate: Option<u32>,
    /// Number of connections. Calls use them in turn. In stream mode, each connection has one stream.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(super) connections: u32,
    /// Number of client threads. Each thread has its own connections. [default: the number of CPUs, at most --connections]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=256))]
    client_threads: Option<u32>,
    /// Number of accounts. Each transfer moves money between two of them.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..=100_000_000))]
    pub(super) accounts: u32,
    /// Debit the same account in every transfer.
    #[arg(long, conflicts_with = "zipf")]
    pub(super) hot: bool,
    /// Choose accounts by Zipf's distribution: the k-th most popular account is k^THETA times less frequent than the first.
    /// More than 0, at most 10.
    #[arg(long, value_name = "THETA", value_parser = theta)]
    pub(super) zipf: Option<f64>,
    /// Use transaction ids that look like random UUIDs, instead of a counter.
    #[arg(long)]
    pub(super) random_ids: bool,
    /// Make holds in the first half of each call, and post them in the second half. Batch mode only, with an even --batch.
    #[arg(long)]
    pub(super) holds: bool,
    /// Length of each round, 1ms to 1day.
    #[arg(long, default_value = "3s", value_parser = duration)]
    pub(super) duration: Duration,
    /// Number of rounds. The results are medians over the rounds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=101))]
    pub(super) rounds: u32,
    /// Send this many transactions in total, instead of running rounds. Report throughput, memory and restart time as the data
    /// grows.
    #[arg(
        long,
        value_parser = clap::value_parser!(u64).range(1..=TRANSACTIONS_MAX),
        conflicts_with_all = ["rate", "baseline", "rounds", "duration"]
    )]
    pub(super) transactions: Option<u64>,
    /// Make this many holds that expire at the same time, and measure calls of ProcessTransaction before, during and after that.
    #[arg(
        long,
        value_parser = clap::value_parser!(u64).range(1..=EXPIRING_HOLDS_MAX),
        conflicts_with_all = [
            "rate", "baseline", "rounds", "duration", "transactions", "mode", "batch", "holds", "client_threads", "random_ids", "plot",
            "hdr"
        ]
    )]
    pub(super) expiring_holds: Option<u64>,
    /// Also measure while this many connections page through the statement of the most used account, in alternate rounds.
    #[arg(
        long,
        value_parser = clap::value_parser!(u32).range(1..=1024),
        conflicts_with_all = ["baseline", "transactions", "expiring_holds", "plot", "hdr"]
    )]
    pub(super) listings: Option<u32>,
    /// Seed of the random choice of accounts and ids. The same seed sends the same load.
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// Data directory of the service that the benchmark starts. It must not exist. [default: a temporary directory]
    #[arg(long, value_name = "DIR", conflicts_with = "endpoint")]
    pub(super) data: Option<PathBuf>,
    /// Measure the disk of --data (or of the directory for temporary files), instead of a service.
    #[arg(
        long,
        conflicts_with_all = [
            "endpoint", "self_contained", "baseline", "mode", "in_flight", "batch", "rate", "connections",
            "client_threads", "accounts", "hot", "zipf", "random_ids", "holds", "duration", "rounds", "transactions", "seed",
            "expiring_holds", "listings", "plot", "hdr"
        ]
    )]
    pub(super) disk: bool,
    /// Draw latency percentiles and throughput per second into this SVG file.
    #[arg(long, value_name = "FILE")]
    pub(super) plot: Option<PathBuf>,
    /// Write the latencies of the service into this file, in the format of HdrHistogram's plotter.
    #[arg(long, value_name = "FILE")]
    pub(super) hdr: Option<PathBuf>,
}

/// Upper bound of `--transactions`.
pub(super) const TRANSACTIONS_MAX: u64 = 10_000_000_000;
/// Upper bound of `--expiring-holds`: the default of `store.holds_max`.
const EXPIRING_HOLDS_MAX: u64 = 10_000_000;
/// Default of `--in-flight` for calls and messages of one transaction.
const IN_FLIGHT_DEFAULT: u32 = 256;
/// Default of `--in-flight` in batch mode. 256 calls of [`BATCH_DEFAULT`] transactions would exceed the memory that the service
/// allows one client.
const IN_FLIGHT_BATCH_DEFAULT: u32 = 4;
/// Default of `--batch`.
const BATCH_DEFAULT: u32 = 8192;
/// Upper bound of `--duration`.
const DURATION_MAX: Duration = Duration::from_secs(86_400);
/// Upper bound of `--zipf`. At this bound, nearly every draw is the first account.
const THETA_MAX: f64 = 10.0;

/// How transactions are sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    /// ProcessTransaction: one transaction per call.
    #[default]
    Unary,
    /// StreamTransactions: one transaction per message.
    Stream,
    /// ProcessTransactions: --batch transactions per call.
    Batch,
}

// ===== impl BenchSettings =====

impl BenchSettings {
    /// Checks combinations of values. Clap only checks which options occur together.
    pub(super) fn check(&self) -> Result<(), BenchError> {
        let refuse = |why: String| Err(BenchError::Usage(why));
        let mode = self.mode.name();
        if self.baseline && self.mode != Mode::Unary {
            return refuse(format!(
                "--baseline can't be used with --mode {mode}: the echo server has unary calls only"
            ));
        }
        if self.batch.is_some() && self.mode != Mode::Batch {
            return refuse(format!(
                "--batch can't be used with --mode {mode}, which sends each transaction separately; use --mode batch"
            ));
        }
        if self.holds && (self.mode != Mode::Batch || !self.transactions_per_call().is_multiple_of(2)) {
            return refuse(
                "--holds needs --mode batch with an even --batch: one half of a call posts the holds of the other half"
                    .to_owned(),
            );
        }
        let (batch, seconds) = (self.transactions_per_call(), self.duration.as_secs_f64());
        match self.rate {
            Some(rate) if f64::from(rate) * seconds < f64::from(batch) => refuse(format!(
                "--rate {rate} makes a call of {batch} transactions every {:.1} s, so a round of {seconds} s may have no \
                 call; use a higher --rate, a longer --duration or a smaller --batch",
                f64::from(batch) / f64::from(rate)
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn transactions_per_call(&self) -> u32 {
        if self.mode == Mode::Batch {
            self.batch.unwrap_or(BATCH_DEFAULT)
        } else {
            1
        }
    }

    pub(super) fn in_flight(&self) -> u32 {
        let default = match self.mode {
            Mode::Unary | Mode::Stream => IN_FLIGHT_DEFAULT,
            Mode::Batch => IN_FLIGHT_BATCH_DEFAULT,
        };
        self.in_flight.unwrap_or(default)
    }

    /// Returns the number of client threads. The default is one per CPU, so that a single client thread is not the bottleneck.
    /// Every thread has at least one connection and one call.
    pub(super) fn client_threads(&self) -> u32 {
        let cpus = std::thread::available_parallelism()
            .map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX));
        let calls = if self.mode == Mode::Stream {
            u32::MAX
        } else {
            self.in_flight()
        };
        self.client_threads
            .unwrap_or(cpus)
            .min(self.connections)
            .min(calls)
            .max(1)
    }

    /// Returns the name of the account distribution, for the report.
    pub(super) fn distribution(&self) -> String {
        match self.zipf {
            Some(theta) => format!("zipf {theta}"),
            None if self.hot => "hot".to_owned(),
            None => "uniform".to_owned(),
        }
    }
}

// ===== impl Mode =====

impl Mode {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Mode::Unary => "unary",
            Mode::Stream => "stream",
            Mode::Batch => "batch",
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_time_between(text, Duration::from_millis(1), DURATION_MAX)
}

fn theta(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(theta) if theta > 0.0 && theta <= THETA_MAX => Ok(theta),
        Ok(_) | Err(_) => Err(format!("must be a number of more than 0 and at most {THETA_MAX}")),
    }
}
