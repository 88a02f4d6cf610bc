//! The clock for durations of disk operations.
//!
//! The durations are only reported. No decision of the journal depends on them, so tests need no clock that they can stop.

#[expect(
    clippy::disallowed_types,
    reason = "measures a blocking call on a thread without a runtime"
)]
use std::time::Instant;

#[expect(clippy::disallowed_types, reason = "see the import")]
/// Returns the current time of the monotonic clock.
pub(crate) fn now() -> Instant {
    Instant::now()
}
