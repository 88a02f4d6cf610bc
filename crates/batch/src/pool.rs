//! [`Pool`]: keeps unused reply slots for reuse, so that a request allocates no memory in steady state.

use super::{
    slot::{Receiver, Responder, Spare, slot},
    sync::Mutex,
};

/// Maximum number of unused slots in a pool. A full pool frees each slot that is given back.
pub(crate) const SPARES_MAX: usize = 4096;

/// A pool of unused slots. Each wake task has a pool for the callers on its thread, so the pool's lock is hardly
/// ever contended. All callers without a wake task share one pool, and may contend for its lock.
pub(crate) struct Pool<R>(Mutex<Vec<Spare<R>>>);

// ===== impl Pool =====

impl<R> Pool<R> {
    /// Makes an empty pool.
    #[must_use]
    pub(crate) fn new() -> Self {
        Pool(Mutex::new(Vec::new()))
    }

    /// Returns the two ends of an unused slot from the pool. If the pool has no slot that can be reused, makes a new
    /// slot.
    #[must_use]
    pub(crate) fn take(&self) -> (Responder<R>, Receiver<R>) {
        let spare = self.0.lock().pop();
        spare.and_then(Spare::reuse).unwrap_or_else(slot)
    }

    /// Keeps the slot of an answered request for reuse. The caller must drop `receiver` right afterwards, because the
    /// slot can be reused only after both of its ends were dropped.
    pub(crate) fn give_back(&self, receiver: &Receiver<R>) {
        if let Some(spare) = receiver.retire() {
            let mut spares = self.0.lock();
            if spares.len() < SPARES_MAX {
                spares.push(spare);
            }
        }
    }
}

impl<R> std::fmt::Debug for Pool<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}
