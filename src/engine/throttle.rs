//! Reports to the circuits for how long the CPU quota has stopped the process. A call that took long because of such a
//! pause is no sign of a slow disk.

use std::time::Duration;

use super::{call_kind::CallKind, tally_engine::TallyEngine};

impl TallyEngine {
    /// Checks whether the CPU quota has stopped the process since the previous call of this method, and reports the
    /// pause to the circuits. `elapsed` is the time since the previous call. Call this method about once per period of
    /// the quota. Without a quota, the method does nothing.
    ///
    /// The circuits receive a pause only at the next call of this method. If a request ended after the pause and
    /// before this call, its circuit judged the latency of the request as if there had been no pause.
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
