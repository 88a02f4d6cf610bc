//! Pauses that the ticker is too coarse to see, told by the host.

use std::time::Duration;

use super::{handle::LatencyCircuitBreaker, machine::nanos};

impl LatencyCircuitBreaker {
    /// The process was held up for `pause` until about now, and somebody other than the ticker noticed: a CPU quota stops
    /// it for less than a tenth of a second at a time, again and again. Calls under way are judged only from now on, and
    /// the pause is added to [`self_throttled_ms`](super::LifetimeStats::self_throttled_ms). A pause of zero is none.
    pub fn note_self_throttled(&self, pause: Duration) {
        if pause.is_zero() {
            return;
        }
        let core = self.core();
        core.pulse.suspend(core.clock.now_ns(), nanos(pause));
        tracing::debug!(key = &*core.key, ?pause, "the process was throttled; latencies are judged from now on");
        if let Some(observer) = &core.observer {
            observer.on_self_throttled(&core.key, pause);
        }
    }
}
