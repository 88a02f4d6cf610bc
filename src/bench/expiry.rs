//! Measures what other calls notice while many holds expire at the same time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::Status;

use super::{
    error::BenchError,
    generator::{Generator, Payment},
    report::{command, machine, micros},
    settings::BenchSettings,
    stats::rounded,
    target::{Target, call_failed, connect, in_time},
};
use crate::{
    client::Connection,
    proto::{
        GetBatchStatsRequest, LedgerStats, ProcessTransactionRequest, ProcessTransactionsRequest,
        TransactionPhase, Transfer, engine_service_client::EngineServiceClient, transaction_result::Outcome,
        transaction_service_client::TransactionServiceClient, transfer,
    },
    terminal::{table, units},
    version::{COMMIT, LONG_VERSION},
};

/// What other calls noticed while holds expired.
#[derive(Debug, Serialize)]
pub struct ExpiryReport {
    /// Number of holds with one deadline.
    holds: u64,
    /// Time that it took to make the holds.
    make_seconds: f64,
    /// Memory of the table of holds, in bytes per hold.
    bytes_per_hold: f64,
    /// Growth of the resident memory of the service while the holds were made, in bytes per hold. It includes the ids of the holds.
    rss_bytes_per_hold: Option<f64>,
    /// Time from the deadline until all holds had expired.
    expiry_seconds: f64,
    /// The last [`PHASE`] before the deadline.
    before: Calls,
    /// From the deadline until all holds had expired.
    during: Calls,
    /// The first [`PHASE`] after the last hold had expired.
    after: Calls,
    in_flight: u32,
    connections: u32,
    machine: String,
    version: &'static str,
    commit: &'static str,
    command: String,
}

/// The calls of `ProcessTransaction` in a part of the run.
#[derive(Debug, Serialize)]
struct Calls {
    seconds: f64,
    /// The committed calls, to which the latencies belong.
    calls: usize,
    calls_per_second: f64,
    /// The calls that the service rejected or did not answer.
    failed: usize,
    p50_us: f64,
    p99_us: f64,
    max_us: f64,
}

/// A call of a caller.
#[derive(Debug, Clone, Copy)]
struct Sample {
    begun: Instant,
    ended: Instant,
    is_answered: bool,
}

/// Makes the requests.
#[derive(Debug, Clone)]
struct Requests {
    generator: Generator,
    seed: u64,
    next: Arc<AtomicU64>,
}

/// Time before the deadline, and after the end of the expiry, in which calls are measured.
const PHASE: Duration = Duration::from_secs(3);
/// Time from the start until the deadline, besides [`PHASE`] and the time for making the holds.
const SPARE: Duration = Duration::from_secs(2);
/// Number of holds that are made in a second, at least. A slower service is not measured.
const MADE_PER_SECOND: f64 = 20_000.0;
/// Number of holds of a call.
const HOLDS_OF_CALL: u64 = 8192;
/// Calls in flight that make holds.
const MAKING_CALLS: usize = 2;
/// Time between two reads of the number of holds, and so the precision with which the end of the expiry is known.
const POLL: Duration = Duration::from_millis(20);
/// Longest time until all holds must have expired.
const EXPIRY_TIME_MAX: Duration = Duration::from_secs(600);

