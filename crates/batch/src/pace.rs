//! When a batch goes out: at once, unless more callers are certainly on their way.
//!
//! With an idle committer, waiting costs a lone caller its latency and gains nothing; but with several callers about to
//! submit, the first would have a commit of its own and the others would wait for it to end. So a batch lingers, from
//! its first request on, if at least `siblings` callers are known to be on their way, and for half a commit at most:
//! as PostgreSQL's `commit_delay` does with `commit_siblings`, whose manual recommends half of one flush. A linger in
//! which nobody came is not tried again for a while.

use std::time::Duration;

use tokio::time::Instant;

use super::stats::FlushReason;

/// Most batches that go out at once after lingers in which nobody came.
const SKIP_MAX: u32 = 64;

/// How long batches linger, and for whom.
#[derive(Debug)]
pub(super) struct Pace {
    linger_max: Duration,
    siblings: usize,
    open: Option<Open>,
    linger: Option<Linger>,
    /// Batches that will not linger, and how many it will be after the next linger in vain.
    skip: u32,
    skip_next: u32,
}

/// What has been taken since the last batch went out.
#[derive(Debug, Clone, Copy)]
struct Open {
    first: Instant,
    /// The earliest.
    deadline: Option<Instant>,
    requests: usize,
}

#[derive(Debug, Clone, Copy)]
struct Linger {
    until: Instant,
    /// Requests when it began.
    requests: usize,
}

/// What the decision depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Situation {
    /// Callers on their way.
    pub(super) on_their_way: usize,
    /// How long a commit takes, about; zero if that is not known.
    pub(super) commit: Duration,
    /// Nobody else will come.
    pub(super) closed: bool,
    /// What was queued until then must not linger.
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

    /// A request was taken into the open batch.
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

    /// The open batch has gone out.
    pub(super) const fn closed(&mut self) {
        self.open = None;
        self.linger = None;
    }

    /// Why the open batch goes out now; `None` if it lingers. The clock is read only if it may.
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
                    // It has waited that long in the queue already.
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

    fn learn(&mut self, somebody_came: bool) {
        if somebody_came {
            self.skip_next = 1;
        } else {
            self.skip = self.skip_next;
            self.skip_next = (self.skip_next * 2).min(SKIP_MAX);
        }
    }

    /// If the open batch lingers: how long yet, and for how many requests it is woken before that.
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

/// When a commit has to begin to be over by `deadline`.
fn latest_start(deadline: Option<Instant>, commit: Duration) -> Option<Instant> {
    deadline.and_then(|deadline| deadline.checked_sub(commit))
}
