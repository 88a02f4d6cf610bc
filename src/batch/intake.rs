//! The executor's side: takes what waits, claims it, sleeps when there is nothing to do.

use std::{sync::Arc, time::Duration};

use crossbeam_utils::sync::Parker;
use tokio::time::Instant;

use super::{
    Answer, BatchItem, Shared, Slot, Timing,
    courier::{Couriers, Post},
    error::BatchError,
    slot::Responder,
    stats::{Counters, FlushReason},
};

/// How often the rate at which the queue drains is measured.
const RATE_INTERVAL: Duration = Duration::from_millis(100);

/// A request in the ring.
#[derive(Debug)]
pub(super) struct Queued<T, R> {
    /// The courier of the caller's runtime.
    pub(super) courier: Option<usize>,
    pub(super) item: T,
    pub(super) responder: Responder<Slot<R>>,
    pub(super) queued_at: Instant,
    pub(super) deadline: Option<Instant>,
}

/// A request that was claimed for execution.
#[derive(Debug)]
pub struct Claimed<T, R> {
    /// What is to be done.
    pub item: T,
    /// Where the answer goes.
    pub reply: Reply<R>,
}

/// Where the answer to a claimed request goes. Dropping it answers [`BatchError::Lost`].
#[derive(Debug)]
pub struct Reply<R> {
    courier: Option<usize>,
    responder: Responder<Slot<R>>,
    queue_wait: Duration,
    claimed_at: Instant,
}

/// The executor's side of the batch processor. Dropping it closes the ring and answers what is left in it.
#[derive(Debug)]
pub struct Intake<T, R> {
    shared: Arc<Shared<T, R>>,
    parker: Parker,
    rate_since: Instant,
    rate_items: u64,
}

/// Answers claimed requests in bulk, from whichever thread made them durable.
#[derive(Debug)]
pub struct Answerer {
    counters: Arc<Counters>,
    couriers: Arc<Couriers>,
    post: Post,
    queue_waits: Vec<Duration>,
    commits: Vec<Duration>,
}

// ===== impl Intake =====

impl<T: BatchItem, R> Intake<T, R> {
    pub(super) fn new(shared: Arc<Shared<T, R>>, parker: Parker) -> Self {
        Intake {
            shared,
            parker,
            rate_since: Instant::now(),
            rate_items: 0,
        }
    }

    /// Takes requests until the ring is empty or `items_max` items are in hand; the first request always fits.
    /// Withdrawn and expired ones are left out. Returns how many items were taken.
    pub fn take(&mut self, items_max: usize, into: &mut Vec<Claimed<T, R>>) -> usize {
        let mut items = 0;
        let mut now = None;
        while items < items_max {
            let Some(queued) = self.shared.ring.pop() else {
                break;
            };
            self.shared.left_queue(&queued.item);
            let now = *now.get_or_insert_with(Instant::now);
            if let Some(claimed) = self.claim(queued, now) {
                items += claimed.item.items();
                into.push(claimed);
            }
        }
        if let Some(now) = now {
            self.measure_rate(items, now);
        }
        items
    }

    fn claim(&self, queued: Queued<T, R>, now: Instant) -> Option<Claimed<T, R>> {
        let Queued {
            courier,
            item,
            responder,
            queued_at,
            deadline,
        } = queued;
        // Withdrawn: cancelled or expired, and counted as such by the caller's future.
        if !responder.claim() {
            return None;
        }
        if deadline.is_some_and(|deadline| now >= deadline) {
            self.shared.counters.expired();
            responder.answer(Err(BatchError::ExpiredInQueue));
            return None;
        }
        let queue_wait = now.saturating_duration_since(queued_at);
        Some(Claimed {
            item,
            reply: Reply {
                courier,
                responder,
                queue_wait,
                claimed_at: now,
            },
        })
    }

    fn measure_rate(&mut self, items: usize, now: Instant) {
        self.rate_items += items as u64;
        let elapsed = now.saturating_duration_since(self.rate_since);
        if elapsed >= RATE_INTERVAL {
            // A pause in which nothing came says nothing about how fast the queue drains.
            if elapsed >= RATE_INTERVAL * 4 {
                self.rate_since = now;
                self.rate_items = 0;
                return;
            }
            let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).max(1);
            self.shared
                .counters
                .drain_rate(self.rate_items.saturating_mul(1_000_000) / micros);
            self.rate_since = now;
            self.rate_items = 0;
        }
    }

    /// How many requests wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.ring.len()
    }

    /// Whether the ring is closed and empty, and will stay so.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.shared.ring.is_drained()
    }

    /// Sleeps until `wake_at` requests wait, somebody calls [`Notifier::notify`](super::Notifier::notify), or the ring
    /// is closed; at once if so many wait already or the ring is drained. It may wake for no reason.
    pub fn sleep(&self, wake_at: usize) {
        if self.shared.ring.wake_at(wake_at) || self.shared.ring.is_drained() {
            return;
        }
        self.parker.park();
    }

    /// What is to be used to answer from this or another thread.
    #[must_use]
    pub fn answerer(&self) -> Answerer {
        Answerer {
            counters: Arc::clone(&self.shared.counters),
            couriers: Arc::clone(&self.shared.couriers),
            post: Post::new(),
            queue_waits: Vec::new(),
            commits: Vec::new(),
        }
    }

    /// Counts a batch that was closed.
    pub fn flushed(&self, reason: FlushReason, items: usize, bytes: usize) {
        self.shared.counters.flushed(reason, items, bytes);
    }
}

impl<T, R> Drop for Intake<T, R> {
    /// The executor is gone: nobody else comes in, and those inside get an answer as their slots are dropped.
    fn drop(&mut self) {
        self.shared.ring.close();
        // Bounded: the door is closed, and whoever stands in it puts at most one item more into a bounded ring.
        while !self.shared.ring.is_drained() {
            match self.shared.ring.pop() {
                Some(queued) => {
                    if queued.responder.claim() {
                        queued.responder.answer(Err(BatchError::Closed));
                    }
                }
                None => std::thread::yield_now(),
            }
        }
    }
}

// ===== impl Answerer =====

impl Answerer {
    /// Answers every request in `answers`, in order, and leaves it empty.
    pub fn answer_all<R>(&mut self, answers: &mut Vec<(Reply<R>, R)>) {
        let now = Instant::now();
        self.queue_waits.clear();
        self.commits.clear();
        for (reply, value) in answers.drain(..) {
            let Reply {
                courier,
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
                self.post.collect(courier, waker);
            }
        }
        self.couriers.deliver(&mut self.post);
        // One lock for all of them, after the callers have been woken.
        self.counters.answered(&self.queue_waits, &self.commits);
    }
}
