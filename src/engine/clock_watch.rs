//! Watches the ledger clock: logs when a step of the wall clock is held, and when the ledger clock follows again. EXEC
//! reads the clock, too, but must not wait for a log.

use std::sync::Arc;

use crate::ledger_clock::{ClockReading, ClockStep, LedgerClock, STEP_MAX, date};

/// What the maintenance thread knows about the ledger clock.
#[derive(Debug)]
pub(super) struct ClockWatch {
    clock: Arc<LedgerClock>,
    /// The held step that was logged; `None` while the ledger clock follows the wall clock.
    logged: Option<ClockStep>,
}

// ===== impl ClockWatch =====

impl ClockWatch {
    pub(super) const fn new(clock: Arc<LedgerClock>) -> Self {
        ClockWatch { clock, logged: None }
    }

    /// Reads the clock. Frequent readings let the ledger clock tell a large step from the sum of small steps.
    pub(super) fn look(&mut self) {
        let ClockReading { wall, ledger, held } = self.clock.read();
        match (self.logged, held) {
            (None, None) => {}
            (Some(_), None) => {
                tracing::info!(
                    wall_time = date(wall),
                    "the time of the ledger follows the system clock again"
                );
                self.logged = None;
            }
            // The same step as before. The clocks may have drifted apart a little.
            (Some(logged), Some(held)) if logged.is_about(held) => {}
            (_, Some(held)) => {
                tracing::warn!(
                    wall_time = date(wall),
                    ledger_time = date(ledger),
                    step_s = held.seconds(),
                    step_max_s = STEP_MAX.as_secs(),
                    "the system clock made a large step, and the time of the ledger does not follow it; if the new time is \
                     right, confirm it with `tally clock confirm`, otherwise set the clock"
                );
                self.logged = Some(held);
            }
        }
    }
}
