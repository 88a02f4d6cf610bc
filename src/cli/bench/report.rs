//! The figures, for people and for programs.

use std::{process::ExitCode, time::Duration};

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;

use super::{BenchArgs, growth::Growth, round::Round};
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
    /// Of these, known from an earlier run: nothing was booked for them.
    replayed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule: Option<Schedule>,
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

/// What became of the schedule of an open loop, over all rounds; in transactions.
#[derive(Debug, Clone, Serialize)]
struct Schedule {
    /// What it wanted: `transactions`, `refused` and `missed` together.
    due: u64,
    /// Sent more than a millisecond after their time. Their waiting is in the latencies.
    late: u64,
    /// Never sent: all calls that may be under way were, until the round was over.
    missed: u64,
    /// Refused by the service because it was too much.
    refused: u64,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    growth: Option<Growth>,
    mode: &'static str,
    distribution: String,
    accounts: u32,
    in_flight: u32,
    transactions_per_call: u32,
    /// Transactions a second that were wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<u32>,
    rounds: u32,
    seed: u64,
    machine: String,
    version: &'static str,
    commit: &'static str,
    command: String,
}

/// The commit that was built.
pub(super) const COMMIT: &str = env!("TALLY_COMMIT");

// ===== impl Figures =====

impl Figures {
    pub(super) fn of(rounds: &[Round]) -> Self {
        let cost = |round: &Round| {
            let cpu = round.server_cpu?.as_secs_f64() * 1e6;
            Some(cpu / (round.done.transactions.max(1) as f64))
        };
        let rates: Vec<f64> = rounds.iter().map(Round::rate).collect();
        let costs: Vec<f64> = rounds.iter().filter_map(cost).collect();
        let at = |quantile: f64| {
            median(
                rounds
                    .iter()
                    .map(|round| round.done.latency.value_at_quantile(quantile) as f64 / 1e3)
                    .collect(),
            )
        };
        let sum = |part: fn(&Round) -> u64| rounds.iter().map(part).sum();
        let due = sum(|round| round.done.due);
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
            transactions: sum(|round| round.done.transactions),
            replayed: sum(|round| round.done.replayed),
            schedule: (due > 0).then(|| Schedule {
                due,
                late: sum(|round| round.done.late),
                missed: sum(|round| round.done.missed),
                refused: sum(|round| round.done.refused),
            }),
            rates,
            costs,
        }
    }
}

pub(super) fn median(mut values: Vec<f64>) -> f64 {
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
            growth: None,
            mode: args.mode.name(),
            distribution: args.distribution(),
            accounts: args.accounts,
            in_flight: args.in_flight,
            transactions_per_call: args.for_each_call(),
            rate: args.rate,
            rounds: args.rounds,
            seed: args.seed,
            machine: machine(),
            version: LONG_VERSION,
            commit: COMMIT,
            command: command(),
            figures,
            baseline,
        }
    }

    /// Of a run over growing data; its steps are what are rounds elsewhere.
    pub(super) fn with_growth(mut self, growth: Growth) -> Self {
        self.rounds = u32::try_from(growth.steps.len()).unwrap_or(u32::MAX);
        self.growth = Some(growth);
        self
    }

    #[expect(clippy::print_stdout, reason = "the command's result")]
    pub(super) fn print(&self, output: OutputFormat) -> ExitCode {
        if output == OutputFormat::Json {
            return print_json(self);
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
        self.print_schedule();
        self.print_growth();
        println!(
            "mode             {}, {} accounts ({}), {} in flight",
            self.mode, self.accounts, self.distribution, self.in_flight
        );
        println!(
            "transactions     {} in {} rounds",
            self.figures.transactions, self.rounds
        );
        if self.figures.replayed > 0 {
            println!(
                "REPLAYED         {} of them were known from an earlier run; another --seed books new ones",
                self.figures.replayed
            );
        }
        println!("machine          {}", self.machine);
        println!("version          {}, seed {}", self.version, self.seed);
        println!("repeat           {}", self.command);
        ExitCode::SUCCESS
    }

    #[expect(clippy::print_stdout, reason = "the command's result")]
    fn print_schedule(&self) {
        let baseline = self.baseline.as_ref().map(|baseline| ("echo", baseline));
        for (name, figures) in [("tally", &self.figures)].into_iter().chain(baseline) {
            if let Some(schedule) = &figures.schedule {
                println!(
                    "schedule         {name}: {} due, {} late, {} missed, {} refused",
                    schedule.due, schedule.late, schedule.missed, schedule.refused
                );
            }
        }
    }

    #[expect(clippy::print_stdout, reason = "the command's result")]
    fn print_growth(&self) {
        let Some(growth) = &self.growth else { return };
        let mib = |bytes: u64| format!("{:.0}", bytes as f64 / f64::from(1 << 20));
        let told = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "?".to_owned(), |value| format!("{value:.digits$}"))
        };
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        table.set_header(["transactions", "tx/s", "RSS MiB", "B/id"]);
        for step in &growth.steps {
            table.add_row([
                step.transactions.to_string(),
                format!("{:.0}", step.transactions_per_second),
                step.rss_bytes.map_or_else(|| "?".to_owned(), mib),
                format!("{:.1}", step.bytes_per_transaction_id),
            ]);
        }
        println!("{table}");
        println!("last to first    {:.2} of the throughput", growth.last_to_first);
        println!(
            "for each account {:.0} B in its table, {} B of RSS",
            growth.bytes_per_account,
            told(growth.rss_bytes_per_account, 0)
        );
        println!(
            "for each id      {:.1} B in its index, {} B of RSS",
            growth.bytes_per_transaction_id,
            told(growth.rss_bytes_per_transaction_id, 1)
        );
        println!("journal          {} B", growth.journal_bytes);
        println!(
            "restart          {} s, after a kill {} s",
            told(growth.restart_seconds, 2),
            told(growth.restart_after_kill_seconds, 2)
        );
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

/// The command line, to be repeated; tokens are not told.
pub(super) fn command() -> String {
    let mut words: Vec<String> = std::env::args().collect();
    let mut secret = false;
    for word in &mut words {
        if secret || word.starts_with("--token=") {
            "***".clone_into(word);
        }
        secret = word == "--token";
    }
    words.join(" ")
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

/// What was measured, for programs: one object.
#[expect(clippy::print_stdout, reason = "the command's result")]
pub(super) fn print_json<T: Serialize>(measured: &T) -> ExitCode {
    match serde_json::to_string_pretty(measured) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => fail(exit::SOFTWARE, &error),
    }
}
