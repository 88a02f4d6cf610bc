//! Probes by the engine itself. While a circuit is half-open, the engine commits an empty block to measure whether
//! the disk is fast again. So no caller's request has to be the probe.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;
use tally_batch::{BatchProcessor, ResponseFuture, Submission};
use tally_breaker::{CircuitState, Classify, LatencyCircuitBreaker, Permit};

use super::{call_kind::CallKind, classify::EngineClassifier, command::Command, pending::EngineReply};

/// At most one probe in flight for each circuit.
#[derive(Debug, Default)]
pub(super) struct SelfProbes(Mutex<[Option<Probe>; CallKind::ALL.len()]>);

#[derive(Debug)]
struct Probe {
    permit: Permit,
    answer: Pin<Box<ResponseFuture<EngineReply>>>,
}

// ===== impl SelfProbes =====

impl SelfProbes {
    /// Records the probes that were answered, and sends the next ones. An answer wakes no task and is read in the
    /// next tick. The delay does no harm: the circuit judges only the time in the queue and in the commit.
    pub(super) fn tick(
        &self,
        breakers: &[LatencyCircuitBreaker; CallKind::ALL.len()],
        batch: &BatchProcessor<Command, EngineReply>,
    ) {
        if !breakers.iter().any(|breaker| breaker.config().self_probe) {
            return;
        }
        for (slot, breaker) in self.0.lock().iter_mut().zip(breakers) {
            *slot = slot.take().and_then(Probe::check);
            let due = breaker.config().self_probe && breaker.state() == CircuitState::HalfOpen;
            if due && slot.is_none() {
                *slot = breaker
                    .try_acquire_probe()
                    .map(|permit| Probe::send(permit, batch));
            }
        }
    }
}

// ===== impl Probe =====

impl Probe {
    fn send(permit: Permit, batch: &BatchProcessor<Command, EngineReply>) -> Self {
        let submission = Submission::new(Command::Probe, None);
        let answer = Box::pin(batch.submit(submission));
        // The circuit judges the latency of the probe, so its batch must not linger for other callers.
        batch.flush();
        Probe { permit, answer }
    }

    /// Records the answer, if there is one. Returns the probe if it is still in flight.
    fn check(mut self) -> Option<Self> {
        match self.answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => Some(self),
            Poll::Ready(answer) => {
                self.permit.record(EngineClassifier.classify(answer.as_ref()));
                None
            }
        }
    }
}
