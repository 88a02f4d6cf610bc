//! A batch processor: many callers, one executor thread, and a bounded lock-free queue between them.
//!
//! A caller submits a request and awaits a [`ResponseFuture`]. The executor takes everything that is queued as one batch,
//! executes it, and answers all callers. No timer delays a single request: an idle executor is woken at once. Under load,
//! batches form by themselves from the requests that arrive while the previous batch is being executed (natural batching, as
//! in a database's group commit).
//!
//! There are two ways to use it.
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
//! **With an executor of your own.** [`batch()`] returns the callers' side and an [`Intake`]. Your executor takes batches from the
//! intake ([`Intake::take`]) and answers them when their results are durable ([`Answerer::answer_all`]), possibly from a
//! third thread. When several callers are known to be on their way ([`Caller::calling`]), a batch may wait for them, for half a
//! commit at most.
//!
//! ```text
//! callers ──submit──▶ queue ──take──▶ executor ──▶ committer ──answer──▶ reply slots ──▶ callers
//! ```
//!
//! # Guarantees
//!
//! - A request is answered by the executor, or its caller gets a [`BatchError`] that says whether the request was **not executed** or its
//!   outcome is **unknown** ([`BatchError::is_not_executed`]). No reply is lost silently, not even by a panic.
//! - A request whose caller has left, or whose deadline has passed, while it was queued is never executed. Neither is a
//!   request whose deadline would pass before its commit ends.
//! - The queue holds at most [`BatchConfig::queue_requests_max`] requests and, together with the few thousand requests
//!   that may be held back for fairness, at most [`BatchConfig::queue_bytes_max`] bytes.
//! - A client has no more than its share of a batch while requests of other clients wait. The requests of one client stay in
//!   their order.
//! - Once a request of a [`Sequence`] was not executed, no later request of the sequence is.
//! - Once as many reply slots exist as requests are in flight, a request needs no allocation.
//! - After [`BatchProcessor::close`], queued requests are still executed, and new ones are refused.

mod backlog;
mod caller;
mod config;
pub mod distribution;
mod error;
mod future;
mod intake;
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
    config::{BatchConfig, BatchConfigError},
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
