//! `tally.v1.TransactionService`.
//!
//! The three calls with transactions are read and answered here without tonic's server ([`framing`](super::framing)) and
//! without the generated types; `GetTransaction` is served by tonic like the calls of the other services.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, future::BoxFuture, stream};
use hyper::body::Incoming;
use tokio::time::Instant;
use tonic::{Request, Response, Status, server::NamedService};
use tonic_prost::ProstCodec;

use super::{
    answers, convert, deadline,
    framing::{Answer, Expected, Inbound, Piece, malformed},
    lifetime::Lifetime,
    patience::{Reception, TimedBody},
    requests::{BulkReader, Refused, Transactions, refused},
    status, wire,
};
use crate::{
    batch::Sequence,
    engine::{EngineError, Guard, Outcomes, StoreFault, TRANSACTIONS_MAX, TallyEngine, TransactionBatch},
    id::check_id,
    ledger::{Malformed, Phase, Rejection, Side},
    proto::{self, GetTransactionRequest, GetTransactionResponse, transaction_service_server::SERVICE_NAME},
    store::embedded::FoundTransaction,
};

/// Messages of a stream that are put together into one command, if so many have arrived.
const STREAM_CHUNK_MAX: usize = 512;
/// Commands of a stream that may be under way; behind them, HTTP/2 flow control holds the client back.
const STREAM_CHUNKS_IN_FLIGHT_MAX: usize = 8;

/// The service. Clones are cheap.
#[derive(Debug, Clone)]
pub(super) struct TransactionService {
    engine: Arc<TallyEngine>,
}

/// Messages of a stream that have arrived together.
struct Chunk {
    transactions: Transactions,
    /// Why nothing comes behind them, if it was not the client who ended the stream.
    broken: Option<Status>,
}

/// What became of them.
struct ChunkDone {
    batch: Arc<TransactionBatch>,
    refused: Vec<Refused>,
    count: usize,
    outcomes: Result<Outcomes, EngineError>,
    /// Why they were not let in, if the caller's token no longer allows it.
    revoked: Option<Status>,
    broken: Option<Status>,
}

/// The messages of a stream.
struct Chunks {
    inbound: Inbound,
    engine: Arc<TallyEngine>,
    /// The start of a message that has not arrived as a whole.
    carry: Vec<u8>,
    ended: bool,
}

// ===== impl TransactionService =====

/// An answer on its way.
type Answering = BoxFuture<'static, Result<http::Response<Answer>, Infallible>>;

impl NamedService for TransactionService {
    const NAME: &'static str = SERVICE_NAME;
}

impl TransactionService {
    /// Serves `engine`.
    #[must_use]
    pub(super) fn new(engine: TallyEngine) -> Self {
        TransactionService {
            engine: Arc::new(engine),
        }
    }

    /// Answers `ProcessTransaction`.
    ///
    /// Each method has a future of its own in a box: that of the most frequent one is not as large as the largest, and is
    /// not moved as a whole on its way into its task.
    pub(super) fn process_transaction(
        &self,
        request: http::Request<Incoming>,
        reception: &Arc<Reception>,
    ) -> Answering {
        let (engine, reception) = (Arc::clone(&self.engine), Arc::clone(reception));
        Box::pin(process_one(engine, request, reception))
    }

    /// Answers `ProcessTransactions`.
    pub(super) fn process_transactions(
        &self,
        request: http::Request<Incoming>,
        reception: &Arc<Reception>,
    ) -> Answering {
        let (engine, reception) = (Arc::clone(&self.engine), Arc::clone(reception));
        Box::pin(async move { Ok(Answer::message(process_many(&engine, request, &reception).await)) })
    }

    /// Answers `GetTransaction`.
    pub(super) fn find_transaction(
        &self,
        request: http::Request<Incoming>,
        reception: &Arc<Reception>,
    ) -> Answering {
        let service = self.clone();
        let request = request.map(|body| TimedBody::new(body, reception));
        Box::pin(async move {
            let get = tower::service_fn(|request| service.get_transaction(request));
            let mut grpc = tonic::server::Grpc::new(ProstCodec::default());
            Ok(Answer::tonic(grpc.unary(get, request).await))
        })
    }

