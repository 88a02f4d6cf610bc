//! [`Queue`]: the state that the callers' side and the executor's side share. It consists of the ring buffer, the
//! number of queued bytes, and the counters.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crossbeam_utils::sync::Unparker;
use tokio::time::Instant;

use super::{
    caller::Callers,
    config::BatchConfig,
    error::BatchError,
    reply_pools::ReplyPools,
    ring::{LockFreeRingBuffer, PushError},
    sequence::Turn,
    slot::Responder,
    stats::{BatchStats, Counters},
    submission::{BatchItem, SlotContent},
    wake_tasks::WakeTasks,
};

/// A queued request.
#[derive(Debug)]
pub(super) struct Queued<T, R> {
    /// The index of the wake task of the caller's runtime; `None` if the runtime has no wake task.
    pub(super) wake_task: Option<usize>,
    pub(super) client: u64,
    pub(super) item: T,
    pub(super) responder: Responder<SlotContent<R>>,
    pub(super) queued_at: Instant,
    pub(super) deadline: Option<Instant>,
    pub(super) turn: Option<Turn>,
}

/// The queue of one batch processor.
pub(super) struct Queue<T, R> {
    pub(super) config: BatchConfig,
    pub(super) ring: LockFreeRingBuffer<Queued<T, R>>,
    /// Number of requests that were taken out of the ring buffer and held back for the next batch.
    pub(super) held: AtomicUsize,
    /// Number of queued bytes. A caller adds the bytes of its request before it pushes the request. The executor
    /// subtracts the bytes when it takes the request.
    pub(super) bytes: AtomicUsize,
    /// Number of queued items, from which the time to drain the queue is estimated.
    items: AtomicUsize,
    pub(super) unparker: Unparker,
    pub(super) counters: Arc<Counters>,
    pub(super) wake_tasks: Arc<WakeTasks>,
    pub(super) callers: Arc<Callers>,
    pub(super) replies: Arc<ReplyPools<R>>,
}

/// A request of at least this many items wakes the executor, even if the executor waits for more requests than are
/// queued.
const HEAVY_ITEMS: usize = 256;

// ===== impl Queue =====

impl<T, R> Queue<T, R> {
    /// Makes an empty queue that wakes its executor with `unparker`. The bounds of `config` must be valid.
    pub(super) fn new(config: &BatchConfig, unparker: Unparker) -> Self {
        let counters = Arc::new(Counters::new(config.latency_budget));
        Queue {
            config: *config,
            ring: LockFreeRingBuffer::new(config.queue_requests_max),
            held: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            items: AtomicUsize::new(0),
            unparker,
            replies: Arc::new(ReplyPools::new(Arc::clone(&counters))),
            counters,
            wake_tasks: Arc::new(WakeTasks::new()),
            callers: Arc::default(),
        }
    }

    /// Closes the queue: rejects all later requests, and wakes the executor.
    pub(super) fn close(&self) {
        self.ring.close();
        self.unparker.unpark();
    }

    pub(super) fn stats(&self) -> BatchStats {
        let waiting = self.ring.len() + self.held.load(Ordering::Relaxed);
        let stats = self.counters.read(waiting);
        BatchStats {
            queue_capacity: self.ring.capacity(),
            queue_bytes: self.bytes.load(Ordering::Relaxed),
            queue_bytes_capacity: self.config.queue_bytes_max,
            linger: self.config.max_linger.min(stats.commit_average / 2),
            ..stats
        }
    }
}

impl<T: BatchItem, R> Queue<T, R> {
    /// Queues a request.
    ///
    /// # Errors
    /// If the queue is full or closed.
    pub(super) fn push(&self, queued: Queued<T, R>) -> Result<(), BatchError> {
        let (bytes, items) = (queued.item.bytes(), queued.item.items());
        let (queued_at, urgent) = (queued.queued_at, self.is_urgent(&queued));
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.items.fetch_add(items, Ordering::Relaxed);
        let pushed = if before > 0 && before.saturating_add(bytes) > self.config.queue_bytes_max {
            Err(PushError::Full(queued))
        } else {
            self.ring.push_for_executor(queued)
        };
        match pushed {
            Ok(wake) => {
                self.counters.queued(queued_at);
                let wake = wake || urgent || items >= HEAVY_ITEMS;
                if wake && !self.wake_tasks.wake_executor() {
                    self.unparker.unpark();
                }
                Ok(())
            }
            Err(rejected) => {
                let (PushError::Full(queued) | PushError::Closed(queued)) = &rejected;
                self.left(&queued.item);
                if self.ring.is_closed() {
                    self.unparker.unpark();
                }
                Err(self.error(&rejected))
            }
        }
    }

    /// Whether the request's deadline may pass if the executor waits for the longest linger and then commits.
    fn is_urgent(&self, queued: &Queued<T, R>) -> bool {
        let linger = self.config.max_linger;
        queued.deadline.is_some_and(|deadline| {
            !linger.is_zero() && deadline <= queued.queued_at + linger + self.counters.commit_average()
        })
    }

    fn error(&self, rejected: &PushError<Queued<T, R>>) -> BatchError {
        match rejected {
            PushError::Closed(_) => BatchError::Closed,
            PushError::Full(_) => {
                self.counters.full();
                let items = self.items.load(Ordering::Relaxed);
                BatchError::Full {
                    retry_after: self.counters.drain_time(items),
                }
            }
        }
    }

    /// Subtracts an item that has left the queue from the queued bytes and items.
    pub(super) fn left(&self, item: &T) {
        self.bytes.fetch_sub(item.bytes(), Ordering::Relaxed);
        self.items.fetch_sub(item.items(), Ordering::Relaxed);
    }
}

impl<T, R> fmt::Debug for Queue<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("ring", &self.ring)
            .finish_non_exhaustive()
    }
}
