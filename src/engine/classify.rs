//! How the breaker judges the answers of the engine.

use tally_batch::{Answer, BatchError};
use tally_breaker::{Classify, Verdict};

use super::{fault::StoreFault, pending::EngineReply};

/// Every outcome of a transaction is a success, even a rejection: a client without funds must not open the circuit
/// for others. A request that EXEC never executed is neutral. A fault of the store is a failure.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct EngineClassifier;

impl Classify<Answer<EngineReply>, BatchError> for EngineClassifier {
    fn classify(&self, result: Result<&Answer<EngineReply>, &BatchError>) -> Verdict {
        match result {
            Ok(Answer { value, timing }) => {
                let verdict = match value.fault() {
                    None => Verdict::success(),
                    // One damaged record must not open the circuit for others, even if a client reads it again and again.
                    Some(StoreFault::Damaged { .. }) => Verdict::neutral().sampled(),
                    Some(_) => Verdict::failure(),
                };
                verdict
                    .timed(timing.queue_wait, timing.commit)
                    .in_batch(value.block())
            }
            Err(BatchError::Lost) => Verdict::failure(),
            // An expired deadline is not a failure: the caller may have set it too short. A call that had already exceeded the
            // slow threshold counts as slow, so that callers with deadlines do not hide a disk that hangs. A call with a
            // shorter deadline does not count as fast.
            Err(BatchError::ExpiredInExecution | BatchError::ExpiredInQueue) => Verdict::given_up(),
            // These errors say nothing about the disk. If they counted as failures, a full queue would open the
            // circuit, and a probe that finds the queue full would keep the circuit open.
            Err(BatchError::Full { .. } | BatchError::Closed | BatchError::Interrupted) => {
                Verdict::neutral().unsampled()
            }
        }
    }
}
