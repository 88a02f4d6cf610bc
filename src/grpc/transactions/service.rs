//! The methods of `tally.v1.TransactionService`.
//!
//! Requests are read without tonic's server; `transport/framing.rs` gives the reasons. Requests with transactions are
//! read without the generated types; `wire.rs` gives the reason.

use std::{convert::Infallible, net::IpAddr, sync::Arc};

use tally_ledger::id::check_id;
use tonic::Status;

use super::{
    answer_memory::{self, AnswerMemory},
    collect::{BulkReader, Transactions, has_past_balances, leave_out_foreign},
    decode,
    encode::{self, Results},
    lookup::Lookup,
    stream::StreamAnswers,
    wire,
};
use crate::{
    engine::{CallKind, Processed, TallyEngine, TransactionBatch},
    grpc::{
        history::{self, Blocks, Feed},
        limits::{MESSAGE_BYTES_MAX, QUERY_BYTES_MAX, TRANSACTION_BYTES_MAX},
        read_call::ReadCall,
        status,
        transport::{
            budget::{CALL_BYTES, SHORT_BYTES},
            framing::{AdmittedCall, Expected, Inbound},
            lifetime::Lifetime,
            outbound::{Answer, AnswerFuture, AnswerResult},
        },
    },
    proto::{GetTransactionRequest, GetTransactionResponse},
};

/// The service. Clones are cheap.
#[derive(Debug, Clone)]
pub(crate) struct TransactionService {
    engine: Arc<TallyEngine>,
    feed: Arc<Feed>,
}

// ===== impl TransactionService =====

impl TransactionService {
    /// Returns the service over `engine`.
    #[must_use]
    pub(crate) fn new(engine: TallyEngine) -> Self {
        TransactionService {
            feed: Arc::new(Feed::new(engine.clone())),
            engine: Arc::new(engine),
        }
    }

    /// Answers `ProcessTransaction`.
    ///
    /// Each method boxes its own future. So the future of `ProcessTransaction` is not as large as the largest future of
    /// all methods.
    pub(crate) fn process_transaction(&self, call: AdmittedCall) -> AnswerFuture {
        Box::pin(process_one(Arc::clone(&self.engine), call))
    }

    /// Answers `ProcessTransactions`.
    pub(crate) fn process_transactions(&self, call: AdmittedCall) -> AnswerFuture {
        let (engine, limits) = (Arc::clone(&self.engine), Arc::clone(&call.limits));
        Box::pin(async move { Ok(limits.answer(process_many(&engine, call).await)) })
    }

    /// Answers `GetTransaction`.
    pub(crate) fn find_transaction(&self, call: AdmittedCall) -> AnswerFuture {
        let (service, limits) = (self.clone(), Arc::clone(&call.limits));
        Box::pin(async move { Ok(limits.answer(service.get_transaction(call).await)) })
    }

    /// Answers `ListTransactions`.
    pub(crate) fn list_transactions(&self, call: AdmittedCall) -> AnswerFuture {
        let (engine, limits) = (Arc::clone(&self.engine), Arc::clone(&call.limits));
        Box::pin(async move { Ok(limits.answer(history::list_transactions(engine, call).await)) })
    }

    /// Answers `WatchTransactions` to the client with this address. `lifetime` decides when the service ends the watch.
    pub(crate) fn watch_transactions(
        &self,
        call: AdmittedCall,
        lifetime: Lifetime,
        client: IpAddr,
    ) -> AnswerFuture {
        let (feed, limits) = (Arc::clone(&self.feed), Arc::clone(&call.limits));
        Box::pin(async move {
            Ok(match history::watch(&feed, call, lifetime, client).await {
                Ok(frames) => Answer::frames(frames, &limits.memory),
                Err(status) => limits.answer_failed(status),
            })
        })
    }

    /// Answers `GetChainHead`.
    pub(crate) fn chain_head(&self, call: AdmittedCall) -> AnswerFuture {
        let (engine, limits) = (Arc::clone(&self.engine), Arc::clone(&call.limits));
        Box::pin(async move { Ok(limits.answer(history::chain_head(&engine, call).await)) })
    }

    /// Answers `StreamTransactions`. `lifetime` decides when the stream must end although the client has not ended it.
    pub(crate) fn stream_transactions(&self, call: AdmittedCall, lifetime: Lifetime) -> AnswerFuture {
        let (engine, limits) = (Arc::clone(&self.engine), Arc::clone(&call.limits));
        // The stream is made inside the future, because it begins a sequence, which belongs to the client of the call.
        // The client is in thread-local storage, and only while the call is polled (`crates/batch/src/caller.rs`).
        Box::pin(async move {
            let opened = Inbound::open(call, Expected::Stream, TRANSACTION_BYTES_MAX);
            let answers = opened.map(|inbound| StreamAnswers::new(engine, inbound, lifetime));
            Ok(match answers {
                Ok(answers) => Answer::frames(Box::pin(answers), &limits.memory),
                Err(status) => limits.answer_failed(status),
            })
        })
    }

    async fn get_transaction(&self, call: AdmittedCall) -> AnswerResult {
        let (request, mut inbound) =
            Inbound::read_request::<GetTransactionRequest>(call, QUERY_BYTES_MAX).await?;
        let answer = read_transaction(&self.engine, request, &mut inbound).await?;
        Ok(inbound.answer(&answer))
    }
}

