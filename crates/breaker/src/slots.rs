//! Numbers for threads: each is held by at most one thread at a time and used again after that, lowest first.
//!
//! Imports nothing but `super::sync`, so that `tests/loom` can model-check this very file.

use super::sync::{AtomicU64, Ordering};

/// A set of 64 numbers, a bit for each that is taken.
#[derive(Debug)]
pub(super) struct ThreadSlots(AtomicU64);

// ===== impl ThreadSlots =====

impl ThreadSlots {
    /// The set with the bits of `taken` taken.
    pub(super) const fn new(taken: AtomicU64) -> Self {
        Self(taken)
    }

    /// Takes the lowest free number; None if all are taken. The thread that gets it sees all that the ones which held it
    /// before had written when they released it.
    pub(super) fn claim(&self) -> Option<u32> {
        let mut taken = self.0.load(Ordering::Relaxed);
        while taken != u64::MAX {
            let slot = taken.trailing_ones();
            // Acquire, against the release of whoever held the number. Another number's change in between belongs to the
            // same release sequence, since all changes are read-modify-writes.
            match self
                .0
                .compare_exchange(taken, taken | (1 << slot), Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return Some(slot),
                Err(changed) => taken = changed,
            }
        }
        None
    }

    /// Gives a number back. Its holder must not use it any more.
    pub(super) fn release(&self, slot: u32) {
        self.0.fetch_and(!(1 << slot), Ordering::Release);
    }
}
