//! Why a request was not answered by the executor.

use std::time::Duration;

use thiserror::Error;

/// Why a request was not answered by the executor, and whether it may have been executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BatchError {
    /// The queue is full. Not executed.
    #[error("the queue is full; it should have drained in {retry_after:?}")]
    Full {
        /// Estimated time until the requests that are queued now are taken.
        retry_after: Duration,
    },
    /// The executor takes no more requests. Not executed.
    #[error("the service is shutting down")]
    Closed,
    /// The deadline passed while the request was queued. Not executed.
    #[error("the deadline passed in the queue")]
    ExpiredInQueue,
    /// The deadline passed while the request was being executed. Its outcome is unknown.
    #[error("the deadline passed while the request was being executed")]
    ExpiredInExecution,
    /// An earlier request of its sequence was not executed. Not executed.
    #[error("a request before it in its sequence was not executed")]
    Interrupted,
    /// The executor dropped the request. Its outcome is unknown.
    #[error("the executor dropped the request")]
    Lost,
}

impl BatchError {
    /// Whether the request was certainly not executed.
    #[must_use]
    #[inline]
    pub const fn is_not_executed(self) -> bool {
        match self {
            BatchError::Full { .. }
            | BatchError::Closed
            | BatchError::ExpiredInQueue
            | BatchError::Interrupted => true,
            BatchError::ExpiredInExecution | BatchError::Lost => false,
        }
    }
}
