//! The load: the loops that send transactions.

use std::{
    cell::RefCell,
    ops::Range,
    rc::Rc,
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, future::try_join_all, stream};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::{
    sync::{Barrier, Semaphore},
    task::LocalSet,
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, client::Grpc, codegen::http::uri::PathAndQuery};

use super::{
    BenchArgs, BenchError, Mode,
    message::{LoadCodec, Reply, Shape},
    pace::{Pace, Pacer},
    round::{Answer, Part, Round},
    source::{AccountNumber, Source},
    target::{Reach, Target},
};
use crate::{
    client::Connection,
    proto::{
        Account, BatchCreateAccountsRequest, CreateAccountRequest,
        account_service_client::AccountServiceClient,
    },
};

/// One for each connection.
type Connections = Vec<Connection>;

/// Largest message that is read.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Accounts that are created in one call.
const CREATE_ACCOUNTS: u32 = 1000;
/// Such calls under way.
const CREATE_CALLS: usize = 4;
/// Whoever creates more accounts sees how far it is.
const PROGRESS_ACCOUNTS: u64 = 100_000;

/// What is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The service.
    Service,
    /// The echo server.
    Echo,
}

/// A call of the load.
#[derive(Debug)]
struct Method {
    name: &'static str,
    path: &'static str,
    shape: Shape,
}

const UNARY: Method = Method {
    name: "ProcessTransaction",
    path: "/tally.v1.TransactionService/ProcessTransaction",
    shape: Shape::One,
};
const BATCH: Method = Method {
    name: "ProcessTransactions",
    path: "/tally.v1.TransactionService/ProcessTransactions",
    shape: Shape::Batch,
};
const STREAM: Method = Method {
    name: "StreamTransactions",
    path: "/tally.v1.TransactionService/StreamTransactions",
    shape: Shape::Streamed,
};
const ECHO: Method = Method {
    name: "Echo",
    path: "/tally.bench.v1.Echo/Echo",
    shape: Shape::One,
};

/// What is sent.
#[derive(Debug, Clone)]
pub(super) struct Load {
    mode: Mode,
    threads: u32,
    connections: u32,
    in_flight: u32,
    batch: u32,
    /// Transactions a second; as many as are answered if there is none.
    rate: Option<u32>,
    source: Source,
}

// ===== impl Load =====

impl Load {
    pub(super) fn new(args: &BenchArgs) -> Self {
        Load {
            mode: args.mode,
            threads: args.client_threads(),
            connections: args.connections,
            in_flight: args.in_flight,
            batch: args.batch(),
            rate: args.rate,
            source: Source::new(args),
        }
    }

    /// Lets `transactions` more be sent, and no others.
    pub(super) fn allow(&self, transactions: u64) {
        self.source.allow(transactions);
    }

