//! The registered threads: those whose masks are verified and reported.

use parking_lot::Mutex;

use super::{pin::PinOutcome, role::Role};
use crate::sys::affinity::Tid;

/// Maximum number of registered threads. Further threads are pinned, but their masks are neither verified nor
/// reported.
pub const THREADS_MAX: usize = 1024;

/// One registered thread.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Identifies the entry. A ticket is never reused, but the kernel reuses thread ids.
    pub(super) ticket: u64,
    pub(super) role: Role,
    pub(super) index: usize,
    pub(super) name: String,
    pub(super) tid: Tid,
    pub(super) pin: PinOutcome,
    /// The requested `SCHED_FIFO` priority; `None` if the thread does not request `SCHED_FIFO`.
    pub(super) fifo_priority: Option<u8>,
    /// The error number with which the kernel refused `SCHED_FIFO`; `None` if the kernel did not refuse.
    pub(super) fifo_errno: Option<i32>,
}

/// All registered threads, sorted by role, index and time of registration.
#[derive(Debug, Default)]
pub(super) struct Registry {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: Vec<Entry>,
    last_ticket: u64,
    /// Number of threads that were not registered because of [`THREADS_MAX`].
    overflow: u64,
}

// ===== impl Registry =====

impl Registry {
    /// Registers a thread and returns its ticket. Returns `None` if [`THREADS_MAX`] threads are registered.
    pub(super) fn add(&self, mut entry: Entry) -> Option<u64> {
        let mut inner = self.inner.lock();
        if inner.entries.len() >= THREADS_MAX {
            inner.overflow = inner.overflow.saturating_add(1);
            return None;
        }
        inner.last_ticket = inner.last_ticket.saturating_add(1);
        let ticket = inner.last_ticket;
        entry.ticket = ticket;
        inner.entries.push(entry);
        inner
            .entries
            .sort_by_key(|entry| (entry.role, entry.index, entry.ticket));
        Some(ticket)
    }

    /// Removes the thread with this `ticket`.
    pub(super) fn remove(&self, ticket: u64) {
        self.inner.lock().entries.retain(|entry| entry.ticket != ticket);
    }

    /// Replaces the pin outcome of the thread with this `ticket`, if the thread is still registered.
    pub(super) fn set_pin(&self, ticket: u64, pin: PinOutcome) {
        let mut inner = self.inner.lock();
        let entry = inner.entries.iter_mut().find(|entry| entry.ticket == ticket);
        if let Some(entry) = entry {
            entry.pin = pin;
        }
    }

    /// Returns a copy of all entries.
    pub(super) fn entries(&self) -> Vec<Entry> {
        self.inner.lock().entries.clone()
    }

    /// Number of threads that could not be registered since the start of the process.
    pub(super) fn overflow(&self) -> u64 {
        self.inner.lock().overflow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(role: Role, index: usize) -> Entry {
        Entry {
            ticket: 0,
            role,
            index,
            name: format!("tally-{role}-{index}"),
            tid: 1,
            pin: PinOutcome::default(),
            fifo_priority: None,
            fifo_errno: None,
        }
    }

    #[test]
    fn entries_are_ordered_by_role_and_index_and_not_by_registration() {
        let registry = Registry::default();
        for (role, index) in [(Role::Aux, 0), (Role::Net, 1), (Role::Net, 0), (Role::Exec, 0)] {
            registry.add(entry(role, index));
        }
        let names: Vec<_> = registry.entries().into_iter().map(|entry| entry.name).collect();
        assert_eq!(
            names,
            ["tally-exec-0", "tally-net-0", "tally-net-1", "tally-aux-0"]
        );
    }

    #[test]
    fn the_bound_holds_and_a_removed_entry_makes_room() {
        let registry = Registry::default();
        let first = registry.add(entry(Role::Aux, 0)).unwrap();
        for index in 1..THREADS_MAX {
            registry.add(entry(Role::Aux, index)).unwrap();
        }
        assert_eq!(registry.add(entry(Role::Aux, 0)), None);
        assert_eq!(registry.overflow(), 1);
        registry.remove(first);
        assert!(registry.add(entry(Role::Aux, 0)).is_some());
        assert_eq!(registry.entries().len(), THREADS_MAX);
    }
}
