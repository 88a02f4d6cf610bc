//! `tally.v1.TransactionService`.
//!
//! The calls are read and answered here without tonic's server ([`framing`](super::framing)), and those with transactions
//! without the generated types.

use std::{convert::Infallible, sync::Arc};

use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use tokio::time::Instant;
use tonic::{Status, server::NamedService};

use super::{
    answers::{self, Results},
    budget::{CALL_BYTES, Charge},
    convert,
    framing::{Expected, Inbound, malformed},
    lifetime::Lifetime,
    outbound::Answer,
    patience::Reception,
    requests::{BulkReader, TRANSACTION_BYTES_MAX, Transactions, refused},
    status,
    stream::StreamAnswers,
    wire,
};
use crate::{
    engine::{CallKind, Outcomes, StoreFault, TallyEngine, TransactionBatch},
    id::check_id,
    ledger::{Malformed, Phase, Rejection, Side},
    proto::{self, GetTransactionRequest, GetTransactionResponse, transaction_service_server::SERVICE_NAME},
    store::embedded::FoundTransaction,
};

/// Longest message of a call that asks for one thing.
pub(super) const QUESTION_BYTES_MAX: usize = 4 << 10;
/// What a transfer takes while its transaction is found and written, at most: in the journal, with its accounts' names, and
/// in the answer.
const FOUND_TRANSFER_BYTES: usize = 1 << 10;
/// And the rest of the transaction.
const FOUND_BYTES: usize = 8 << 10;

/// The service. Clones are cheap.
#[derive(Debug, Clone)]
pub(super) struct TransactionService {
    engine: Arc<TallyEngine>,
}

/// An answer on its way.
pub(super) type Answering = BoxFuture<'static, Result<http::Response<Answer>, Infallible>>;

// ===== impl TransactionService =====

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
        charge: Charge,
    ) -> Answering {
        let (engine, reception) = (Arc::clone(&self.engine), Arc::clone(reception));
        Box::pin(process_one(engine, request, reception, charge))
    }

    /// Answers `ProcessTransactions`.
    pub(super) fn process_transactions(
        &self,
        request: http::Request<Incoming>,
        reception: &Arc<Reception>,
        charge: Charge,
    ) -> Answering {
        let (engine, reception) = (Arc::clone(&self.engine), Arc::clone(reception));
        Box::pin(async move {
            let answered = process_many(&engine, request, &reception, charge).await;
            Ok(Answer::message(answered, &reception))
        })
    }

    /// Answers `GetTransaction`.
    pub(super) fn find_transaction(
        &self,
        request: http::Request<Incoming>,
        reception: &Arc<Reception>,
        charge: Charge,
    ) -> Answering {
        let (service, reception) = (self.clone(), Arc::clone(reception));
        Box::pin(async move {
            let answered = service.get_transaction(request, &reception, charge).await;
            Ok(Answer::message(answered, &reception))
        })
    }

    /// Answers `StreamTransactions`, until `lifetime` is over.
    pub(super) fn stream_transactions(
        &self,
        request: http::Request<Incoming>,
        reception: &Arc<Reception>,
        charge: Charge,
        lifetime: Lifetime,
    ) -> Answering {
        let (engine, reception) = (Arc::clone(&self.engine), Arc::clone(reception));
        // Not before the call is polled: only then does the engine know whose it is.
        Box::pin(async move {
            let most = TRANSACTION_BYTES_MAX;
            Ok(
                match Inbound::open(request, Expected::Stream, most, &reception, charge) {
                    Ok((inbound, deadline)) => {
                        let answers = StreamAnswers::new(engine, inbound, deadline, lifetime);
                        Answer::frames(Box::pin(answers), reception.purse())
                    }
                    Err(status) => reception.refuse(status),
                },
            )
        })
    }

    async fn get_transaction(
        &self,
        request: http::Request<Incoming>,
        reception: &Arc<Reception>,
        charge: Charge,
    ) -> Result<(Vec<u8>, Charge), Status> {
        let (question, mut inbound, deadline) =
            Inbound::ask::<GetTransactionRequest>(request, QUESTION_BYTES_MAX, reception, charge).await?;
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
    /// A record of the journal as a client sees it, accounts by name again.
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
    charge: Charge,
) -> Result<http::Response<Answer>, Infallible> {
    let most = TRANSACTION_BYTES_MAX;
    let answered = match Inbound::open(request, Expected::Message, most, &reception, charge) {
        Ok((inbound, deadline)) => answer_one(&engine, inbound, deadline).await,
        Err(status) => Err(status),
    };
    Ok(Answer::message(answered, &reception))
}

async fn answer_one(
    engine: &TallyEngine,
    mut inbound: Inbound,
    deadline: Option<Instant>,
) -> Result<(Vec<u8>, Charge), Status> {
    let batch = {
        let message = inbound.only().await?;
        let transaction = wire::transaction(&message).map_err(malformed)?;
        let mut batch = engine.batch(message.len());
        convert::push_transaction(&mut batch, &transaction).map_err(refused)?;
        Arc::new(batch)
    };
    inbound.hold(batch.memory_bytes())?;
    inbound.finish().await?;
    let outcomes = execute(engine, CallKind::Unary, &batch, deadline).await?;
    let answer = answers::lone(&batch, outcomes.first().copied())?;
    drop(batch);
    Ok((answer, inbound.into_charge()))
}

/// `ProcessTransactions`.
///
/// The request is read while it arrives, and nothing of it is executed before it is known to be well-formed, and that there
/// is memory for its answer.
async fn process_many(
    engine: &TallyEngine,
    request: http::Request<Incoming>,
    reception: &Arc<Reception>,
    charge: Charge,
) -> Result<(Vec<u8>, Charge), Status> {
    let most = super::MESSAGE_BYTES_MAX;
    let (mut inbound, deadline) = Inbound::open(request, Expected::Message, most, reception, charge)?;
    let mut piece = inbound.piece().await?.ok_or_else(Inbound::missing)?;
    let mut reader = BulkReader::new(engine.batch(piece.bytes.len()));
    loop {
        reader.read(&piece)?;
        inbound.hold(reader.held_bytes())?;
        if piece.to_come == 0 {
            break;
        }
        piece = inbound.piece().await?.ok_or_else(Inbound::missing)?;
    }
    drop(piece);
    inbound.finish().await?;
    let Transactions { mut batch, places } = reader.finish()?;
    batch.pay(Box::new(inbound.split_charge()));
    let batch = Arc::new(batch);
    let outcomes = execute(engine, CallKind::Bulk, &batch, deadline).await?;
    let results = Results {
        places: &places,
        batch: &batch,
        outcomes: Ok(&outcomes),
    };
    let answer = results.bulk().await;
    let mut charge = inbound.into_charge();
    drop((batch, outcomes, places));
    charge.set(CALL_BYTES + answer.capacity());
    Ok((answer, charge))
}

/// Executes transactions in their order.
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

/// The account that a rejection is about.
fn account_of(transfers: &[proto::Transfer], rejection: Rejection) -> &str {
    transfers
        .get(usize::from(rejection.transfer))
        .map_or("", |transfer| match rejection.side {
            Side::Debit => transfer.debit_account_id.as_str(),
            Side::Credit => transfer.credit_account_id.as_str(),
        })
}
