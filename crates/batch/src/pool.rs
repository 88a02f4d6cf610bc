//! Reuses reply slots: once as many slots exist as requests are in flight, a request needs no allocation.

use super::{
    slot::{Receiver, Responder, Spare, slot},
    sync::Mutex,
};

/// Maximum number of unused slots in a pool. More are freed.
pub(crate) const SPARES_MAX: usize = 4096;

/// Unused slots of the callers on one thread. Only callers without a wake task share a pool, so only they contend for the lock.
pub(crate) struct Pool<R>(Mutex<Vec<Spare<R>>>);

// ===== impl Pool =====

impl<R> Pool<R> {
    /// An empty pool.
    #[must_use]
    pub(crate) fn new() -> Self {
        Pool(Mutex::new(Vec::new()))
    }

    /// Returns the two ends of a slot: of an unused one, or else of a new one.
    #[must_use]
    pub(crate) fn take(&self) -> (Responder<R>, Receiver<R>) {
        let spare = self.0.lock().pop();
        spare.and_then(Spare::reuse).unwrap_or_else(slot)
    }

    /// Keeps the slot of an answered request for reuse. The caller must drop `receiver` right afterwards.
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
