//! What an answer of the engine says about its health: the breaker's view.

use super::{fault::StoreFault, pending::EngineReply};
use crate::{
    batch::{Answer, BatchError},
    breaker::{Classify, Verdict},
};

/// Business outcomes are successes, however they ended: a client without funds must not open the circuit for others.
/// What never reached the executor says nothing about it. Store faults are failures.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct EngineClassifier;

impl Classify<Answer<EngineReply>, BatchError> for EngineClassifier {
    fn classify(&self, result: Result<&Answer<EngineReply>, &BatchError>) -> Verdict {
        match result {
            Ok(Answer { value, timing }) => {
                let verdict = match value.fault() {
                    None => Verdict::success(),
                    // One damaged record must not open the circuit for others, however often a client asks for it.
                    Some(StoreFault::Damaged { .. }) => Verdict::neutral().sampled(),
                    Some(_) => Verdict::failure(),
                };
                verdict
                    .timed(timing.queue_wait, timing.commit)
                    .in_batch(value.block())
            }
            Err(BatchError::Lost) => Verdict::failure(),
            // The caller's deadline says as much about the caller as about the engine, so it is no failure; but a call that
            // was overdue by then was slow, or callers with deadlines would hide that the disk hangs. One with a deadline
            // shorter than that is no fast call either.
            Err(BatchError::ExpiredInExecution | BatchError::ExpiredInQueue) => Verdict::given_up(),
            // Counting the engine's own refusals as failures would keep the circuit open by its own doing.
            Err(BatchError::Full { .. } | BatchError::Closed | BatchError::Interrupted) => {
                Verdict::neutral().unsampled()
            }
        }
    }
}