    /// Answers `StreamTransactions`, until `lifetime` is over.
    pub(super) fn stream_transactions(
        &self,
        request: http::Request<Incoming>,
        reception: &Arc<Reception>,
        lifetime: Lifetime,
    ) -> http::Response<Answer> {
        match Inbound::open(request, Expected::Stream, reception) {
            Ok((inbound, deadline)) => Answer::frames(Box::pin(self.answers(inbound, deadline, lifetime))),
            Err(status) => Answer::status(status),
        }
    }

    fn answers(
        &self,
        inbound: Inbound,
        deadline: Option<Instant>,
        lifetime: Lifetime,
    ) -> impl Stream<Item = Result<Bytes, Status>> + Send + use<> {
        let engine = Arc::clone(&self.engine);
        let mut sequence = engine.sequence();
        let terms = lifetime.clone();
        let chunks = Chunks {
            inbound,
            engine: Arc::clone(&engine),
            carry: Vec::new(),
            ended: false,
        };
        // What was read is answered; then the stream ends, and says why if it was not the client who ended it.
        let inbound = chunks.take_until(lifetime.clone().ended());
        let goodbye = stream::once(async move { lifetime.over().map(Err) }).filter_map(std::future::ready);
        let mut interrupted = None;
        inbound
            .map(move |chunk| execute_chunk(&engine, &mut sequence, &terms, chunk, deadline))
            .buffered(STREAM_CHUNKS_IN_FLIGHT_MAX)
            .flat_map(move |done| stream::iter(answer_chunk(done, &mut interrupted)))
            .chain(goodbye)
    }

    async fn get_transaction(
        &self,
        request: Request<GetTransactionRequest>,
    ) -> Result<Response<GetTransactionResponse>, Status> {
        let deadline = deadline::of(request.metadata())?;
        let id = request.into_inner().transaction_id;
        check_id(&id).map_err(|error| status::invalid_field("transaction_id", error.to_string()))?;
        let found = self
            .engine
            .transaction(id.clone(), deadline)
            .await
            .map_err(|error| status::engine(&error))?;
        let found = found.ok_or_else(|| status::transaction_not_found(&id))?;
        let transaction = self.describe(id, &found, deadline).await?;
        Ok(Response::new(GetTransactionResponse {
            transaction: Some(transaction),
        }))
    }
}

impl TransactionService {
    /// A record of the journal as a client sees it, accounts by name again.
    async fn describe(
        &self,
        id: String,
        found: &FoundTransaction,
        deadline: Option<Instant>,
    ) -> Result<proto::Transaction, Status> {
        let damaged = || status::engine(&StoreFault::at(found.position()).into());
        let unreadable = |_: Malformed| damaged();
        let (view, outcome) = found.view().map_err(|_| damaged())?;
        let numbered = view
            .transfers()
            .collect::<Result<Vec<_>, _>>()
            .map_err(unreadable)?;
        let indexes = numbered
            .iter()
            .flat_map(|transfer| [transfer.debit, transfer.credit])
            .collect();
        let names = self
            .engine
            .account_ids(indexes, deadline)
            .await
            .map_err(|error| status::engine(&error))?;
        let mut names = names.into_iter();
        let transfers: Vec<proto::Transfer> = numbered
            .iter()
            .map(|transfer| {
                let (debit, credit) = (names.next().unwrap_or_default(), names.next().unwrap_or_default());
                convert::from_transfer(debit, credit, transfer.amount, transfer.code)
            })
            .collect();
        let outcome = match outcome {
            Ok(committed) => {
                proto::transaction::Outcome::Committed(convert::from_committed(id.clone(), committed, false))
            }
            Err(rejection) => {
                let status = status::rejection(rejection, account_of(&transfers, rejection), false);
                proto::transaction::Outcome::Error(status::to_value(&status))
            }
        };
        Ok(proto::Transaction {
            transaction_id: id,
            phase: match view.phase() {
                Phase::Posted => proto::TransactionPhase::Posted.into(),
            },
            transfers,
            effective_time: view.effective_time().map(|time| prost_types::Timestamp {
                seconds: time.seconds,
                nanos: i32::try_from(time.nanos).unwrap_or_default(),
            }),
            metadata: view.metadata().map_err(unreadable)?,
            outcome: Some(outcome),
        })
    }
}

