//! Sends the load: one loop per caller or stream.

use std::{
    cell::RefCell,
    ops::Range,
    rc::Rc,
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, future::try_join_all, stream};
use indicatif::ProgressBar;
use tokio::{
    sync::{Barrier, Semaphore},
    task::LocalSet,
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, client::Grpc, codegen::http::uri::PathAndQuery};
use tonic_types::StatusExt;

use super::{
    error::BenchError,
    generator::{AccountNumber, Generator},
    message::{LoadCodec, MessageType, Reply},
    pace::{Pace, Pacer},
    settings::{BenchSettings, Mode},
    stats::{LoadStats, Outcomes, Round},
    target::{Target, TargetKind, call_failed, connect, in_time},
};
use crate::{
    client::{ClientConfig, Connection, RetryObserver, RetryPolicy},
    proto::{
        Account, BatchCreateAccountsRequest, CreateAccountRequest,
        account_service_client::AccountServiceClient,
    },
    terminal::progress_bar,
};

/// Largest message that the client accepts.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Number of accounts that one call creates.
const CREATE_ACCOUNTS: u32 = 1000;
/// Maximum number of calls in flight that create accounts.
const CREATE_CALLS: usize = 4;
/// The creation of this many accounts or more shows a progress bar.
const PROGRESS_ACCOUNTS: u64 = 100_000;

/// A method that the load calls.
#[derive(Debug)]
struct Method {
    name: &'static str,
    path: &'static str,
    message_type: MessageType,
}

const UNARY: Method = Method {
    name: "ProcessTransaction",
    path: "/tally.v1.TransactionService/ProcessTransaction",
    message_type: MessageType::One,
};
const BATCH: Method = Method {
    name: "ProcessTransactions",
    path: "/tally.v1.TransactionService/ProcessTransactions",
    message_type: MessageType::Batch,
};
const STREAM: Method = Method {
    name: "StreamTransactions",
    path: "/tally.v1.TransactionService/StreamTransactions",
    message_type: MessageType::Streamed,
};
const ECHO: Method = Method {
    name: "Echo",
    path: "/tally.bench.v1.Echo/Echo",
    message_type: MessageType::One,
};

/// How transactions are sent. Clones share the counter of transactions.
#[derive(Debug, Clone)]
pub(super) struct Load {
    mode: Mode,
    threads: u32,
    connections: u32,
    in_flight: u32,
    transactions_per_call: u32,
    /// Scheduled transactions per second; `None` is a closed loop.
    rate: Option<u32>,
    generator: Generator,
}

// ===== impl Load =====

impl Load {
    pub(super) fn new(settings: &BenchSettings) -> Self {
        Load {
            mode: settings.mode,
            threads: settings.client_threads(),
            connections: settings.connections,
            in_flight: settings.in_flight(),
            transactions_per_call: settings.transactions_per_call(),
            rate: settings.rate,
            generator: Generator::new(settings),
        }
    }

    /// Lets callers send `transactions` more transactions, and then stop.
    pub(super) fn allow(&self, transactions: u64) {
        self.generator.allow(transactions);
    }

    /// Creates the accounts of the load.
    pub(super) async fn create_accounts(&self, target: &Target) -> Result<(), BenchError> {
        let client = AccountServiceClient::new(connect(target.client()).await?)
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let accounts = u32::try_from(self.generator.accounts()).unwrap_or(u32::MAX);
        let progress = if self.generator.accounts() < PROGRESS_ACCOUNTS {
            ProgressBar::hidden()
        } else {
            progress_bar(self.generator.accounts(), "{human_pos} of {human_len} accounts")
        };
        let calls = (0..accounts).step_by(CREATE_ACCOUNTS as usize).map(|first| {
            let (mut client, progress) = (client.clone(), progress.clone());
            async move {
                let last = first.saturating_add(CREATE_ACCOUNTS).min(accounts);
                let request = create_request(first..last);
                let created = client.batch_create_accounts(in_time(request)).await;
                progress.inc(u64::from(last - first));
                created
                    .map(|_| ())
                    .map_err(|status| call_failed("BatchCreateAccounts", status))
            }
        });
        let created = stream::iter(calls)
            .buffer_unordered(CREATE_CALLS)
            .try_for_each(|()| std::future::ready(Ok(())))
            .await;
        progress.finish_and_clear();
        created
    }