/// Reads a transaction.
///
/// # Errors
/// INVALID_ARGUMENT, NOT_FOUND if the transaction does not exist, or an error of the engine.
pub(crate) async fn read_transaction(
    engine: &TallyEngine,
    request: GetTransactionRequest,
    call: &mut impl ReadCall,
) -> Result<GetTransactionResponse, Status> {
    let id = request.transaction_id;
    check_id(&id).map_err(|error| status::invalid_field("transaction_id", error.to_string()))?;
    let scope = call.scope();
    // A transaction of another tenant looks as if it did not exist.
    if !scope.contains(id.as_bytes()) {
        return Err(status::transaction_not_found(&id));
    }
    let lookup = Lookup::new(engine, call.deadline());
    let found = lookup.transaction(&id).await?;
    let found = found.ok_or_else(|| status::transaction_not_found(&id))?;
    call.hold(found.memory_bytes()?)?;
    let found = [found];
    let ids = lookup.ids_of(&found).await?;
    let [found] = found;
    let mut transaction = found.describe(&ids, &scope)?;
    if request.with_block {
        let head = engine.durable().chain();
        let read = engine.read_history(call.deadline(), move |reader, _| {
            let blocks = Blocks::of(reader, std::iter::once(found.record()), Some(&head))?;
            Ok(blocks.get(found.record()))
        });
        transaction.block = read.await?;
    }
    Ok(GetTransactionResponse {
        transaction: Some(transaction),
    })
}

/// Answers `ProcessTransaction`.
async fn process_one(
    engine: Arc<TallyEngine>,
    call: AdmittedCall,
) -> Result<http::Response<Answer>, Infallible> {
    let limits = Arc::clone(&call.limits);
    let answered = match Inbound::open(call, Expected::Message, TRANSACTION_BYTES_MAX) {
        Ok(inbound) => answer_one(&engine, inbound).await,
        Err(status) => Err(status),
    };
    Ok(limits.answer(answered))
}

async fn answer_one(engine: &TallyEngine, mut inbound: Inbound) -> AnswerResult {
    let (principal, scope) = (inbound.principal(), inbound.scope());
    let (mut batch, detail_bytes, may_grow) = {
        let message = inbound.only().await?;
        let transaction = wire::transaction(&message)?;
        let mut batch = engine.batch(message.len());
        batch.set_principal(principal);
        decode::push_transaction(&mut batch, &transaction, &scope)?;
        let detail_bytes = answer_memory::detail_bytes(&transaction);
        (batch, detail_bytes, answer_memory::may_grow(&transaction))
    };
    inbound.hold(batch.memory_bytes() + detail_bytes)?;
    if may_grow {
        batch.hold_charge(AnswerMemory::charge(inbound.empty_reservation()));
    }
    let batch = Arc::new(batch);
    inbound.finish().await?;
    let processed = execute(engine, CallKind::Unary, &batch, &inbound).await?;
    let answer = encode::single(&batch, &processed, &scope)?;
    drop((batch, processed));
    let mut reservation = inbound.into_reservation();
    if answer.capacity() > SHORT_BYTES {
        reservation.resize(CALL_BYTES + answer.capacity());
    }
    Ok((answer, reservation))
}

/// Answers `ProcessTransactions`.
///
/// The request is read while it arrives. The execution begins after the whole request is read and the memory for the
/// answer is reserved.
async fn process_many(engine: &TallyEngine, call: AdmittedCall) -> AnswerResult {
    let mut inbound = Inbound::open(call, Expected::Message, MESSAGE_BYTES_MAX)?;
    let mut piece = inbound.piece().await?.ok_or_else(status::message_missing)?;
    let mut batch = engine.batch(piece.bytes.len());
    batch.set_principal(inbound.principal());
    let mut reader = BulkReader::new(batch, inbound.scope());
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
    let mut transactions = reader.finish()?;
    transactions.hold(inbound.split_reservation());
    let Transactions { batch, places, .. } = transactions;
    let batch = Arc::new(batch);
    let processed = execute(engine, CallKind::Bulk, &batch, &inbound).await?;
    let results = Results {
        places: &places,
        batch: &batch,
        processed: Ok(&processed),
    };
    let answer = results.bulk().await;
    let mut reservation = inbound.into_reservation();
    drop((batch, processed, places));
    reservation.resize(CALL_BYTES + answer.capacity());
    Ok((answer, reservation))
}

/// Executes the transactions of a batch in their order.
async fn execute(
    engine: &TallyEngine,
    kind: CallKind,
    batch: &Arc<TransactionBatch>,
    inbound: &Inbound,
) -> Result<Processed, Status> {
    if batch.is_empty() {
        return Ok(Processed::default());
    }
    let mut processed = engine.process(kind, batch, inbound.deadline).await?;
    leave_out_foreign(&mut processed, &inbound.scope());
    if has_past_balances(&processed) {
        // Boxed, because few calls need this large future.
        Box::pin(engine.read_past_balances(batch, &mut processed, inbound.deadline)).await?;
    }
    Ok(processed)
}
