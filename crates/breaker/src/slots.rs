//! [`ThreadSlots`]: a set of 64 numbers that threads claim and release. At most one thread holds a number at a time. A
//! thread that claims a number gets the lowest free number.
//!
//! This file imports only `super::sync`, so that `tests/loom` can model-check it unchanged.

use super::sync::{AtomicU64, Ordering};

/// A set of 64 numbers, with one bit per number: 1 if a thread holds it.
#[derive(Debug)]
pub(super) struct ThreadSlots(AtomicU64);

// ===== impl ThreadSlots =====

impl ThreadSlots {
    /// Makes a set in which the numbers with a 1 bit in `taken` are already held.
    pub(super) const fn new(taken: AtomicU64) -> Self {
        Self(taken)
    }

    /// Claims the lowest free number. Returns None if all 64 numbers are held. The claiming thread sees everything that
    /// earlier holders of the number wrote before they released it.
    pub(super) fn claim(&self) -> Option<u32> {
        let mut taken = self.0.load(Ordering::Relaxed);
        while taken != u64::MAX {
            let slot = taken.trailing_ones();
            // This Acquire pairs with the Release of the number's last holder. Between the two, other threads may claim
            // or release other numbers. These changes continue the same release sequence, because all changes are
            // read-modify-write operations.
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

    /// Releases a number. The thread that held the number must not use the number afterwards.
    pub(super) fn release(&self, slot: u32) {
        self.0.fetch_and(!(1 << slot), Ordering::Release);
    }
}
