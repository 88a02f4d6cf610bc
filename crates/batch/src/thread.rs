//! [`BatchProcessor::new`] and [`BatchThreadBuilder`]: make a batch processor that calls a closure for each batch, on a
//! thread that the processor starts.

use std::{
    fmt, io,
    num::NonZeroUsize,
    sync::Arc,
    thread::{Builder, JoinHandle},
    time::Duration,
};

use thiserror::Error;
use tokio::time::Instant;

use super::{
    config::{BatchConfig, BatchConfigError, check},
    intake::{Answerer, Claimed, Intake},
    processor::{BatchProcessor, CloseOnDrop, batch},
    stats::FlushReason,
    submission::BatchItem,
};

/// A request that counts as one item and holds no memory outside itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Single<T>(pub T);

/// Makes a [`BatchProcessor`] that calls a closure for each batch, on a thread that the processor starts.
pub struct BatchThreadBuilder {
    batch_size: NonZeroUsize,
    timeout: Duration,
    config: BatchConfig,
    name: String,
    on_start: Option<Box<dyn FnOnce() + Send>>,
}

/// The thread of a [`BatchProcessor`] that was made with a closure.
#[derive(Debug)]
pub struct BatchThread(JoinHandle<()>);

/// Why a batch thread was not started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// A setting is out of bounds.
    #[error(transparent)]
    Config(#[from] BatchConfigError),
    /// The operating system can't start the thread.
    #[error("cannot start the batch thread {name}")]
    Thread {
        /// The thread's name.
        name: String,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
}

/// Default name of the thread.
const THREAD_NAME: &str = "batch";
/// Maximum of the time `timeout` that a batch waits for more requests.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Maximum number of items of a batch.
const BATCH_SIZE_MAX: usize = 1 << 20;

// ===== impl BatchProcessor =====

impl<T, R> BatchProcessor<T, R>
where
    T: BatchItem + Send + 'static,
    R: Send + 'static,
{
    /// Starts a thread that calls `processor` with one batch after the other.
    ///
    /// - A batch ends with the request that brings it to `batch_size` items (1 to 2^20) or more. If every request has
    ///   one item, a batch has at most `batch_size` requests.
    /// - While fewer than `batch_size` requests are queued and the queue has room, the batch waits for more requests.
    ///   The wait takes at most `timeout` (at most 60 s), from the moment at which the thread saw the first request.
    ///   Zero is a good value: requests that arrive while a batch is being processed form the next batch, and no
    ///   request waits for a timer.
    /// - A batch that takes longer than `max_latency` (1 µs to 1 h) is counted, and at most every 10 s a warning is
    ///   logged, see [`BatchConfig::latency_budget`].
    /// - `processor` returns one answer for each request, in the order of the requests.
    ///
    /// When the last clone of the processor is dropped or [`close`](Self::close) is called, the thread processes all
    /// queued requests, and then ends. If `processor` panics, the thread ends, the callers of the batch get
    /// [`BatchError::Lost`](super::BatchError::Lost), and all other requests are rejected with
    /// [`BatchError::Closed`](super::BatchError::Closed).
    ///
    /// [`BatchThreadBuilder`] has more settings, and returns a handle with which a caller can wait for the end of the
    /// thread.
    ///
    /// # Errors
    /// If a setting is out of bounds, or the thread can't be started.
    pub fn new<F>(
        batch_size: usize,
        timeout: Duration,
        max_latency: Duration,
        processor: F,
    ) -> Result<Self, SpawnError>
    where
        F: FnMut(Vec<T>) -> Vec<R> + Send + 'static,
    {
        let builder = BatchThreadBuilder::new(batch_size, timeout)?.max_latency(max_latency);
        builder.spawn(processor).map(|(batches, _)| batches)
    }
}

// ===== impl BatchThreadBuilder =====

impl BatchThreadBuilder {
    /// Makes a builder with two of the settings of [`BatchProcessor::new`], and without a latency budget.
    ///
    /// # Errors
    /// If `batch_size` is not within 1 to 2^20, or `timeout` is longer than 60 s.
    pub fn new(batch_size: usize, timeout: Duration) -> Result<Self, BatchConfigError> {
        check("timeout", timeout, Duration::ZERO..=TIMEOUT_MAX)?;
        check("batch_size", batch_size, 1..=BATCH_SIZE_MAX)?;
        Ok(BatchThreadBuilder {
            batch_size: NonZeroUsize::new(batch_size).unwrap_or(NonZeroUsize::MIN),
            timeout,
            config: BatchConfig {
                // Zero: no batch waits for calls that are on their way (see `caller.rs`), because this form of the
                // processor waits for `timeout` instead.
                max_linger: Duration::ZERO,
                ..BatchConfig::default()
            },
            name: THREAD_NAME.to_owned(),
            on_start: None,
        })
    }

    /// Sets the latency budget of a batch, 1 µs to 1 h, see [`BatchConfig::latency_budget`].
    #[must_use]
    pub const fn max_latency(mut self, max_latency: Duration) -> Self {
        self.config.latency_budget = Some(max_latency);
        self
    }

    /// Sets the maximum number of queued requests, 2 to 2^20. Default: 16,384. Further requests are rejected with
    /// [`BatchError::Full`](super::BatchError::Full).
    #[must_use]
    pub const fn queue_requests_max(mut self, requests: usize) -> Self {
        self.config.queue_requests_max = requests;
        self
    }

    /// Sets the maximum number of queued bytes ([`BatchItem::bytes`]), 1 MiB to 1 TiB. Default: 256 MiB.
    #[must_use]
    pub const fn queue_bytes_max(mut self, bytes: usize) -> Self {
        self.config.queue_bytes_max = bytes;
        self
    }

    /// Sets the name of the thread. Default: `batch`.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Runs `hook` on the thread before the first batch. A hook can, for example, pin the thread to a CPU.
    #[must_use]
    pub fn on_start(mut self, hook: impl FnOnce() + Send + 'static) -> Self {
        self.on_start = Some(Box::new(hook));
        self
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// If a setting is out of bounds, or the thread can't be started.
    pub fn spawn<T, R, F>(self, processor: F) -> Result<(BatchProcessor<T, R>, BatchThread), SpawnError>
    where
        T: BatchItem + Send + 'static,
        R: Send + 'static,
        F: FnMut(Vec<T>) -> Vec<R> + Send + 'static,
    {
        let (mut batches, intake) = batch(&self.config)?;
        batches.owner = Some(Arc::new(CloseOnDrop(Arc::clone(&batches.queue))));
        let executor = Executor {
            answerer: intake.answerer(),
            intake,
            batch_size: self.batch_size.get(),
            timeout: self.timeout,
            processor,
        };
        let (name, on_start) = (self.name, self.on_start);
        let body = move || {
            if let Some(hook) = on_start {
                hook();
            }
            executor.run();
        };
        match Builder::new().name(name.clone()).spawn(body) {
            Ok(thread) => Ok((batches, BatchThread(thread))),
            Err(source) => Err(SpawnError::Thread { name, source }),
        }
    }
}

impl fmt::Debug for BatchThreadBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchThreadBuilder")
            .field("batch_size", &self.batch_size)
            .field("timeout", &self.timeout)
            .field("config", &self.config)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

// ===== impl BatchThread =====

impl BatchThread {
    /// Waits until the thread has ended. The thread ends after [`BatchProcessor::close`] is called or the last clone of
    /// the processor is dropped.
    ///
    /// # Errors
    /// If the closure or the hook panicked. The error is the payload of the panic.
    pub fn join(self) -> std::thread::Result<()> {
        self.0.join()
    }

    /// Whether the thread has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

// ===== impl Single =====

impl<T> BatchItem for Single<T> {
    fn items(&self) -> usize {
        1
    }

    fn bytes(&self) -> usize {
        size_of::<T>()
    }
}

/// Runs the closure. Owned by the thread.
struct Executor<T: BatchItem, R, F> {
    intake: Intake<T, R>,
    answerer: Answerer,
    batch_size: usize,
    timeout: Duration,
    processor: F,
}

// ===== impl Executor =====

impl<T: BatchItem, R, F: FnMut(Vec<T>) -> Vec<R>> Executor<T, R, F> {
    /// Processes batches until the queue is closed and empty.
    fn run(mut self) {
        let mut claimed = Vec::new();
        let mut taken_at = Instant::now();
        loop {
            while self.intake.waiting() == 0 {
                if self.intake.is_drained() {
                    return;
                }
                self.intake.sleep(1, None);
            }
            // Requests are claimed only after the wait, so that callers can withdraw them during the wait.
            if !self.timeout.is_zero() {
                let until = Instant::now() + self.timeout;
                self.intake.wait_for_more(self.batch_size, until, taken_at);
            }
            taken_at = Instant::now();
            self.intake.take(self.batch_size, &mut claimed);
            self.process(&mut claimed);
        }
    }

    fn process(&mut self, claimed: &mut Vec<Claimed<T, R>>) {
        let (mut requests, mut replies) = (
            Vec::with_capacity(claimed.len()),
            Vec::with_capacity(claimed.len()),
        );
        let (mut items, mut bytes) = (0, 0_usize);
        for Claimed { item, reply, turn } in claimed.drain(..) {
            // The turn was open when the request was claimed. If this loop has skipped an earlier request of the same
            // sequence since, the turn is no longer open, and the request must not be executed.
            if turn.as_ref().is_some_and(|turn| !turn.is_open()) {
                reply.interrupted();
                continue;
            }
            items += item.items();
            bytes = bytes.saturating_add(item.bytes());
            requests.push(item);
            replies.push((reply, turn));
        }
        if requests.is_empty() {
            return;
        }
        let reason = if items >= self.batch_size {
            FlushReason::Items
        } else {
            FlushReason::Idle
        };
        self.intake.flushed(reason, items, bytes);
        let answers = (self.processor)(requests);
        // If the number of answers differs from the number of requests, no answer can be assigned to its request
        // safely.
        assert_eq!(
            answers.len(),
            replies.len(),
            "the closure must return one answer for each request of the batch"
        );
        let replies = replies.into_iter().map(|(reply, turn)| {
            if let Some(turn) = turn {
                turn.executed();
            }
            reply
        });
        self.answerer.answer_all(replies.zip(answers));
    }
}
