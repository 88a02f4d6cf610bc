//! The results of a benchmark under load.

use std::time::Duration;

use serde::Serialize;

use super::{
    growth::Growth,
    settings::BenchSettings,
    stats::{Round, median, rounded},
};
use crate::{
    terminal::{table, units},
    version::{COMMIT, LONG_VERSION},
};

/// The results of one server: medians over the rounds.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Figures {
    transactions_per_second: f64,
    /// The slowest and the fastest round.
    transactions_per_second_range: [f64; 2],
    latency_us: Latency,
    server_cpu_us_per_transaction: Option<f64>,
    transactions: u64,
    /// The transactions that were replays, because an earlier run sent the same ids.
    replayed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule: Option<Schedule>,
    /// Transactions per second of each round, for ratios.
    #[serde(skip)]
    rates: Vec<f64>,
    /// Server CPU per transaction of each round, in microseconds.
    #[serde(skip)]
    costs: Vec<f64>,
}

/// Latencies of calls, or of messages of a stream, in microseconds.
#[derive(Debug, Clone, Serialize)]
struct Latency {
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

/// How well an open loop kept its schedule: numbers of transactions in all rounds.
#[derive(Debug, Clone, Serialize)]
struct Schedule {
    /// Scheduled: the sum of `transactions`, `rejected` and `missed`.
    due: u64,
    /// Sent more than 1 ms after their scheduled time. The latencies include the delay.
    late: u64,
    /// Never sent, because all calls were in flight until the round ended.
    missed: u64,
    /// Rejected by the service because of overload.
    rejected: u64,
}

/// The results of the rounds in which connections paged through a statement.
#[derive(Debug, Serialize)]
pub(super) struct ListingReport {
    /// Number of connections.
    connections: u32,
    pages_per_second: f64,
    #[serde(flatten)]
    figures: Figures,
}

/// The whole result, with the settings that repeat the run.
#[derive(Debug, Serialize)]
pub struct Report {
    #[serde(flatten)]
    figures: Figures,
    #[serde(skip_serializing_if = "Option::is_none")]
    baseline: Option<Figures>,
    /// Median over the rounds of (service / echo server), for transactions per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio_to_baseline: Option<f64>,
    /// Median over the rounds of (service / echo server), for server CPU per transaction.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_ratio_to_baseline: Option<f64>,
    /// Median time to write and sync a block, as measured by the service.
    sync_p50_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listings: Option<ListingReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    growth: Option<Growth>,
    /// Endpoint of the service that was loaded; `None` if the benchmark started the service.
    endpoint: Option<String>,
    mode: &'static str,
    distribution: String,
    accounts: u32,
    in_flight: u32,
    transactions_per_call: u32,
    /// Scheduled transactions per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<u32>,
    rounds: u32,
    seed: u64,
    machine: String,
    version: &'static str,
    commit: &'static str,
    command: String,
}

// ===== impl Figures =====

impl Figures {
    pub(super) fn from_rounds(rounds: &[Round]) -> Self {
        let cost = |round: &Round| {
            let cpu = round.server_cpu?.as_secs_f64() * 1e6;
            Some(cpu / (round.load.transactions.max(1) as f64))
        };
        let rates: Vec<f64> = rounds.iter().map(Round::rate).collect();
        let costs: Vec<f64> = rounds.iter().filter_map(cost).collect();
        let at = |quantile: f64| {
            median(
                rounds
                    .iter()
                    .map(|round| round.load.latency.value_at_quantile(quantile) as f64 / 1e3)
                    .collect(),
            )
        };
        let sum = |field: fn(&Round) -> u64| rounds.iter().map(field).sum();
        let due = sum(|round| round.load.due);
        Figures {
            transactions_per_second: rounded(median(rates.clone()), 0),
            transactions_per_second_range: [
                rates.iter().copied().fold(f64::INFINITY, f64::min),
                rates.iter().copied().fold(0.0, f64::max),
            ]
            .map(|rate| rounded(rate, 0)),
            latency_us: Latency {
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                p999: at(0.999),
                max: at(1.0),
            },
            server_cpu_us_per_transaction: (!costs.is_empty()).then(|| rounded(median(costs.clone()), 3)),
            transactions: sum(|round| round.load.transactions),
            replayed: sum(|round| round.load.replayed),
            schedule: (due > 0).then(|| Schedule {
                due,
                late: sum(|round| round.load.late),
                missed: sum(|round| round.load.missed),
                rejected: sum(|round| round.load.overloaded),
            }),
            rates,
            costs,
        }
    }
}

fn median_ratio(ours: &[f64], theirs: &[f64]) -> Option<f64> {
    let ratios: Vec<f64> = ours
        .iter()
        .zip(theirs)
        .map(|(ours, theirs)| ours / theirs)
        .collect();
    (!ratios.is_empty()).then(|| rounded(median(ratios), 2))
}

// ===== impl ListingReport =====

impl ListingReport {
    /// `rounds` are the rounds in which `connections` connections read `pages` pages.
    pub(super) fn new(connections: u32, pages: u64, rounds: &[Round]) -> Self {
        let elapsed: Duration = rounds.iter().map(|round| round.elapsed).sum();
        ListingReport {
            connections,
            pages_per_second: rounded(pages as f64 / elapsed.as_secs_f64().max(f64::EPSILON), 0),
            figures: Figures::from_rounds(rounds),
        }
    }
}

// ===== impl Report =====

impl Report {
    pub(super) fn new(
        settings: &BenchSettings,
        figures: Figures,
        baseline: Option<Figures>,
        sync: Option<Duration>,
    ) -> Self {
        let ratio = |field: fn(&Figures) -> &[f64]| {
            baseline
                .as_ref()
                .and_then(|baseline| median_ratio(field(&figures), field(baseline)))
        };
        Report {
            ratio_to_baseline: ratio(|figures| &figures.rates),
            cpu_ratio_to_baseline: ratio(|figures| &figures.costs),
            sync_p50_us: sync.map(|sync| sync.as_secs_f64() * 1e6),
            listings: None,
            growth: None,
            endpoint: None,
            mode: settings.mode.name(),
            distribution: settings.distribution(),
            accounts: settings.accounts,
            in_flight: settings.in_flight(),
            transactions_per_call: settings.transactions_per_call(),
            rate: settings.rate,
            rounds: settings.rounds,
            seed: settings.seed,
            machine: machine(),
            version: LONG_VERSION,
            commit: COMMIT,
            command: command(),
            figures,
            baseline,
        }
    }

