//! The batch processor: many callers, one executor, one bounded lock-free ring between them.
//!
//! A caller puts a request into the ring and awaits a [`ResponseFuture`]. The executor, a thread of its own that knows
//! no async, takes everything that waits ([`Intake::take`]), does it, and answers when the result is durable
//! ([`Answerer::answer_all`]), perhaps from yet another thread. There is no timer on the way of a lone request: an
//! idle executor is woken at once, and batches form by themselves from what arrives while the one before is being
//! committed (natural batching, as in group commit). Only when more callers are known to be on their way
//! ([`Caller::calling`]) does a batch wait for them, for half a commit at most.
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
//! - a request whose deadline would pass before a commit is over is not begun;
//! - the ring holds at most [`BatchConfig::queue_requests_max`] requests; with the few thousand that may be held back for
//!   fairness, they have at most [`BatchConfig::queue_bytes_max`] bytes;
//! - no client has more than its share of a batch while another's requests wait, and each client's requests stay in their
//!   order;
//! - once a request of a [`Sequence`] was not executed, none behind it is;
//! - once as many reply slots have been made as are under way, a request costs no allocation;
//! - after [`BatchProcessor::close`], everything in the ring is still taken, and nothing else comes in.
//!
//! It knows nothing of ledgers, journals or gRPC.

mod backlog;
mod caller;
mod courier;
pub mod distribution;
mod error;
mod future;
mod intake;
mod letters;
mod pace;
mod pool;
mod ring;
mod sequence;
mod share;
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

pub use caller::{Caller, Calling};
use caller::{Callers, UNKNOWN};
pub use courier::COURIERS_MAX;
use courier::Couriers;
use crossbeam_utils::{
    CachePadded,
    sync::{Parker, Unparker},
};
pub use error::BatchError;
pub use future::ResponseFuture;
use intake::Queued;
pub use intake::{Answerer, Claimed, Intake, Reply};
use pool::Pool;
use ring::{Refused, Ring};
pub use sequence::{Sequence, Turn};
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

/// The bounds of the queue, and how batches are made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchConfig {
    /// Most requests that wait, 2 to 2^20.
    pub queue_requests_max: usize,
    /// Most bytes that wait, at least 1 MiB. One request may exceed it if it is alone.
    pub queue_bytes_max: usize,
    /// Longest that a batch waits for callers on their way, at most 1 s; half a commit is never exceeded. Zero: never.
    pub max_linger: Duration,
    /// Callers that must be on their way for that, 1 to 2^20.
    pub siblings: usize,
    /// Largest part of one client, in percent of the largest batch, while other clients wait, 1 to 100.
    pub client_share_percent: u8,
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
    /// Whose it is: [`Caller::client`]. 0 if that is not known; then it is the client's of the [`Caller::calling`] that
    /// is being polled, if any.
    pub client: u64,
    /// Its place, if it is part of a [`Sequence`].
    pub turn: Option<Turn>,
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

/// No batch has more bytes, nor more than half of what the queue may hold, but for a lone request.
const BATCH_BYTES_MAX: usize = 16 << 20;
/// Longest linger that can be set.
const LINGER_MAX: Duration = Duration::from_secs(1);
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

/// What callers need when their answers come.
struct Desk<R> {
    counters: Arc<Counters>,
    /// One for each courier, and one for the callers elsewhere.
    pools: Box<[CachePadded<Pool<Slot<R>>>]>,
    elsewhere: Pool<Slot<R>>,
}

struct Shared<T, R> {
    ring: Ring<Queued<T, R>>,
    queue_bytes_max: usize,
    max_linger: Duration,
    /// Requests that were taken out of the ring and held back for the next batch.
    held: AtomicUsize,
    /// Bytes in the ring: added by callers before they push, taken off by the executor.
    queue_bytes: AtomicUsize,
    /// Items in the ring, for the drain-time hint.
    queue_items: AtomicUsize,
    unparker: Unparker,
    counters: Arc<Counters>,
    couriers: Arc<Couriers>,
    callers: Arc<Callers>,
    desk: Arc<Desk<R>>,
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
    let counters = Arc::new(Counters::new());
    let shared = Arc::new(Shared {
        ring: Ring::new(config.queue_requests_max),
        queue_bytes_max: config.queue_bytes_max,
        max_linger: config.max_linger,
        held: AtomicUsize::new(0),
        queue_bytes: AtomicUsize::new(0),
        queue_items: AtomicUsize::new(0),
        unparker: parker.unparker().clone(),
        desk: Arc::new(Desk::new(Arc::clone(&counters))),
        counters,
        couriers: Arc::new(Couriers::new()),
        callers: Arc::default(),
    });
    Ok((
        BatchProcessor {
            shared: Arc::clone(&shared),
        },
        Intake::new(shared, parker, config),
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
        check("queue_bytes_max", self.queue_bytes_max, 1 << 20, 1 << 40)?;
        let micros = usize::try_from(self.max_linger.as_micros()).unwrap_or(usize::MAX);
        check("max_linger_us", micros, 0, LINGER_MAX.as_micros() as usize)?;
        check("siblings", self.siblings, 1, 1 << 20)?;
        check("client_share_percent", self.client_share_percent.into(), 1, 100)
    }
}

impl Default for BatchConfig {
    fn default() -> Self {
        BatchConfig {
            queue_requests_max: 16 * 1024,
            queue_bytes_max: 256 << 20,
            // Half a commit is what counts on most disks. It spares a fifth of the blocks when hundreds of callers wait, and
            // a lone caller never waits for others (docs/performance.md).
            max_linger: Duration::from_millis(2),
            siblings: 4,
            client_share_percent: 50,
        }
    }
}

// ===== impl Submission =====

impl<T> Submission<T> {
    /// A request of the client whose call is being polled, if that is known.
    #[must_use]
    pub const fn new(item: T, deadline: Option<Instant>) -> Self {
        Submission {
            item,
            deadline,
            client: UNKNOWN,
            turn: None,
        }
    }

