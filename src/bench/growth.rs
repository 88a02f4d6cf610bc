//! Measures a service as its data grows: throughput, memory, and the time of a restart.

use std::time::Duration;

use rustix::process::Signal;
use serde::Serialize;

use super::{
    error::BenchError,
    load::Load,
    settings::TRANSACTIONS_MAX,
    stats::{Round, median, rounded},
    target::Target,
};

/// The measurements of a run over growing data.
#[derive(Debug, Serialize)]
pub(super) struct Growth {
    pub(super) accounts: i64,
    pub(super) steps: Vec<Step>,
    /// Throughput of the last steps divided by the throughput of the first steps: medians of up to three steps each.
    pub(super) last_to_first: f64,
    /// Memory of the account table, in bytes per account.
    pub(super) bytes_per_account: f64,
    /// Memory of the id index, in bytes per transaction id.
    pub(super) bytes_per_transaction_id: f64,
    /// Growth of the resident memory of the service while accounts were created, in bytes per account.
    pub(super) rss_bytes_per_account: Option<f64>,
    /// Growth of the resident memory of the service while transactions were sent, in bytes per transaction id.
    pub(super) rss_bytes_per_transaction_id: Option<f64>,
    pub(super) journal_bytes: i64,
    /// Time from the start of the process until it listens, after SIGTERM has ended the previous process.
    pub(super) restart_seconds: Option<f64>,
    /// Time from the start of the process until it listens, after SIGKILL has ended the previous process.
    pub(super) restart_after_kill_seconds: Option<f64>,
}

/// One step of the run.
#[derive(Debug, Serialize)]
pub(super) struct Step {
    /// Transactions from the start of the run to the end of the step.
    pub(super) transactions: u64,
    pub(super) transactions_per_second: f64,
    pub(super) rss_bytes: Option<u64>,
    pub(super) bytes_per_transaction_id: f64,
}

/// Number of transactions of a step, if the run is long enough for two or more such steps.
const STEP: u64 = 1_000_000;
/// Number of steps of a run that is too short for two steps of [`STEP`] transactions.
const STEPS_OF_SHORT_RUN: u64 = 10;
/// Number of steps at the start, and at the end, whose throughputs are compared.
const END_STEPS: usize = 3;
/// Longest time for a step. Only a service that hangs reaches it.
const STEP_TIME_MAX: Duration = Duration::from_secs(86_400);

/// Sends `transactions`, and restarts the service if the benchmark started it. `empty_bytes` is the memory of the service
/// before it had accounts.
pub(super) async fn run(
    load: &Load,
    service: &mut Target,
    transactions: u64,
    empty_bytes: Option<u64>,
) -> Result<(Growth, Vec<Round>), BenchError> {
    let with_accounts = service.rss_bytes();
    let step = if transactions >= 2 * STEP {
        STEP
    } else {
        transactions.div_ceil(STEPS_OF_SHORT_RUN)
    };
    let (mut rounds, mut steps) = (Vec::new(), Vec::new());
    let mut sent = 0;
    while sent < transactions.min(TRANSACTIONS_MAX) {
        let count = step.min(transactions - sent);
        load.allow(count);
        let round = load.round(service, STEP_TIME_MAX).await?;
        sent += count;
        let stats = service.stats().await?.ledger.unwrap_or_default();
        let step = Step {
            transactions: sent,
            transactions_per_second: rounded(round.rate(), 0),
            rss_bytes: service.rss_bytes(),
            bytes_per_transaction_id: rounded(stats.bytes_per_transaction_id, 1),
        };
        print_progress(&step);
        steps.push(step);
        rounds.push(round);
    }
    let ledger = service.stats().await?.ledger.unwrap_or_default();
    let full = service.rss_bytes();
    let growth_per = |after: Option<u64>, before: Option<u64>, count: i64| {
        let (after, before) = (after? as f64, before? as f64);
        Some(rounded((after - before) / (count.max(1) as f64), 1))
    };
    let growth = Growth {
        accounts: ledger.accounts,
        last_to_first: last_to_first(&steps),
        steps,
        bytes_per_account: rounded(ledger.account_bytes as f64 / (ledger.accounts.max(1) as f64), 0),
        bytes_per_transaction_id: rounded(ledger.bytes_per_transaction_id, 1),
        rss_bytes_per_account: growth_per(with_accounts, empty_bytes, ledger.accounts),
        rss_bytes_per_transaction_id: growth_per(full, with_accounts, ledger.transaction_ids),
        journal_bytes: ledger.journal_bytes,
        restart_seconds: seconds(service.restart(Signal::TERM).await?),
        restart_after_kill_seconds: seconds(service.restart(Signal::KILL).await?),
    };
    // A restart must not lose a transaction.
    let again = service.stats().await?.ledger.unwrap_or_default();
    if again.last_sequence != ledger.last_sequence {
        return Err(BenchError::SequenceChanged {
            before: ledger.last_sequence,
            after: again.last_sequence,
        });
    }
    Ok((growth, rounds))
}

fn seconds(time: Option<Duration>) -> Option<f64> {
    time.map(|time| time.as_secs_f64())
}

fn last_to_first(steps: &[Step]) -> f64 {
    let rate = |step: &Step| step.transactions_per_second;
    let first = median(steps.iter().take(END_STEPS).map(rate).collect());
    let last = median(steps.iter().rev().take(END_STEPS).map(rate).collect());
    rounded(last / first.max(f64::EPSILON), 2)
}

/// Prints a line per step, because a run takes minutes.
fn print_progress(step: &Step) {
    // The memory of a remote service is unknown.
    let rss = step.rss_bytes.map_or_else(String::new, |bytes| {
        format!("  RSS {:.0} MiB", bytes as f64 / f64::from(1 << 20))
    });
    crate::terminal::errln!(
        "{:>12} transactions  {:>9.0} tx/s{rss}  {:.1} B of index per id",
        step.transactions,
        step.transactions_per_second,
        step.bytes_per_transaction_id
    );
}
