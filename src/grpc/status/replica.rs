//! The statuses of a replicated store, besides [`not_leader`](super::not_leader).

use std::time::Duration;

use tonic::Status;

use super::{ErrorBuilder, invalid_field, leader_lost, not_leader, plain_error, shutting_down};
use crate::{grpc::error_kind::ErrorKind, store::replicated::ResignError};

/// Retry delay after the replica had no room for another forwarded call.
const FORWARDED_RETRY: Duration = Duration::from_millis(100);

/// The connection to the leader failed after the call was forwarded.
#[must_use]
pub(crate) fn connection_to_leader_lost() -> Status {
    leader_lost(
        "the connection to the leader failed before the answer was complete; repeat the call with the same ids",
    )
}

/// The replica forwards too many calls.
#[must_use]
pub(crate) fn too_many_forwarded(of_client: usize, all: usize) -> Status {
    let message = format!(
        "this replica forwards {of_client} calls of the client, or {all} calls of all clients, which is the limit"
    );
    ErrorBuilder::new(ErrorKind::QUEUE_FULL, message)
        .retry_after(FORWARDED_RETRY)
        .build()
}

/// The call must be forwarded, and its headers are too long for that.
#[must_use]
pub(crate) fn headers_too_long(most: u32) -> Status {
    let message = format!(
        "the headers of the call are too long to forward it to the leader, which reads at most {most} bytes with the mark of this replica"
    );
    plain_error(ErrorKind::TOO_MANY_HEADERS, message)
}

/// The method needs a replicated store.
#[must_use]
pub(crate) fn not_replicated() -> Status {
    let message = "the store is embedded (store.kind), so this service has no leader";
    plain_error(ErrorKind::NOT_REPLICATED, message)
}

/// A replica did not give up leadership. `leader` is the address of the leader, if it is known.
#[must_use]
pub(crate) fn not_resigned(error: &ResignError, leader: Option<&str>) -> Status {
    match error {
        ResignError::NotLeader => not_leader(leader),
        ResignError::UnknownSuccessor { address } => {
            let rule = format!(
                "is {address:?}, must be the address of another replica in store.replicated.peers, or empty"
            );
            invalid_field("successor", rule)
        }
        ResignError::Unresolved => leader_lost(error.to_string()),
        ResignError::Stopping => shutting_down(),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic_types::StatusExt;

    use super::*;
    use crate::{engine::StoreFault, grpc::status::engine};

    #[test]
    fn the_errors_of_a_replica_say_whether_the_call_was_executed() {
        for (status, code, reason, executed) in [
            (
                not_leader(Some("http://a:1")),
                Code::Unavailable,
                "NOT_LEADER",
                "false",
            ),
            (
                connection_to_leader_lost(),
                Code::Unavailable,
                "LEADER_LOST",
                "unknown",
            ),
            (
                engine(&StoreFault::LeaderLost.into()),
                Code::Unavailable,
                "LEADER_LOST",
                "unknown",
            ),
            (
                engine(&StoreFault::NotLeader.into()),
                Code::Unavailable,
                "NOT_LEADER",
                "false",
            ),
            (
                too_many_forwarded(1, 2),
                Code::ResourceExhausted,
                "QUEUE_FULL",
                "false",
            ),
            (
                not_replicated(),
                Code::FailedPrecondition,
                "NOT_REPLICATED",
                "false",
            ),
            (
                not_resigned(&ResignError::NotLeader, None),
                Code::Unavailable,
                "NOT_LEADER",
                "false",
            ),
            (
                not_resigned(&ResignError::Unresolved, None),
                Code::Unavailable,
                "LEADER_LOST",
                "unknown",
            ),
            (
                not_resigned(&ResignError::Stopping, None),
                Code::Unavailable,
                "SHUTTING_DOWN",
                "false",
            ),
        ] {
            let info = status.get_details_error_info().unwrap();
            assert_eq!((status.code(), &*info.reason), (code, reason));
            assert_eq!(info.metadata["executed"], executed, "{reason}");
            let delay = status.get_details_retry_info();
            assert_eq!(delay.is_some(), reason != "NOT_REPLICATED", "{reason}");
        }
        let known = not_leader(Some("http://a:1")).get_details_error_info().unwrap();
        assert_eq!(known.metadata["leader"], "http://a:1");
        let address = "http://x:1".to_owned();
        let unknown = not_resigned(&ResignError::UnknownSuccessor { address }, None);
        assert!(unknown.message().contains("http://x:1"), "{unknown}");
    }
}
