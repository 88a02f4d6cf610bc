//! An unfinished checkpoint. The maintenance thread asks EXEC for the accounts and holds in chunks, and writes the chunks
//! to a file. No call waits: each step writes the chunks that have arrived.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tally_batch::{Answer, BatchError, BatchProcessor, ResponseFuture, Submission};
use tally_journal::{ChunkedFiles, JournalError};
use thiserror::Error;

use super::{
    command::{Command, CommandReply},
    fault::{EngineError, StoreFault},
    pending::EngineReply,
    pipeline::CommitPipeline,
};
use crate::store::embedded::{
    DurablePoint,
    checkpoint::{CheckpointWriter, ChunkStart},
};

/// Maximum number of chunks of a checkpoint in flight. A chunk contains a range of accounts or holds, and its answer waits until
/// a block is durable. With one chunk at a time, a checkpoint would have to wait for one block per chunk. With millions
/// of accounts, that would take minutes.
const CHUNKS_IN_FLIGHT_MAX: usize = 32;
/// The maintenance thread requests about one chunk per interval of this length: the number of chunks in flight is the
/// time that the last answer took, divided by this interval. At this rate, EXEC spends less than a tenth of its time on
/// chunks.
const CHUNK_INTERVAL: Duration = Duration::from_millis(1);

/// Why a checkpoint was not made.
#[derive(Debug, Error)]
pub(super) enum CheckpointError {
    #[error(transparent)]
    Store(#[from] JournalError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("EXEC returned a reply that does not belong to the command")]
    UnexpectedReply,
}

// ===== impl CheckpointError =====

impl CheckpointError {
    /// Returns whether the disk has no space for the checkpoint.
    pub(super) fn is_storage_full(&self) -> bool {
        matches!(self, CheckpointError::Store(JournalError::Disk(error)) if error.is_storage_full())
    }
}

/// An unfinished checkpoint.
#[derive(Debug)]
pub(super) struct Checkpointing {
    /// The point from which a start with this checkpoint replays blocks.
    start: DurablePoint,
    writer: CheckpointWriter,
    /// The start of the next chunk to ask for; `None` after the last possible one.
    next: Option<ChunkStart>,
    /// The chunks that EXEC was asked for, in order.
    in_flight: VecDeque<Chunk>,
    /// How many chunks should be in flight.
    wanted: usize,
}

/// A chunk that EXEC was asked for.
#[derive(Debug)]
struct Chunk {
    from: ChunkStart,
    answer: Pin<Box<ResponseFuture<EngineReply>>>,
}

/// The progress of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CheckpointStep {
    /// The next chunk has not arrived.
    Waiting,
    /// The queue was full. Ask again after a pause.
    QueueFull,
    /// Every account and every hold is in the file.
    Copied,
}

// ===== impl Checkpointing =====

impl Checkpointing {
    /// Begins a checkpoint. `start` is the end of the durable blocks.
    pub(super) fn begin(files: &ChunkedFiles, start: &DurablePoint) -> Result<Self, CheckpointError> {
        Ok(Checkpointing {
            start: *start,
            writer: CheckpointWriter::begin(files, start)?,
            next: Some(ChunkStart::FIRST),
            in_flight: VecDeque::with_capacity(CHUNKS_IN_FLIGHT_MAX),
            wanted: 1,
        })
    }

    /// Returns the point from which a start with this checkpoint replays blocks.
    pub(super) const fn start(&self) -> &DurablePoint {
        &self.start
    }

    /// Asks EXEC for chunks and writes the chunks that have arrived, at most [`CHUNKS_IN_FLIGHT_MAX`] of them. `waker`
    /// is called when the next chunk arrives.
    pub(super) fn step(
        &mut self,
        batch: &BatchProcessor<Command, EngineReply>,
        waker: &Waker,
    ) -> Result<CheckpointStep, CheckpointError> {
        for _ in 0..CHUNKS_IN_FLIGHT_MAX {
            self.ask(batch);
            let Some(chunk) = self.in_flight.front_mut() else {
                return Ok(CheckpointStep::Copied);
            };
            let Poll::Ready(answer) = chunk.answer.as_mut().poll(&mut Context::from_waker(waker)) else {
                return Ok(CheckpointStep::Waiting);
            };
            match answer {
                Ok(Answer { value, timing }) => {
                    self.wanted = chunks_for(timing.queue_wait + timing.commit);
                    let from = chunk.from;
                    self.in_flight.pop_front();
                    if self.write(from, value.into_result().map_err(EngineError::from)?)? {
                        return Ok(CheckpointStep::Copied);
                    }
                }
                // Without another attempt, a constant overload would prevent every checkpoint.
                Err(BatchError::Full { .. }) => {
                    chunk.answer = request(batch, chunk.from);
                    return Ok(CheckpointStep::QueueFull);
                }
                Err(error) => return Err(EngineError::from(error).into()),
            }
        }
        waker.wake_by_ref();
        Ok(CheckpointStep::Waiting)
    }

    /// Asks for chunks until the wanted number of chunks is in flight.
    fn ask(&mut self, batch: &BatchProcessor<Command, EngineReply>) {
        while self.in_flight.len() < self.wanted
            && let Some(from) = self.next
        {
            self.next = from.after_full_chunk();
            self.in_flight.push_back(Chunk {
                from,
                answer: request(batch, from),
            });
        }
    }

    /// Writes a chunk to the file. Returns whether it was the last chunk.
    fn write(&mut self, from: ChunkStart, reply: CommandReply) -> Result<bool, CheckpointError> {
        let CommandReply::CheckpointChunk { bytes, next } = reply else {
            return Err(CheckpointError::UnexpectedReply);
        };
        self.writer.chunk(&bytes)?;
        // No account came after this chunk when EXEC encoded it. The chunks after it that are in flight are dropped,
        // because EXEC encoded them later. If accounts were created in the meantime, these chunks could contain some of the new
        // accounts, while this chunk lacks older ones. The same holds for slots of holds.
        let expected = from.after_full_chunk();
        if next != expected {
            self.in_flight.clear();
            self.next = next;
        }
        Ok(next.is_none())
    }

    /// Gives the file its final name. Returns its length in bytes.
    pub(super) fn finish(self, pipeline: &CommitPipeline) -> Result<u64, CheckpointError> {
        // Answers come in order, so every block whose effects the accounts show is durable now, unless the log has
        // failed.
        let progress = pipeline.progress();
        if progress.failed {
            return Err(EngineError::Store(StoreFault::Failed).into());
        }
        let durable_through = progress.durable.chain().block_sequence.saturating_sub(1);
        Ok(self.writer.finish(durable_through)?)
    }
}

/// Requests the chunk that begins at `from` from EXEC.
fn request(
    batch: &BatchProcessor<Command, EngineReply>,
    from: ChunkStart,
) -> Pin<Box<ResponseFuture<EngineReply>>> {
    Box::pin(batch.submit(Submission::new(Command::CheckpointChunk(from), None)))
}

/// Returns how many chunks may be in flight if the last answer took `elapsed`.
fn chunks_for(elapsed: Duration) -> usize {
    let chunks = elapsed.as_nanos() / CHUNK_INTERVAL.as_nanos();
    usize::try_from(chunks)
        .unwrap_or(CHUNKS_IN_FLIGHT_MAX)
        .clamp(1, CHUNKS_IN_FLIGHT_MAX)
}
