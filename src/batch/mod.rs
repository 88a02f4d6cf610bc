//! The batch processor: many callers, one executor, one bounded lock-free ring between them.
//!
//! A caller puts a request into the ring and awaits a [`ResponseFuture`]. The executor, a thread of its own that knows
//! no async, takes everything that waits ([`Intake::take`]), does it, and answers when the result is durable
//! ([`Answerer::answer_all`]), perhaps from yet another thread. There is no timer on the way of a lone request: an
//! idle executor is woken at once, and batches form by themselves from what arrives while the one before is being
//! committed (natural batching, as in group commit).
//!
//! ```text
//! callers ──submit──▶ door ▶ ring ──take──▶ executor ──▶ committer ──answer──▶ reply slots ──▶ callers
//! ```
//!
//! What it promises:
//!
//! - a request is either answered by the executor, or its caller learns whether it was **not executed** or its outcome
//!   is **unknown** ([`BatchError::is_not_executed`]); no reply is dropped silently, not even by a panic;
//! - a request whose caller has left, or whose deadline has passed, while it was queued is never executed;
//! - the ring holds at most [`BatchConfig::queue_requests_max`] requests and [`BatchConfig::queue_bytes_max`] bytes;
//! - after [`BatchProcessor::close`], everything in the ring is still taken, and nothing else comes in.
//!
//! It knows nothing of ledgers, journals or gRPC.

mod courier;
mod error;
mod future;
mod intake;
mod ring;
mod slot;
mod stats;
mod sync;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

pub use courier::COURIERS_MAX;
use courier::Couriers;
use crossbeam_utils::sync::{Parker, Unparker};
pub use error::BatchError;
pub use future::ResponseFuture;
use intake::Queued;
pub use intake::{Answerer, Claimed, Intake, Reply};
use ring::{Refused, Ring};
use stats::Counters;
pub use stats::{BatchStats, Distributions, FlushReason};
use thiserror::Error;
use tokio::time::Instant;
use tower_service::Service;

/// What the processor has to know of a request.
pub trait BatchItem {
    /// How many items it counts for; always the same for the same request.
    fn items(&self) -> usize;
    /// How many bytes of memory it holds, about; always the same for the same request.
    fn bytes(&self) -> usize;
}

/// The bounds of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchConfig {
    /// Most requests that wait, 2 to 2^20.
    pub queue_requests_max: usize,
    /// Most bytes that wait, at least 1 MiB. One request may exceed it if it is alone.
    pub queue_bytes_max: usize,
}

/// A bound of [`BatchConfig`] that is not within its own bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("batch.{field} = {value}: must be {minimum} to {maximum}")]
pub struct BatchConfigError {
    /// Which.
    pub field: &'static str,
    /// What it was set to.
    pub value: usize,
    /// The smallest allowed.
    pub minimum: usize,
    /// The largest allowed.
    pub maximum: usize,
}

/// A request with the time by which its caller wants to know.
#[derive(Debug)]
pub struct Submission<T> {
    /// What is to be done.
    pub item: T,
    /// After this time the caller no longer waits.
    pub deadline: Option<Instant>,
}

/// What the executor answered, and how long it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<R> {
    /// The answer.
    pub value: R,
    /// How long it took.
    pub timing: Timing,
}

/// Where a request spent its time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// From entering the ring to being claimed.
    pub queue_wait: Duration,
    /// From being claimed to being answered.
    pub commit: Duration,
}

/// A request of so many items is worth the executor's while, however few requests wait.
const HEAVY_ITEMS: usize = 256;

/// What a reply slot carries.
type Slot<R> = Result<Answer<R>, BatchError>;

/// The callers' side: clone it for every caller. A tower [`Service`] that is always ready and decides in `call`, so
/// that a caller that never calls reserves nothing.
pub struct BatchProcessor<T, R> {
    shared: Arc<Shared<T, R>>,
}

/// Wakes the executor.
#[derive(Debug, Clone)]
pub struct Notifier(Unparker);

struct Shared<T, R> {
    ring: Ring<Queued<T, R>>,
    queue_bytes_max: usize,
    /// Bytes in the ring: added by callers before they push, taken off by the executor.
    queue_bytes: AtomicUsize,
    /// Items in the ring, for the drain-time hint.
    queue_items: AtomicUsize,
    unparker: Unparker,
    counters: Arc<Counters>,
    couriers: Arc<Couriers>,
}

/// The callers' side and the executor's side.
pub type Sides<T, R> = (BatchProcessor<T, R>, Intake<T, R>);

/// Makes the two sides.
///
/// # Errors
/// [`BatchConfigError`] if a bound is out of bounds.
pub fn batch<T: BatchItem, R>(config: &BatchConfig) -> Result<Sides<T, R>, BatchConfigError> {
    config.validate()?;
    let parker = Parker::new();
    let shared = Arc::new(Shared {
        ring: Ring::new(config.queue_requests_max),
        queue_bytes_max: config.queue_bytes_max,
        queue_bytes: AtomicUsize::new(0),
        queue_items: AtomicUsize::new(0),
        unparker: parker.unparker().clone(),
        counters: Arc::new(Counters::default()),
        couriers: Arc::new(Couriers::new()),
    });
    Ok((
        BatchProcessor {
            shared: Arc::clone(&shared),
        },
        Intake::new(shared, parker),
    ))
}

// ===== impl BatchConfig =====

