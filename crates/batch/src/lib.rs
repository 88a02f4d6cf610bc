//! A batch processor. It connects many callers to one executor thread through a bounded lock-free queue.
//!
//! A caller submits a request and awaits a [`ResponseFuture`]. The executor takes all queued requests as one batch,
//! executes the batch, and answers all callers. No timer delays a single request: an idle executor is woken at once.
//! Under load, requests that arrive while a batch is being executed form the next batch (natural batching, as in a
//! database's group commit).
//!
//! There are two ways to use the batch processor.
//!
//! **With a closure.** [`BatchProcessor::new`] starts a thread that calls a closure for each batch:
//!
//! ```
//! use std::time::Duration;
//!
//! use tally_batch::{BatchProcessor, Single, Submission};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (batch_size, timeout, max_latency) = (100, Duration::ZERO, Duration::from_millis(1));
//! let squares = BatchProcessor::new(batch_size, timeout, max_latency, |batch: Vec<Single<u64>>| {
//!     batch.into_iter().map(|Single(number)| number * number).collect()
//! })?;
//! let answer = squares.submit(Submission::new(Single(12), None)).await?;
//! assert_eq!(answer.value, 144);
//! # Ok(()) }
//! ```
//!
//! **With your own executor.** [`batch()`] returns the callers' side and an [`Intake`]. Your executor takes batches
//! from the intake ([`Intake::take`]). When the results of a batch are durable, your executor or a third thread answers
//! its requests ([`Answerer::answer_all`]). [`Caller::calling`] announces that a caller will submit a request soon. If
//! several callers are announced, a batch may wait for their requests, for at most half the average time of a commit.
//!
//! ```text
//! callers ──submit──▶ queue ──take──▶ executor ──▶ committer ──answer──▶ reply slots ──▶ callers
//! ```
//!
//! # Guarantees
//!
//! - The executor answers a request, or the request's caller gets a [`BatchError`] that says whether the request was
//!   **not executed** or its outcome is **unknown** ([`BatchError::is_not_executed`]). Even if the executor panics,
//!   every caller gets an error.
//! - If a queued request's caller drops its future or the request's deadline passes, the request is never executed. The
//!   same holds for a request whose deadline would pass before an average commit ends.
//! - The queue holds at most [`BatchConfig::queue_requests_max`] requests. In addition, up to 4,097 requests may be
//!   held back for fairness. All these requests together hold at most [`BatchConfig::queue_bytes_max`] bytes, except
//!   when a single larger request is queued alone.
//! - While requests of several clients wait, no client gets more than its share of a batch. The requests of one client
//!   are executed in the order of their submission.
//! - If a request of a [`Sequence`] is not executed, no later request of the sequence is executed.
//! - Reply slots are reused. In steady state, a request to an [`Intake`] allocates no memory.
//! - After [`BatchProcessor::close`], queued requests are still executed, and new requests are rejected.

mod backlog;
mod caller;
mod config;
pub mod distribution;
mod error;
mod future;
mod intake;
#[cfg(not(feature = "mutations"))]
mod mutation;
#[cfg(feature = "mutations")]
pub mod mutation;
mod pace;
mod pool;
mod processor;
mod queue;
mod reply_pools;
mod ring;
mod sequence;
mod share;
mod slot;
mod stats;
mod submission;
mod sync;
#[cfg(test)]
mod tests;
mod thread;
mod wake_tasks;
mod waker_list;

pub use self::{
    caller::{Caller, Calling},
    config::{BatchConfig, BatchConfigError, BatchConfigValue},
    error::BatchError,
    future::ResponseFuture,
    intake::{Answerer, Claimed, Intake, Reply},
    processor::{BatchProcessor, Notifier, Sides, batch},
    ring::{LockFreeRingBuffer, PushError},
    sequence::{Sequence, Turn},
    stats::{BatchStats, Distributions, FlushReason},
    submission::{Answer, BatchItem, Submission, Timing},
    thread::{BatchThread, BatchThreadBuilder, Single, SpawnError},
    wake_tasks::WAKE_TASKS_MAX,
};
