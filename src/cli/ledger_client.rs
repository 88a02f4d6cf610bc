//! The connection of the subcommands that read the ledger of a service.

use super::{
    client_args::{ClientArgs, TIMEOUT},
    exit::Failure,
};
use crate::client::{CallError, Client, ClientConfig, RetryPolicy};

/// A client of the ledger.
#[derive(Debug, Clone)]
pub(super) struct LedgerClient {
    /// The client.
    pub(super) client: Client,
    /// How the connection was opened.
    config: ClientConfig,
}

// ===== impl LedgerClient =====

impl LedgerClient {
    /// Connects in one attempt. A call has [`TIMEOUT`] with all its retries.
    pub(super) async fn connect(args: &ClientArgs) -> Result<Self, Failure> {
        let config = args.config();
        let retry = RetryPolicy {
            total_max: TIMEOUT,
            ..RetryPolicy::default()
        };
        let client = Client::connect_with(&config).await?.with_retry(retry);
        Ok(LedgerClient { client, config })
    }

    /// Returns the failure of a call.
    pub(super) fn failure(&self, error: &CallError) -> Failure {
        Failure::call(&self.config, error.status(), TIMEOUT)
    }
}
