//! [`Pace`]: decides when a batch is committed. The batch is committed at once, or it *lingers*: it waits for callers
//! that are *on their way*. A caller is on its way from the start of its call
//! ([`Caller::calling`](super::caller::Caller::calling)) until it submits its request.
//!
//! If no other caller is on its way, a linger would only add latency. If several callers are on their way, a commit for
//! the first request alone would make the other callers wait until this commit ends. Therefore a batch lingers if at
//! least `siblings` callers are on their way. A linger starts when the batch's first request is queued, and takes at
//! most half the average time of a commit. The settings `commit_delay` and `commit_siblings` of PostgreSQL do the same,
//! and PostgreSQL's manual recommends a delay of half the time of one flush. After a linger in which no request
//! arrived, some of the following batches do not linger.

use std::time::Duration;

use tokio::time::Instant;

use super::stats::FlushReason;

/// Maximum number of batches that do not linger after a linger in which no request arrived.
const SKIP_MAX: u32 = 64;

/// Decides when the open batch is committed.
#[derive(Debug)]
pub(super) struct Pace {
    linger_max: Duration,
    siblings: usize,
    open: Option<Open>,
    linger: Option<Linger>,
    /// Number of following batches that will not linger.
    skip: u32,
    /// The value that `skip` will get after the next linger in which no request arrives. The value doubles each time.
    skip_next: u32,
}

/// The open batch: the requests taken since the last commit began.
#[derive(Debug, Clone, Copy)]
struct Open {
    /// The time at which the first request was queued.
    first: Instant,
    /// The earliest deadline of the requests; `None` if no request has a deadline.
    deadline: Option<Instant>,
    requests: usize,
}

/// The linger of the open batch.
#[derive(Debug, Clone, Copy)]
struct Linger {
    /// The latest end of the linger.
    until: Instant,
    /// Number of requests in the batch when the linger began.
    requests: usize,
}

/// The facts on which the decision depends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Situation {
    /// Number of callers on their way.
    pub(super) on_their_way: usize,
    /// Average duration of a commit; zero before the first commit.
    pub(super) commit: Duration,
    /// Whether the queue is closed.
    pub(super) closed: bool,
    /// The time of the last explicit flush: requests queued before this time must not linger.
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

    /// Returns the reason to commit the open batch now; `None` if the batch lingers. Calls `now` only if the batch may
    /// linger.
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
                    // The first request has already waited in the queue for the time of a whole linger, so the batch
                    // does not linger.
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

    /// Decides how many of the following batches do not linger. `callers_arrived` states whether a request arrived
    /// during the linger.
    fn learn(&mut self, callers_arrived: bool) {
        if callers_arrived {
            self.skip_next = 1;
        } else {
            self.skip = self.skip_next;
            self.skip_next = (self.skip_next * 2).min(SKIP_MAX);
        }
    }

    /// If the open batch lingers, returns the remaining time of the linger, and the number of queued requests that ends
    /// the linger early.
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
