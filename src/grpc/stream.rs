//! The answers of a `StreamTransactions`.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, future::BoxFuture, stream::FuturesOrdered};
use tokio::time::Instant;
use tonic::Status;

use super::{
    answers::Results,
    budget::Charge,
    framing::{Inbound, Piece, gather, malformed},
    lifetime::Lifetime,
    patience::Parked,
    requests::{Form, Transactions},
    status,
    transactions::execute,
};
use crate::engine::{Guard, Outcomes, TallyEngine, TransactionBatch};

/// Messages of a stream that are put together into one command, if so many have arrived.
const CHUNK_MESSAGES_MAX: usize = 512;
/// A chunk that holds so many bytes gets no more messages.
const CHUNK_BYTES_MAX: usize = 512 << 10;
/// What a chunk costs in any case.
const CHUNK_BYTES: usize = 1 << 10;
/// Chunks of a stream that may be under way; behind them, HTTP/2 flow control holds the client back.
const CHUNKS_MAX: usize = 8;

/// The answers to a stream's messages, in their order.
pub(super) struct StreamAnswers {
    /// `None` once nothing more is read.
    chunks: Option<Chunks>,
    /// At most [`CHUNKS_MAX`].
    running: FuturesOrdered<BoxFuture<'static, Answered>>,
    /// Why the stream ends, if it was not the client who ended it, behind the answers of what runs.
    ending: Option<Status>,
    terms: Arc<Terms>,
    /// Ready when nothing more may be read.
    over: BoxFuture<'static, Status>,
    /// Held while nothing is read.
    parked: Option<Parked>,
}

/// What all chunks of a stream have in common.
struct Terms {
    engine: Arc<TallyEngine>,
    deadline: Option<Instant>,
    /// Whose stream it is: its chunks are submitted when the call itself is over.
    client: u64,
    /// Nothing is let in any more when the caller's token was revoked.
    lifetime: Lifetime,
    /// Why a chunk was not let in. Chunks are let in one after the other, and those behind it must not be: they may need
    /// what it was to book, and a refusal for want of funds would be remembered under their ids for ever.
    interrupted: OnceLock<Status>,
}

/// Messages of a stream that have arrived together.
struct Chunk {
    transactions: Transactions,
    charge: Charge,
    /// Why nothing comes behind them, if it was not the client who ended the stream.
    broken: Option<Status>,
}

/// The answers to a chunk.
struct Answered {
    bytes: Vec<u8>,
    charge: Charge,
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
    /// why if it was not the client who ended it.
    pub(super) fn new(
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
            running: FuturesOrdered::new(),
            ending: None,
            terms: Arc::new(Terms {
                deadline,
                client: engine.client_here(),
                engine,
                lifetime: lifetime.clone(),
                interrupted: OnceLock::new(),
            }),
            over: Box::pin(lifetime.ended()),
            parked: None,
        }
    }

    /// Begins to execute what has arrived, as far as chunks may be under way.
    fn poll_read(&mut self, context: &mut Context<'_>) {
        while self.running.len() < CHUNKS_MAX {
            let Some(chunks) = &mut self.chunks else { return };
            let chunk = match self.over.as_mut().poll(context) {
                Poll::Ready(_) => Poll::Ready(None),
                Poll::Pending => Pin::new(chunks).poll_next(context),
            };
            match chunk {
                Poll::Ready(Some(chunk)) => {
                    self.running
                        .push_back(Box::pin(answer(chunk, Arc::clone(&self.terms))));
                }
                Poll::Ready(None) => self.chunks = None,
                Poll::Pending => return,
            }
        }
    }

    /// Nothing is read until this is polled again. What arrives meanwhile waits in the HTTP/2 library; if there is no memory
    /// for that, nothing more is read at all.
    fn park(&mut self) {
        if let Some(chunks) = &self.chunks
            && self.parked.is_none()
        {
            let reception = chunks.inbound.reception();
            self.parked = reception.park();
            if self.parked.is_none() {
                self.ending = Some(reception.no_memory());
                self.chunks = None;
            }
        }
    }
}

