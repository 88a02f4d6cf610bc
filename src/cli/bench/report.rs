//! The figures, for people and for programs.

use std::{process::ExitCode, time::Duration};

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;

use super::{BenchArgs, load::Round};
use crate::cli::{LONG_VERSION, OutputFormat, exit, fail};

/// Medians over the rounds.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Figures {
    transactions_per_second: f64,
    /// The slowest and the fastest round.
    transactions_per_second_range: [f64; 2],
    latency_us: Latency,
    server_cpu_us_per_transaction: Option<f64>,
    transactions: u64,
    /// In the order of the rounds, for ratios.
    #[serde(skip)]
    rates: Vec<f64>,
    #[serde(skip)]
    costs: Vec<f64>,
}

/// Of calls, or of messages of a stream.
#[derive(Debug, Clone, Serialize)]
struct Latency {
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

/// Everything that is told.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    figures: Figures,
    #[serde(skip_serializing_if = "Option::is_none")]
    baseline: Option<Figures>,
    /// Median over the rounds of (service / echo), transactions per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio_to_baseline: Option<f64>,
    /// Median over the rounds of (service / echo), server CPU for each transaction.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_ratio_to_baseline: Option<f64>,
    /// What the service measured of writing and syncing a block.
    sync_p50_us: Option<f64>,
    mode: String,
    rounds: u32,
    seed: u64,
    machine: String,
    version: &'static str,
    command: String,
}

// ===== impl Figures =====

impl Figures {
    pub(super) fn of(rounds: &[Round]) -> Self {
        let rate = |round: &Round| round.transactions as f64 / round.elapsed.as_secs_f64().max(f64::EPSILON);
        let cost = |round: &Round| {
            let cpu = round.server_cpu?.as_secs_f64() * 1e6;
            Some(cpu / (round.transactions.max(1) as f64))
        };
        let rates: Vec<f64> = rounds.iter().map(rate).collect();
        let costs: Vec<f64> = rounds.iter().filter_map(cost).collect();
        let at = |quantile: f64| {
            median(
                rounds
                    .iter()
                    .map(|round| round.latency.value_at_quantile(quantile) as f64 / 1e3)
                    .collect(),
            )
        };
        Figures {
            transactions_per_second: median(rates.clone()),
            transactions_per_second_range: [
                rates.iter().copied().fold(f64::INFINITY, f64::min),
                rates.iter().copied().fold(0.0, f64::max),
            ],
            latency_us: Latency {
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                p999: at(0.999),
                max: at(1.0),
            },
            server_cpu_us_per_transaction: (!costs.is_empty()).then(|| median(costs.clone())),
            transactions: rounds.iter().map(|round| round.transactions).sum(),
            rates,
            costs,
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn median_ratio(ours: &[f64], theirs: &[f64]) -> Option<f64> {
    let ratios: Vec<f64> = ours
        .iter()
        .zip(theirs)
        .map(|(ours, theirs)| ours / theirs)
        .collect();
    (!ratios.is_empty()).then(|| median(ratios))
}

// ===== impl Report =====

impl Report {
    pub(super) fn new(
        args: &BenchArgs,
        figures: Figures,
        baseline: Option<Figures>,
        sync: Option<Duration>,
    ) -> Self {
        let ratio = |part: fn(&Figures) -> &[f64]| {
            baseline
                .as_ref()
                .and_then(|baseline| median_ratio(part(&figures), part(baseline)))
        };
        Report {
            ratio_to_baseline: ratio(|figures| &figures.rates),
            cpu_ratio_to_baseline: ratio(|figures| &figures.costs),
            sync_p50_us: sync.map(|sync| sync.as_secs_f64() * 1e6),
            mode: format!("{:?}", args.mode).to_lowercase(),
            rounds: args.rounds,
            seed: args.seed,
            machine: machine(),
            version: LONG_VERSION,
            command: std::env::args().collect::<Vec<_>>().join(" "),
            figures,
            baseline,
        }
    }

    #[expect(clippy::print_stdout, reason = "the command's result")]
    pub(super) fn print(&self, output: OutputFormat) -> ExitCode {
        if output == OutputFormat::Json {
            return match serde_json::to_string_pretty(self) {
                Ok(text) => {
                    println!("{text}");
                    ExitCode::SUCCESS
                }
                Err(error) => fail(exit::SOFTWARE, &error),
            };
        }
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        table.set_header([
            "",
            "tx/s",
            "p50 µs",
            "p90",
            "p99",
            "p99.9",
            "max",
            "server CPU µs/tx",
        ]);
        table.add_row(row("tally", &self.figures));
        if let Some(baseline) = &self.baseline {
            table.add_row(row("echo", baseline));
        }
        println!("{table}");
        if let Some(ratio) = self.ratio_to_baseline {
            println!("ratio to echo    {ratio:.2} of its calls/s");
        }
        if let Some(ratio) = self.cpu_ratio_to_baseline {
            println!("                 {ratio:.2} of its server CPU for each call");
        }
        if let Some(sync) = self.sync_p50_us {
            println!("write + sync     p50 {sync:.0} µs");
        }
        println!(
            "mode             {}, {} transactions in {} rounds",
            self.mode, self.figures.transactions, self.rounds
        );
        println!("machine          {}", self.machine);
        println!("version          {}, seed {}", self.version, self.seed);
        println!("repeat           {}", self.command);
        ExitCode::SUCCESS
    }
}

fn row(name: &str, figures: &Figures) -> Vec<String> {
    let Latency {
        p50,
        p90,
        p99,
        p999,
        max,
    } = figures.latency_us;
    let mut row = vec![name.to_owned(), format!("{:.0}", figures.transactions_per_second)];
    row.extend([p50, p90, p99, p999, max].map(|value| format!("{value:.0}")));
    row.push(
        figures
            .server_cpu_us_per_transaction
            .map_or_else(String::new, |cost| format!("{cost:.2}")),
    );
    row
}

/// CPUs and model, as the kernel tells.
pub(super) fn machine() -> String {
    let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model.lines().find_map(|line| {
        line.strip_prefix("model name")?
            .split_once(':')
            .map(|(_, name)| name.trim().to_owned())
    });
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{cpus} CPUs, {}",
        model.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
    )
}