/// Makes `holds` holds that expire at the same time, and measures other calls before, during and after that.
pub(super) async fn run(
    settings: &BenchSettings,
    service: &Target,
    holds: u64,
) -> Result<ExpiryReport, BenchError> {
    let requests = Requests {
        generator: Generator::new(settings),
        seed: settings.seed,
        next: Arc::new(AtomicU64::new(0)),
    };
    let (begun, rss_before) = (Instant::now(), service.rss_bytes());
    let deadline = begun + SPARE + PHASE + Duration::from_secs_f64(holds as f64 / MADE_PER_SECOND);
    requests.make(service, holds, deadline).await?;
    let make_time = begun.elapsed();
    let rss_bytes_per_hold = rss_before
        .zip(service.rss_bytes())
        .map(|(before, after)| rounded(after.saturating_sub(before) as f64 / (holds.max(1) as f64), 1));
    let full = stats(service).await?;
    if Instant::now() + PHASE > deadline {
        let lead = deadline - begun - PHASE;
        return Err(BenchError::HoldsTooLate { holds, lead });
    }
    sleep_until(deadline - PHASE - SPARE).await;

    let ending = Arc::new(AtomicBool::new(false));
    let mut callers = Vec::new();
    for _ in 0..settings.connections {
        let connection = connect(service.client()).await?;
        for _ in 0..settings.in_flight().div_ceil(settings.connections) {
            let client = TransactionServiceClient::new(connection.clone());
            let (requests, ending) = (requests.clone(), Arc::clone(&ending));
            callers.push(tokio::spawn(async move { requests.call(client, &ending).await }));
        }
    }
    let gone = wait_until_gone(service, deadline).await?;
    sleep(PHASE).await;
    ending.store(true, Ordering::Relaxed);
    let mut samples = Vec::new();
    for caller in callers {
        samples.extend(caller.await.map_err(|_panic| BenchError::Panicked)?);
    }
    Ok(ExpiryReport {
        holds,
        make_seconds: rounded(make_time.as_secs_f64(), 2),
        bytes_per_hold: rounded(full.hold_bytes as f64 / (full.holds.max(1) as f64), 1),
        rss_bytes_per_hold,
        expiry_seconds: rounded((gone - deadline).as_secs_f64(), 2),
        before: Calls::between(&samples, deadline - PHASE, deadline),
        during: Calls::between(&samples, deadline, gone),
        after: Calls::between(&samples, gone, gone + PHASE),
        in_flight: settings.in_flight(),
        connections: settings.connections,
        machine: machine(),
        version: LONG_VERSION,
        commit: COMMIT,
        command: command(),
    })
}

/// Waits until the ledger has no hold. Returns the time of the read that found none.
async fn wait_until_gone(service: &Target, deadline: Instant) -> Result<Instant, BenchError> {
    sleep_until(deadline).await;
    let mut client = EngineServiceClient::new(connect(service.client()).await?);
    loop {
        let stats = client.get_batch_stats(in_time(GetBatchStatsRequest {})).await;
        let stats = stats.map_err(|status| call_failed("GetBatchStats", status))?;
        let holds = stats.into_inner().ledger.unwrap_or_default().holds;
        let now = Instant::now();
        if holds == 0 {
            return Ok(now);
        }
        if now > deadline + EXPIRY_TIME_MAX {
            return Err(BenchError::HoldsRemain { holds });
        }
        sleep(POLL).await;
    }
}

async fn stats(service: &Target) -> Result<LedgerStats, BenchError> {
    Ok(service.stats().await?.ledger.unwrap_or_default())
}

// ===== impl Requests =====

impl Requests {
    /// Makes holds with about the same deadline. A client can't set the deadline exactly, because the service adds the timeout of the request
    /// to the time of the block.
    async fn make(&self, service: &Target, holds: u64, deadline: Instant) -> Result<(), BenchError> {
        let connection = connect(service.client()).await?;
        let calls = (0..holds)
            .step_by(usize::try_from(HOLDS_OF_CALL).unwrap_or(usize::MAX))
            .map(|first| {
                let last = first.saturating_add(HOLDS_OF_CALL).min(holds);
                self.make_some(connection.clone(), first..last, deadline)
            });
        stream::iter(calls)
            .buffer_unordered(MAKING_CALLS)
            .try_for_each(|()| std::future::ready(Ok(())))
            .await
    }

    async fn make_some(
        &self,
        connection: Connection,
        numbers: std::ops::Range<u64>,
        deadline: Instant,
    ) -> Result<(), BenchError> {
        // A request of 8192 holds is longer than tonic's default bound for a message, and so is the answer.
        let mut client = TransactionServiceClient::new(connection).max_decoding_message_size(usize::MAX);
        let timeout = deadline.saturating_duration_since(Instant::now());
        let pending_timeout: Option<prost_types::Duration> = timeout.try_into().ok();
        let transactions = numbers.map(|number| ProcessTransactionRequest {
            phase: TransactionPhase::Pending.into(),
            pending_timeout,
            ..self.transaction("hold", number)
        });
        let request = ProcessTransactionsRequest {
            transactions: transactions.collect(),
        };
        let answer = client.process_transactions(in_time(request)).await;
        let answer = answer.map_err(|status| call_failed("ProcessTransactions", status))?;
        for result in answer.into_inner().results {
            if let Some(Outcome::Error(error)) = result.outcome {
                return Err(BenchError::Rejected(error.message));
            }
        }
        Ok(())
    }

