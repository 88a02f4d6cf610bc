//! Follows the ledger. After a lost connection, the watch resumes with the next sequence.

use std::time::Duration;

use tokio::time::timeout;
use tonic::{Code, Request, Status, Streaming};

use super::{
    connection::Connection,
    retry::{CallError, Failures, RetryObserver, RetryPolicy},
};
use crate::proto::{
    WatchTransactionsRequest, WatchTransactionsResponse, transaction_service_client::TransactionServiceClient,
};

/// A watch is lost if nothing arrives for this time. The service sends a heartbeat at least every few seconds.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A watch of the ledger: the transactions in their order, without gap and without duplicate, also after a restart of the service or
/// a change of the leader. It connects when [`TransactionWatch::next`] is called.
#[derive(Debug)]
pub struct TransactionWatch {
    service: TransactionServiceClient<Connection>,
    retry: RetryPolicy,
    observer: RetryObserver,
    next_sequence: i64,
    id_prefix: String,
    responses: Option<Streaming<WatchTransactionsResponse>>,
    /// Failed attempts since the last response.
    failures: Failures,
    /// Whether a response has arrived.
    is_begun: bool,
}

// ===== impl TransactionWatch =====

impl TransactionWatch {
    pub(super) fn new(
        service: TransactionServiceClient<Connection>,
        (retry, observer): (RetryPolicy, RetryObserver),
        has_alternatives: bool,
        from_sequence: i64,
        id_prefix: &str,
    ) -> Self {
        TransactionWatch {
            service,
            retry,
            observer,
            next_sequence: from_sequence,
            id_prefix: id_prefix.to_owned(),
            responses: None,
            failures: Failures::new(has_alternatives),
            is_begun: false,
        }
    }

    /// Returns the sequence at which another watch can resume: every earlier transaction was in a response of
    /// [`TransactionWatch::next`].
    #[must_use]
    pub const fn next_sequence(&self) -> i64 {
        self.next_sequence
    }

    /// Waits for the next response, which has no transactions if it is a heartbeat. If the watch is lost, connects again. The retry policy
    /// of the client bounds the attempts and the time without a response. If the future is dropped, nothing is lost.
    ///
    /// # Errors
    /// [`CallError`] if the watch can't continue. A later call tries again.
    pub async fn next(&mut self) -> Result<WatchTransactionsResponse, CallError> {
        loop {
            let status = match self.receive().await {
                Ok(response) => {
                    self.reset();
                    self.is_begun = true;
                    self.next_sequence = response.durable_sequence.saturating_add(1);
                    return Ok(response);
                }
                Err(status) => status,
            };
            self.responses = None;
            self.failures.count();
            let temporary = if self.is_behind(&status) {
                &lost("the replica does not have the next transaction yet")
            } else {
                &status
            };
            let Some(delay) = self.retry.delay_of_stream(temporary, self.failures) else {
                let attempts = self.failures.attempts;
                self.reset();
                return Err(CallError::new(status).after(attempts));
            };
            self.observer.call(&status, delay);
            tokio::time::sleep(delay).await;
        }
    }

    fn reset(&mut self) {
        self.failures = Failures::new(self.failures.has_alternatives);
    }

    /// Returns whether the service has rejected a sequence that follows a response of another replica. A new leader can be behind for a moment.
    fn is_behind(&self, status: &Status) -> bool {
        self.failures.has_alternatives && self.is_begun && status.code() == Code::InvalidArgument
    }

    /// Receives the next response. Connects first if there is no stream.
    async fn receive(&mut self) -> Result<WatchTransactionsResponse, Status> {
        let received = timeout(SILENCE_MAX, async {
            let responses = match &mut self.responses {
                Some(responses) => responses,
                none => {
                    let request = Request::new(WatchTransactionsRequest {
                        from_sequence: self.next_sequence,
                        id_prefix: self.id_prefix.clone(),
                    });
                    let opened = self.service.watch_transactions(request).await?;
                    none.insert(opened.into_inner())
                }
            };
            responses.message().await
        });
        match received.await {
            Ok(Ok(Some(response))) => Ok(response),
            Ok(Ok(None)) => Err(lost("the watch has ended without an error")),
            Ok(Err(status)) => Err(status),
            Err(_) => Err(lost("the watch sent nothing for 60 s")),
        }
    }
}

fn lost(why: &str) -> Status {
    Status::unavailable(why)
}
