//! Decides when a batch is committed: at once, unless more callers are known to be on their way.
//!
//! When the committer is idle, waiting only costs a lone caller latency. When several callers are about to submit, the first of them
//! would get a commit for itself, and the others would wait until it ends. Therefore a batch lingers if at least `siblings` callers are
//! on their way: from its first request on, and for at most half a commit. PostgreSQL does the same with `commit_delay` and
//! `commit_siblings`; its manual recommends half of one flush. After a linger in which no request arrived, the next batches do not
//! linger.

use std::time::Duration;

use tokio::time::Instant;

use super::stats::FlushReason;

/// Maximum number of batches that do not linger after a linger in which no request arrived.
const SKIP_MAX: u32 = 64;

/// The state of the decision.
#[derive(Debug)]
pub(super) struct Pace {
    linger_max: Duration,
    siblings: usize,
    open: Option<Open>,
    linger: Option<Linger>,
    /// Number of batches that will not linger now, and after the next linger in which no request arrives.
    skip: u32,
    skip_next: u32,
}

/// The open batch: the requests taken since the last batch.
#[derive(Debug, Clone, Copy)]
struct Open {
    first: Instant,
    /// The earliest deadline of its requests.
    deadline: Option<Instant>,
    requests: usize,
}

#[derive(Debug, Clone, Copy)]
struct Linger {
    until: Instant,
    /// Number of requests in the batch when the linger began.
    requests: usize,
}

/// The facts that the decision depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Situation {
    /// Number of callers on their way.
    pub(super) on_their_way: usize,
    /// Average duration of a commit; zero before the first one.
    pub(super) commit: Duration,
    /// Whether the queue is closed.
    pub(super) closed: bool,
    /// The last explicit flush: requests queued before it must not linger.
    pub(super) flush_to: Option<Instant>,
}

// ===== impl Pace =====

impl Pace {
    pub(super) const fn new(linger_max: Duration, siblings: usize) -> Self {
        Pace {
            linger_max,
            siblings,
            open: None,
            linger: None,
            skip: 0,
            skip_next: 1,
        }
    }

    /// Adds a request to the open batch.
    #[inline]
    pub(super) fn claimed(&mut self, queued_at: Instant, deadline: Option<Instant>) {
        let open = self.open.get_or_insert(Open {
            first: queued_at,
            deadline,
            requests: 0,
        });
        open.requests += 1;
        open.deadline = match (open.deadline, deadline) {
            (Some(earliest), Some(deadline)) => Some(earliest.min(deadline)),
            (earliest, deadline) => earliest.or(deadline),
        };
    }

    /// Ends the open batch.
    #[inline]
    pub(super) const fn closed(&mut self) {
        self.open = None;
        self.linger = None;
    }

    /// Returns why the open batch is committed now; `None` if it lingers. Reads the clock only if the batch may linger.
    #[inline]
    pub(super) fn due(
        &mut self,
        situation: &Situation,
        now: impl FnOnce() -> Instant,
    ) -> Option<FlushReason> {
        let reason = self.decide(situation, now);
        if reason.is_some() {
            self.closed();
        }
        reason
    }

    fn decide(&mut self, situation: &Situation, now: impl FnOnce() -> Instant) -> Option<FlushReason> {
        if situation.closed {
            return Some(FlushReason::Drain);
        }
        let longest = self.linger_max.min(situation.commit / 2);
        let Some(open) = self.open else {
            return Some(FlushReason::Idle);
        };
        let few = situation.on_their_way < self.siblings;
        if self.linger.is_none() {
            if few || longest.is_zero() {
                return Some(FlushReason::Idle);
            }
            if self.skip > 0 {
                self.skip -= 1;
                return Some(FlushReason::Idle);
            }
        }
        let now = now();
        let linger = match self.linger {
            Some(linger) => linger,
            None => {
                let until = open.first + longest;
                if now >= until {
                    // The first request has waited that long in the queue already.
                    return Some(FlushReason::Idle);
                }
                *self.linger.insert(Linger {
                    until,
                    requests: open.requests,
                })
            }
        };
        if situation.flush_to.is_some_and(|flush_to| open.first <= flush_to) {
            return Some(FlushReason::Explicit);
        }
        if latest_start(open.deadline, situation.commit).is_some_and(|latest| now >= latest) {
            return Some(FlushReason::Deadline);
        }
        if few || now >= linger.until {
            self.learn(open.requests > linger.requests);
            return Some(FlushReason::Linger);
        }
        None
    }

    fn learn(&mut self, callers_arrived: bool) {
        if callers_arrived {
            self.skip_next = 1;
        } else {
            self.skip = self.skip_next;
            self.skip_next = (self.skip_next * 2).min(SKIP_MAX);
        }
    }

    /// If the open batch lingers: the rest of its time, and the number of queued requests that ends the linger early.
    #[inline]
    pub(super) fn rest(
        &self,
        situation: &Situation,
        now: impl FnOnce() -> Instant,
    ) -> Option<(Duration, usize)> {
        let (linger, open) = (self.linger?, self.open?);
        let until = latest_start(open.deadline, situation.commit)
            .map_or(linger.until, |latest| latest.min(linger.until));
        let awaited = (situation.on_their_way + 1).saturating_sub(self.siblings);
        Some((until.saturating_duration_since(now()), awaited.max(1)))
    }
}

/// The latest start of a commit that ends by `deadline`.
#[inline]
fn latest_start(deadline: Option<Instant>, commit: Duration) -> Option<Instant> {
    deadline.and_then(|deadline| deadline.checked_sub(commit))
}
