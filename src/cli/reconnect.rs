//! Opens a lost connection again, for the subcommands that run until they are interrupted.

use std::time::Duration;

use tonic::{Code, Status};

use super::{client_args::Engine, exit::Failure};
use crate::client::{ClientConfig, ConnectError, Fault, RetryPolicy};

/// The delays between attempts: up to 500 ms before the first attempt, and up to 10 s after many attempts. The subcommands
/// try until they are interrupted, so the other bounds do not apply.
const POLICY: RetryPolicy = RetryPolicy {
    attempts_max: u32::MAX,
    total_max: Duration::MAX,
    backoff_base: Duration::from_millis(500),
    backoff_max: Duration::from_secs(10),
};

/// The delays between attempts. Their bound doubles with each attempt, and every delay has a random part, so that many watchers do
/// not all return at once.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempts: u32,
}

/// Why an attempt did not connect.
#[derive(Debug)]
pub(super) enum AttemptError {
    /// The service does not answer. A later attempt may succeed.
    Unreachable(Fault),
    /// A later attempt would fail, too.
    Final(Failure),
}

// ===== impl Backoff =====

impl Backoff {
    /// Returns the next delay.
    pub(super) fn next(&mut self) -> Duration {
        self.attempts = self.attempts.saturating_add(1);
        POLICY.backoff(self.attempts)
    }
}

/// Returns whether a call failed because the connection was lost, or because the service stops or starts.
pub(super) fn is_lost(status: &Status) -> bool {
    status.code() == Code::Unavailable || std::error::Error::source(status).is_some()
}

/// Connects in one attempt. Reads the files of `config` again.
pub(super) async fn attempt(config: &ClientConfig) -> Result<Engine, AttemptError> {
    match Engine::try_connect(config.clone()).await {
        Ok(engine) => Ok(engine),
        Err(ConnectError::Unreachable { fault, .. }) => Err(AttemptError::Unreachable(fault)),
        Err(error) => Err(AttemptError::Final(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_their_bound() {
        let mut backoff = Backoff::default();
        for bound in [500, 1000, 2000, 4000, 8000, 10_000, 10_000].map(Duration::from_millis) {
            let delay = backoff.next();
            assert!(delay >= bound / 2 && delay <= bound, "{delay:?} of {bound:?}");
        }
    }

    #[test]
    fn a_stopping_service_is_lost_but_a_rejected_token_is_not() {
        assert!(is_lost(&Status::unavailable("shutting down")));
        assert!(!is_lost(&Status::unauthenticated("no token")));
    }
}
