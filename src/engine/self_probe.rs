//! Probes that the engine sends itself. While a circuit is half-open, the engine commits an empty block to measure
//! whether the disk is fast again. So no request of a caller has to serve as the probe.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;
use tally_batch::{Answer, BatchError, BatchProcessor, ResponseFuture, Submission};
use tally_breaker::{CircuitState, Classify, LatencyCircuitBreaker, Permit, Verdict};

use super::{
    call_kind::CallKind, classify::EngineClassifier, command::Command, fault::StoreFault,
    pending::EngineReply,
};

/// The probes in flight: at most one for each circuit, in the order of [`CallKind::ALL`].
#[derive(Debug, Default)]
pub(super) struct SelfProbes(Mutex<[Option<Probe>; CallKind::ALL.len()]>);

#[derive(Debug)]
struct Probe {
    permit: Permit,
    answer: Pin<Box<ResponseFuture<EngineReply>>>,
}

// ===== impl SelfProbes =====

impl SelfProbes {
    /// Records the results of the probes that were answered since the last tick, and sends new probes. A result is
    /// recorded up to one tick after the answer. This delay does not change the result, because the circuit judges only
    /// the time that the probe spent in the queue and in the commit.
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
        // The circuit judges the latency of the probe, so the batch of the probe must not wait for requests of callers.
        batch.flush();
        Probe { permit, answer }
    }

    /// Records the result if the probe was answered. Returns the probe if it is still in flight.
    fn check(mut self) -> Option<Self> {
        match self.answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => Some(self),
            Poll::Ready(answer) => {
                self.permit.record(verdict(answer.as_ref()));
                None
            }
        }
    }
}

/// Returns what the answer of a probe says about the service. A probe that finds the disk full is a success: callers get
/// an answer at once: the fault, or the recorded outcome if the id is known. A neutral verdict would keep the circuit
/// half-open as long as the disk is full, and the circuit would reject every caller with a wrong reason.
fn verdict(answer: Result<&Answer<EngineReply>, &BatchError>) -> Verdict {
    match answer {
        Ok(Answer { value, timing }) if matches!(value.fault(), Some(StoreFault::DiskFull { .. })) => {
            Verdict::success().timed(timing.queue_wait, timing.commit)
        }
        answer => EngineClassifier.classify(answer),
    }
}
