//! `StreamTransactions`: reads messages in chunks, executes the chunks in order, and writes their answers in order. A
//! chunk is the messages that have arrived since the previous chunk, up to a bound.

use std::{
    panic::resume_unwind,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, future::BoxFuture, stream::FuturesOrdered};
use tally_batch::Sequence;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::{
    collect::{Places, Transactions, has_past_balances, leave_out_foreign},
    encode::Results,
    wire,
};
use crate::{
    engine::{CallKind, EngineError, Processed, TallyEngine, TransactionBatch},
    grpc::{
        status,
        transport::{
            budget::Reservation,
            connection_limits::Parked,
            frame::Piece,
            framing::{Inbound, gather},
            lifetime::Lifetime,
        },
    },
    security::Scope,
};

/// The outcomes of the transactions of a chunk, or the error of the chunk.
type ChunkOutcomes = Result<Processed, EngineError>;

/// Maximum number of messages in a chunk.
const CHUNK_MESSAGES_MAX: usize = 512;
/// No more messages are added to a chunk that takes this much memory, in bytes.
const CHUNK_BYTES_MAX: usize = 512 << 10;
/// Memory of a chunk in addition to its transactions and their answers, in bytes.
const CHUNK_BYTES: usize = 1 << 10;
/// Maximum number of chunks of a stream in flight. When this many chunks are in flight, the service does not read the
/// stream, and the flow control of HTTP/2 stops the client.
const CHUNKS_MAX: usize = 8;

/// The answers to a stream's messages, in their order.
pub(crate) struct StreamAnswers {
    engine: Arc<TallyEngine>,
    /// `None` after reading has ended.
    chunks: Option<Chunks>,
    deadline: Option<Instant>,
    /// The sequence to which all chunks of the stream belong. The engine executes the chunks of a sequence in order. If
    /// it does not execute a chunk, it executes no later chunk.
    sequence: Sequence,
    lifetime: Lifetime,
    /// Ready when the service must end reading, with the reason.
    over: BoxFuture<'static, Status>,
    /// The chunks in flight, at most [`CHUNKS_MAX`].
    running: FuturesOrdered<BoxFuture<'static, ChunkDone>>,
    /// Writes the answers to the chunk that was last removed from `running`; `None` if these answers are complete.
    answering: Option<BoxFuture<'static, ChunkAnswer>>,
    /// The error of the first chunk that was not executed. All later chunks get the same error.
    interrupted: Option<Status>,
    /// The status with which the stream ends after all answers; `None` if the client ended the stream.
    ending: Option<Status>,
    /// Set while the stream is not read.
    parked: Option<Parked>,
}

/// Messages of a stream that are executed together.
struct Chunk {
    transactions: Transactions,
    reservation: Reservation,
    /// The error that ended reading after this chunk. The stream ends with this error.
    broken: Option<Status>,
}

/// A chunk whose outcomes are known.
struct ChunkDone {
    batch: Arc<TransactionBatch>,
    places: Places,
    reservation: Reservation,
    outcomes: ChunkOutcomes,
    /// Set if the chunk was not executed because the caller's token no longer allows the call.
    revoked: Option<Status>,
    broken: Option<Status>,
}

/// The framed answers to a chunk, and its [`Chunk::broken`].
type ChunkAnswer = (Bytes, Option<Status>);

/// Reads the messages of a stream.
struct Chunks {
    inbound: Inbound,
    engine: Arc<TallyEngine>,
    /// The first bytes of a message whose rest has not arrived.
    carry: Vec<u8>,
}

// ===== impl StreamAnswers =====

impl StreamAnswers {
    /// Begins to answer the messages of `inbound`. When `lifetime` ends, the stream answers the messages that have been
    /// read, and ends with the reason. Call this function while the future of the call is polled, because only then
    /// does the engine know the client of the call (from thread-local storage).
    pub(crate) fn new(engine: Arc<TallyEngine>, inbound: Inbound, lifetime: Lifetime) -> Self {
        StreamAnswers {
            deadline: inbound.deadline,
            chunks: Some(Chunks {
                inbound,
                engine: Arc::clone(&engine),
                carry: Vec::new(),
            }),
            sequence: engine.sequence(),
            over: Box::pin(lifetime.clone().ended()),
            lifetime,
            running: FuturesOrdered::new(),
            answering: None,
            interrupted: None,
            ending: None,
            parked: None,
            engine,
        }
    }

    /// Reads chunks and begins to execute them, up to [`CHUNKS_MAX`] in flight.
    fn poll_read(&mut self, context: &mut Context<'_>) {
        while self.running.len() < CHUNKS_MAX {
            let Some(chunks) = &mut self.chunks else { return };
            if let Poll::Ready(why) = self.over.as_mut().poll(context) {
                // The reason is kept for the end of the stream: when the answers have been sent, a revoked token may be
                // valid again.
                if chunks.inbound.is_complete() {
                    self.chunks = None;
                } else {
                    self.stop(why);
                }
                return;
            }
            match chunks.poll_next(context) {
                Poll::Ready(Some(chunk)) => {
                    let done = self.execute(chunk);
                    self.running.push_back(done);
                }
                Poll::Ready(None) => self.chunks = None,
                Poll::Pending => return,
            }
        }
    }