    /// Loads the target for `duration`. Each client thread has its own runtime and connections. All threads start the load at the
    /// same time, when all of them are connected.
    pub(super) async fn round(&self, target: &Target, duration: Duration) -> Result<Round, BenchError> {
        let kind = target.kind();
        let start = Arc::new(Barrier::new(self.threads as usize + 1));
        let threads: Vec<_> = (0..self.threads)
            .map(|thread| {
                let (load, client, start) = (self.clone(), target.client().clone(), Arc::clone(&start));
                tokio::task::spawn_blocking(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()?;
                    let local = LocalSet::new();
                    local.block_on(&runtime, load.thread(thread, &client, kind, duration, &start))
                })
            })
            .collect();
        start.wait().await;
        let started = Instant::now();
        let before = target.cpu_time();
        let mut all = LoadStats::new(started);
        for thread in threads {
            all.add(&thread.await.map_err(|_panic| BenchError::Panicked)??);
        }
        Ok(Round {
            elapsed: started.elapsed(),
            server_cpu: before
                .zip(target.cpu_time())
                .map(|(before, after)| after.saturating_sub(before)),
            load: all,
        })
    }

    /// Runs the share of one client thread.
    async fn thread(
        &self,
        thread: u32,
        client: &ClientConfig,
        kind: TargetKind,
        duration: Duration,
        start: &Barrier,
    ) -> Result<LoadStats, BenchError> {
        let connections: Result<Vec<Connection>, BenchError> =
            connect_all(client, share(self.connections, self.threads, thread).max(1)).await;
        // A thread that failed to connect still waits at the barrier. Otherwise the other threads would wait for ever.
        start.wait().await;
        let connections = connections?;
        // One histogram for all callers of the thread, created before the schedule starts. Creating 128 histograms takes about
        // 10 ms, which would delay the first calls.
        let stats = Rc::new(RefCell::new(LoadStats::new(Instant::now())));
        let pacer = self.pacer(thread, kind, duration).map(Arc::new);
        let pace = match &pacer {
            Some(pacer) => Pace::Open(Arc::clone(pacer)),
            None => Pace::Closed {
                until: Instant::now() + duration,
            },
        };
        let pacing = pacer.clone().map(|pacer| {
            // A separate task, so that no caller delays the schedule.
            tokio::task::spawn_local(async move { pacer.run().await })
        });
        self.callers(thread, connections, kind, &pace, &stats).await?;
        let mut all = LoadStats::new(Instant::now());
        all.add(&stats.borrow());
        if let Some(pacing) = pacing {
            pacing.await.map_err(|_panic| BenchError::Panicked)??;
        }
        if let Some(pacer) = pacer {
            let per_call = u64::from(self.per_call(kind));
            let (due, missed) = pacer.due_and_missed();
            all.due += due * per_call;
            all.missed += missed * per_call;
        }
        Ok(all)
    }

    /// Runs the callers or streams of one thread until they end.
    async fn callers(
        &self,
        thread: u32,
        connections: Vec<Connection>,
        kind: TargetKind,
        pace: &Pace,
        stats: &Rc<RefCell<LoadStats>>,
    ) -> Result<(), BenchError> {
        if kind == TargetKind::Service && self.mode == Mode::Stream {
            let streams = connections
                .into_iter()
                .map(|connection| self.stream(connection, pace, stats));
            return try_join_all(streams).await.map(|_| ());
        }
        let callers: Vec<_> = (0..share(self.in_flight, self.threads, thread))
            .zip(connections.iter().cycle())
            .map(|(_, connection)| {
                let (load, connection, pace) = (self.clone(), connection.clone(), pace.clone());
                let stats = Rc::clone(stats);
                // One task per caller, so that the runtime polls only the callers that are ready.
                tokio::task::spawn_local(async move {
                    let method = match (kind, load.mode) {
                        (TargetKind::Echo, _) => &ECHO,
                        (TargetKind::Service, Mode::Batch) => &BATCH,
                        (TargetKind::Service, Mode::Unary | Mode::Stream) => &UNARY,
                    };
                    load.calls(connection, method, load.per_call(kind), &pace, &stats)
                        .await
                })
            })
            .collect();
        for caller in callers {
            caller.await.map_err(|_panic| BenchError::Panicked)??;
        }
        Ok(())
    }

    /// Returns the schedule of one thread. The schedules of all threads interleave.
    fn pacer(&self, thread: u32, kind: TargetKind, duration: Duration) -> Option<Pacer> {
        let rate = f64::from(self.rate?);
        let interval = Duration::from_secs_f64(f64::from(self.per_call(kind)) / rate);
        let offset = interval.saturating_mul(thread);
        Some(Pacer::new(
            duration,
            offset,
            interval.saturating_mul(self.threads),
        ))
    }

    /// Returns the transactions of one call or message.
    fn per_call(&self, kind: TargetKind) -> u32 {
        match kind {
            TargetKind::Service => self.transactions_per_call,
            TargetKind::Echo => 1,
        }
    }

    /// Makes unary calls one after the other, each with `per_call` transactions.
    async fn calls(
        &self,
        connection: Connection,
        method: &Method,
        per_call: u32,
        pace: &Pace,
        stats: &RefCell<LoadStats>,
    ) -> Result<(), BenchError> {
        // With several endpoints, a failed call is sent again with the same ids, as any other client does. With one endpoint, a failed call
        // is not sent again, because the benchmark measures the service and not the retries of a client.
        let retries = connection.has_alternatives();
        let mut client = self.client(connection);
        let codec = LoadCodec::new(self.generator.clone(), method.message_type);
        self.repeat(pace, per_call, stats, async |numbers| {
            let sent = numbers.end - numbers.start;
            let answer = if retries {
                let call = |_| {
                    let (mut client, numbers, codec) = (client.clone(), numbers.clone(), codec.clone());
                    async move { method.call(&mut client, numbers, codec).await }
                };
                RetryPolicy::default()
                    .run_over(true, &RetryObserver::default(), call)
                    .await
                    .map_err(|error| error.status().clone())
            } else {
                method.call(&mut client, numbers, codec.clone()).await
            };
            match answer {
                Ok(response) => self.outcomes(response.into_inner()),
                Err(status) => self.call_failed(method, status, sent),
            }
        })
        .await
    }

    fn client(&self, connection: Connection) -> Grpc<Connection> {
        Grpc::new(connection)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Keeps up to `in_flight` messages in flight on one stream.
    async fn stream(
        &self,
        connection: Connection,
        pace: &Pace,
        stats: &RefCell<LoadStats>,
    ) -> Result<(), BenchError> {
        let mut client = self.client(connection);
        let window = self.in_flight as usize;
        let (sender, receiver) = tokio::sync::mpsc::channel(window);
        let (sent_at, mut sent) = tokio::sync::mpsc::channel(window.saturating_mul(2));
        let permits = Arc::new(Semaphore::new(window));
        let (generator, limit, pace) = (self.generator.clone(), Arc::clone(&permits), pace.clone());
        let begun = Arc::new(AtomicU64::new(0));
        let sending = tokio::spawn({
            let begun = Arc::clone(&begun);
            async move {
                // Wait for a free permit first. While this stream has no permit, other streams take the messages that are due. A
                // message that no stream takes before the end of the round counts as missed.
                while let Ok(permit) = limit.acquire().await {
                    let Some(due) = pace.next().await else { break };
                    permit.forget();
                    let numbers = generator.take(1);
                    if numbers.is_empty() {
                        break;
                    }
                    begun.fetch_add(1, Ordering::Relaxed);
                    let late = pace.is_late(due);
                    if sent_at.send((due, late)).await.is_err() || sender.send(numbers).await.is_err() {
                        break;
                    }
                }
            }
        });
        let failed = |status| STREAM.failed(status);
        client
            .ready()
            .await
            .map_err(|error| failed(Status::from_error(error)))?;
        let codec = LoadCodec::new(self.generator.clone(), STREAM.message_type);
        let mut answers = client
            .streaming(
                Request::new(ReceiverStream::new(receiver)),
                PathAndQuery::from_static(STREAM.path),
                codec,
            )
            .await
            .map_err(failed)?
            .into_inner();
        let mut answered = 0;
        while let Some(answer) = answers.next().await {
            let outcomes = self.outcomes(answer.map_err(failed)?)?;
            permits.add_permits(1);
            answered += 1;
            if let Some((due, late)) = sent.recv().await {
                stats.borrow_mut().record(due, outcomes, late);
            }
        }
        sending.abort();
        match begun.load(Ordering::Relaxed) - answered {
            0 => Ok(()),
            unanswered => Err(BenchError::Unanswered(unanswered)),
        }
    }

    /// Repeats `call` with `per_call` transactions each, when `pace` permits.
    async fn repeat(
        &self,
        pace: &Pace,
        per_call: u32,
        stats: &RefCell<LoadStats>,
        mut call: impl AsyncFnMut(Range<u64>) -> Result<Outcomes, BenchError>,
    ) -> Result<(), BenchError> {
        while let Some(due) = pace.next().await {
            let numbers = self.generator.take(per_call);
            if numbers.is_empty() {
                break;
            }
            let late = pace.is_late(due);
            let outcomes = call(numbers).await?;
            stats.borrow_mut().record(due, outcomes, late);
        }
        Ok(())
    }

    /// Returns the outcomes of an answer. In an open loop, rejections because of overload are outcomes, not errors.
    fn outcomes(&self, reply: Reply) -> Result<Outcomes, BenchError> {
        let Reply { committed, errors } = reply;
        errors.into_iter().try_fold(committed, |sum, error| {
            if self.rate.is_some() && is_overload(Code::from(error.code)) {
                Ok(sum.plus(Outcomes::overloaded(1)))
            } else {
                Err(BenchError::Rejected(error.message))
            }
        })
    }

    /// Returns the outcomes of a failed call. An open loop counts rejections because of overload and continues. A closed loop does
    /// not overload a healthy service, so a rejection is an error.
    fn call_failed(&self, method: &Method, status: Status, sent: u64) -> Result<Outcomes, BenchError> {
        // The service sends every status with details. A status without details comes from a lost connection.
        if self.rate.is_some() && is_overload(status.code()) && !status.details().is_empty() {
            return Ok(Outcomes::overloaded(sent));
        }
        let reason = status.get_details_error_info().map(|info| info.reason);
        if self.mode == Mode::Batch && reason.as_deref() == Some("MEMORY_LIMIT") {
            return Err(BenchError::MemoryLimit {
                in_flight: self.in_flight,
                batch: self.transactions_per_call,
            });
        }
        Err(method.failed(status))
    }
}

