//! Opens a lost connection again, for the subcommands that run until they are interrupted.

use std::time::Duration;

use tonic::{Code, Status};

use super::{client_args::Engine, exit::Failure};
use crate::client::{ClientConfig, ConnectError, Fault};

/// Delay before the first attempt.
const DELAY_MIN: Duration = Duration::from_millis(500);
/// Longest delay between two attempts.
const DELAY_MAX: Duration = Duration::from_secs(10);

/// The delays between attempts: each delay is twice as long as the previous delay, up to [`DELAY_MAX`].
#[derive(Debug)]
pub(super) struct Backoff(Duration);

/// Why an attempt did not connect.
#[derive(Debug)]
pub(super) enum AttemptError {
    /// The service does not answer. A later attempt may succeed.
    Unreachable(Fault),
    /// A later attempt would fail, too.
    Final(Failure),
}

// ===== impl Backoff =====

impl Default for Backoff {
    fn default() -> Self {
        Backoff(DELAY_MIN)
    }
}

impl Backoff {
    /// Returns the next delay.
    pub(super) fn next(&mut self) -> Duration {
        let delay = self.0;
        self.0 = (delay * 2).min(DELAY_MAX);
        delay
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
        let delays: Vec<u128> = (0..7).map(|_| backoff.next().as_millis()).collect();
        assert_eq!(delays, [500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
    }

    #[test]
    fn a_stopping_service_is_lost_but_a_rejected_token_is_not() {
        assert!(is_lost(&Status::unavailable("shutting down")));
        assert!(!is_lost(&Status::unauthenticated("no token")));
    }
}