/// `ProcessTransaction`.
async fn process_one(
    engine: Arc<TallyEngine>,
    request: http::Request<Incoming>,
    reception: Arc<Reception>,
) -> Result<http::Response<Answer>, Infallible> {
    Ok(Answer::message(
        match Inbound::open(request, Expected::Message, &reception) {
            Ok((inbound, deadline)) => answer_one(&engine, inbound, deadline).await,
            Err(status) => Err(status),
        },
    ))
}

async fn answer_one(
    engine: &TallyEngine,
    mut inbound: Inbound,
    deadline: Option<Instant>,
) -> Result<Vec<u8>, Status> {
    let batch = {
        let message = inbound.only().await?;
        let transaction = wire::transaction(&message).map_err(malformed)?;
        let mut batch = engine.batch(message.len());
        convert::push_transaction(&mut batch, &transaction).map_err(refused)?;
        Arc::new(batch)
    };
    let outcomes = execute(engine, Guard::Unary, &batch, deadline).await?;
    answers::lone(&batch, outcomes.first().copied())
}

/// `ProcessTransactions`: the request is read while it arrives, and nothing of it is executed before it is known to be
/// well-formed.
async fn process_many(
    engine: &TallyEngine,
    request: http::Request<Incoming>,
    reception: &Arc<Reception>,
) -> Result<Vec<u8>, Status> {
    let (mut inbound, deadline) = Inbound::open(request, Expected::Message, reception)?;
    let mut piece = inbound.piece().await?.ok_or_else(Inbound::missing)?;
    let mut reader = BulkReader::new(engine.batch(piece.bytes.len() + piece.to_come));
    loop {
        reader.read(&piece)?;
        if piece.to_come == 0 {
            break;
        }
        piece = inbound.piece().await?.ok_or_else(Inbound::missing)?;
    }
    inbound.finish().await?;
    let Transactions {
        batch,
        refused,
        count,
    } = reader.finish();
    if !(1..=TRANSACTIONS_MAX).contains(&count) {
        let description = format!("has {count} transactions, 1 to {TRANSACTIONS_MAX} are allowed");
        return Err(status::invalid_field("transactions", description));
    }
    let batch = Arc::new(batch);
    let outcomes = execute(engine, Guard::Bulk, &batch, deadline).await?;
    Ok(answers::bulk(count, &batch, &outcomes, &refused))
}

/// Has executed what a stream has brought. It is on its way when this returns, so that the chunks of a stream are executed
/// in its order; and as the next of its sequence, so that none is executed once one before it was not: it may need what
/// that one was to book, and a refusal for want of funds would be remembered under its id for ever.
fn execute_chunk(
    engine: &TallyEngine,
    sequence: &mut Sequence,
    lifetime: &Lifetime,
    chunk: Chunk,
    deadline: Option<Instant>,
) -> impl Future<Output = ChunkDone> + Send + use<> {
    let Chunk {
        transactions: Transactions {
            batch,
            refused,
            count,
        },
        broken,
    } = chunk;
    let batch = Arc::new(batch);
    // They were read before the token was revoked.
    let revoked = lifetime.revoked();
    if revoked.is_some() {
        sequence.close();
    }
    let called = (!batch.is_empty()).then(|| engine.process_next(sequence, Guard::Stream, &batch, deadline));
    async move {
        let outcomes = match called {
            Some(outcomes) => outcomes.await,
            None => Ok(Outcomes::new()),
        };
        ChunkDone {
            batch,
            refused,
            count,
            outcomes,
            revoked,
            broken,
        }
    }
}

