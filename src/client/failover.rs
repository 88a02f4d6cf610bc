//! Decides whether a failed call is a reason to use another endpoint.

use std::error::Error;

use tonic::{Code, Status, TimeoutExpired};
use tonic_types::StatusExt;

use super::fault::CAUSES_MAX;

/// The domain of the reasons of Tally.
const DOMAIN: &str = "tally.v1";

/// What a failed call says about its endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The endpoint works, or no other endpoint would do better.
    Stay,
    /// Another endpoint may do better.
    Leave,
    /// Another replica leads. This is its address, as configured at that replica (`advertise`).
    LeaderAt(String),
}

impl Verdict {
    /// Returns what `status` says about the endpoint from which it came.
    pub(super) fn of(status: &Status) -> Self {
        if connection_lost(status) {
            return Verdict::Leave;
        }
        let info = status
            .get_details_error_info()
            .filter(|info| info.domain == DOMAIN);
        match (status.code(), info) {
            // Such a status comes from a proxy, or from a service that is not Tally.
            (Code::Unavailable, None) => Verdict::Leave,
            (_, Some(info)) => match &*info.reason {
                "NOT_LEADER" => match info.metadata.get("leader") {
                    Some(leader) => Verdict::LeaderAt(leader.clone()),
                    None => Verdict::Leave,
                },
                "SHUTTING_DOWN" | "STORE_FAILED" => Verdict::Leave,
                // After LEADER_LOST, the replica works, and will know the next leader first. The other reasons are answers of the leader.
                _ => Verdict::Stay,
            },
            (_, None) => Verdict::Stay,
        }
    }
}

/// Returns whether the connection was lost before an answer arrived. A status from the server has no cause. A status that the
/// client library made has a cause: the failure of the connection, or the client's own timeout.
pub(super) fn connection_lost(status: &Status) -> bool {
    status.source().is_some() && !causes(status).any(|cause| cause.is::<TimeoutExpired>())
}

/// Returns the causes of `status`, the nearest first.
pub(super) fn causes(status: &Status) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(status.source(), |&cause| cause.source()).take(CAUSES_MAX)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, io, sync::Arc};

    use tonic_types::ErrorDetails;

    use super::*;

    fn tally(code: Code, reason: &str, metadata: &[(&str, &str)]) -> Status {
        let metadata: HashMap<String, String> = metadata
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
        Status::with_error_details(code, "no", details)
    }

    fn caused(cause: impl Error + Send + Sync + 'static) -> Status {
        let mut status = Status::unknown("no");
        status.set_source(Arc::new(cause));
        status
    }

    #[test]
    fn a_lost_connection_and_a_replica_that_does_not_serve_are_left() {
        let leader = [("leader", "http://a:1")];
        for (status, verdict) in [
            (caused(io::Error::from(io::ErrorKind::BrokenPipe)), Verdict::Leave),
            (caused(TimeoutExpired(())), Verdict::Stay),
            (Status::unavailable("of a proxy"), Verdict::Leave),
            (Status::internal("of a proxy"), Verdict::Stay),
            (tally(Code::Unavailable, "NOT_LEADER", &[]), Verdict::Leave),
            (
                tally(Code::Unavailable, "NOT_LEADER", &leader),
                Verdict::LeaderAt("http://a:1".to_owned()),
            ),
            (tally(Code::Unavailable, "SHUTTING_DOWN", &[]), Verdict::Leave),
            (tally(Code::Internal, "STORE_FAILED", &[]), Verdict::Leave),
            (tally(Code::Unavailable, "LEADER_LOST", &[]), Verdict::Stay),
            (tally(Code::Unavailable, "CIRCUIT_OPEN", &[]), Verdict::Stay),
            (tally(Code::ResourceExhausted, "QUEUE_FULL", &[]), Verdict::Stay),
        ] {
            assert_eq!(Verdict::of(&status), verdict, "{status:?}");
        }
        let foreign = ErrorDetails::with_error_info("NOT_LEADER", "example.com", []);
        let foreign = Status::with_error_details(Code::Internal, "no", foreign);
        assert_eq!(Verdict::of(&foreign), Verdict::Stay);
    }
}
