//! A set of numbers for threads. At most one thread holds a number at a time. A released number can be claimed again;
//! the lowest free number is claimed first.
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
            // This acquire pairs with the release of the number's last holder. Changes by other numbers in between
            // continue the same release sequence, because all changes are read-modify-writes.
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

    /// Releases a number. The thread that held it must not use it afterwards.
    pub(super) fn release(&self, slot: u32) {
        self.0.fetch_and(!(1 << slot), Ordering::Release);
    }
}