    /// Sets the endpoint of a service that the benchmark did not start.
    pub(super) fn with_endpoint(mut self, endpoint: Option<String>) -> Self {
        self.endpoint = endpoint;
        self
    }

    /// Adds the rounds with listings.
    pub(super) fn with_listings(mut self, listings: ListingReport) -> Self {
        self.listings = Some(listings);
        self
    }

    /// Adds the measurements of a run over growing data. Each step counts as a round.
    pub(super) fn with_growth(mut self, growth: Growth) -> Self {
        self.rounds = u32::try_from(growth.steps.len()).unwrap_or(u32::MAX);
        self.growth = Some(growth);
        self
    }

    pub(super) fn print_table(&self) {
        let mut table = table(&["", "tx/s", "p50", "p90", "p99", "p99.9", "max", "server CPU/tx"]);
        table.add_row(row("tally", &self.figures));
        if let Some(baseline) = &self.baseline {
            table.add_row(row("echo", baseline));
        }
        if let Some(listings) = &self.listings {
            table.add_row(row("with listings", &listings.figures));
        }
        crate::terminal::outln!("{table}");
        if let Some(ratio) = self.ratio_to_baseline {
            crate::terminal::outln!("ratio to echo    {ratio:.2} × calls/s");
        }
        if let Some(ratio) = self.cpu_ratio_to_baseline {
            crate::terminal::outln!("                 {ratio:.2} × server CPU per call");
        }
        if let Some(sync) = self.sync_p50_us {
            crate::terminal::outln!("write + sync     p50 {}", micros(sync));
        }
        if let Some(listings) = &self.listings {
            crate::terminal::outln!(
                "listings         {} connections, {} pages/s of 1000 rows",
                listings.connections,
                units::whole_number(listings.pages_per_second)
            );
        }
        self.print_schedule();
        self.print_growth();
        let service = self.endpoint.as_deref();
        crate::terminal::outln!(
            "service          {}",
            service.unwrap_or("started by the benchmark")
        );
        crate::terminal::outln!(
            "mode             {}, {} accounts ({}), {} in flight",
            self.mode,
            self.accounts,
            self.distribution,
            self.in_flight
        );
        crate::terminal::outln!(
            "transactions     {} in {} {}",
            self.figures.transactions,
            self.rounds,
            if self.rounds == 1 { "round" } else { "rounds" }
        );
        if self.figures.replayed > 0 {
            crate::terminal::outln!(
                "REPLAYED         {} of them, because an earlier run sent the same ids; use another --seed",
                self.figures.replayed
            );
        }
        crate::terminal::outln!("machine          {}", self.machine);
        crate::terminal::outln!("version          {}, seed {}", self.version, self.seed);
        crate::terminal::outln!("repeat           {}", self.command);
    }

