//! Reports the pauses that the CPU quota causes to the circuits: a call that the quota delayed does not show a slow disk.

use std::time::Duration;

use super::{call_kind::CallKind, tally_engine::TallyEngine};

impl TallyEngine {
    /// Checks whether the CPU quota has stopped the process since the last call, `elapsed` ago, and reports the pause to the
    /// circuits. Call it about once per period of the quota. Without a quota it does nothing.
    ///
    /// A pause is noticed up to one interval after its end. A call that ended in between was judged as if there had been no
    /// pause.
    pub fn note_throttling(&self, elapsed: Duration) {
        let Some(throttled) = self.affinity().sample_throttling() else {
            return;
        };
        // The kernel adds up the times of all CPUs, but no thread was stopped for longer than `elapsed`.
        let pause = throttled.time.min(elapsed);
        for kind in CallKind::ALL {
            self.breaker(kind).note_self_throttled(pause);
        }
    }
}
