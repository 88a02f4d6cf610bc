//! [`Intake`] and [`Answerer`]: the executor's side of the queue. The [`Intake`] takes requests out of the queue and
//! sleeps while the queue is empty. The [`Answerer`] sends the answers to the callers.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use crossbeam_utils::sync::Parker;
use tokio::time::Instant;

use super::{
    backlog::Backlog,
    error::BatchError,
    mutation::planted,
    pace::{Pace, Situation},
    queue::{Queue, Queued},
    sequence::Turn,
    share::Shares,
    slot::Responder,
    stats::{Counters, FlushReason},
    submission::{Answer, BatchItem, SlotContent, Timing},
    wake_tasks::{PendingWakes, WakeTasks},
};

/// Maximum number of bytes of a batch. A batch also has at most half of the bytes that the queue may hold. A single
/// request with more bytes is a batch by itself.
const BATCH_BYTES_MAX: usize = 16 << 20;
/// Minimum time between two measurements of the rate at which the queue drains.
const RATE_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum number of requests that are skipped while a batch is filled, and so held back for the next batch. If this
/// number is reached while several clients wait, the batch ends, and all other requests wait for the next batch.
const PASSED_MAX: usize = 4096;

/// A request that the executor claimed for execution: the caller can no longer withdraw the request.
#[derive(Debug)]
pub struct Claimed<T, R> {
    /// The request.
    pub item: T,
    /// The handle with which the executor answers the request.
    pub reply: Reply<R>,
    /// The request's position in its sequence; `None` if the request belongs to no sequence. If the turn [is not
    /// open](Turn::is_open), do not execute the request, and call [`Reply::interrupted`]. Dropping the turn reports
    /// that the request was not executed.
    pub turn: Option<Turn>,
}

/// The handle with which the executor answers a claimed request. Dropping the handle answers [`BatchError::Lost`].
#[derive(Debug)]
pub struct Reply<R> {
    wake_task: Option<usize>,
    client: u64,
    responder: Responder<SlotContent<R>>,
    queue_wait: Duration,
    claimed_at: Instant,
}

/// The executor's side of a batch processor. Dropping the intake closes the queue and answers all queued requests with
/// [`BatchError::Closed`].
#[derive(Debug)]
pub struct Intake<T: BatchItem, R> {
    queue: Arc<Queue<T, R>>,
    parker: Parker,
    pub(super) pace: Pace,
    batch_bytes_max: usize,
    shares: Shares,
    /// Requests that were held back, at most `passed_max` + 1. They are older than the requests in the ring buffer.
    /// Between batches, the next request of the backlog is the oldest request.
    backlog: Backlog<Queued<T, R>>,
    /// See [`PASSED_MAX`]. Tests set a smaller number.
    pub(super) passed_max: usize,
    /// Start of the present measurement of the rate at which the queue drains.
    rate_since: Instant,
    /// Number of items taken since `rate_since`.
    rate_items: u64,
}

/// The progress of one call of [`Intake::take`].
#[derive(Debug)]
struct Taking {
    /// Index of the call's first request in the caller's vector.
    start: usize,
    items: usize,
    bytes: usize,
    /// The time at which the call took its first request; `None` before that.
    now: Option<Instant>,
    /// The time at which the last taken request was queued.
    last: Option<Instant>,
}

/// Answers many claimed requests at once. Can be used on any thread.
#[derive(Debug)]
pub struct Answerer {
    counters: Arc<Counters>,
    wake_tasks: Arc<WakeTasks>,
    pending_wakes: PendingWakes,
    /// Queue waits of the requests that the present call answers. Kept between calls to reuse the memory, like
    /// `commits`.
    queue_waits: Vec<Duration>,
    /// Times from the claim to the answer, of the requests that the present call answers.
    commits: Vec<Duration>,
}

// ===== impl Intake =====

impl<T: BatchItem, R> Intake<T, R> {
    pub(super) fn new(queue: Arc<Queue<T, R>>, parker: Parker) -> Self {
        let config = queue.config;
        Intake {
            queue,
            parker,
            pace: Pace::new(config.max_linger, config.siblings),
            batch_bytes_max: BATCH_BYTES_MAX.min(config.queue_bytes_max / 2),
            shares: Shares::new(config.client_share_percent),
            backlog: Backlog::new(),
            passed_max: PASSED_MAX,
            rate_since: Instant::now(),
            rate_items: 0,
        }
    }

