//! The methods of `tally.v1.TransactionService`.
//!
//! Requests are read without tonic's server; `transport/framing.rs` says why. Requests with transactions are read
//! without the generated types, see `wire.rs`.

use std::{convert::Infallible, sync::Arc};

use hyper::body::Incoming;
use tokio::time::Instant;
use tonic::{Status, server::NamedService};

use super::{
    collect::{BulkReader, Transactions, refused},
    decode,
    encode::{self, Results},
    stream::StreamAnswers,
    wire,
};
use crate::{
    engine::{CallKind, Outcomes, StoreFault, TallyEngine, TransactionBatch},
    grpc::{
        limits::{MESSAGE_BYTES_MAX, QUERY_BYTES_MAX, TRANSACTION_BYTES_MAX},
        status,
        transport::{
            budget::{CALL_BYTES, Reservation},
            connection_limits::ConnectionLimits,
            framing::{Expected, Inbound},
            lifetime::Lifetime,
            outbound::{Answer, AnswerFuture},
        },
    },
    proto::{self, GetTransactionRequest, GetTransactionResponse, transaction_service_server::SERVICE_NAME},
    store::embedded::FoundTransaction,
};
use tally_ledger::{Malformed, Phase, Rejection, Side, id::check_id};

/// Most memory of a transfer in `GetTransaction`: its record, its account ids and its part of the answer.
const FOUND_TRANSFER_BYTES: usize = 1 << 10;
/// Most memory of the rest of the transaction.
const FOUND_BYTES: usize = 8 << 10;

/// The service. Clones are cheap.
#[derive(Debug, Clone)]
pub(crate) struct TransactionService {
    engine: Arc<TallyEngine>,
}

// ===== impl TransactionService =====

impl NamedService for TransactionService {
    const NAME: &'static str = SERVICE_NAME;
}

impl TransactionService {
    /// A service over `engine`.
    #[must_use]
    pub(crate) fn new(engine: TallyEngine) -> Self {
        TransactionService {
            engine: Arc::new(engine),
        }
    }

    /// Answers `ProcessTransaction`.
    ///
    /// Each method boxes its own future. So the future of the most frequent method is small, and is not moved into its
    /// task.
    pub(crate) fn process_transaction(
        &self,
        request: http::Request<Incoming>,
        limits: &Arc<ConnectionLimits>,
        reservation: Reservation,
    ) -> AnswerFuture {
        let (engine, limits) = (Arc::clone(&self.engine), Arc::clone(limits));
        Box::pin(process_one(engine, request, limits, reservation))
    }

    /// Answers `ProcessTransactions`.
    pub(crate) fn process_transactions(
        &self,
        request: http::Request<Incoming>,
        limits: &Arc<ConnectionLimits>,
        reservation: Reservation,
    ) -> AnswerFuture {
        let (engine, limits) = (Arc::clone(&self.engine), Arc::clone(limits));
        Box::pin(async move {
            let answered = process_many(&engine, request, &limits, reservation).await;
            Ok(limits.answer(answered))
        })
    }

    /// Answers `GetTransaction`.
    pub(crate) fn find_transaction(
        &self,
        request: http::Request<Incoming>,
        limits: &Arc<ConnectionLimits>,
        reservation: Reservation,
    ) -> AnswerFuture {
        let (service, limits) = (self.clone(), Arc::clone(limits));
        Box::pin(async move {
            let answered = service.get_transaction(request, &limits, reservation).await;
            Ok(limits.answer(answered))
        })
    }

    /// Answers `StreamTransactions` until `lifetime` ends.
    pub(crate) fn stream_transactions(
        &self,
        request: http::Request<Incoming>,
        limits: &Arc<ConnectionLimits>,
        reservation: Reservation,
        lifetime: Lifetime,
    ) -> AnswerFuture {
        let (engine, limits) = (Arc::clone(&self.engine), Arc::clone(limits));
        // The stream begins when the call is polled, because the engine knows the caller only then.
        Box::pin(async move {
            let most = TRANSACTION_BYTES_MAX;
            Ok(
                match Inbound::open(request, Expected::Stream, most, &limits, reservation) {
                    Ok((inbound, deadline)) => {
                        let answers = StreamAnswers::new(engine, inbound, deadline, lifetime);
                        Answer::frames(Box::pin(answers), limits.memory())
                    }
                    Err(status) => limits.answer_failed(status),
                },
            )
        })
    }

    async fn get_transaction(
        &self,
        request: http::Request<Incoming>,
        limits: &Arc<ConnectionLimits>,
        reservation: Reservation,
    ) -> Result<(Vec<u8>, Reservation), Status> {
        let (question, mut inbound, deadline) =
            Inbound::ask::<GetTransactionRequest>(request, QUERY_BYTES_MAX, limits, reservation).await?;
        let id = question.transaction_id;
        check_id(&id).map_err(|error| status::invalid_field("transaction_id", error.to_string()))?;
        let found = self
            .engine
            .transaction(id.clone(), deadline)
            .await
            .map_err(|error| status::engine(&error))?;
        let found = found.ok_or_else(|| status::transaction_not_found(&id))?;
        let transaction = self.describe(id, &found, &mut inbound, deadline).await?;
        Ok(inbound.answer(&GetTransactionResponse {
            transaction: Some(transaction),
        }))
    }
}