    /// The same for a client that is known.
    #[must_use]
    pub fn of_client(self, client: u64) -> Self {
        Submission { client, ..self }
    }
}

// ===== impl Desk =====

impl<R> Desk<R> {
    fn new(counters: Arc<Counters>) -> Self {
        Desk {
            counters,
            pools: (0..COURIERS_MAX).map(|_| CachePadded::new(Pool::new())).collect(),
            elsewhere: Pool::new(),
        }
    }

    /// The slots of the callers on one thread.
    fn pool(&self, courier: Option<usize>) -> &Pool<Slot<R>> {
        courier
            .and_then(|index| self.pools.get(index))
            .map_or(&self.elsewhere, |pool| pool)
    }
}

// ===== impl BatchProcessor =====

impl<T: BatchItem, R> BatchProcessor<T, R> {
    /// Puts a request into the ring.
    ///
    /// # Panics
    /// If there is a deadline and no tokio runtime with a timer around the call.
    pub fn submit(&self, submission: Submission<T>) -> ResponseFuture<R> {
        let desk = Arc::clone(&self.shared.desk);
        let Submission {
            item,
            deadline,
            client,
            turn,
        } = submission;
        let arrived = self.shared.callers.arrived();
        let queued_at = Instant::now();
        if deadline.is_some_and(|deadline| queued_at >= deadline) {
            desk.counters.expired();
            return ResponseFuture::refused(BatchError::ExpiredInQueue, desk);
        }
        let courier = self.shared.couriers.here();
        let (responder, receiver) = desk.pool(courier).take();
        match self.shared.push(Queued {
            courier,
            // All of a sequence are the same client's.
            client: if client == UNKNOWN && turn.is_none() {
                arrived
            } else {
                client
            },
            item,
            responder,
            queued_at,
            deadline,
            turn,
        }) {
            Ok(()) => ResponseFuture::waiting(receiver, deadline, desk, courier),
            Err(error) => {
                desk.pool(courier).give_back(&receiver);
                ResponseFuture::refused(error, desk)
            }
        }
    }

    /// A new client, such as a connection: its calls are known to be on their way before they submit, and its requests
    /// share batches fairly with those of others.
    #[must_use]
    pub fn caller(&self) -> Caller {
        self.shared.callers.caller()
    }

    /// Requests of which none is executed once one before it was not. They are the requests of the client whose call the
    /// calling thread polls now, also when they are submitted after that call, as those of a stream are.
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        Sequence::new(self.shared.callers.here())
    }

    /// What waits now does not linger for others: the batch that it is taken into goes out as soon as the committer is
    /// idle.
    pub fn flush(&self) {
        self.shared.counters.flush();
        self.shared.unparker.unpark();
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
        let shared = &self.shared;
        let stats = shared
            .counters
            .read(shared.ring.len() + shared.held.load(Ordering::Relaxed));
        BatchStats {
            queue_capacity: shared.ring.capacity(),
            queue_bytes: shared.queue_bytes.load(Ordering::Relaxed),
            queue_bytes_capacity: shared.queue_bytes_max,
            linger: shared.max_linger.min(stats.commit_average / 2),
            ..stats
        }
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
        let (queued_at, urgent) = (queued.queued_at, self.is_urgent(&queued));
        let before = self.queue_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.queue_items.fetch_add(items, Ordering::Relaxed);
        let pushed = if before > 0 && before.saturating_add(bytes) > self.queue_bytes_max {
            Err(Refused::Full(queued))
        } else {
            self.ring.push(queued)
        };
        match pushed {
            Ok(wake) => {
                self.counters.queued(queued_at);
                let wake = wake || urgent || items >= HEAVY_ITEMS;
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

    /// Whether the deadline may pass if the executor goes on lingering.
    fn is_urgent(&self, queued: &Queued<T, R>) -> bool {
        queued.deadline.is_some_and(|deadline| {
            !self.max_linger.is_zero()
                && deadline <= queued.queued_at + self.max_linger + self.counters.commit_average()
        })
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