// ===== impl Method =====

impl Method {
    /// Makes a call with the transactions `numbers`.
    async fn call(
        &self,
        client: &mut Grpc<Connection>,
        numbers: Range<u64>,
        codec: LoadCodec,
    ) -> Result<Response<Reply>, Status> {
        client.ready().await.map_err(Status::from_error)?;
        let path = PathAndQuery::from_static(self.path);
        client.unary(Request::new(numbers), path, codec).await
    }

    const fn failed(&self, status: Status) -> BenchError {
        BenchError::Call {
            call: self.name,
            status,
            timeout: None,
        }
    }
}

fn is_overload(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded
    )
}

/// Returns the part of `total` that one thread handles. The parts of all threads add up to `total`.
const fn share(total: u32, threads: u32, thread: u32) -> u32 {
    total / threads + (thread < total % threads) as u32
}

async fn connect_all(client: &ClientConfig, count: u32) -> Result<Vec<Connection>, BenchError> {
    let mut connections = Vec::new();
    for _ in 0..count {
        connections.push(connect(client).await?);
    }
    Ok(connections)
}

fn create_request(numbers: Range<u32>) -> BatchCreateAccountsRequest {
    let requests = numbers.map(|number| CreateAccountRequest {
        account: Some(Account {
            id: AccountNumber(number.into()).id(),
            asset: "EUR".to_owned(),
            ..Account::default()
        }),
    });
    BatchCreateAccountsRequest {
        requests: requests.collect(),
        skip_existing: false,
    }
}
