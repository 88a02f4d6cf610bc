//! Connects to the service, and reports on standard error why an import waits.

use std::{sync::Arc, time::Duration};

use indicatif::ProgressBar;
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Status;
use tonic_types::StatusExt;

use crate::{
    client::{Client, ClientConfig, ConnectError, RetryPolicy, code_name},
    terminal::units,
};

/// The reason for a wait while there is no connection.
const NO_CONNECTION: &str = "no connection to the service";

/// Reports the waits of an import.
#[derive(Debug, Clone)]
pub(super) struct Waits {
    progress: ProgressBar,
    /// The reason that was printed last, until the service has answered a batch.
    printed: Arc<Mutex<Option<String>>>,
}

// ===== impl Waits =====

impl Waits {
    /// Creates a reporter. It uses `progress` if that is visible. Otherwise it prints lines on standard error.
    pub(super) fn new(progress: ProgressBar) -> Self {
        Waits {
            progress,
            printed: Arc::default(),
        }
    }

    /// Reports that a call failed with `status`, and is sent again after `delay`.
    pub(super) fn call_failed(&self, status: &Status, delay: Duration) {
        let info = status.get_details_error_info();
        let reason = match info {
            Some(info) => info.reason,
            None if std::error::Error::source(status).is_some() => NO_CONNECTION.to_owned(),
            None => code_name(status.code()).to_owned(),
        };
        self.report(&reason, delay);
    }

    /// Reports a wait. Without a progress bar, prints each reason once until [`Waits::answered`].
    fn report(&self, reason: &str, delay: Duration) {
        let text = format!("{reason}, retry in {}", units::delay(delay));
        if !self.progress.is_hidden() {
            self.progress.set_message(text);
            return;
        }
        let mut printed = self.printed.lock();
        if printed.as_deref() != Some(reason) {
            crate::terminal::errln!("tally: {text}");
            *printed = Some(reason.to_owned());
        }
    }

    /// Notes that the service has answered, so that the next wait is reported again.
    pub(super) fn answered(&self) {
        *self.printed.lock() = None;
    }

    /// Connects to the service. While no service answers, tries again until `give_up_after` has passed, with the delays of the
    /// client's retries.
    ///
    /// # Errors
    /// [`ConnectError`] of the last attempt, or of the first attempt whose error another attempt can't cure.
    pub(super) async fn connect(
        &self,
        config: &ClientConfig,
        give_up_after: Duration,
    ) -> Result<Client, ConnectError> {
        let begin = Instant::now();
        let (delays, mut attempts) = (RetryPolicy::default(), 0_u32);
        loop {
            let error = match Client::connect_with(config).await {
                Err(error @ ConnectError::Unreachable { .. }) if error.is_temporary() => error,
                finished => return finished,
            };
            let left = give_up_after.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Err(error);
            }
            attempts = attempts.saturating_add(1);
            let wait = delays.backoff(attempts).min(left);
            self.report(NO_CONNECTION, wait);
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn connecting_goes_on_until_the_time_is_over() {
        let waits = Waits::new(ProgressBar::hidden());
        // Port 1 is closed, so every attempt fails. The clock of the test is paused, so a delay takes no time.
        let config = ClientConfig::plain("http://127.0.0.1:1");
        let begin = Instant::now();
        let give_up_after = Duration::from_secs(20);
        let error = waits.connect(&config, give_up_after).await.unwrap_err();
        assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
        assert!(begin.elapsed() >= give_up_after);
        // With a wrong address, another attempt would fail, too. So the error is returned at once.
        let begin = Instant::now();
        let error = waits
            .connect(&ClientConfig::plain("nowhere"), give_up_after)
            .await
            .unwrap_err();
        assert!(matches!(error, ConnectError::Endpoint { .. }), "{error}");
        assert!(begin.elapsed().is_zero());
    }
}
