//! The clock that measures how long the disk takes.
//!
//! The durations are only reported: nothing the journal decides depends on them, so tests need no clock to stop.

#[expect(
    clippy::disallowed_types,
    reason = "measures a blocking call on a thread without a runtime"
)]
use std::time::Instant;

#[expect(clippy::disallowed_types, reason = "see the import")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