impl BatchConfig {
    /// Checks the bounds.
    ///
    /// # Errors
    /// The first bound that is out of bounds.
    pub fn validate(&self) -> Result<(), BatchConfigError> {
        let check = |field, value, minimum, maximum| {
            if (minimum..=maximum).contains(&value) {
                Ok(())
            } else {
                Err(BatchConfigError {
                    field,
                    value,
                    minimum,
                    maximum,
                })
            }
        };
        check("queue_requests_max", self.queue_requests_max, 2, 1 << 20)?;
        check("queue_bytes_max", self.queue_bytes_max, 1 << 20, 1 << 40)
    }
}

impl Default for BatchConfig {
    fn default() -> Self {
        BatchConfig {
            queue_requests_max: 16 * 1024,
            queue_bytes_max: 256 << 20,
        }
    }
}

// ===== impl BatchProcessor =====

impl<T: BatchItem, R> BatchProcessor<T, R> {
    /// Puts a request into the ring.
    ///
    /// # Panics
    /// If there is a deadline and no tokio runtime with a timer around the call.
    pub fn submit(&self, submission: Submission<T>) -> ResponseFuture<R> {
        let counters = Arc::clone(&self.shared.counters);
        let Submission { item, deadline } = submission;
        let queued_at = Instant::now();
        if deadline.is_some_and(|deadline| queued_at >= deadline) {
            counters.expired();
            return ResponseFuture::refused(BatchError::ExpiredInQueue, counters);
        }
        let (responder, receiver) = slot::slot();
        match self.shared.push(Queued {
            courier: self.shared.couriers.here(),
            item,
            responder,
            queued_at,
            deadline,
        }) {
            Ok(()) => ResponseFuture::waiting(receiver, deadline, counters),
            Err(error) => ResponseFuture::refused(error, counters),
        }
    }

    /// Lets no request in any more. What is in the ring is still taken.
    pub fn close(&self) {
        self.shared.ring.close();
        self.shared.unparker.unpark();
    }

    /// Whether no request is let in any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.ring.is_closed()
    }

    /// Carries the wake-ups of the callers on the calling thread, all of a batch at once, for as long as it is polled
    /// there: to be spawned once on each single-threaded runtime, with a number of its own below [`COURIERS_MAX`]. Without
    /// it every caller is woken by itself.
    pub async fn courier(self, index: usize) {
        self.shared
            .couriers
            .carry(index, || self.shared.unparker.unpark())
            .await;
    }

    /// What wakes the executor.
    #[must_use]
    pub fn notifier(&self) -> Notifier {
        Notifier(self.shared.unparker.clone())
    }

    /// Sizes and times, value by value.
    #[must_use]
    pub fn distributions(&self) -> &Distributions {
        &self.shared.counters.distributions
    }

    /// What has been counted so far.
    #[must_use]
    pub fn stats(&self) -> BatchStats {
        self.shared
            .counters
            .read(self.shared.ring.len(), self.shared.ring.capacity())
    }
}

impl<T: BatchItem, R> Service<Submission<T>> for BatchProcessor<T, R> {
    type Response = Answer<R>;
    type Error = BatchError;
    type Future = ResponseFuture<R>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, submission: Submission<T>) -> Self::Future {
        self.submit(submission)
    }
}

impl<T, R> Clone for BatchProcessor<T, R> {
    fn clone(&self) -> Self {
        BatchProcessor {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<T, R> fmt::Debug for BatchProcessor<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchProcessor")
            .field("shared", &self.shared)
            .finish()
    }
}

// ===== impl Notifier =====

impl Notifier {
    /// Wakes the executor, or keeps it from going to sleep the next time.
    pub fn notify(&self) {
        self.0.unpark();
    }
}

// ===== impl Shared =====

impl<T: BatchItem, R> Shared<T, R> {
    fn push(&self, queued: Queued<T, R>) -> Result<(), BatchError> {
        let (bytes, items) = (queued.item.bytes(), queued.item.items());
        let before = self.queue_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.queue_items.fetch_add(items, Ordering::Relaxed);
        let pushed = if before > 0 && before.saturating_add(bytes) > self.queue_bytes_max {
            Err(Refused::Full(queued))
        } else {
            self.ring.push(queued)
        };
        match pushed {
            Ok(wake) => {
                let wake = wake || items >= HEAVY_ITEMS;
                if wake && !self.couriers.send() {
                    self.unparker.unpark();
                }
                Ok(())
            }
            Err(refused) => {
                let (Refused::Full(queued) | Refused::Closed(queued)) = &refused;
                self.left_queue(&queued.item);
                if self.ring.is_closed() {
                    self.unparker.unpark();
                }
                Err(self.refusal(&refused))
            }
        }
    }

    fn refusal(&self, refused: &Refused<Queued<T, R>>) -> BatchError {
        match refused {
            Refused::Closed(_) => BatchError::Closed,
            Refused::Full(_) => {
                self.counters.full();
                let items = self.queue_items.load(Ordering::Relaxed);
                BatchError::Full {
                    retry_after: self.counters.drain_time(items),
                }
            }
        }
    }

    fn left_queue(&self, item: &T) {
        self.queue_bytes.fetch_sub(item.bytes(), Ordering::Relaxed);
        self.queue_items.fetch_sub(item.items(), Ordering::Relaxed);
    }
}

impl<T, R> fmt::Debug for Shared<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("ring", &self.ring)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
