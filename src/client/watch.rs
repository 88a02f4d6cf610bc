//! Follows the ledger. After a lost connection, the watch goes on where it was.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tonic::{Request, Status, Streaming};

use super::{
    connect::Connection,
    retry::{CallError, RetryObserver, RetryPolicy},
};
use crate::proto::{
    WatchTransactionsRequest, WatchTransactionsResponse, transaction_service_client::TransactionServiceClient,
};

/// A watch is lost if nothing arrives for this time. The service sends a heartbeat at least every few seconds.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A watch of the ledger: the transactions in their order, without gap and without duplicate, also after a restart of the service. It
/// connects when [`TransactionWatch::next`] is called.
#[derive(Debug)]
pub struct TransactionWatch {
    service: TransactionServiceClient<Connection>,
    retry: RetryPolicy,
    observer: RetryObserver,
    next_sequence: i64,
    id_prefix: String,
    responses: Option<Streaming<WatchTransactionsResponse>>,
    /// Failed attempts since the last response, and when the first of them failed.
    attempts: u32,
    failing_since: Option<Instant>,
}

// ===== impl TransactionWatch =====

impl TransactionWatch {
    pub(super) fn new(
        service: TransactionServiceClient<Connection>,
        (retry, observer): (RetryPolicy, RetryObserver),
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
            attempts: 0,
            failing_since: None,
        }
    }

    /// Returns the sequence from which another watch goes on: every earlier transaction was in a response of
    /// [`TransactionWatch::next`].
    #[must_use]
    pub const fn next_sequence(&self) -> i64 {
        self.next_sequence
    }

    /// Waits for the next response, which has no transactions if it is a heartbeat. If the watch is lost, connects again. The retry policy
    /// of the client bounds the attempts and the time without a response. If the future is dropped, nothing is lost.
    ///
    /// # Errors
    /// [`CallError`] if the watch can't go on. A later call tries again.
    pub async fn next(&mut self) -> Result<WatchTransactionsResponse, CallError> {
        loop {
            let status = match self.receive().await {
                Ok(response) => {
                    self.attempts = 0;
                    self.failing_since = None;
                    self.next_sequence = response.durable_sequence.saturating_add(1);
                    return Ok(response);
                }
                Err(status) => status,
            };
            self.responses = None;
            self.attempts = self.attempts.saturating_add(1);
            let since = *self.failing_since.get_or_insert_with(Instant::now);
            let Some(delay) = self.retry.delay_of_stream(&status, self.attempts, since) else {
                let attempts = std::mem::take(&mut self.attempts);
                self.failing_since = None;
                return Err(CallError::new(status).after(attempts));
            };
            self.observer.call(&status, delay);
            tokio::time::sleep(delay).await;
        }
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
