//! [`BatchProcessor`]: the callers' side of the queue.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use crossbeam_utils::sync::{Parker, Unparker};
use tokio::time::Instant;
use tower_service::Service;

use super::{
    caller::{Caller, UNKNOWN},
    config::{BatchConfig, BatchConfigError},
    error::BatchError,
    future::ResponseFuture,
    intake::Intake,
    queue::{Queue, Queued},
    sequence::Sequence,
    stats::{BatchStats, Distributions},
    submission::{Answer, BatchItem, Submission},
};

/// Accepts requests. All clones share one queue; give every caller a clone.
///
/// The processor is also a tower [`Service`]. `poll_ready` always returns ready, and `call` rejects the request if the
/// queue is full. So `poll_ready` reserves no room for a caller that never calls.
pub struct BatchProcessor<T, R> {
    pub(super) queue: Arc<Queue<T, R>>,
    /// Closes the queue when the last clone is dropped. `None` if the queue stays open until [`BatchProcessor::close`]
    /// is called or the [`Intake`] is dropped.
    pub(super) owner: Option<Arc<CloseOnDrop<T, R>>>,
}

/// Closes the queue when dropped.
pub(super) struct CloseOnDrop<T, R>(pub(super) Arc<Queue<T, R>>);

/// Wakes the executor.
#[derive(Debug, Clone)]
pub struct Notifier(Unparker);

/// The callers' side and the executor's side.
pub type Sides<T, R> = (BatchProcessor<T, R>, Intake<T, R>);

/// Makes a queue, and returns its two sides. Callers submit requests to the [`BatchProcessor`], and your executor takes
/// batches from the [`Intake`].
///
/// # Errors
/// [`BatchConfigError`] if a setting is out of bounds.
pub fn batch<T: BatchItem, R>(config: &BatchConfig) -> Result<Sides<T, R>, BatchConfigError> {
    config.validate()?;
    let parker = Parker::new();
    let queue = Arc::new(Queue::new(config, parker.unparker().clone()));
    let processor = BatchProcessor {
        queue: Arc::clone(&queue),
        owner: None,
    };
    Ok((processor, Intake::new(queue, parker)))
}

// ===== impl BatchProcessor =====

impl<T: BatchItem, R> BatchProcessor<T, R> {
    /// Queues a request, and returns the future of its answer. If the request is rejected, the future resolves with a
    /// [`BatchError`] at once.
    ///
    /// # Panics
    /// If the request has a deadline and the call is made outside a tokio runtime with a timer.
    pub fn submit(&self, submission: Submission<T>) -> ResponseFuture<R> {
        let replies = Arc::clone(&self.queue.replies);
        let Submission {
            item,
            deadline,
            client,
            turn,
        } = submission;
        let arrived = self.queue.callers.arrived();
        let queued_at = Instant::now();
        if deadline.is_some_and(|deadline| queued_at >= deadline) {
            replies.counters.expired();
            return ResponseFuture::rejected(BatchError::ExpiredInQueue, replies);
        }
        let wake_task = self.queue.wake_tasks.current();
        let (responder, receiver) = replies.of(wake_task).take();
        match self.queue.push(Queued {
            wake_task,
            // A request of a sequence carries the client of the sequence, even if that client is unknown.
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
            Ok(()) => ResponseFuture::waiting(receiver, deadline, replies, wake_task),
            Err(error) => {
                replies.of(wake_task).give_back(&receiver);
                ResponseFuture::rejected(error, replies)
            }
        }
    }
}

impl<T, R> BatchProcessor<T, R> {
    /// Registers a client, such as a connection. The returned [`Caller`] announces the client's calls before they
    /// submit their requests, and gives the requests the client's number, by which batches are shared fairly.
    #[must_use]
    pub fn caller(&self) -> Caller {
        self.queue.callers.caller()
    }

    /// Starts a sequence: if one of its requests is not executed, no later request of the sequence is executed. All its
    /// requests belong to the client whose call the calling thread polls now, even if they are submitted after that
    /// call has ended.
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        Sequence::new(self.queue.callers.current_client())
    }

    /// Ends the wait for further requests: the executor commits the requests that are queued now as soon as it is idle.
    pub fn flush(&self) {
        self.queue.counters.flush();
        self.queue.unparker.unpark();
    }

    /// Closes the queue: rejects new requests. Requests that are queued already are still executed.
    pub fn close(&self) {
        self.queue.close();
    }

    /// Whether the queue is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.queue.ring.is_closed()
    }

    /// Runs a task that wakes the callers on the calling thread together after each batch, instead of one by one.
    /// The future never ends. Spawn it once on each single-threaded runtime, with a different `index` below
    /// [`WAKE_TASKS_MAX`](super::WAKE_TASKS_MAX); with a larger index the future returns at once. Without this task,
    /// the answering thread wakes each caller separately, which costs a system call per caller.
    pub async fn wake_task(self, index: usize) {
        let wake_executor = || self.queue.unparker.unpark();
        self.queue.wake_tasks.run(index, wake_executor).await;
    }

    /// Returns a handle that wakes the executor.
    #[must_use]
    pub fn notifier(&self) -> Notifier {
        Notifier(self.queue.unparker.clone())
    }

    /// The settings of this processor.
    #[must_use]
    pub fn config(&self) -> &BatchConfig {
        &self.queue.config
    }

    /// The distributions of sizes and times since the start.
    #[must_use]
    pub fn distributions(&self) -> &Distributions {
        &self.queue.counters.distributions
    }

    /// The counters since the start, and the state of the queue.
    #[must_use]
    pub fn stats(&self) -> BatchStats {
        self.queue.stats()
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
            queue: Arc::clone(&self.queue),
            owner: self.owner.clone(),
        }
    }
}

impl<T, R> fmt::Debug for BatchProcessor<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchProcessor")
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

// ===== impl CloseOnDrop =====

impl<T, R> Drop for CloseOnDrop<T, R> {
    fn drop(&mut self) {
        self.0.close();
    }
}

// ===== impl Notifier =====

impl Notifier {
    /// Wakes the executor. If the executor is not asleep, its next attempt to sleep returns at once.
    #[inline]
    pub fn notify(&self) {
        self.0.unpark();
    }
}
