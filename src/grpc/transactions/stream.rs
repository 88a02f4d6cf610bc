//! `StreamTransactions`: reads messages in chunks, executes the chunks in order, and writes their answers in order.

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
    collect::{Form, Places, Transactions},
    encode::Results,
};
use crate::{
    engine::{CallKind, EngineError, Outcomes, TallyEngine, TransactionBatch},
    grpc::{
        status,
        transport::{
            budget::Reservation,
            connection_limits::Parked,
            framing::{Inbound, Piece, gather},
            lifetime::Lifetime,
        },
    },
};

/// The outcomes of the transactions of a chunk, or the error of the chunk.
type ChunkOutcomes = Result<Outcomes, EngineError>;

/// Most messages in a chunk.
const CHUNK_MESSAGES_MAX: usize = 512;
/// A chunk that holds this many bytes gets no more messages.
const CHUNK_BYTES_MAX: usize = 512 << 10;
/// Memory that is reserved for every chunk.
const CHUNK_BYTES: usize = 1 << 10;
/// Most chunks of a stream in flight. Then the stream is not read, and HTTP/2 flow control stops the client.
const CHUNKS_MAX: usize = 8;

/// The answers to a stream's messages, in their order.
pub(crate) struct StreamAnswers {
    engine: Arc<TallyEngine>,
    /// `None` after reading has ended.
    chunks: Option<Chunks>,
    deadline: Option<Instant>,
    /// The engine executes the chunks of a sequence in order, and no chunk after a chunk that was not executed.
    sequence: Sequence,
    lifetime: Lifetime,
    /// Ready when reading must end, with the reason.
    over: BoxFuture<'static, Status>,
    /// At most [`CHUNKS_MAX`].
    running: FuturesOrdered<BoxFuture<'static, ChunkDone>>,
    /// Writes the answers to the first executed chunk.
    answering: Option<BoxFuture<'static, ChunkAnswer>>,
    /// The error of the first chunk that was not executed. The chunks after it are refused with the same error.
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
    /// The error after which the stream cannot be read on.
    broken: Option<Status>,
}

/// An executed chunk.
struct ChunkDone {
    batch: Arc<TransactionBatch>,
    places: Places,
    reservation: Reservation,
    outcomes: ChunkOutcomes,
    /// Set if the chunk was not executed because the caller's token no longer allows the call.
    revoked: Option<Status>,
    broken: Option<Status>,
}

/// The answers to a chunk.
struct ChunkAnswer {
    bytes: Vec<u8>,
    reservation: Reservation,
    broken: Option<Status>,
}

/// Reads the messages of a stream.
struct Chunks {
    inbound: Inbound,
    engine: Arc<TallyEngine>,
    /// The first bytes of a message whose rest has not arrived.
    carry: Vec<u8>,
    ended: bool,
}

// ===== impl StreamAnswers =====