    /// Ends reading. The stream ends with `why` after the answers to the chunks in flight.
    fn stop(&mut self, why: Status) {
        self.chunks = None;
        self.ending = Some(why);
    }

    /// Submits a chunk to the engine as the next chunk of the sequence. The engine executes no chunk after a chunk that
    /// was not executed, for this reason: a later chunk may need the money that the earlier chunk moves, and the ledger
    /// remembers a rejection for insufficient funds for ever.
    fn execute(&mut self, chunk: Chunk) -> BoxFuture<'static, ChunkDone> {
        let Chunk {
            mut transactions,
            mut reservation,
            broken,
        } = chunk;
        transactions.hold(reservation.split_off_beyond(CHUNK_BYTES));
        let Transactions { batch, places, .. } = transactions;
        let batch = Arc::new(batch);
        // The token may have been revoked after the chunk was read.
        let revoked = self.lifetime.revoked();
        if let Some(why) = &revoked {
            self.sequence.close();
            self.stop(why.clone());
        }
        let (engine, sequence, deadline) = (&self.engine, &mut self.sequence, self.deadline);
        let called =
            (!batch.is_empty()).then(|| engine.process_next(sequence, CallKind::Stream, &batch, deadline));
        // The engine's call runs in a separate task, because the stream is polled only while its client reads. Without
        // the task, the chunk of a client that stops reading would stay in flight, and the circuit would open for all
        // clients.
        let called = called.map(|called| {
            let (engine, batch) = (Arc::clone(engine), Arc::clone(&batch));
            let answered = answered(called, engine, batch, places.scope.clone(), deadline);
            AbortOnDropHandle::new(tokio::spawn(answered))
        });
        Box::pin(async move {
            let outcomes = match called {
                Some(task) => executed(task).await,
                None => Ok(Processed::default()),
            };
            ChunkDone {
                batch,
                places,
                reservation,
                outcomes,
                revoked,
                broken,
            }
        })
    }

    /// Returns the error that all transactions of a chunk get, or `None` if each transaction has its own result. Call
    /// this function for the chunks in their order.
    fn failed(&mut self, done: &mut ChunkDone) -> Option<Status> {
        match &done.outcomes {
            Err(error) if error.is_not_executed() => {
                let revoked = done.revoked.take();
                let why = || revoked.unwrap_or_else(|| status::engine(error));
                Some(self.interrupted.get_or_insert_with(why).clone())
            }
            // The outcome of the transactions is unknown, and each of them gets this error.
            Err(error) => Some(status::engine(error)),
            // The chunk has only invalid transactions. If an earlier chunk was not executed, they get its error.
            // Otherwise each of them gets its own error.
            Ok(_) if done.batch.is_empty() => self.interrupted.clone(),
            Ok(_) => None,
        }
    }

    /// Returns the answers to the next chunk, or `None` if no chunk is in flight.
    fn poll_answered(&mut self, context: &mut Context<'_>) -> Poll<Option<ChunkAnswer>> {
        loop {
            if let Some(answering) = &mut self.answering {
                let answered = ready!(answering.as_mut().poll(context));
                self.answering = None;
                return Poll::Ready(Some(answered));
            }
            let Some(mut done) = ready!(self.running.poll_next_unpin(context)) else {
                return Poll::Ready(None);
            };
            let failed = self.failed(&mut done);
            self.answering = Some(Box::pin(answer(done, failed)));
        }
    }

    /// Stops reading until the next poll, and reserves memory for what the HTTP/2 library buffers in the meantime. If
    /// the budget has too little memory, ends reading.
    fn park(&mut self) {
        if let Some(chunks) = &self.chunks
            && self.parked.is_none()
        {
            let limits = &chunks.inbound.limits;
            self.parked = limits.park();
            if self.parked.is_none() {
                let why = limits.memory_limit_reached();
                self.stop(why);
            }
        }
    }
}

impl Stream for StreamAnswers {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            self.poll_read(context);
            let Poll::Ready(answered) = self.poll_answered(context) else {
                if self.running.len() < CHUNKS_MAX {
                    self.parked = None;
                } else {
                    self.park();
                }
                return Poll::Pending;
            };
            let Some((bytes, broken)) = answered else {
                if self.chunks.is_some() {
                    self.parked = None;
                    return Poll::Pending;
                }
                return Poll::Ready(self.ending.take().map(Err));
            };
            if let Some(broken) = broken {
                self.stop(broken);
            }
            if !bytes.is_empty() {
                self.park();
                return Poll::Ready(Some(Ok(bytes)));
            }
        }
    }
}