    /// Takes requests in the order of their arrival, until the queue is empty or the batch has `items_max` items or the
    /// maximum number of bytes (half of [`BatchConfig::queue_bytes_max`](super::BatchConfig::queue_bytes_max), at most
    /// 16 MiB). The first request always fits. Appends the requests to `into`, and returns the number of items taken.
    ///
    /// Skips requests that their callers withdrew. Rejects requests whose deadline has passed, or would pass before an
    /// average commit ends. Requests of clients that have used their share stay queued for the next call.
    pub fn take(&mut self, items_max: usize, into: &mut Vec<Claimed<T, R>>) -> usize {
        let mut taking = Taking {
            start: into.len(),
            items: 0,
            bytes: 0,
            now: None,
            last: None,
        };
        self.shares.begin(items_max);
        self.take_shared_out(items_max, &mut taking, into);
        if self.shares.is_contended() {
            self.queue.counters.held_back(self.backlog.passed());
        } else {
            // No other client waits, so the client may use the whole batch.
            self.backlog.rewind();
            self.take_all(items_max, &mut taking, into);
        }
        self.backlog.rewind();
        self.finish_taking(&taking);
        taking.items
    }

    /// Takes requests, and skips those of clients that have used their share.
    fn take_shared_out(&mut self, items_max: usize, taking: &mut Taking, into: &mut Vec<Claimed<T, R>>) {
        while taking.items < items_max
            && self.backlog.passed() < self.passed_max
            && let Some(queued) = self.backlog.next(&self.queue.ring)
        {
            let batch = into.get(taking.start..).unwrap_or_default();
            let batch = batch.iter().map(|one| (one.reply.client, one.item.items()));
            if !self.shares.admits(queued.client, queued.item.items(), batch) {
                self.backlog.pass_over(queued);
            } else if !self.take_one(queued, taking, into) {
                break;
            }
        }
    }

    /// Takes requests without a limit on the clients' shares.
    fn take_all(&mut self, items_max: usize, taking: &mut Taking, into: &mut Vec<Claimed<T, R>>) {
        while taking.items < items_max
            && let Some(queued) = self.backlog.next(&self.queue.ring)
            && self.take_one(queued, taking, into)
        {}
    }

    /// Takes the request `queued`, which the backlog returned last. Returns `false` if the request does not fit into
    /// the batch. In that case, the request stays in the backlog, and the batch is complete.
    fn take_one(&mut self, queued: Queued<T, R>, taking: &mut Taking, into: &mut Vec<Claimed<T, R>>) -> bool {
        let (items, bytes) = (queued.item.items(), queued.item.bytes());
        if taking.bytes > 0 && taking.bytes.saturating_add(bytes) > self.batch_bytes_max {
            self.backlog.put_back(queued);
            return false;
        }
        let now = *taking.now.get_or_insert_with(Instant::now);
        self.queue.left(&queued.item);
        taking.last = Some(queued.queued_at);
        let client = queued.client;
        if let Some(claimed) = self.claim(queued, now) {
            self.shares.took(client, items);
            taking.items += items;
            taking.bytes = taking.bytes.saturating_add(bytes);
            into.push(claimed);
        }
        true
    }

    fn finish_taking(&mut self, taking: &Taking) {
        self.queue.held.store(self.backlog.len(), Ordering::Relaxed);
        if let Some(percent) = self.shares.largest_percent() {
            self.queue.counters.client_share(percent);
        }
        if let Some(now) = taking.now {
            let oldest = match self.backlog.oldest() {
                Some(held) => Some(held.queued_at),
                // The time of the last taken request is an estimate: the requests in the ring buffer arrived later.
                None => taking.last.filter(|_| !self.queue.ring.is_empty()),
            };
            self.queue.counters.oldest_is(oldest);
            self.measure_rate(taking.items, now);
        }
    }

