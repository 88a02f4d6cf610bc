//! The CPU quota's pauses, told to the circuits: a call that the quota held up says nothing about the disk.

use std::time::Duration;

use super::{call_kind::CallKind, tally_engine::TallyEngine};

impl TallyEngine {
    /// Looks whether the CPU quota has stopped the process since the last call, `elapsed` ago, and tells the circuits. To
    /// be called about once in a period of the quota; without a quota it does nothing.
    ///
    /// A pause is noticed only after its end, up to one such interval later: a call that has ended in between was judged
    /// as if nothing had held it up.
    pub fn note_throttling(&self, elapsed: Duration) {
        let Some(throttled) = self.affinity().sample_throttling() else {
            return;
        };
        // The kernel adds up the CPUs; nobody was stopped for longer than the time that has passed.
        let pause = throttled.time.min(elapsed);
        for kind in CallKind::ALL {
            self.breaker(kind).note_self_throttled(pause);
        }
    }
}
