//! The clock for durations of disk operations.
//!
//! The journal only reports these durations. No decision of the journal depends on them, so tests need no controllable
//! clock.

#[expect(
    clippy::disallowed_types,
    reason = "measures a blocking call on a thread without a runtime"
)]
use std::time::Instant;

#[expect(
    clippy::disallowed_types,
    reason = "for the reason at the import of `Instant`"
)]
/// Returns the current time of the monotonic clock.
pub(crate) fn now() -> Instant {
    Instant::now()
}
