//! [`Permit`]: what an admitted call holds until the call ends.

use std::sync::Arc;

use super::{
    classify::Verdict,
    machine::{Core, Ticket},
    sync::CachePadded,
    writer::ShardAccess,
};

/// An admitted call. Call [`record`](Self::record) with a verdict when the call ends.
///
/// Dropping a permit without a verdict means that the caller gave up the call. Such a call counts neither as a
/// success nor as a failure, and counts as slow if it had already taken the slow threshold or longer. If the call
/// was a probe and was not slow, another probe may take its place. If a panic drops the permit, the call counts as a
/// failure.
#[derive(Debug)]
#[must_use = "dropping a permit means that the call was given up"]
pub struct Permit {
    lane: Arc<Lane>,
    /// None for a call that is not recorded.
    ticket: Option<Ticket>,
    /// Whether the verdict was recorded.
    ended: bool,
}

/// A reference to the core, with its own reference count on its own cache line. Each shard has a lane. If all threads
/// used one common reference count, they would contend for it twice per call.
#[derive(Debug)]
pub(super) struct Lane {
    core: CachePadded<Arc<Core>>,
}

/// A permit that borrows the breaker, for a call that ends before the borrow ends. It changes no reference count.
#[derive(Debug)]
pub(super) struct BorrowedPermit<'a> {
    core: &'a Core,
    /// None for a call that is not recorded.
    ticket: Option<Ticket>,
    /// Whether the verdict was recorded.
    ended: bool,
}

// ===== impl Permit =====

impl Permit {
    #[inline]
    pub(super) const fn new(lane: Arc<Lane>) -> Self {
        Self {
            lane,
            ticket: None,
            ended: false,
        }
    }

    /// Returns the place where the core writes the ticket when it admits the call.
    #[inline]
    pub(super) const fn ticket_mut(&mut self) -> &mut Option<Ticket> {
        &mut self.ticket
    }

    /// Ends the call with a verdict.
    #[inline]
    pub fn record(mut self, verdict: Verdict) {
        self.end(&verdict);
    }

    /// Ends the call with a verdict, without moving the permit. Only the first verdict counts.
    #[inline]
    pub(super) fn end(&mut self, verdict: &Verdict) {
        let ended = std::mem::replace(&mut self.ended, true);
        if let Some(ticket) = self.ticket.as_ref().filter(|_| !ended) {
            let core = &self.lane.core;
            core.finish(core.shard_access(), ticket, Some(verdict));
        }
    }

    /// Returns when the call was admitted, in nanoseconds of the breaker's clock. None if the call is not recorded,
    /// because the mode is [`BreakerMode::Disabled`](super::BreakerMode::Disabled).
    #[must_use]
    #[inline]
    pub fn admitted_ns(&self) -> Option<u64> {
        self.ticket.map(|ticket| ticket.admitted_ns)
    }
}

impl Drop for Permit {
    #[inline]
    fn drop(&mut self) {
        if !self.ended {
            give_up(&self.lane.core, self.ticket.as_ref());
        }
    }
}

// ===== impl Lane =====

impl Lane {
    pub(super) fn new(core: &Arc<Core>) -> Arc<Self> {
        Arc::new(Self {
            core: CachePadded::new(Arc::clone(core)),
        })
    }
}

// ===== impl BorrowedPermit =====

impl<'a> BorrowedPermit<'a> {
    #[inline]
    pub(super) const fn new(core: &'a Core) -> Self {
        Self {
            core,
            ticket: None,
            ended: false,
        }
    }

    /// Returns the place where the core writes the ticket when it admits the call.
    #[inline]
    pub(super) const fn ticket_mut(&mut self) -> &mut Option<Ticket> {
        &mut self.ticket
    }

    /// Ends the call with a verdict. `access` belongs to the calling thread.
    #[inline]
    pub(super) fn end(&mut self, access: ShardAccess, verdict: &Verdict) {
        self.ended = true;
        if let Some(ticket) = &self.ticket {
            self.core.finish(access, ticket, Some(verdict));
        }
    }
}

impl Drop for BorrowedPermit<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.ended {
            give_up(self.core, self.ticket.as_ref());
        }
    }
}

/// Ends a call that got no verdict.
#[cold]
fn give_up(core: &Core, ticket: Option<&Ticket>) {
    if let Some(ticket) = ticket {
        let verdict = std::thread::panicking().then(Verdict::failure);
        core.finish(core.shard_access(), ticket, verdict.as_ref());
    }
}