impl TransactionService {
    /// Converts a record of the journal for the API. The journal has the numbers of accounts, the API their ids.
    async fn describe(
        &self,
        id: String,
        found: &FoundTransaction,
        inbound: &mut Inbound,
        deadline: Option<Instant>,
    ) -> Result<proto::Transaction, Status> {
        let damaged = || status::engine(&StoreFault::damaged_at(found.position()).into());
        let unreadable = |_: Malformed| damaged();
        let (view, outcome) = found.view().map_err(|_| damaged())?;
        inbound.hold(FOUND_BYTES + view.transfer_count() * FOUND_TRANSFER_BYTES)?;
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
                encode::from_transfer(debit, credit, transfer.amount, transfer.code)
            })
            .collect();
        let outcome = match outcome {
            Ok(committed) => {
                proto::transaction::Outcome::Committed(encode::from_committed(id.clone(), committed, false))
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
    limits: Arc<ConnectionLimits>,
    reservation: Reservation,
) -> Result<http::Response<Answer>, Infallible> {
    let most = TRANSACTION_BYTES_MAX;
    let answered = match Inbound::open(request, Expected::Message, most, &limits, reservation) {
        Ok((inbound, deadline)) => answer_one(&engine, inbound, deadline).await,
        Err(status) => Err(status),
    };
    Ok(limits.answer(answered))
}

async fn answer_one(
    engine: &TallyEngine,
    mut inbound: Inbound,
    deadline: Option<Instant>,
) -> Result<(Vec<u8>, Reservation), Status> {
    let batch = {
        let message = inbound.only().await?;
        let transaction = wire::transaction(&message).map_err(status::malformed_message)?;
        let mut batch = engine.batch(message.len());
        decode::push_transaction(&mut batch, &transaction).map_err(refused)?;
        Arc::new(batch)
    };
    inbound.hold(batch.memory_bytes())?;
    inbound.finish().await?;
    let outcomes = execute(engine, CallKind::Unary, &batch, deadline).await?;
    let answer = encode::lone(&batch, outcomes.first().copied())?;
    drop(batch);
    Ok((answer, inbound.into_reservation()))
}

/// `ProcessTransactions`.
///
/// The request is read while it arrives. Nothing is executed before the whole request is read and the memory for its
/// answer is reserved.
async fn process_many(
    engine: &TallyEngine,
    request: http::Request<Incoming>,
    limits: &Arc<ConnectionLimits>,
    reservation: Reservation,
) -> Result<(Vec<u8>, Reservation), Status> {
    let most = MESSAGE_BYTES_MAX;
    let (mut inbound, deadline) = Inbound::open(request, Expected::Message, most, limits, reservation)?;
    let mut piece = inbound.piece().await?.ok_or_else(status::message_missing)?;
    let mut reader = BulkReader::new(engine.batch(piece.bytes.len()));
    loop {
        reader.read(&piece)?;
        inbound.hold(reader.held_bytes())?;
        if piece.to_come == 0 {
            break;
        }
        piece = inbound.piece().await?.ok_or_else(status::message_missing)?;
    }
    drop(piece);
    inbound.finish().await?;
    let Transactions { mut batch, places } = reader.finish()?;
    batch.pay(Box::new(inbound.split_reservation()));
    let batch = Arc::new(batch);
    let outcomes = execute(engine, CallKind::Bulk, &batch, deadline).await?;
    let results = Results {
        places: &places,
        batch: &batch,
        outcomes: Ok(&outcomes),
    };
    let answer = results.bulk().await;
    let mut reservation = inbound.into_reservation();
    drop((batch, outcomes, places));
    reservation.resize(CALL_BYTES + answer.capacity());
    Ok((answer, reservation))
}

/// Executes the transactions of a batch in their order.
async fn execute(
    engine: &TallyEngine,
    kind: CallKind,
    batch: &Arc<TransactionBatch>,
    deadline: Option<Instant>,
) -> Result<Outcomes, Status> {
    if batch.is_empty() {
        return Ok(Outcomes::new());
    }
    let outcomes = engine.process(kind, batch, deadline).await;
    outcomes.map_err(|error| status::engine(&error))
}

/// Returns the account that a rejection is about.
fn account_of(transfers: &[proto::Transfer], rejection: Rejection) -> &str {
    transfers
        .get(usize::from(rejection.transfer))
        .map_or("", |transfer| match rejection.side {
            Side::Debit => transfer.debit_account_id.as_str(),
            Side::Credit => transfer.credit_account_id.as_str(),
        })
}