    /// Makes calls, one after the other, until `ending` is set.
    async fn call(
        self,
        mut client: TransactionServiceClient<Connection>,
        ending: &AtomicBool,
    ) -> Vec<Sample> {
        let mut samples = Vec::new();
        while !ending.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let request = self.transaction("call", number);
            let begun = Instant::now();
            let answered: Result<_, Status> = client.process_transaction(in_time(request)).await;
            samples.push(Sample {
                begun,
                ended: Instant::now(),
                is_answered: answered.is_ok(),
            });
        }
        samples
    }

    fn transaction(&self, kind: &str, number: u64) -> ProcessTransactionRequest {
        let Payment {
            debit,
            credit,
            minor_units,
            ..
        } = self.generator.payment(number);
        let transfer = Transfer {
            debit_account_id: debit.id(),
            credit_account_id: credit.id(),
            amount: i64::try_from(minor_units).ok().map(transfer::Amount::MinorUnits),
            ..Transfer::default()
        };
        ProcessTransactionRequest {
            transaction_id: format!("bench-{kind}-{}-{number}", self.seed),
            transfers: vec![transfer],
            ..ProcessTransactionRequest::default()
        }
    }
}

// ===== impl Calls =====

impl Calls {
    /// Returns the calls that were in flight between two times. A call that began in one part of the run and ended in the next counts in both.
    fn between(samples: &[Sample], from: Instant, to: Instant) -> Self {
        let within = samples
            .iter()
            .filter(|sample| sample.ended > from && sample.begun < to);
        let (answered, failed): (Vec<&Sample>, Vec<&Sample>) = within.partition(|sample| sample.is_answered);
        let mut times: Vec<Duration> = answered
            .iter()
            .map(|sample| sample.ended - sample.begun)
            .collect();
        times.sort_unstable();
        let at = |hundredths: usize| {
            let index = (times.len() * hundredths).div_ceil(100).saturating_sub(1);
            times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e6)
        };
        let seconds = (to - from).as_secs_f64();
        Calls {
            seconds: rounded(seconds, 2),
            calls: answered.len(),
            calls_per_second: rounded(answered.len() as f64 / seconds.max(f64::EPSILON), 0),
            failed: failed.len(),
            p50_us: at(50),
            p99_us: at(99),
            max_us: at(100),
        }
    }
}

// ===== impl ExpiryReport =====

impl ExpiryReport {
    pub(super) fn print_table(&self) {
        let mut table = table(&["", "time", "calls/s", "p50", "p99", "max", "failed"]);
        for (name, calls) in [
            ("before", &self.before),
            ("during", &self.during),
            ("after", &self.after),
        ] {
            let mut row = vec![
                name.to_owned(),
                micros(calls.seconds * 1e6),
                units::whole_number(calls.calls_per_second),
            ];
            row.extend([calls.p50_us, calls.p99_us, calls.max_us].map(micros));
            row.push(calls.failed.to_string());
            table.add_row(row);
        }
        crate::terminal::outln!("{table}");
        crate::terminal::outln!(
            "holds            {}, made in {}",
            units::unsigned_number(self.holds.into()),
            micros(self.make_seconds * 1e6)
        );
        crate::terminal::outln!(
            "memory           {:.1} B per hold in the table{}",
            self.bytes_per_hold,
            self.rss_bytes_per_hold
                .map_or_else(String::new, |bytes| format!(", {bytes:.1} B of RSS with its id"))
        );
        crate::terminal::outln!(
            "expired          {} after the deadline",
            micros(self.expiry_seconds * 1e6)
        );
        crate::terminal::outln!(
            "callers          {} on {} connections",
            self.in_flight,
            self.connections
        );
        crate::terminal::outln!("machine          {}", self.machine);
        crate::terminal::outln!("version          {}", self.version);
        crate::terminal::outln!("repeat           {}", self.command);
    }
}