    /// Creates the accounts between which money moves.
    pub(super) async fn create_accounts(&self, target: &Target) -> Result<(), BenchError> {
        let client = AccountServiceClient::new(target.reach().connect().await?)
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let accounts = u32::try_from(self.source.accounts()).unwrap_or(u32::MAX);
        let progress = progress_bar(self.source.accounts());
        let calls = (0..accounts).step_by(CREATE_ACCOUNTS as usize).map(|first| {
            let (mut client, progress) = (client.clone(), progress.clone());
            async move {
                let last = first.saturating_add(CREATE_ACCOUNTS).min(accounts);
                let request = creation(first..last);
                let created = client.batch_create_accounts(request).await;
                progress.inc(u64::from(last - first));
                created.map(|_| ()).map_err(|status| BenchError::Call {
                    call: "BatchCreateAccounts",
                    status,
                })
            }
        });
        let created = stream::iter(calls)
            .buffer_unordered(CREATE_CALLS)
            .try_for_each(|()| std::future::ready(Ok(())))
            .await;
        progress.finish_and_clear();
        created
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
                let (load, reach, start) = (self.clone(), target.reach().clone(), Arc::clone(&start));
                tokio::task::spawn_blocking(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()?;
                    let local = LocalSet::new();
                    local.block_on(&runtime, load.thread(thread, &reach, kind, duration, &start))
                })
            })
            .collect();
        start.wait().await;
        let started = Instant::now();
        let before = target.cpu_time();
        let mut all = Part::new(started);
        for thread in threads {
            all.add(&thread.await.map_err(|_panic| BenchError::ClientThread)??);
        }
        Ok(Round {
            elapsed: started.elapsed(),
            server_cpu: before
                .zip(target.cpu_time())
                .map(|(before, after)| after.saturating_sub(before)),
            done: all,
        })
    }

    /// One client thread's share of the load.
    async fn thread(
        &self,
        thread: u32,
        reach: &Reach,
        kind: Kind,
        duration: Duration,
        start: &Barrier,
    ) -> Result<Part, BenchError> {
        let connections: Result<Connections, BenchError> =
            connect_all(reach, share(self.connections, self.threads, thread).max(1)).await;
        // Whoever could not connect must not keep the others waiting.
        start.wait().await;
        let connections = connections?;
        // One for all callers of the thread, made before the schedule begins: making a histogram for each of 128 keeps a thread
        // busy for some 10 ms, and the calls that are due meanwhile are late.
        let part = Rc::new(RefCell::new(Part::new(Instant::now())));
        let pacer = self.pacer(thread, kind, duration).map(Arc::new);
        let pace = match &pacer {
            Some(pacer) => Pace::Open(Arc::clone(pacer)),
            None => Pace::Closed {
                until: Instant::now() + duration,
            },
        };
        let pacing = pacer.clone().map(|pacer| {
            // By itself, so that it does not wait for a caller to be polled.
            tokio::task::spawn_local(async move { pacer.run().await })
        });
        self.callers(thread, connections, kind, &pace, &part).await?;
        let mut all = Part::new(Instant::now());
        all.add(&part.borrow());
        if let Some(pacing) = pacing {
            pacing.await.map_err(|_panic| BenchError::ClientThread)??;
        }
        if let Some(pacer) = pacer {
            let each = u64::from(self.for_each_call(kind));
            let (due, missed) = pacer.due_and_missed();
            all.due += due * each;
            all.missed += missed * each;
        }
        Ok(all)
    }

    /// Runs the callers, or streams, of one thread to their ends.
    async fn callers(
        &self,
        thread: u32,
        connections: Connections,
        kind: Kind,
        pace: &Pace,
        part: &Rc<RefCell<Part>>,
    ) -> Result<(), BenchError> {
        if kind == Kind::Service && self.mode == Mode::Stream {
            let streams = connections
                .into_iter()
                .map(|connection| self.stream(connection, pace, part));
            return try_join_all(streams).await.map(|_| ());
        }
        let callers: Vec<_> = (0..share(self.in_flight, self.threads, thread))
            .zip(connections.iter().cycle())
            .map(|(_, connection)| {
                let (load, connection, pace) = (self.clone(), connection.clone(), pace.clone());
                let part = Rc::clone(part);
                // A task each: then the runtime polls only those that have something to do.
                tokio::task::spawn_local(async move {
                    let method = match (kind, load.mode) {
                        (Kind::Echo, _) => &ECHO,
                        (Kind::Service, Mode::Batch) => &BATCH,
                        (Kind::Service, Mode::Unary | Mode::Stream) => &UNARY,
                    };
                    load.calls(connection, method, load.for_each_call(kind), &pace, &part)
                        .await
                })
            })
            .collect();
        for caller in callers {
            caller.await.map_err(|_panic| BenchError::ClientThread)??;
        }
        Ok(())
    }

    /// The thread's part of the schedule, between those of the others.
    fn pacer(&self, thread: u32, kind: Kind, duration: Duration) -> Option<Pacer> {
        let rate = f64::from(self.rate?);
        let distance = Duration::from_secs_f64(f64::from(self.for_each_call(kind)) / rate);
        let offset = distance.saturating_mul(thread);
        Some(Pacer::new(
            duration,
            offset,
            distance.saturating_mul(self.threads),
        ))
    }

    /// Transactions of one call or message.
    fn for_each_call(&self, kind: Kind) -> u32 {
        if kind == Kind::Service && self.mode == Mode::Batch {
            self.batch
        } else {
            1
        }
    }

    /// Calls with one transaction each, or with a batch.
    async fn calls(
        &self,
        connection: Connection,
        method: &Method,
        for_each: u32,
        pace: &Pace,
        part: &RefCell<Part>,
    ) -> Result<(), BenchError> {
        let mut client = self.client(connection);
        let codec = LoadCodec::new(self.source.clone(), method.shape);
        self.repeat(pace, for_each, part, async |numbers| {
            let sent = numbers.end - numbers.start;
            client.ready().await.map_err(|error| method.not_ready(&error))?;
            let path = PathAndQuery::from_static(method.path);
            match client.unary(Request::new(numbers), path, codec.clone()).await {
                Ok(response) => self.answer(response.into_inner()),
                Err(status) => self.refused(method, status, sent),
            }
        })
        .await
    }

    fn client(&self, connection: Connection) -> Grpc<Connection> {
        Grpc::new(connection)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// `in_flight` messages under way on one stream.
    async fn stream(
        &self,
        connection: Connection,
        pace: &Pace,
        part: &RefCell<Part>,
    ) -> Result<(), BenchError> {
        let mut client = self.client(connection);
        let window = self.in_flight as usize;
        let (sender, receiver) = tokio::sync::mpsc::channel(window);
        let (sent_at, mut sent) = tokio::sync::mpsc::channel(window.saturating_mul(2));
        let permits = Arc::new(Semaphore::new(window));
        let (source, limit, pace) = (self.source.clone(), Arc::clone(&permits), pace.clone());
        let begun = Arc::new(AtomicU64::new(0));
        let sending = tokio::spawn({
            let begun = Arc::clone(&begun);
            async move {
                // First the room, then the turn: a message that is due and has no room is another stream's, or missed.
                while let Ok(permit) = limit.acquire().await {
                    let Some(due) = pace.next().await else { break };
                    permit.forget();
                    let numbers = source.take(1);
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
        client.ready().await.map_err(|error| STREAM.not_ready(&error))?;
        let codec = LoadCodec::new(self.source.clone(), STREAM.shape);
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
            let answer = self.answer(answer.map_err(failed)?)?;
            permits.add_permits(1);
            answered += 1;
            if let Some((due, late)) = sent.recv().await {
                part.borrow_mut().record(due, answer, late);
            }
        }
        sending.abort();
        match begun.load(Ordering::Relaxed) - answered {
            0 => Ok(()),
            unanswered => Err(BenchError::Unanswered(unanswered)),
        }
    }

    /// Calls one after the other, each with `for_each` transactions, as `pace` says.
    async fn repeat(
        &self,
        pace: &Pace,
        for_each: u32,
        part: &RefCell<Part>,
        mut call: impl AsyncFnMut(Range<u64>) -> Result<Answer, BenchError>,
    ) -> Result<(), BenchError> {
        while let Some(due) = pace.next().await {
            let numbers = self.source.take(for_each);
            if numbers.is_empty() {
                break;
            }
            let late = pace.is_late(due);
            let answer = call(numbers).await?;
            part.borrow_mut().record(due, answer, late);
        }
        Ok(())
    }

    /// What became of the transactions of a message.
    fn answer(&self, reply: Reply) -> Result<Answer, BenchError> {
        let Reply { committed, errors } = reply;
        errors.into_iter().try_fold(committed, |sum, error| {
            if self.rate.is_some() && is_overload(Code::from(error.code)) {
                Ok(sum.plus(Answer::refused(1)))
            } else {
                Err(BenchError::Refused(error.message))
            }
        })
    }

    /// A schedule goes on when the service refuses what is too much for it, and the refusals are counted. A closed loop
    /// is never too much for a service that is well: there it is an error.
    fn refused(&self, method: &Method, status: Status, sent: u64) -> Result<Answer, BenchError> {
        // The service says why in the details; what has none comes from a connection that is gone.
        if self.rate.is_some() && is_overload(status.code()) && !status.details().is_empty() {
            return Ok(Answer::refused(sent));
        }
        Err(method.failed(status))
    }
}

// ===== impl Method =====

impl Method {
    fn not_ready(&self, error: &tonic::transport::Error) -> BenchError {
        self.failed(Status::unavailable(error.to_string()))
    }

    const fn failed(&self, status: Status) -> BenchError {
        BenchError::Call {
            call: self.name,
            status,
        }
    }
}

fn is_overload(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded
    )
}

/// What falls to one of so many threads.
const fn share(total: u32, threads: u32, thread: u32) -> u32 {
    total / threads + (thread < total % threads) as u32
}

async fn connect_all(reach: &Reach, count: u32) -> Result<Connections, BenchError> {
    let mut connections = Vec::new();
    for _ in 0..count {
        connections.push(reach.connect().await?);
    }
    Ok(connections)
}

fn creation(numbers: Range<u32>) -> BatchCreateAccountsRequest {
    let requests = numbers.map(|number| CreateAccountRequest {
        account: Some(Account {
            id: AccountNumber(number.into()).id(),
            asset: "EUR".to_owned(),
            ..Account::default()
        }),
    });
    BatchCreateAccountsRequest {
        requests: requests.collect(),
    }
}

/// On standard error, and only if that is a terminal.
fn progress_bar(accounts: u64) -> ProgressBar {
    if accounts < PROGRESS_ACCOUNTS {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {human_pos} of {human_len} accounts  {eta} left");
    ProgressBar::new(accounts).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
