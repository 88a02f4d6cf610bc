//! What the read functions need to know about their caller. The gRPC port and the operators' port call the same read functions.

use tokio::time::Instant;
use tonic::Status;

use super::transport::framing::Inbound;
use crate::security::Scope;

/// A call that reads the ledger.
pub(crate) trait ReadCall: Send {
    /// The accounts and transactions that the caller may see.
    fn scope(&self) -> Scope;

    /// The time after which the caller no longer waits.
    fn deadline(&self) -> Option<Instant>;

    /// Reserves `bytes` for the call. This replaces the previous reservation of the call.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if there is too little memory.
    fn hold(&mut self, bytes: usize) -> Result<(), Status>;
}

impl ReadCall for Inbound {
    fn scope(&self) -> Scope {
        Inbound::scope(self)
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn hold(&mut self, bytes: usize) -> Result<(), Status> {
        Inbound::hold(self, bytes)
    }
}
