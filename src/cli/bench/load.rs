//! The load: transactions, made from a seed, and the loops that send them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, future::try_join_all};
use hdrhistogram::Histogram;
use tokio::{
    sync::{Barrier, Semaphore},
    task::LocalSet,
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::{
    BenchArgs, BenchError, Mode,
    target::{Target, TargetError},
};
use crate::proto::{
    Account, BatchCreateAccountsRequest, CreateAccountRequest, ProcessTransactionRequest,
    ProcessTransactionsRequest, StreamTransactionsRequest, TransactionResult, Transfer,
    account_service_client::AccountServiceClient, bench::echo_client::EchoClient,
    transaction_result::Outcome, transaction_service_client::TransactionServiceClient, transfer::Amount,
};

/// One channel for each connection.
type Channels = Vec<Channel>;

/// Largest message that is read.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Accounts that are created in one call.
const CREATE_ACCOUNTS: u32 = 1000;

/// One round of load.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) transactions: u64,
    pub(super) elapsed: Duration,
    /// Of calls, or of messages of a stream; in nanoseconds.
    pub(super) latency: Histogram<u64>,
    pub(super) server_cpu: Option<Duration>,
}

/// What one caller or stream has done: transactions, and how long each call or message took.
type Part = (u64, Histogram<u64>);

/// What is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The service.
    Service,
    /// The echo server.
    Echo,
}

/// What is sent.
#[derive(Debug, Clone)]
pub(super) struct Load {
    mode: Mode,
    threads: u32,
    connections: u32,
    in_flight: u32,
    batch: u32,
    source: Source,
}

/// Makes transactions. Clones share the count, so that no id is sent twice.
#[derive(Debug, Clone)]
struct Source {
    accounts: u64,
    hot: bool,
    random_ids: bool,
    seed: u64,
    count: Arc<AtomicU64>,
}

// ===== impl Source =====

impl Source {
    fn next(&self) -> ProcessTransactionRequest {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let random = mix(self.seed ^ mix(number));
        let debit = if self.hot { 0 } else { random % self.accounts };
        // Another one than the debit account, with equal chances.
        let credit = (debit + 1 + (random >> 32) % (self.accounts - 1)) % self.accounts;
        let transaction_id = if self.random_ids {
            uuid(mix(random), mix(!random))
        } else {
            let mut id = String::with_capacity(40);
            id.push_str("bench-");
            push_decimal(&mut id, self.seed, 1);
            id.push('-');
            push_decimal(&mut id, number, 1);
            id
        };
        ProcessTransactionRequest {
            transaction_id,
            transfers: vec![Transfer {
                debit_account_id: account_id(debit),
                credit_account_id: account_id(credit),
                amount: Some(Amount::MinorUnits(i64::try_from(1 + random % 1000).unwrap_or(1))),
                code: 1,
            }],
            ..ProcessTransactionRequest::default()
        }
    }
}

/// splitmix64's finaliser: a bijection, so that different numbers give different ids.
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn account_id(number: u64) -> String {
    let mut id = String::with_capacity(24);
    id.push_str("acct-");
    push_decimal(&mut id, number, 8);
    id
}

/// Like a random UUID of version 4.
fn uuid(high: u64, low: u64) -> String {
    let mut id = String::with_capacity(36);
    let parts = [
        (high >> 32, 8),
        (high >> 16 & 0xffff, 4),
        (high & 0xfff | 0x4000, 4),
        (low >> 48 & 0x3fff | 0x8000, 4),
        (low & 0xffff_ffff_ffff, 12),
    ];
    for (number, digits) in parts {
        if !id.is_empty() {
            id.push('-');
        }
        for place in (0..digits).rev() {
            let digit = u32::try_from(number >> (4 * place) & 0xf).unwrap_or_default();
            id.extend(char::from_digit(digit, 16));
        }
    }
    id
}

/// Appends `number` with at least so many digits. The formatter of the standard library would take more of the client's
/// time than everything else that makes a transaction, on the CPUs that the service has to share with it.
fn push_decimal(text: &mut String, number: u64, digits_min: usize) {
    let mut digits = [0_u8; 20];
    let mut rest = number;
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        if rest == 0 && used >= digits_min {
            break;
        }
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or_default();
        rest /= 10;
        used += 1;
    }
    let digits = digits.get(digits.len() - used..).unwrap_or_default();
    text.push_str(std::str::from_utf8(digits).unwrap_or_default());
}

// ===== impl Load =====