    fn print_schedule(&self) {
        let baseline = self.baseline.as_ref().map(|baseline| ("echo", baseline));
        let listings = self.listings.as_ref();
        let listings = listings.map(|listings| ("with listings", &listings.figures));
        let all = [("tally", &self.figures)]
            .into_iter()
            .chain(baseline)
            .chain(listings);
        for (name, figures) in all {
            if let Some(schedule) = &figures.schedule {
                crate::terminal::outln!(
                    "schedule         {name}: {} due, {} late, {} missed, {} rejected",
                    schedule.due,
                    schedule.late,
                    schedule.missed,
                    schedule.rejected
                );
            }
        }
    }

    /// Prints how the service grew. The memory and the restart of a remote service are unknown, so their columns have `-` and their
    /// lines are missing.
    fn print_growth(&self) {
        let Some(growth) = &self.growth else { return };
        let mib = |bytes: u64| format!("{:.0}", bytes as f64 / f64::from(1 << 20));
        let mut table = table(&["transactions", "tx/s", "RSS MiB", "B/id"]);
        for step in &growth.steps {
            table.add_row([
                units::number(i64::try_from(step.transactions).unwrap_or(i64::MAX)),
                units::whole_number(step.transactions_per_second),
                step.rss_bytes.map_or_else(|| "-".to_owned(), mib),
                format!("{:.1}", step.bytes_per_transaction_id),
            ]);
        }
        crate::terminal::outln!("{table}");
        crate::terminal::outln!("last to first    {:.2} × throughput", growth.last_to_first);
        let rss =
            |bytes: Option<f64>| bytes.map_or_else(String::new, |bytes| format!(", {bytes:.1} B of RSS"));
        crate::terminal::outln!(
            "per account      {:.0} B in the table{}",
            growth.bytes_per_account,
            rss(growth.rss_bytes_per_account)
        );
        crate::terminal::outln!(
            "per id           {:.1} B in the index{}",
            growth.bytes_per_transaction_id,
            rss(growth.rss_bytes_per_transaction_id)
        );
        crate::terminal::outln!("journal          {}", units::bytes(growth.journal_bytes));
        let restarts = (growth.restart_seconds, growth.restart_after_kill_seconds);
        if let (Some(stopped), Some(killed)) = restarts {
            let time = |seconds: f64| micros(seconds * 1e6);
            crate::terminal::outln!(
                "restart          {}, after a kill {}",
                time(stopped),
                time(killed)
            );
        }
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
    let rate = units::whole_number(figures.transactions_per_second);
    let mut row = vec![name.to_owned(), rate];
    row.extend([p50, p90, p99, p999, max].map(micros));
    // The CPU time of a remote service is unknown.
    row.push(
        figures
            .server_cpu_us_per_transaction
            .map_or_else(|| "-".to_owned(), micros),
    );
    row
}

/// Returns a time in microseconds with a unit for people.
pub(super) fn micros(micros: f64) -> String {
    units::time(Duration::try_from_secs_f64(micros / 1e6).unwrap_or_default())
}

/// Returns the command line that repeats the run, without the token.
pub(super) fn command() -> String {
    let mut words: Vec<String> = std::env::args().collect();
    let mut is_token = false;
    for word in &mut words {
        if is_token || word.starts_with("--token=") {
            "***".clone_into(word);
        }
        is_token = word == "--token";
    }
    words.join(" ")
}

/// Returns the number of CPUs and their model.
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
