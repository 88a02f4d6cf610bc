//! Why a replica can't continue.

use thiserror::Error;

/// Why a replica can't continue with its log.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReplicaFault {
    /// The log has accepted the claim of another replica, so the blocks of this leader that are in flight are void.
    #[error("another replica has become the leader with term {term}; the blocks in flight are void")]
    Fenced {
        /// The term of the other replica.
        term: u64,
    },
    /// The log or a block in it contradicts what this replica knows. An operator must find the cause.
    #[error("{0}")]
    Halted(String),
    /// The driver has ended, so nobody sends the blocks in flight any more. Whether the log has them is unknown.
    #[error("the replica has stopped; whether the log accepts the blocks in flight is unknown")]
    Ended,
}