impl Load {
    pub(super) fn new(args: &BenchArgs) -> Self {
        let source = Source {
            accounts: u64::from(args.accounts),
            hot: args.hot,
            random_ids: args.random_ids,
            seed: args.seed,
            count: Arc::new(AtomicU64::new(0)),
        };
        Load {
            mode: args.mode,
            threads: args.client_threads(),
            connections: args.connections,
            in_flight: args.in_flight,
            batch: args.batch,
            source,
        }
    }

    /// Creates the accounts between which money moves.
    pub(super) async fn create_accounts(&self, target: &Target) -> Result<(), BenchError> {
        let mut client =
            AccountServiceClient::new(target.connect().await?).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let accounts = u32::try_from(self.source.accounts).unwrap_or(u32::MAX);
        for first in (0..accounts).step_by(CREATE_ACCOUNTS as usize) {
            let last = first.saturating_add(CREATE_ACCOUNTS).min(accounts);
            let requests = (first..last).map(|number| CreateAccountRequest {
                account: Some(Account {
                    id: account_id(number.into()),
                    asset: "EUR".to_owned(),
                    ..Account::default()
                }),
            });
            let request = BatchCreateAccountsRequest {
                requests: requests.collect(),
            };
            client
                .batch_create_accounts(request)
                .await
                .map_err(|status| BenchError::Call {
                    call: "BatchCreateAccounts",
                    status,
                })?;
        }
        Ok(())
    }

    /// Loads the target for `duration`: client threads with a runtime and connections of their own, which start together
    /// when all of them are connected.
    pub(super) async fn round(
        &self,
        target: &Target,
        kind: Kind,
        duration: Duration,
    ) -> Result<Round, BenchError> {
        let start = Arc::new(Barrier::new(self.threads as usize + 1));
        let threads: Vec<_> = (0..self.threads)
            .map(|thread| {
                let (load, endpoint, start) = (self.clone(), target.endpoint(), Arc::clone(&start));
                tokio::task::spawn_blocking(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()?;
                    let local = LocalSet::new();
                    local.block_on(&runtime, load.thread(thread, &endpoint?, kind, duration, &start))
                })
            })
            .collect();
        start.wait().await;
        let started = Instant::now();
        let before = target.cpu_time();
        let mut done = Vec::new();
        for thread in threads {
            done.extend(thread.await.map_err(|_panic| BenchError::ClientThread)??);
        }
        let mut round = Round::sum(done, started.elapsed());
        round.server_cpu = before
            .zip(target.cpu_time())
            .map(|(before, after)| after.saturating_sub(before));
        Ok(round)
    }

    /// One client thread's share of the load.
    async fn thread(
        &self,
        thread: u32,
        endpoint: &Endpoint,
        kind: Kind,
        duration: Duration,
        start: &Barrier,
    ) -> Result<Vec<Part>, BenchError> {
        let share = |total: u32| total / self.threads + u32::from(thread < total % self.threads);
        let mut channels = Vec::new();
        for _ in 0..share(self.connections).max(1) {
            channels.push(endpoint.connect().await);
        }
        // Whoever could not connect must not keep the others waiting.
        start.wait().await;
        let channels: Channels = channels
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(TargetError::from)?;
        let until = Instant::now() + duration;
        if kind == Kind::Service && self.mode == Mode::Stream {
            return try_join_all(channels.into_iter().map(|channel| self.stream(channel, until))).await;
        }
        let workers = (0..share(self.in_flight))
            .zip(channels.iter().cycle())
            .map(|(_, channel)| {
                let (load, channel) = (self.clone(), channel.clone());
                // A task each: then the runtime polls only those that have something to do.
                tokio::task::spawn_local(async move {
                    match (kind, load.mode) {
                        (Kind::Echo, _) => load.echo(channel, until).await,
                        (Kind::Service, Mode::Batch) => load.batches(channel, until).await,
                        (Kind::Service, Mode::Unary | Mode::Stream) => load.unary(channel, until).await,
                    }
                })
            });
        let mut parts = Vec::new();
        for worker in workers.collect::<Vec<_>>() {
            parts.push(worker.await.map_err(|_panic| BenchError::ClientThread)??);
        }
        Ok(parts)
    }

    async fn unary(&self, channel: Channel, until: Instant) -> Result<Part, BenchError> {
        let mut client = TransactionServiceClient::new(channel);
        repeat(until, async || {
            let response = client.process_transaction(self.source.next()).await;
            response.map(|_| 1).map_err(|status| BenchError::Call {
                call: "ProcessTransaction",
                status,
            })
        })
        .await
    }

    async fn echo(&self, channel: Channel, until: Instant) -> Result<Part, BenchError> {
        let mut client = EchoClient::new(channel);
        repeat(until, async || {
            let response = client.echo(self.source.next()).await;
            response
                .map(|_| 1)
                .map_err(|status| BenchError::Call { call: "Echo", status })
        })
        .await
    }

    async fn batches(&self, channel: Channel, until: Instant) -> Result<Part, BenchError> {
        let mut client = TransactionServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        repeat(until, async || {
            let transactions: Vec<_> = (0..self.batch).map(|_| self.source.next()).collect();
            let response = client
                .process_transactions(ProcessTransactionsRequest { transactions })
                .await;
            let response = response.map_err(|status| BenchError::Call {
                call: "ProcessTransactions",
                status,
            })?;
            let results = response.into_inner().results;
            results.iter().try_for_each(check)?;
            Ok(results.len() as u64)
        })
        .await
    }

    /// `in_flight` messages under way on one stream.
    async fn stream(&self, channel: Channel, until: Instant) -> Result<Part, BenchError> {
        let mut client = TransactionServiceClient::new(channel);
        let window = self.in_flight as usize;
        let (sender, receiver) = tokio::sync::mpsc::channel(window);
        let (sent_at, mut sent) = tokio::sync::mpsc::channel(window.saturating_mul(2));
        let permits = Arc::new(Semaphore::new(window));
        let source = self.source.clone();
        let limit = Arc::clone(&permits);
        let sending = tokio::spawn(async move {
            while Instant::now() < until {
                let Ok(permit) = limit.acquire().await else { break };
                permit.forget();
                let message = StreamTransactionsRequest {
                    transaction: Some(source.next()),
                };
                if sent_at.send(Instant::now()).await.is_err() || sender.send(message).await.is_err() {
                    break;
                }
            }
        });
        let failed = |status| BenchError::Call {
            call: "StreamTransactions",
            status,
        };
        let mut answers = client
            .stream_transactions(ReceiverStream::new(receiver))
            .await
            .map_err(failed)?
            .into_inner();
        let (mut count, mut latency) = (0, histogram());
        while let Some(answer) = answers.next().await {
            check(&answer.map_err(failed)?.result.unwrap_or_default())?;
            permits.add_permits(1);
            if let Some(sent_at) = sent.recv().await {
                record(&mut latency, sent_at);
            }
            count += 1;
        }
        sending.abort();
        Ok((count, latency))
    }
}

