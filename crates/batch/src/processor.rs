//! [`BatchProcessor`]: the callers' side.

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

/// Accepts requests. Clones share one queue; clone it for every caller.
///
/// It is also a tower [`Service`]. The service is always ready and decides in `call`, so that a caller that never calls
/// reserves nothing.
pub struct BatchProcessor<T, R> {
    pub(super) queue: Arc<Queue<T, R>>,
    /// Closes the queue when the last clone is dropped. `None` if the executor's owner closes it.
    pub(super) owner: Option<Arc<CloseOnDrop<T, R>>>,
}

/// Closes the queue when dropped.
pub(super) struct CloseOnDrop<T, R>(pub(super) Arc<Queue<T, R>>);

/// Wakes the executor.
#[derive(Debug, Clone)]
pub struct Notifier(Unparker);

/// The callers' side and the executor's side.
pub type Sides<T, R> = (BatchProcessor<T, R>, Intake<T, R>);

/// Makes a queue, and returns its two sides: the callers submit requests, and an executor of your own takes batches from the
/// [`Intake`].
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
    /// Queues a request, and returns a future of its answer.
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
            return ResponseFuture::refused(BatchError::ExpiredInQueue, replies);
        }
        let wake_task = self.queue.wake_tasks.current();
        let (responder, receiver) = replies.of(wake_task).take();
        match self.queue.push(Queued {
            wake_task,
            // All requests of a sequence belong to one client.
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
                ResponseFuture::refused(error, replies)
            }
        }
    }
}

impl<T, R> BatchProcessor<T, R> {
    /// Registers a client, such as a connection. Its calls count as on their way before they submit, and the client shares
    /// batches fairly with other clients.
    #[must_use]
    pub fn caller(&self) -> Caller {
        self.queue.callers.caller()
    }

    /// Starts a sequence: once one of its requests was not executed, none of the later ones is. All requests belong to the client
    /// whose call the calling thread polls now, also when they are submitted after that call, as the requests of a
    /// stream are.
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        Sequence::new(self.queue.callers.here())
    }

    /// Makes the requests that are queued now leave as soon as the executor is idle: their batch does not wait for others.
    pub fn flush(&self) {
        self.queue.counters.flush();
        self.queue.unparker.unpark();
    }

    /// Lets no request in any more. Requests that are queued already are still executed.
    pub fn close(&self) {
        self.queue.close();
    }

    /// Whether the queue is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.queue.ring.is_closed()
    }

    /// Wakes the callers on the calling thread, all callers of a batch at once, for as long as the future is polled there. Spawn it
    /// once on each single-threaded runtime, with a different `index` below [`WAKE_TASKS_MAX`](super::WAKE_TASKS_MAX). Without
    /// it each caller is woken by itself, which costs a system call per caller.
    pub async fn wake_task(self, index: usize) {
        let wake_executor = || self.queue.unparker.unpark();
        self.queue.wake_tasks.run(index, wake_executor).await;
    }

    /// Returns what wakes the executor.
    #[must_use]
    pub fn notifier(&self) -> Notifier {
        Notifier(self.queue.unparker.clone())
    }

    /// The settings in force.
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
    /// Wakes the executor, or keeps it from sleeping the next time.
    #[inline]
    pub fn notify(&self) {
        self.0.unpark();
    }
}
