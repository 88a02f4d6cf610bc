//! Why a benchmark has no result.

use std::{io, path::PathBuf, time::Duration};

use tally_journal::DiskError;
use tally_topology::AffinityError;
use thiserror::Error;

use crate::client::{ConnectError, Fault};

/// Why a benchmark has no result.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BenchError {
    /// A server could not be started.
    #[error("can't start the server: {0}")]
    Start(#[source] io::Error),
    /// A server exited before it accepted connections.
    #[error("the server exited before it was ready; see its log above")]
    Exited,
    /// A server did not stop.
    #[error("can't stop the server: {0}")]
    Stop(#[source] io::Error),
    /// The service can't be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A call failed.
    #[error("{call} failed: {}", fault(status, *timeout))]
    Call {
        /// The method.
        call: &'static str,
        /// The status of the answer.
        status: tonic::Status,
        /// The timeout of the call. The calls of the load have no timeout, because the benchmark measures how long they take.
        timeout: Option<Duration>,
    },
    /// A client thread could not be set up.
    #[error("can't set up a client thread: {0}")]
    ClientSetup(#[from] io::Error),
    /// The calls hold more memory than the service allows.
    #[error(
        "MEMORY_LIMIT: {in_flight} calls in flight of {batch} transactions hold more memory than the service allows one client \
         (server.memory_max); use a smaller --in-flight or --batch"
    )]
    MemoryLimit {
        /// Calls in flight.
        in_flight: u32,
        /// Transactions of each call.
        batch: u32,
    },
    /// A thread of the benchmark panicked: a bug.
    #[error("a thread of the benchmark panicked")]
    Panicked,
    /// A transaction was rejected.
    #[error("a transaction was rejected: {0}")]
    Rejected(String),
    /// A stream ended early.
    #[error("a stream ended with {0} messages unanswered")]
    Unanswered(u64),
    /// The service lost transactions in a restart.
    #[error("the restart changed the last sequence from {before} to {after}")]
    SequenceChanged {
        /// The last sequence before the restart.
        before: i64,
        /// The last sequence after the restart.
        after: i64,
    },
    /// The holds could not be made before they had to expire.
    #[error(
        "the service did not make {holds} holds within {} s, so their expiry could not be measured; use a smaller --expiring-holds",
        lead.as_secs()
    )]
    HoldsTooLate {
        /// Number of holds.
        holds: u64,
        /// Time for making them.
        lead: Duration,
    },
    /// Holds did not expire.
    #[error(
        "{holds} holds are outstanding long after their deadline; use a service without other holds, and see its log"
    )]
    HoldsRemain {
        /// Number of holds.
        holds: i64,
    },
    /// Options contradict each other.
    #[error("{0}")]
    Usage(String),
    /// The disk benchmark failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A result file can't be written.
    #[error("can't write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The echo server could not be pinned.
    #[error(transparent)]
    Affinity(#[from] AffinityError),
    /// The echo server failed.
    #[error("the echo server failed: {0}")]
    Echo(#[source] io::Error),
}

fn fault(status: &tonic::Status, timeout: Option<Duration>) -> Fault {
    let fault = Fault::of_call(status);
    match timeout {
        Some(limit) => fault.within(limit),
        None => fault,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tonic::{Status, TimeoutExpired};

    use super::*;

    #[test]
    fn a_missing_answer_is_described_with_the_time() {
        let mut status = Status::cancelled("Timeout expired");
        status.set_source(Arc::new(TimeoutExpired(())));
        let error = BenchError::Call {
            call: "GetBatchStats",
            status,
            timeout: Some(Duration::from_secs(60)),
        };
        assert_eq!(error.to_string(), "GetBatchStats failed: no answer within 1 min");
    }
}
