//! The simulated clients. A client makes one call after the other, or has several calls in flight in a stream. Some clients give up
//! before the answer, and some repeat earlier transactions.

use std::{
    future::Future,
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use tally::{
    engine::{
        CallKind, CreatedAccounts, EngineError, Existing, OwnedKey, Processed, TallyEngine, TransactionBatch,
    },
    security,
    store::embedded::FoundRecord,
};
use tally_batch::{BatchError, Caller, Sequence};
use tally_ledger::{AccountIndex, Hold};
use tokio::time::Instant;

use crate::{
    calls::{Answer, Call, CallId, Recorded, Reply, Request},
    config::Config,
    random::Random,
    records::{self, accounts_of},
    workload::{Workload, account, account_id, account_update, encode, other_account},
};

/// How a client behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Habit {
    Single,
    Batch,
    Stream,
    Reader,
    Creator,
    Updater,
}

/// A client. When the service has died and started again, the client connects again.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) habit: Habit,
    /// The connection and its stream; `None` before the first call after a start of the service.
    connection: Option<Connection>,
    /// Calls that have no answer yet.
    pub(crate) in_flight: usize,
    /// The client makes no call before this time.
    pub(crate) rests_until: Instant,
}

#[derive(Debug)]
struct Connection {
    caller: Caller,
    stream: Option<Stream>,
}

#[derive(Debug)]
struct Stream {
    sequence: Sequence,
    number: u64,
    messages: u64,
}

/// A call that has no answer yet.
pub(crate) struct Flight {
    pub(crate) id: CallId,
    pub(crate) client: usize,
    pub(crate) kind: Option<CallKind>,
    /// The ids of the transactions of the call.
    pub(crate) ids: Vec<String>,
    pub(crate) begun: Instant,
    /// When the client leaves without an answer.
    pub(crate) leaves: Option<Instant>,
    pub(crate) deadline: Option<Instant>,
    future: Pin<Box<dyn Future<Output = Reply>>>,
    woken: Arc<Flag>,
}

/// Remembers that a task was woken.
#[derive(Debug)]
pub(crate) struct Flag(AtomicBool);

/// The longest deadline.
const DEADLINE_MAX: Duration = Duration::from_secs(5);

// ===== impl Flag =====

impl Flag {
    pub(crate) fn raised() -> Arc<Self> {
        Arc::new(Flag(AtomicBool::new(true)))
    }