impl Stream for StreamAnswers {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            self.poll_read(context);
            if self.running.is_empty() {
                if self.chunks.is_some() {
                    self.parked = None;
                    return Poll::Pending;
                }
                let ending = self.ending.take().or_else(|| self.terms.lifetime.over());
                return Poll::Ready(ending.map(Err));
            }
            let Poll::Ready(answered) = self.running.poll_next_unpin(context) else {
                if self.running.len() < CHUNKS_MAX {
                    self.parked = None;
                } else {
                    self.park();
                }
                return Poll::Pending;
            };
            let Some(Answered {
                bytes,
                charge,
                broken,
            }) = answered
            else {
                continue;
            };
            if broken.is_some() {
                self.ending = broken;
                self.chunks = None;
            }
            if !bytes.is_empty() {
                self.park();
                return Poll::Ready(Some(Ok(charge.until_sent(bytes, None))));
            }
        }
    }
}

/// Processes what a stream has brought; a message that could not be read ends the stream after the others' answers.
async fn answer(chunk: Chunk, terms: Arc<Terms>) -> Answered {
    let Chunk {
        transactions: Transactions { mut batch, places },
        mut charge,
        broken,
    } = chunk;
    batch.pay(Box::new(charge.split_beyond(CHUNK_BYTES)));
    let batch = Arc::new(batch);
    let outcomes = execute_in_turn(&batch, &terms).await;
    let results = Results {
        places: &places,
        batch: &batch,
        // Each of them gets the answer that it would have got by itself.
        outcomes: outcomes.as_deref(),
    };
    let bytes = results.stream().await;
    drop((batch, outcomes, places));
    charge.set(CHUNK_BYTES + bytes.capacity());
    Answered {
        bytes,
        charge,
        broken,
    }
}

/// Executes a chunk of a stream, unless one before it was not let in.
async fn execute_in_turn(batch: &Arc<TransactionBatch>, terms: &Terms) -> Result<Outcomes, Status> {
    if let Some(status) = terms.interrupted.get() {
        return Err(status.clone());
    }
    // Chunks that were read before the token was revoked and not executed yet: they are told so.
    if let Some(status) = terms.lifetime.revoked() {
        let _first = terms.interrupted.set(status.clone());
        return Err(status);
    }
    let outcomes = execute(&terms.engine, Guard::Stream, batch, terms.deadline, terms.client).await;
    if let Err(status) = &outcomes
        && status::is_not_executed(status)
    {
        // Only the first one counts.
        let _first = terms.interrupted.set(status.clone());
    }
    outcomes
}

// ===== impl Chunks =====

impl Chunks {
    /// Adds the next part of a message.
    fn add(&mut self, transactions: &mut Transactions, piece: &Piece) -> Result<(), Status> {
        if piece.to_come > 0 {
            gather(&mut self.carry, piece);
            return self.inbound.hold(self.carry.capacity());
        }
        if self.carry.is_empty() {
            return transactions.push(&piece.bytes).map_err(malformed);
        }
        gather(&mut self.carry, piece);
        let pushed = transactions.push(&self.carry).map_err(malformed);
        self.carry = Vec::new();
        self.inbound.release();
        pushed
    }

    /// A chunk of what has arrived, if there is memory for it and its answers.
    fn chunk(&mut self, transactions: Transactions, broken: Option<Status>) -> Chunk {
        let reception = self.inbound.reception();
        if let Some(charge) = reception.purse().charge(CHUNK_BYTES + transactions.held_bytes()) {
            return Chunk {
                transactions,
                charge,
                broken,
            };
        }
        // Nothing of it is executed, and nothing behind it.
        self.ended = true;
        Chunk {
            transactions: Transactions::new(self.engine.batch(0), Form::Message),
            charge: reception.purse().charge_anyway(CHUNK_BYTES),
            broken: Some(reception.no_memory()),
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
        self.inbound.renew_patience();
        Poll::Ready(Some(self.chunk(transactions, broken)))
    }
}
