//! What becomes of a service while its data grow: throughput, memory, and the time that a restart takes.

use std::time::Duration;

use serde::Serialize;

use super::{
    BenchError, TRANSACTIONS_MAX,
    load::{Kind, Load},
    report::median,
    round::Round,
    target::{End, Target},
};

/// What was measured.
#[derive(Debug, Serialize)]
pub(super) struct Growth {
    pub(super) accounts: i64,
    pub(super) steps: Vec<Step>,
    /// Throughput of the last steps over that of the first, medians of up to three of each.
    pub(super) last_to_first: f64,
    /// Memory of the account table for each account.
    pub(super) bytes_per_account: f64,
    /// Memory of the id index for each transaction id.
    pub(super) bytes_per_transaction_id: f64,
    /// Memory of the whole process that came with the accounts, for each of them.
    pub(super) rss_bytes_per_account: Option<f64>,
    /// Memory of the whole process that came with the transactions, for each id.
    pub(super) rss_bytes_per_transaction_id: Option<f64>,
    pub(super) journal_bytes: i64,
    /// From its start until it listens, after it had been asked to end.
    pub(super) restart_seconds: Option<f64>,
    /// The same after it had been killed.
    pub(super) restart_after_kill_seconds: Option<f64>,
}

/// Some transactions, one after the other.
#[derive(Debug, Serialize)]
pub(super) struct Step {
    /// Since the beginning, at the end of the step.
    pub(super) transactions: u64,
    pub(super) transactions_per_second: f64,
    pub(super) rss_bytes: Option<u64>,
    pub(super) bytes_per_transaction_id: f64,
}

/// Transactions of a step, if there are enough for two.
const STEP: u64 = 1_000_000;
/// Otherwise there are so many steps.
const STEPS_OF_FEW: u64 = 10;
/// How many steps at either end are compared.
const ENDS: usize = 3;
/// No step takes longer: then something hangs.
const STEP_TIME_MAX: Duration = Duration::from_secs(86_400);

/// Sends `transactions`, and restarts the service if it is our own. Before there were accounts it held `empty_bytes`.
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
        transactions.div_ceil(STEPS_OF_FEW)
    };
    let (mut rounds, mut steps) = (Vec::new(), Vec::new());
    let mut sent = 0;
    while sent < transactions.min(TRANSACTIONS_MAX) {
        let some = step.min(transactions - sent);
        load.allow(some);
        let round = load.round(service, Kind::Service, STEP_TIME_MAX).await?;
        sent += some;
        let stats = service.stats().await?.ledger.unwrap_or_default();
        let step = Step {
            transactions: sent,
            transactions_per_second: round.rate(),
            rss_bytes: service.rss_bytes(),
            bytes_per_transaction_id: stats.bytes_per_transaction_id,
        };
        tell(&step);
        steps.push(step);
        rounds.push(round);
    }
    let ledger = service.stats().await?.ledger.unwrap_or_default();
    let full = service.rss_bytes();
    let each = |after: Option<u64>, before: Option<u64>, count: i64| {
        let (after, before) = (after? as f64, before? as f64);
        Some((after - before) / (count.max(1) as f64))
    };
    let growth = Growth {
        accounts: ledger.accounts,
        last_to_first: last_to_first(&steps),
        steps,
        bytes_per_account: ledger.account_bytes as f64 / (ledger.accounts.max(1) as f64),
        bytes_per_transaction_id: ledger.bytes_per_transaction_id,
        rss_bytes_per_account: each(with_accounts, empty_bytes, ledger.accounts),
        rss_bytes_per_transaction_id: each(full, with_accounts, ledger.transaction_ids),
        journal_bytes: ledger.journal_bytes,
        restart_seconds: seconds(service.restart(End::Terminate).await?),
        restart_after_kill_seconds: seconds(service.restart(End::Kill).await?),
    };
    // What was there is there again.
    let again = service.stats().await?.ledger.unwrap_or_default();
    if again.last_sequence != ledger.last_sequence {
        return Err(BenchError::Lost {
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
    let first = median(steps.iter().take(ENDS).map(rate).collect());
    let last = median(steps.iter().rev().take(ENDS).map(rate).collect());
    last / first.max(f64::EPSILON)
}

/// Such runs take long: whoever waits sees how far it is.
#[expect(clippy::print_stderr, reason = "progress is not the result")]
fn tell(step: &Step) {
    let mib = step.rss_bytes.map_or_else(
        || "?".to_owned(),
        |bytes| format!("{:.0}", bytes as f64 / f64::from(1 << 20)),
    );
    eprintln!(
        "{:>12} transactions  {:>9.0} tx/s  RSS {mib} MiB  {:.1} B of memory for each id",
        step.transactions, step.transactions_per_second, step.bytes_per_transaction_id
    );
}
