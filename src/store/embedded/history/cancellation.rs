//! Ends reads whose callers have gone.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::store::embedded::error::RecordError;

/// Says whether a read must end early. A thread can't be interrupted, so a read checks this value between its steps.
#[derive(Debug, Clone, Default)]
pub struct Cancellation(Arc<AtomicBool>);

/// Cancels a read when it is dropped.
#[derive(Debug)]
pub struct CancelOnDrop(Cancellation);

// ===== impl Cancellation =====

impl Cancellation {
    /// Returns a value that cancels the read when it is dropped.
    #[must_use]
    pub fn cancel_on_drop(&self) -> CancelOnDrop {
        CancelOnDrop(self.clone())
    }

    /// Checks that the read may continue.
    ///
    /// # Errors
    /// [`RecordError::Cancelled`] if nobody waits for the read any more.
    pub fn check(&self) -> Result<(), RecordError> {
        if self.0.load(Ordering::Relaxed) {
            Err(RecordError::Cancelled)
        } else {
            Ok(())
        }
    }
}

// ===== impl CancelOnDrop =====

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}
