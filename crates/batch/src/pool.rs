//! Reply slots that are used again, so that a request costs no allocation once as many have been made as are under way.

use super::{
    slot::{Receiver, Responder, Spare, slot},
    sync::Mutex,
};

/// Most slots that a pool keeps: as many as calls that one connection may have under way. More than that are freed.
pub(crate) const SPARES_MAX: usize = 4096;

/// The spare slots of the callers on one thread. The lock is contended only by callers who have no courier.
pub(crate) struct Pool<R>(Mutex<Vec<Spare<R>>>);

// ===== impl Pool =====

impl<R> Pool<R> {
    /// Without slots.
    #[must_use]
    pub(crate) fn new() -> Self {
        Pool(Mutex::new(Vec::new()))
    }

    /// The two ends of a slot, a used one if there is one.
    #[must_use]
    pub(crate) fn take(&self) -> (Responder<R>, Receiver<R>) {
        let spare = self.0.lock().pop();
        spare.and_then(Spare::reuse).unwrap_or_else(slot)
    }

    /// Keeps the slot of an answered request; to be called as `receiver` is dropped.
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