/// Waits for the outcomes of a chunk, and reads the balances from the journal that the answers need. Later chunks are executed meanwhile.
async fn answered(
    called: impl Future<Output = ChunkOutcomes>,
    engine: Arc<TallyEngine>,
    batch: Arc<TransactionBatch>,
    scope: Scope,
    deadline: Option<Instant>,
) -> ChunkOutcomes {
    let mut processed = called.await?;
    leave_out_foreign(&mut processed, &scope);
    if has_past_balances(&processed) {
        Box::pin(engine.read_past_balances(&batch, &mut processed, deadline)).await?;
    }
    Ok(processed)
}

/// Waits for the task of a chunk. If this future is dropped while the chunk is queued, the chunk is not executed.
async fn executed(task: AbortOnDropHandle<ChunkOutcomes>) -> ChunkOutcomes {
    match task.await {
        Ok(outcomes) => outcomes,
        Err(error) => match error.try_into_panic() {
            // A panic of the task continues in the task of the stream.
            Ok(panic) => resume_unwind(panic),
            // A task is aborted only when its handle is dropped, or when the runtime ends. Here the handle still
            // exists.
            Err(error) => unreachable!("the task of a chunk was aborted before its stream ended: {error}"),
        },
    }
}

/// Writes the answers to a chunk.
async fn answer(done: ChunkDone, failed: Option<Status>) -> ChunkAnswer {
    let ChunkDone {
        batch,
        places,
        mut reservation,
        outcomes,
        broken,
        ..
    } = done;
    let none = Processed::default();
    let results = Results {
        places: &places,
        batch: &batch,
        // If the chunk failed, all its transactions get this error, including the invalid ones.
        processed: match &failed {
            None => Ok(outcomes.as_ref().unwrap_or(&none)),
            Some(status) => Err(status),
        },
    };
    let bytes = results.stream().await;
    drop((batch, outcomes, places));
    reservation.resize(CHUNK_BYTES + bytes.capacity());
    (reservation.until_sent(bytes, None), broken)
}

// ===== impl Chunks =====

impl Chunks {
    /// Returns an empty batch with room for `bytes` bytes.
    fn batch(&self, bytes: usize) -> TransactionBatch {
        let mut batch = self.engine.batch(bytes);
        batch.set_principal(self.inbound.principal());
        batch
    }

    /// Adds the next part of a message. Copies the message only if it arrives in several parts.
    fn add(&mut self, transactions: &mut Transactions, piece: &Piece) -> Result<(), Status> {
        if piece.to_come > 0 {
            gather(&mut self.carry, piece);
            return self.inbound.hold(self.carry.capacity());
        }
        if self.carry.is_empty() {
            return Ok(transactions.push(&piece.bytes)?);
        }
        gather(&mut self.carry, piece);
        let pushed = transactions.push(&self.carry);
        self.carry = Vec::new();
        self.inbound.release();
        Ok(pushed?)
    }

    /// Makes a chunk of the transactions. If the budget has too little memory for them and their answers, ends reading,
    /// and makes an empty chunk with the error.
    fn chunk(&mut self, transactions: Transactions, broken: Option<Status>) -> Chunk {
        let limits = &self.inbound.limits;
        if let Some(reservation) = limits.memory.reserve(CHUNK_BYTES + transactions.held_bytes()) {
            return Chunk {
                transactions,
                reservation,
                broken,
            };
        }
        let chunk = Chunk {
            transactions: Transactions::new(self.batch(0), wire::stream_message, self.inbound.scope()),
            reservation: limits.memory.reserve_beyond_limit(CHUNK_BYTES),
            broken: Some(limits.memory_limit_reached()),
        };
        self.inbound.stop();
        chunk
    }

    /// Returns a chunk of the messages that have arrived; `None` after reading has ended.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Chunk>> {
        let first = match ready!(self.inbound.poll_piece(context)) {
            Ok(None) => return Poll::Ready(None),
            first => first,
        };
        // Transactions take less memory in the batch than on the wire, so this capacity suffices for the messages that
        // have arrived.
        let batch = self.batch(self.inbound.arrived());
        let mut transactions = Transactions::new(batch, wire::stream_message, self.inbound.scope());
        let mut broken = None;
        let mut next = Poll::Ready(first);
        loop {
            let taken = match next {
                Poll::Pending if transactions.places.count > 0 => break,
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(Some(piece))) => self.add(&mut transactions, &piece),
                Poll::Ready(Ok(None)) => break,
                Poll::Ready(Err(status)) => Err(status),
            };
            if let Err(status) = taken {
                self.inbound.stop();
                broken = Some(status);
                break;
            }
            if transactions.places.count >= CHUNK_MESSAGES_MAX || transactions.held_bytes() >= CHUNK_BYTES_MAX
            {
                break;
            }
            next = self.inbound.poll_piece(context);
        }
        self.inbound.restart_receive_timeout();
        Poll::Ready(Some(self.chunk(transactions, broken)))
    }
}