    pub(crate) fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn lower(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

// ===== impl Client =====

impl Client {
    pub(crate) fn new(habit: Habit) -> Self {
        Client {
            habit,
            connection: None,
            in_flight: 0,
            rests_until: Instant::now(),
        }
    }

    /// All clients of a simulation.
    pub(crate) fn all(config: &Config) -> Vec<Self> {
        let groups = [
            (Habit::Creator, config.creators),
            (Habit::Single, config.single_clients),
            (Habit::Batch, config.batch_clients),
            (Habit::Stream, config.stream_clients),
            (Habit::Reader, config.readers),
            (Habit::Updater, config.updaters),
        ];
        groups
            .into_iter()
            .flat_map(|(habit, count)| (0..count).map(move |_| Client::new(habit)))
            .collect()
    }

    /// Closes the connection, because the service has died.
    pub(crate) fn disconnect(&mut self) {
        self.connection = None;
        self.in_flight = 0;
    }

    /// Ends the stream of the client. The client's next message begins a new stream.
    pub(crate) fn end_stream(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.stream = None;
        }
    }

    /// Whether the client can make another call now.
    pub(crate) fn is_ready(&self, config: &Config, now: Instant) -> bool {
        let room = match self.habit {
            Habit::Stream => usize::try_from(config.window).unwrap(),
            Habit::Single | Habit::Batch | Habit::Reader | Habit::Creator | Habit::Updater => 1,
        };
        self.in_flight < room && self.rests_until <= now
    }

    /// Chooses the next request.
    pub(crate) fn request(&self, workload: &mut Workload, config: &Config, random: &mut Random) -> Request {
        match self.habit {
            Habit::Single | Habit::Stream => {
                Request::Transactions(vec![workload.transaction(config, random)])
            }
            Habit::Batch => {
                let count = random.within(&(1..config.batch_max + 1));
                Request::Transactions((0..count).map(|_| workload.transaction(config, random)).collect())
            }
            Habit::Reader if config.holds > 0 && random.percent(40) => {
                if random.percent(40) {
                    Request::Holds
                } else {
                    Request::Hold(workload.some_hold(random))
                }
            }
            Habit::Updater => Request::Update(account_update(workload, config, random)),
            Habit::Reader => match random.below(4) {
                0 => {
                    let accounts = usize::try_from(config.accounts).unwrap();
                    let from = if random.percent(50) {
                        0
                    } else {
                        random.below(accounts + 2)
                    };
                    let limit = if random.percent(50) {
                        accounts
                    } else {
                        1 + random.below(accounts)
                    };
                    let from = u32::try_from(from).unwrap();
                    Request::Accounts { from, limit }
                }
                1 => Request::Transaction(workload.some_id(random)),
                _ => Request::Account(account_id(random.within(&(0..config.accounts + 1)))),
            },
            Habit::Creator => {
                let count = random.within(&(1..5));
                let mut accounts: Vec<_> = (0..count)
                    .map(|_| account(random.within(&(0..config.accounts)), config))
                    .collect();
                if random.percent(10) {
                    accounts[0] = other_account(random.within(&(0..config.accounts)), config, random);
                }
                if random.percent(30) {
                    Request::CreateMissing(accounts)
                } else {
                    Request::CreateAccounts(accounts)
                }
            }
        }
    }

    /// Chooses the time until which the client waits for the answer; `None` if it waits for ever.
    pub(crate) fn deadline(config: &Config, random: &mut Random, now: Duration) -> Option<Duration> {
        random
            .percent(config.deadlines)
            .then(|| now + random.up_to(DEADLINE_MAX))
    }

    /// Returns the stream and the message number of the next call, if it is a message of a stream. `next_stream` is the number for a new
    /// stream.
    pub(crate) fn message(&mut self, engine: &TallyEngine, next_stream: &mut u64) -> Option<(u64, u64)> {
        let connection = self.connection.get_or_insert_with(|| Connection {
            caller: engine.caller(),
            stream: None,
        });
        if self.habit != Habit::Stream {
            return None;
        }
        let stream = connection.stream.get_or_insert_with(|| {
            *next_stream += 1;
            Stream {
                sequence: begin_stream(engine, &connection.caller),
                number: *next_stream,
                messages: 0,
            }
        });
        let message = (stream.number, stream.messages);
        stream.messages += 1;
        Some(message)
    }

    /// Begins a call.
    pub(crate) fn call(
        &mut self,
        engine: &TallyEngine,
        call: &Call,
        deadline: Option<Instant>,
    ) -> Pin<Box<dyn Future<Output = Reply>>> {
        let connection = self.connection.as_mut().unwrap();
        let engine = engine.clone();
        if let (Request::Transactions(transactions), Some(stream)) = (&call.request, &mut connection.stream) {
            let batch = encode(&engine, transactions);
            // The message is submitted now, before the future is polled.
            let outcomes = engine.process_next(&mut stream.sequence, CallKind::Stream, &batch, deadline);
            return Box::pin(async move { processed(&engine, &batch, outcomes.await?, deadline).await });
        }
        let request = call.request.clone();
        let kind = call.kind;
        Box::pin(
            connection
                .caller
                .calling(async move { answer(&engine, request, kind, deadline).await }),
        )
    }
}

/// The circuit that guards a request.
pub(crate) fn kind_of(habit: Habit, request: &Request) -> Option<CallKind> {
    match request {
        Request::Transactions(_) => Some(match habit {
            Habit::Batch => CallKind::Bulk,
            Habit::Stream => CallKind::Stream,
            Habit::Single | Habit::Reader | Habit::Creator | Habit::Updater => CallKind::Unary,
        }),
        Request::CreateAccounts(_) | Request::CreateMissing(_) | Request::Update(_) => {
            Some(CallKind::Accounts)
        }
        Request::Account(_)
        | Request::Accounts { .. }
        | Request::Transaction(_)
        | Request::Hold(_)
        | Request::Holds => None,
    }
}

fn begin_stream(engine: &TallyEngine, caller: &Caller) -> Sequence {
    let mut begin = Box::pin(caller.calling(async { engine.sequence() }));
    let Poll::Ready(sequence) = begin.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
        unreachable!("nothing is awaited");
    };
    sequence
}

async fn answer(
    engine: &TallyEngine,
    request: Request,
    kind: Option<CallKind>,
    deadline: Option<Instant>,
) -> Reply {
    Ok(match request {
        Request::Transactions(transactions) => {
            let batch = encode(engine, &transactions);
            let outcomes = engine.process(kind.unwrap(), &batch, deadline).await?;
            processed(engine, &batch, outcomes, deadline).await?
        }
        Request::CreateAccounts(accounts) => created(
            engine
                .create_accounts(accounts, Existing::Compare, deadline)
                .await?,
        ),
        Request::CreateMissing(accounts) => {
            created(engine.create_accounts(accounts, Existing::Skip, deadline).await?)
        }
        Request::Account(id) => Answer::Account(engine.account(id, deadline).await?.map(|account| *account)),
        Request::Accounts { from, limit } => {
            let (accounts, next) = engine.accounts(AccountIndex(from), limit, deadline).await?;
            Answer::Accounts(accounts, next.map(|next| next.0))
        }
        Request::Transaction(id) => Answer::Transaction(
            match engine
                .record(OwnedKey::Transaction(id), &reader(), deadline)
                .await?
            {
                None => None,
                Some(found) => Some(recorded(engine, &found, deadline).await?),
            },
        ),
        Request::Update(update) => Answer::Updated(engine.update_account(update, deadline).await?),
        Request::Hold(id) => Answer::Hold(
            match engine
                .record(OwnedKey::Transaction(id), &reader(), deadline)
                .await?
            {
                None => None,
                Some(found) => engine.hold(found.position(), deadline).await?,
            },
        ),
        Request::Holds => Answer::Holds(all_holds(engine, deadline).await?),
    })
}

