//! The answers of a `StreamTransactions`.

use std::{
    panic::resume_unwind,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, future::BoxFuture, stream::FuturesOrdered};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::{
    collect::{Form, Places, Transactions},
    encode::Results,
};
use crate::{
    batch::Sequence,
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

/// The outcomes of a chunk.
type Executed = Result<Outcomes, EngineError>;

/// Messages of a stream that are put together into one command, if so many have arrived.
const CHUNK_MESSAGES_MAX: usize = 512;
/// A chunk that holds so many bytes gets no more messages.
const CHUNK_BYTES_MAX: usize = 512 << 10;
/// What a chunk costs in any case.
const CHUNK_BYTES: usize = 1 << 10;
/// Chunks of a stream that may be under way; behind them, HTTP/2 flow control holds the client back.
const CHUNKS_MAX: usize = 8;

/// The answers to a stream's messages, in their order.
pub(crate) struct StreamAnswers {
    engine: Arc<TallyEngine>,
    /// `None` once nothing more is read.
    chunks: Option<Chunks>,
    deadline: Option<Instant>,
    /// What has been read is executed in this order, and nothing behind what was not executed.
    sequence: Sequence,
    lifetime: Lifetime,
    /// Ready when nothing more may be read.
    over: BoxFuture<'static, Status>,
    /// At most [`CHUNKS_MAX`].
    running: FuturesOrdered<BoxFuture<'static, ChunkDone>>,
    /// The answers to the first of those that are done, which are being written.
    answering: Option<BoxFuture<'static, Answered>>,
    /// Why the first chunk was not executed that was not: those behind it are refused for the same reason.
    interrupted: Option<Status>,
    /// Why nothing more is read, if it was not the client who ended the stream. It is told behind the answers of what runs.
    ending: Option<Status>,
    /// Held while nothing is read.
    parked: Option<Parked>,
}

/// Messages of a stream that have arrived together.
struct Chunk {
    transactions: Transactions,
    reservation: Reservation,
    /// Why nothing comes behind them, if it was not the client who ended the stream.
    broken: Option<Status>,
}

/// What became of them.
struct ChunkDone {
    batch: Arc<TransactionBatch>,
    places: Places,
    reservation: Reservation,
    outcomes: Executed,
    /// Why they were not let in, if the caller's token no longer allows it.
    revoked: Option<Status>,
    broken: Option<Status>,
}

/// The answers to a chunk.
struct Answered {
    bytes: Vec<u8>,
    reservation: Reservation,
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

// ===== impl StreamAnswers =====

impl StreamAnswers {
    /// Of the stream with the messages of `inbound`. When `lifetime` is over, what was read is answered; then it ends, and says
    /// why if it was not the client who ended it. To be called while the stream's call is polled: that is how the engine knows
    /// whose messages they are.
    pub(crate) fn new(
        engine: Arc<TallyEngine>,
        inbound: Inbound,
        deadline: Option<Instant>,
        lifetime: Lifetime,
    ) -> Self {
        StreamAnswers {
            chunks: Some(Chunks {
                inbound,
                engine: Arc::clone(&engine),
                carry: Vec::new(),
                ended: false,
            }),
            deadline,
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

    /// Begins to execute what has arrived, as far as chunks may be under way.
    fn poll_read(&mut self, context: &mut Context<'_>) {
        while self.running.len() < CHUNKS_MAX {
            let Some(chunks) = &mut self.chunks else { return };
            if let Poll::Ready(why) = self.over.as_mut().poll(context) {
                // Kept as it is: when the answers have been sent, a token that was taken back may be valid again.
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

    /// Nothing more is read, and when what runs has been answered, the stream ends with `why`.
    fn stop(&mut self, why: Status) {
        self.chunks = None;
        self.ending = Some(why);
    }

    /// Has executed what the stream has brought. It is on its way when this returns, so that the chunks are executed in their
    /// order; and as the next of the sequence, so that none is executed once one before it was not: it may need what that one
    /// was to book, and a refusal for want of funds would be remembered under its id for ever.
    fn execute(&mut self, chunk: Chunk) -> BoxFuture<'static, ChunkDone> {
        let Chunk {
            transactions: Transactions { mut batch, places },
            mut reservation,
            broken,
        } = chunk;
        batch.pay(Box::new(reservation.split_off_beyond(CHUNK_BYTES)));
        let batch = Arc::new(batch);
        // They were read before the token was revoked.
        let revoked = self.lifetime.revoked();
        if let Some(why) = &revoked {
            self.sequence.close();
            self.stop(why.clone());
        }
        let (engine, sequence, deadline) = (&self.engine, &mut self.sequence, self.deadline);
        let called =
            (!batch.is_empty()).then(|| engine.process_next(sequence, CallKind::Stream, &batch, deadline));
        // In a task of its own, which ends when the chunk is answered. This stream is polled only while its client reads, and
        // one who stops would leave the chunk under way for its circuit, which would open for everybody.
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

    /// Why all of a chunk are refused, if they are. To be called for the chunks in their order.
    fn failed(&mut self, done: &mut ChunkDone) -> Option<Status> {
        match &done.outcomes {
            Err(error) if error.is_not_executed() => {
                let revoked = done.revoked.take();
                let why = || revoked.unwrap_or_else(|| status::engine(error));
                Some(self.interrupted.get_or_insert_with(why).clone())
            }
            // Of those, something may have been executed, and each says so.
            Err(error) => Some(status::engine(error)),
            // Nothing in it could be read, and nothing behind the hole is looked at.
            Ok(_) if done.batch.is_empty() => self.interrupted.clone(),
            Ok(_) => None,
        }
    }

    /// The answers to the next chunk; `None` when nothing is under way.
    fn poll_answered(&mut self, context: &mut Context<'_>) -> Poll<Option<Answered>> {
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

    /// Nothing is read until this is polled again. What arrives meanwhile waits in the HTTP/2 library; if there is no memory
    /// for that, nothing more is read at all.
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
            let Some(Answered {
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

/// What became of a chunk's call. Dropping it before the task ends withdraws the chunk, if it is still queued.
async fn executed(task: AbortOnDropHandle<Executed>) -> Executed {
    match task.await {
        Ok(outcomes) => outcomes,
        Err(error) => match error.try_into_panic() {
            // As if it had been called here.
            Ok(panic) => resume_unwind(panic),
            // The task is stopped by dropping its handle, which is waited for here, or by the end of its thread's runtime.
            Err(error) => unreachable!("a chunk's task was stopped while its stream was answered: {error}"),
        },
    }
}

/// Writes the answers to a chunk; a message that could not be read ends the stream after the others' answers.
async fn answer(done: ChunkDone, failed: Option<Status>) -> Answered {
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
        // Each of them gets the answer that it would have got by itself.
        outcomes: match &failed {
            None => Ok(outcomes.as_deref().unwrap_or_default()),
            Some(status) => Err(status),
        },
    };
    let bytes = results.stream().await;
    drop((batch, outcomes, places));
    reservation.resize(CHUNK_BYTES + bytes.capacity());
    Answered {
        bytes,
        reservation,
        broken,
    }
}

// ===== impl Chunks =====

impl Chunks {
    /// Whether everything has been read that the client had to send.
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
            return transactions.push(&piece.bytes).map_err(status::malformed_message);
        }
        gather(&mut self.carry, piece);
        let pushed = transactions.push(&self.carry).map_err(status::malformed_message);
        self.carry = Vec::new();
        self.inbound.release();
        pushed
    }

    /// A chunk of what has arrived, if there is memory for it and its answers.
    fn chunk(&mut self, transactions: Transactions, broken: Option<Status>) -> Chunk {
        let limits = self.inbound.limits();
        if let Some(reservation) = limits.memory().reserve(CHUNK_BYTES + transactions.held_bytes()) {
            return Chunk {
                transactions,
                reservation,
                broken,
            };
        }
        // Nothing of it is executed, and nothing behind it.
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
        // What has arrived takes less room in the batch than on the wire.
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
