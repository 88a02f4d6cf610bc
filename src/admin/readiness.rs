//! Whether the service accepts calls.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

const STARTING: u8 = 0;
const SERVING: u8 = 1;
const DRAINING: u8 = 2;

/// A step in the life of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The gRPC port does not accept calls yet.
    Starting,
    /// The gRPC port accepts calls.
    Serving,
    /// The service stops: it finishes the calls in flight and accepts no more.
    Draining,
}

/// The phase of the service: starting at first. Clones share the phase.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<AtomicU8>);

// ===== impl Readiness =====

impl Readiness {
    /// Notes that the service accepts calls.
    pub fn set_serving(&self) {
        self.0.store(SERVING, Ordering::Release);
    }

    /// Notes that the service stops.
    pub fn set_draining(&self) {
        self.0.store(DRAINING, Ordering::Release);
    }

    pub(super) fn phase(&self) -> Phase {
        match self.0.load(Ordering::Acquire) {
            STARTING => Phase::Starting,
            SERVING => Phase::Serving,
            _ => Phase::Draining,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_shows_every_phase_in_turn() {
        let readiness = Readiness::default();
        let shown = readiness.clone();
        assert_eq!(shown.phase(), Phase::Starting);
        readiness.set_serving();
        assert_eq!(shown.phase(), Phase::Serving);
        readiness.set_draining();
        assert_eq!(shown.phase(), Phase::Draining);
    }
}
