//! `tally.v1.TransactionService`.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
};

use futures_util::{Stream, StreamExt, stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{
    convert::{self, Refusal},
    deadline, status,
};
use crate::{
    engine::{Guard, Outcomes, TRANSACTIONS_MAX, TallyEngine, TransactionBatch},
    id::check_id,
    ledger::{Outcome, Phase, Rejection, Side},
    proto::{
        self, GetTransactionRequest, GetTransactionResponse, ProcessTransactionRequest,
        ProcessTransactionResponse, ProcessTransactionsRequest, ProcessTransactionsResponse,
        StreamTransactionsRequest, StreamTransactionsResponse, TransactionResult, transaction_result,
        transaction_service_server,
    },
    store::embedded::FoundTransaction,
};

/// Messages of a stream that are put together into one command, if so many have arrived.
const STREAM_CHUNK_MAX: usize = 512;
/// Commands of a stream that may be under way; behind them, HTTP/2 flow control holds the client back.
const STREAM_CHUNKS_IN_FLIGHT_MAX: usize = 8;

/// The service.
#[derive(Debug, Clone)]
pub(super) struct TransactionService {
    engine: TallyEngine,
    /// Ends streams when the service goes down.
    draining: CancellationToken,
}

/// Why a chunk of a stream was not let in. Chunks are let in one after the other, and those behind it must not be: they may
/// need what it was to book, and a refusal for want of funds would be remembered under their ids for ever.
type Interrupted = Arc<OnceLock<Status>>;

/// Answers of a stream.
type Answers = Pin<Box<dyn Stream<Item = Result<StreamTransactionsResponse, Status>> + Send>>;

// ===== impl TransactionService =====

impl TransactionService {
    /// Serves `engine` until `draining`.
    #[must_use]
    pub(super) const fn new(engine: TallyEngine, draining: CancellationToken) -> Self {
        TransactionService { engine, draining }
    }
}

#[tonic::async_trait]
impl transaction_service_server::TransactionService for TransactionService {
    type StreamTransactionsStream = Answers;

    async fn process_transaction(
        &self,
        request: Request<ProcessTransactionRequest>,
    ) -> Result<Response<ProcessTransactionResponse>, Status> {
        let deadline = deadline::of(request.metadata())?;
        let request = request.into_inner();
        let mut batch = TransactionBatch::with_capacity(1);
        convert::push_transaction(&mut batch, &request).map_err(refused)?;
        let outcomes = self
            .engine
            .process(Guard::Unary, batch, deadline)
            .await
            .map_err(|error| status::engine(&error))?;
        match outcomes.first() {
            Some(outcome) => committed_or_error(request, *outcome).map(Response::new),
            None => Err(Status::internal("an outcome is missing")),
        }
    }

    async fn process_transactions(
        &self,
        request: Request<ProcessTransactionsRequest>,
    ) -> Result<Response<ProcessTransactionsResponse>, Status> {
        let deadline = deadline::of(request.metadata())?;
        let transactions = request.into_inner().transactions;
        let count = transactions.len();
        if !(1..=TRANSACTIONS_MAX).contains(&count) {
            let description = format!("has {count} transactions, 1 to {TRANSACTIONS_MAX} are allowed");
            return Err(status::invalid_field("transactions", description));
        }
        let results = process_all(&self.engine, Guard::Bulk, transactions, deadline).await?;
        Ok(Response::new(ProcessTransactionsResponse { results }))
    }

    async fn stream_transactions(
        &self,
        request: Request<Streaming<StreamTransactionsRequest>>,
    ) -> Result<Response<Self::StreamTransactionsStream>, Status> {
        let deadline = deadline::of(request.metadata())?;
        let engine = self.engine.clone();
        let draining = self.draining.clone();
        let interrupted = Interrupted::default();
        // What was read is answered; then the stream ends, and says why if it was not the client who ended it.
        let inbound = request
            .into_inner()
            .take_until(draining.clone().cancelled_owned());
        let goodbye =
            stream::once(async move { draining.is_cancelled().then(|| Err(status::shutting_down())) })
                .filter_map(std::future::ready);
        let answers = inbound
            .ready_chunks(STREAM_CHUNK_MAX)
            .map(move |chunk| answer_chunk(engine.clone(), chunk, deadline, Arc::clone(&interrupted)))
            .buffered(STREAM_CHUNKS_IN_FLIGHT_MAX)
            .flat_map(stream::iter)
            .chain(goodbye);
        Ok(Response::new(Box::pin(answers)))
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
        let unreadable = |_| Status::internal("the record can't be read");
        let (view, outcome) = found
            .view()
            .map_err(|_| Status::internal("the record can't be read"))?;
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

/// Processes what a stream has brought; a message that could not be read ends the stream after the others' answers.
async fn answer_chunk(
    engine: TallyEngine,
    chunk: Vec<Result<StreamTransactionsRequest, Status>>,
    deadline: Option<Instant>,
    interrupted: Interrupted,
) -> Vec<Result<StreamTransactionsResponse, Status>> {
    let mut transactions = Vec::with_capacity(chunk.len());
    let mut broken = None;
    for message in chunk {
        match message {
            // Without a transaction it is malformed like any other transaction without an id.
            Ok(message) => transactions.push(message.transaction.unwrap_or_default()),
            Err(status) => broken = broken.or(Some(status)),
        }
    }
    let ids: Vec<String> = transactions
        .iter()
        .map(|transaction| transaction.transaction_id.clone())
        .collect();
    let mut answers: Vec<_> = match process_in_turn(&engine, transactions, deadline, &interrupted).await {
        Ok(results) => results
            .into_iter()
            .map(|result| Ok(StreamTransactionsResponse { result: Some(result) }))
            .collect(),
        // Each of them gets the answer that it would have got by itself.
        Err(status) => ids
            .into_iter()
            .map(|id| {
                Ok(StreamTransactionsResponse {
                    result: Some(error_result(id, &status)),
                })
            })
            .collect(),
    };
    answers.extend(broken.map(Err));
    answers
}

/// Processes a chunk of a stream, unless one before it was not let in.
async fn process_in_turn(
    engine: &TallyEngine,
    transactions: Vec<ProcessTransactionRequest>,
    deadline: Option<Instant>,
    interrupted: &OnceLock<Status>,
) -> Result<Vec<TransactionResult>, Status> {
    if let Some(status) = interrupted.get() {
        return Err(status.clone());
    }
    let results = process_all(engine, Guard::Stream, transactions, deadline).await;
    if let Err(status) = &results
        && status::is_not_executed(status)
    {
        // Only the first one counts.
        let _first = interrupted.set(status.clone());
    }
    results
}

/// Processes transactions in their order; malformed ones get their error, and the others are processed all the same.
async fn process_all(
    engine: &TallyEngine,
    guard: Guard,
    transactions: Vec<ProcessTransactionRequest>,
    deadline: Option<Instant>,
) -> Result<Vec<TransactionResult>, Status> {
    let mut batch = TransactionBatch::with_capacity(transactions.len());
    let refusals: Vec<Option<Status>> = transactions
        .iter()
        .map(|transaction| {
            convert::push_transaction(&mut batch, transaction)
                .err()
                .map(refused)
        })
        .collect();
    let outcomes = if batch.is_empty() {
        Outcomes::new()
    } else {
        engine
            .process(guard, batch, deadline)
            .await
            .map_err(|error| status::engine(&error))?
    };
    let mut outcomes = outcomes.into_iter();
    let results = transactions
        .into_iter()
        .zip(refusals)
        .map(|(transaction, refusal)| match refusal {
            Some(status) => error_result(transaction.transaction_id, &status),
            None => match outcomes.next() {
                Some(outcome) => to_result(transaction, outcome),
                None => error_result(
                    transaction.transaction_id,
                    &Status::internal("an outcome is missing"),
                ),
            },
        });
    Ok(results.collect())
}

fn to_result(request: ProcessTransactionRequest, outcome: Outcome) -> TransactionResult {
    let transaction_id = request.transaction_id.clone();
    match committed_or_error(request, outcome) {
        Ok(committed) => TransactionResult {
            transaction_id,
            outcome: Some(transaction_result::Outcome::Committed(committed)),
        },
        Err(status) => error_result(transaction_id, &status),
    }
}

fn error_result(transaction_id: String, status: &Status) -> TransactionResult {
    let error = status::to_value(status);
    TransactionResult {
        transaction_id,
        outcome: Some(transaction_result::Outcome::Error(error)),
    }
}

fn committed_or_error(
    request: ProcessTransactionRequest,
    outcome: Outcome,
) -> Result<ProcessTransactionResponse, Status> {
    match outcome {
        Outcome::Committed { committed, replayed } => Ok(convert::from_committed(
            request.transaction_id,
            committed,
            replayed,
        )),
        Outcome::Rejected { rejection, replayed } => Err(status::rejection(
            rejection,
            account_of(&request.transfers, rejection),
            replayed,
        )),
        Outcome::Reused { field } => Err(status::transaction_id_reused(&request.transaction_id, field)),
    }
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

fn refused(refusal: Refusal) -> Status {
    match refusal {
        Refusal::Invalid(violations) => status::invalid(violations),
        Refusal::PhaseNotSupported(phase) => status::phase_not_supported(phase),
    }
}