    fn claim(&mut self, queued: Queued<T, R>, now: Instant) -> Option<Claimed<T, R>> {
        let Queued {
            wake_task,
            client,
            item,
            responder,
            queued_at,
            deadline,
            turn,
        } = queued;
        // If the claim fails, the caller withdrew the request: it dropped its future, or the deadline passed. The
        // caller's future counts the withdrawal.
        let is_withdrawn = !responder.claim();
        if is_withdrawn && !planted("claim_after_withdrawal") {
            return None;
        }
        if turn.as_ref().is_some_and(|turn| !turn.is_open()) {
            responder.answer(Err(BatchError::Interrupted));
            return None;
        }
        if let Some(deadline) = deadline.filter(|_| !is_withdrawn && !planted("execute_expired_deadline")) {
            let counters = &self.queue.counters;
            let is_past = now >= deadline;
            if is_past || now + counters.commit_average() >= deadline {
                if is_past {
                    counters.expired();
                } else {
                    counters.expired_by_average(now);
                }
                responder.answer(Err(BatchError::ExpiredInQueue));
                return None;
            }
        }
        self.pace.claimed(queued_at, deadline);
        let queue_wait = now.saturating_duration_since(queued_at);
        Some(Claimed {
            item,
            reply: Reply {
                wake_task,
                client,
                responder,
                queue_wait,
                claimed_at: now,
            },
            turn,
        })
    }

    /// Decides whether the taken requests are committed now as one batch. Call this method when the committer is idle.
    /// Returns the reason for the commit. Returns `None` if the batch lingers: it waits for callers that are about to
    /// submit a request. After `None`, take more requests, and [`sleep`](Self::sleep) if the queue is empty.
    pub fn due(&mut self) -> Option<FlushReason> {
        let situation = self.situation();
        self.pace.due(&situation, Instant::now)
    }

    pub(super) fn situation(&self) -> Situation {
        Situation {
            on_their_way: self.queue.callers.on_their_way(),
            commit: self.queue.counters.commit_average(),
            closed: self.queue.ring.is_closed(),
            flush_to: self.queue.counters.flush_to(),
        }
    }

    fn measure_rate(&mut self, items: usize, now: Instant) {
        self.rate_items += items as u64;
        let elapsed = now.saturating_duration_since(self.rate_since);
        if elapsed >= RATE_INTERVAL {
            // If much more time has passed, the executor paused because no requests arrived. In that case, the elapsed
            // time does not show how fast the queue drains.
            if elapsed >= RATE_INTERVAL * 4 {
                self.rate_since = now;
                self.rate_items = 0;
                return;
            }
            let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).max(1);
            self.queue
                .counters
                .drain_rate(self.rate_items.saturating_mul(1_000_000) / micros);
            self.rate_since = now;
            self.rate_items = 0;
        }
    }

    /// Number of queued requests.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.ring.len() + self.backlog.len()
    }

    /// Whether the queue is closed and empty. If so, no request can arrive any more.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.backlog.is_empty() && self.queue.ring.is_drained()
    }

    /// Sleeps until `wake_at` requests are queued, [`Notifier::notify`](super::Notifier::notify) is called, the
    /// queue is closed, or the time `at_most` is over. Returns at once if one of these conditions already holds. While a batch lingers, `wake_at` is
    /// ignored: the method sleeps until the announced callers have submitted their requests or the linger ends. The
    /// method may also return early without a reason.
    pub fn sleep(&self, wake_at: usize, at_most: Option<Duration>) {
        let rest = self.pace.rest(&self.situation(), Instant::now);
        let wake_at = rest.map_or(wake_at, |(_, awaited)| awaited);
        if !self.backlog.is_empty() || self.queue.ring.wake_at(wake_at) || self.queue.ring.is_drained() {
            return;
        }
        let linger = rest.map(|(left, _)| left);
        match linger.into_iter().chain(at_most).min() {
            Some(left) => self.parker.park_timeout(left),
            None => self.parker.park(),
        }
    }

    /// Waits for more requests. Returns when `wake_at` requests are queued, the queue is full, the time `until` has
    /// passed, the oldest queued request is older than the last flush, or the queue is closed. `taken_at` is a time
    /// shortly before the last call of [`Intake::take`].
    pub(super) fn wait_for_more(&self, wake_at: usize, until: Instant, taken_at: Instant) {
        let wake_at = wake_at.min(self.queue.ring.capacity());
        loop {
            let now = Instant::now();
            if now >= until
                || self.queue.ring.wake_at(wake_at)
                || self.queue.ring.is_closed()
                || self.queue.counters.flush_covers_oldest(taken_at)
            {
                return;
            }
            self.parker.park_timeout(until - now);
        }
    }

    /// Makes an [`Answerer`], which can be moved to another thread.
    #[must_use]
    pub fn answerer(&self) -> Answerer {
        Answerer {
            counters: Arc::clone(&self.queue.counters),
            wake_tasks: Arc::clone(&self.queue.wake_tasks),
            pending_wakes: PendingWakes::new(),
            queue_waits: Vec::new(),
            commits: Vec::new(),
        }
    }

    /// Ends the open batch, and counts it under `reason` with its numbers of items and bytes.
    pub fn flushed(&mut self, reason: FlushReason, items: usize, bytes: usize) {
        self.pace.closed();
        self.queue.counters.flushed(reason, items, bytes);
    }
}