/// Calls one after the other until `until`; each says how many transactions it carried.
async fn repeat(
    until: Instant,
    mut call: impl AsyncFnMut() -> Result<u64, BenchError>,
) -> Result<Part, BenchError> {
    let (mut count, mut latency) = (0, histogram());
    loop {
        let started = Instant::now();
        if started >= until {
            return Ok((count, latency));
        }
        count += call().await?;
        record(&mut latency, started);
    }
}

fn check(result: &TransactionResult) -> Result<(), BenchError> {
    match &result.outcome {
        Some(Outcome::Committed(_)) => Ok(()),
        Some(Outcome::Error(error)) => Err(BenchError::Refused(error.message.clone())),
        None => Err(BenchError::Refused("no outcome".to_owned())),
    }
}

#[expect(clippy::expect_used, reason = "constant bounds")]
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 120_000_000_000, 3).expect("bounds are valid")
}

fn record(latency: &mut Histogram<u64>, started: Instant) {
    latency.saturating_record(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX));
}

// ===== impl Round =====

impl Round {
    fn sum(parts: Vec<Part>, elapsed: Duration) -> Self {
        let mut round = Round {
            transactions: 0,
            elapsed,
            latency: histogram(),
            server_cpu: None,
        };
        for (count, latency) in parts {
            round.transactions += count;
            // Histograms of the same bounds can always be added.
            let _added = round.latency.add(&latency);
        }
        round
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_formatter_would_write() {
        for number in [0, 7, 10, 12_345_678, 123_456_789, u64::MAX] {
            assert_eq!(account_id(number), format!("acct-{number:08}"));
            let mut text = String::new();
            push_decimal(&mut text, number, 1);
            assert_eq!(text, number.to_string());
        }
        let id = uuid(0x0123_4567_89ab_cdef, 0xffff_0000_1234_5678);
        assert_eq!(id, "01234567-89ab-4def-bfff-000012345678");
    }
}
