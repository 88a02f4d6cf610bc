//! [`BatchError`]: why the executor did not answer a request.

use std::time::Duration;

use thiserror::Error;

/// Why the executor did not answer a request, and whether the request may have been executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BatchError {
    /// The queue is full. The request was not executed.
    #[error("the queue is full; it should have drained in {retry_after:?}")]
    Full {
        /// Estimated time until the executor has taken all requests that are queued now.
        retry_after: Duration,
    },
    /// The queue is closed and accepts no more requests. The request was not executed.
    #[error("the service is shutting down")]
    Closed,
    /// The deadline passed while the request was queued, or would have passed before an average commit ends. The
    /// request was not executed.
    #[error("the deadline passed in the queue")]
    ExpiredInQueue,
    /// The deadline passed while the request was being executed. Its outcome is unknown.
    #[error("the deadline passed while the request was being executed")]
    ExpiredInExecution,
    /// An earlier request of the same sequence was not executed, or its outcome is unknown. Therefore this request was not
    /// executed.
    #[error("an earlier request of the same sequence was not executed, or its outcome is unknown")]
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
