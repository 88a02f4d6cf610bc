//! Decides whether an answer of the engine counts as a success or as a failure for the circuit breaker.

use tally_batch::{Answer, BatchError};
use tally_breaker::{Classify, Verdict};

use super::{fault::StoreFault, pending::EngineReply};

/// Turns answers of the engine into verdicts. Every outcome of a transaction is a success, even a rejection, because a
/// client without funds must not open the circuit for other clients. A fault of the store is a failure, except damage
/// of a single record and a full disk. A request that was never queued, or that was interrupted, is neutral.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct EngineClassifier;

impl Classify<Answer<EngineReply>, BatchError> for EngineClassifier {
    fn classify(&self, result: Result<&Answer<EngineReply>, &BatchError>) -> Verdict {
        match result {
            Ok(Answer { value, timing }) => {
                let verdict = match value.fault() {
                    None => Verdict::success(),
                    // One damaged record must not open the circuit for other clients, even if a client reads the record
                    // again and again.
                    Some(StoreFault::Damaged { .. }) => Verdict::neutral().sampled(),
                    // A full disk is not slow, and every caller gets a clear answer without the help of the circuit. If
                    // these faults counted as failures, the circuit would still be open when there is space again.
                    Some(StoreFault::DiskFull { .. } | StoreFault::NotLeader) => Verdict::neutral(),
                    Some(_) => Verdict::failure(),
                };
                verdict
                    .timed(timing.queue_wait, timing.commit)
                    .in_batch(value.block())
            }
            Err(BatchError::Lost) => Verdict::failure(),
            // An expired deadline is not a failure, because the caller may have set the deadline too short. If the call
            // had already exceeded the slow threshold, the call counts as slow. So a disk that hangs is noticed
            // although the callers have deadlines. If the deadline was shorter than the slow threshold, the call counts
            // neither as slow nor as fast.
            Err(BatchError::ExpiredInExecution | BatchError::ExpiredInQueue) => Verdict::given_up(),
            // These errors say nothing about the disk. If they counted as failures, a full queue would open the
            // circuit, and a probe that finds the queue full would keep the circuit open.
            Err(BatchError::Full { .. } | BatchError::Closed | BatchError::Interrupted) => {
                Verdict::neutral().unsampled()
            }
        }
    }
}