/// Answers the chunks of a stream one after the other; a message that could not be read ends the stream after the others'
/// answers. `interrupted` is why the first chunk was not executed that was not: those behind it are refused for the same
/// reason.
fn answer_chunk(
    done: ChunkDone,
    interrupted: &mut Option<Status>,
) -> impl Iterator<Item = Result<Bytes, Status>> + use<> {
    let ChunkDone {
        batch,
        refused,
        count,
        outcomes,
        revoked,
        broken,
    } = done;
    let failed = match &outcomes {
        Err(error) if error.is_not_executed() => {
            let why = || revoked.unwrap_or_else(|| status::engine(error));
            Some(interrupted.get_or_insert_with(why).clone())
        }
        // Of those, something may have been executed, and each says so.
        Err(error) => Some(status::engine(error)),
        // Nothing in it could be read, and nothing behind the hole is looked at.
        Ok(_) if batch.is_empty() => interrupted.clone(),
        Ok(_) => None,
    };
    let answers = match failed {
        None => answers::stream(count, &batch, outcomes.as_deref().unwrap_or_default(), &refused),
        // Each of them gets the answer that it would have got by itself.
        Some(status) => answers::stream_of_errors(count, &batch, &refused, &status),
    };
    let answers = (!answers.is_empty()).then(|| Ok(answers.into()));
    answers.into_iter().chain(broken.map(Err))
}

/// Executes transactions in their order.
async fn execute(
    engine: &TallyEngine,
    guard: Guard,
    batch: &Arc<TransactionBatch>,
    deadline: Option<Instant>,
) -> Result<Outcomes, Status> {
    if batch.is_empty() {
        return Ok(Outcomes::new());
    }
    let outcomes = engine.process(guard, batch, deadline).await;
    outcomes.map_err(|error| status::engine(&error))
}

/// The account that a rejection is about.
fn account_of(transfers: &[proto::Transfer], rejection: Rejection) -> &str {
    transfers
        .get(usize::from(rejection.transfer))
        .map_or("", |transfer| match rejection.side {
            Side::Debit => transfer.debit_account_id.as_str(),
            Side::Credit => transfer.credit_account_id.as_str(),
        })
}

// ===== impl Chunks =====

impl Chunks {
    /// Adds the next part of a message.
    fn add(&mut self, transactions: &mut Transactions, piece: &Piece) -> Result<(), Status> {
        if piece.to_come > 0 {
            self.carry.extend_from_slice(&piece.bytes);
            return Ok(());
        }
        if self.carry.is_empty() {
            return transactions.push_message(&piece.bytes);
        }
        self.carry.extend_from_slice(&piece.bytes);
        let pushed = transactions.push_message(&self.carry);
        self.carry.clear();
        pushed
    }
}

impl Stream for Chunks {
    type Item = Chunk;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Chunk>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let first = match ready!(self.inbound.poll_piece(context)) {
            Ok(None) => {
                self.ended = true;
                return Poll::Ready(None);
            }
            first => first,
        };
        // What has arrived takes less room in the batch than on the wire.
        let mut transactions = Transactions::new(self.engine.batch(self.inbound.arrived()));
        let mut broken = None;
        let mut next = Poll::Ready(first);
        loop {
            let taken = match next {
                Poll::Pending if transactions.count > 0 => break,
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(Some(piece))) => self.add(&mut transactions, &piece),
                Poll::Ready(Ok(None)) => {
                    self.ended = true;
                    break;
                }
                Poll::Ready(Err(status)) => Err(status),
            };
            if let Err(status) = taken {
                self.ended = true;
                broken = Some(status);
                break;
            }
            if transactions.count >= STREAM_CHUNK_MAX {
                break;
            }
            next = self.inbound.poll_piece(context);
        }
        self.inbound.renew_patience();
        Poll::Ready(Some(Chunk { transactions, broken }))
    }
}