impl StreamAnswers {
    /// Begins to answer the messages of `inbound`. When `lifetime` ends, the stream answers the messages that it has
    /// read, and ends with the reason. Call this while the stream's call is polled, because the engine finds the caller
    /// in that context.
    pub(crate) fn new(engine: Arc<TallyEngine>, inbound: Inbound, lifetime: Lifetime) -> Self {
        StreamAnswers {
            deadline: inbound.deadline(),
            chunks: Some(Chunks {
                inbound,
                engine: Arc::clone(&engine),
                carry: Vec::new(),
                ended: false,
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
                // The reason is kept, because a revoked token may be valid again when the answers have been sent.
                if chunks.is_complete() {
                    self.chunks = None;
                } else {
                    self.stop(why);
                }
                return;
            }
            match Pin::new(chunks).poll_next(context) {
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

    /// Submits a chunk to the engine as the next of the sequence. So the chunks are executed in order, and no chunk after a
    /// chunk that was not executed. A later chunk may need the money that an earlier one moves, and the ledger remembers a
    /// refusal for lack of funds for ever.
    fn execute(&mut self, chunk: Chunk) -> BoxFuture<'static, ChunkDone> {
        let Chunk {
            transactions: Transactions { mut batch, places },
            mut reservation,
            broken,
        } = chunk;
        batch.pay(Box::new(reservation.split_off_beyond(CHUNK_BYTES)));
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
        // The call runs in a separate task. The stream is polled only while its client reads. Without the task, the
        // chunk of a client that stops reading would stay in flight, and the circuit would open for all clients.
        let called = called.map(|called| AbortOnDropHandle::new(tokio::spawn(called)));
        Box::pin(async move {
            let outcomes = match called {
                Some(task) => executed(task).await,
                None => Ok(Outcomes::new()),
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

    /// Returns the error that all transactions of a chunk get, if any. Call this for the chunks in their order.
    fn failed(&mut self, done: &mut ChunkDone) -> Option<Status> {
        match &done.outcomes {
            Err(error) if error.is_not_executed() => {
                let revoked = done.revoked.take();
                let why = || revoked.unwrap_or_else(|| status::engine(error));
                Some(self.interrupted.get_or_insert_with(why).clone())
            }
            // The outcome of the transactions is unknown, and each of them gets this error.
            Err(error) => Some(status::engine(error)),
            // The chunk has only invalid transactions. After a chunk that was not executed, they get its error.
            Ok(_) if done.batch.is_empty() => self.interrupted.clone(),
            Ok(_) => None,
        }
    }

    /// Returns the answers to the next chunk; `None` without chunks in flight.
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

    /// Stops reading until the next poll. The HTTP/2 library buffers what arrives in the meantime. Without memory for
    /// that buffer, reading ends.
    fn park(&mut self) {
        if let Some(chunks) = &self.chunks
            && self.parked.is_none()
        {
            let limits = chunks.inbound.limits();
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
            let Some(ChunkAnswer {
                bytes,
                reservation,
                broken,
            }) = answered
            else {
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
                return Poll::Ready(Some(Ok(reservation.until_sent(bytes, None))));
            }
        }
    }
}

/// Waits for the task of a chunk. Dropping the future withdraws the chunk if it is still queued.
async fn executed(task: AbortOnDropHandle<ChunkOutcomes>) -> ChunkOutcomes {
    match task.await {
        Ok(outcomes) => outcomes,
        Err(error) => match error.try_into_panic() {
            // A panic of the task goes on here.
            Ok(panic) => resume_unwind(panic),
            // A task is aborted only when its handle is dropped, and the handle is awaited here, or when the runtime
            // ends.
            Err(error) => unreachable!("a chunk's task was stopped while its stream was answered: {error}"),
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
    let results = Results {
        places: &places,
        batch: &batch,
        // Every transaction gets the answer that it would get alone.
        outcomes: match &failed {
            None => Ok(outcomes.as_deref().unwrap_or_default()),
            Some(status) => Err(status),
        },
    };
    let bytes = results.stream().await;
    drop((batch, outcomes, places));
    reservation.resize(CHUNK_BYTES + bytes.capacity());
    ChunkAnswer {
        bytes,
        reservation,
        broken,
    }
}

// ===== impl Chunks =====

impl Chunks {
    /// Returns whether the client has ended the stream, and everything has been read.
    fn is_complete(&self) -> bool {
        self.ended || self.inbound.is_complete()
    }

    /// Adds the next part of a message.
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

    /// Makes a chunk of the transactions, if the budget has memory for them and their answers.
    fn chunk(&mut self, transactions: Transactions, broken: Option<Status>) -> Chunk {
        let limits = self.inbound.limits();
        if let Some(reservation) = limits.memory().reserve(CHUNK_BYTES + transactions.held_bytes()) {
            return Chunk {
                transactions,
                reservation,
                broken,
            };
        }
        // Nothing of the chunk and nothing after it is executed.
        self.ended = true;
        Chunk {
            transactions: Transactions::new(self.engine.batch(0), Form::Message),
            reservation: limits.memory().reserve_beyond_limit(CHUNK_BYTES),
            broken: Some(limits.memory_limit_reached()),
        }
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
        // Transactions take less memory in the batch than on the wire.
        let mut transactions = Transactions::new(self.engine.batch(self.inbound.arrived()), Form::Message);
        let mut broken = None;
        let mut next = Poll::Ready(first);
        loop {
            let taken = match next {
                Poll::Pending if transactions.count() > 0 => break,
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
            if transactions.count() >= CHUNK_MESSAGES_MAX || transactions.held_bytes() >= CHUNK_BYTES_MAX {
                break;
            }
            next = self.inbound.poll_piece(context);
        }
        self.inbound.restart_receive_timeout();
        Poll::Ready(Some(self.chunk(transactions, broken)))
    }
}