impl<T: BatchItem, R> Drop for Intake<T, R> {
    /// Closes the queue, and answers every queued request.
    fn drop(&mut self) {
        self.queue.ring.close();
        // The loop is bounded: the ring buffer is bounded and closed, and each caller inside `push` adds at most one
        // request.
        while !self.is_drained() {
            match self.backlog.next(&self.queue.ring) {
                Some(queued) => {
                    self.queue.left(&queued.item);
                    if queued.responder.claim() {
                        queued.responder.answer(Err(BatchError::Closed));
                    }
                }
                None => std::thread::yield_now(),
            }
        }
    }
}

// ===== impl Reply =====

impl<R> Reply<R> {
    /// Answers [`BatchError::Interrupted`]: the request was not executed, because an earlier request of its sequence
    /// was not executed.
    pub fn interrupted(self) {
        self.responder.answer(Err(BatchError::Interrupted));
    }
}

// ===== impl Answerer =====

impl Answerer {
    /// Answers the requests of one batch after their commit. `answers` must be in the order in which the requests were
    /// taken.
    pub fn answer_all<R>(&mut self, answers: impl IntoIterator<Item = (Reply<R>, R)>) {
        let now = self.send_answers(answers);
        // The shortest time is that of the request claimed last, which waited for little besides the commit.
        if let Some(commit) = self.commits.iter().min() {
            self.counters.committed(*commit, now);
        }
        // The request claimed first waited for the whole batch, so its time is the duration of the batch.
        if let Some(took) = self.commits.first() {
            self.counters.compare_to_budget(*took, self.commits.len(), now);
        }
    }

    /// Answers requests that did not wait for a commit. Their times do not change the average duration of a commit.
    pub fn answer_untimed<R>(&mut self, answers: impl IntoIterator<Item = (Reply<R>, R)>) {
        self.send_answers(answers);
    }

    /// Stores the answers and wakes the callers. Returns the time of the answers.
    fn send_answers<R>(&mut self, answers: impl IntoIterator<Item = (Reply<R>, R)>) -> Instant {
        let now = Instant::now();
        self.queue_waits.clear();
        self.commits.clear();
        for (reply, value) in answers {
            let Reply {
                wake_task,
                client: _,
                responder,
                queue_wait,
                claimed_at,
            } = reply;
            let timing = Timing {
                queue_wait,
                commit: now.saturating_duration_since(claimed_at),
            };
            self.queue_waits.push(timing.queue_wait);
            self.commits.push(timing.commit);
            if let Some(waker) = responder.answer_quietly(Ok(Answer { value, timing })) {
                self.pending_wakes.add(wake_task, waker);
            }
        }
        self.wake_tasks.wake_all(&mut self.pending_wakes);
        // The times are recorded under one lock, and after the callers are woken, so that no caller waits for the
        // recording.
        self.counters.answered(&self.queue_waits, &self.commits);
        now
    }
}