/// With which client a read is counted. One thread executes everything, so reads never wait for each other, and all clients can be one.
pub(crate) fn reader() -> security::Client {
    IpAddr::V4(Ipv4Addr::LOCALHOST).into()
}

async fn processed(
    engine: &TallyEngine,
    batch: &Arc<TransactionBatch>,
    mut processed: Processed,
    deadline: Option<Instant>,
) -> Reply {
    engine
        .read_past_balances(batch, &mut processed, &reader(), deadline)
        .await?;
    Ok(Answer::Outcomes(processed.outcomes.into_vec(), processed.details))
}

/// Reads all outstanding holds. One page contains all holds of a run, because there are few.
async fn all_holds(engine: &TallyEngine, deadline: Option<Instant>) -> Result<Vec<Hold>, EngineError> {
    let (holds, next) = engine.holds(0, deadline).await?;
    assert_eq!(
        next, None,
        "a page has not all holds, so they may be of several moments"
    );
    Ok(holds)
}

fn created(created: CreatedAccounts) -> Answer {
    match created {
        CreatedAccounts::All(accounts) => Answer::Created(accounts),
        CreatedAccounts::Reused { place, field } => Answer::Reused { place, field },
        CreatedAccounts::Full(full) => panic!("the ledger is full: {full:?}"),
    }
}

/// Makes a read of the examination. As long as the queue is full, tries again at each poll.
pub(crate) async fn examine<T>(read: impl AsyncFn() -> Result<T, EngineError>) -> Result<T, EngineError> {
    loop {
        match read().await {
            Err(EngineError::Batch(BatchError::Full { .. })) => poll_once_more().await,
            result => return result,
        }
    }
}

/// Reads a transaction for the examination.
pub(crate) async fn examine_transaction(
    engine: TallyEngine,
    id: String,
) -> Result<Option<Recorded>, EngineError> {
    let key = OwnedKey::Transaction(id);
    let read = async || match engine.record(key.clone(), &reader(), None).await? {
        None => Ok(None),
        Some(found) => recorded(&engine, &found, None).await.map(Some),
    };
    examine(read).await
}

/// Finds the position of a record for the examination.
pub(crate) async fn examine_key(engine: TallyEngine, key: OwnedKey) -> Result<Option<u64>, EngineError> {
    let read = async || {
        let found = engine.record(key.clone(), &reader(), None).await?;
        Ok(found.map(|found| found.position().as_u64()))
    };
    examine(read).await
}

/// Reads all outstanding holds for the examination.
pub(crate) async fn examine_holds(engine: TallyEngine) -> Result<Vec<Hold>, EngineError> {
    let mut holds = Vec::new();
    let mut from = Some(0);
    while let Some(start) = from {
        let (page, next) = examine(async || engine.holds(start, None).await).await?;
        holds.extend(page);
        from = next;
    }
    Ok(holds)
}

/// Waits for the next poll, without a waker.
async fn poll_once_more() {
    let mut polled = false;
    std::future::poll_fn(|_| {
        if std::mem::replace(&mut polled, true) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

/// Translates a record into what a client sees.
async fn recorded(
    engine: &TallyEngine,
    found: &FoundRecord,
    deadline: Option<Instant>,
) -> Result<Recorded, EngineError> {
    let record = found.framed().unwrap().record;
    let indexes = accounts_of(&record);
    let ids = engine.account_ids(indexes.clone(), deadline).await?;
    let id_of = |index: AccountIndex| {
        let place = indexes.iter().position(|known| *known == index);
        ids[place.unwrap()].clone()
    };
    let position = found.position().as_u64();
    Ok(records::recorded(&record, found.place(), position, id_of))
}

// ===== impl Flight =====

impl Flight {
    pub(crate) fn new(
        id: CallId,
        client: usize,
        call: &Call,
        deadline: Option<Instant>,
        future: Pin<Box<dyn Future<Output = Reply>>>,
    ) -> Self {
        let transactions = if let Request::Transactions(transactions) = &call.request {
            &transactions[..]
        } else {
            &[]
        };
        Flight {
            id,
            client,
            kind: call.kind,
            ids: transactions
                .iter()
                .map(|transaction| transaction.id.clone())
                .collect(),
            begun: Instant::now(),
            deadline,
            leaves: None,
            future,
            woken: Flag::raised(),
        }
    }

    pub(crate) fn is_woken(&self) -> bool {
        self.woken.is_raised()
    }

    /// Polls the call for its answer.
    pub(crate) fn poll(&mut self) -> Poll<Reply> {
        self.woken.lower();
        let waker = Waker::from(Arc::clone(&self.woken));
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }
}
