//! Connects to the service, and reports on standard error why an import waits.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

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

/// Time without an answer after which the import says that the service does not answer. A healthy service answers a batch within a
/// fraction of a second.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Interval of further reports of the same silence.
const SILENCE_INTERVAL: Duration = Duration::from_secs(30);
/// Interval at which the import checks whether the service is silent.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Reports the waits of an import.
#[derive(Debug, Clone)]
pub(super) struct Waits {
    progress: ProgressBar,
    /// The reason that was printed last, until the service has answered a batch.
    printed: Arc<Mutex<Option<String>>>,
    silence: Arc<Mutex<Silence>>,
}

/// The time since which the service has not answered.
#[derive(Debug)]
struct Silence {
    since: Instant,
    /// The same time on the wall clock, for people.
    since_clock: SystemTime,
    /// When the silence was reported last.
    reported: Option<Instant>,
}

// ===== impl Silence =====

impl Silence {
    /// Begins at `since`, which may be a little later than now.
    fn begin(since: Instant) -> Self {
        Silence {
            since,
            since_clock: SystemTime::now() + since.saturating_duration_since(Instant::now()),
            reported: None,
        }
    }

    /// Returns how long the silence has lasted, if it is time to report it.
    fn due(&mut self, now: Instant) -> Option<Duration> {
        let lasted = now.saturating_duration_since(self.since);
        let is_due = match self.reported {
            None => lasted >= SILENCE_MAX,
            Some(reported) => now.saturating_duration_since(reported) >= SILENCE_INTERVAL,
        };
        if is_due {
            self.reported = Some(now);
        }
        is_due.then_some(lasted)
    }
}

// ===== impl Waits =====

impl Waits {
    /// Creates a reporter. It uses `progress` if that is visible. Otherwise it prints lines on standard error.
    pub(super) fn new(progress: ProgressBar) -> Self {
        Waits {
            progress,
            printed: Arc::default(),
            silence: Arc::new(Mutex::new(Silence::begin(Instant::now()))),
        }
    }

    /// Waits for a call, and says so if the service does not answer. The call itself ends after `give_up_after`.
    pub(super) async fn answer<T>(&self, give_up_after: Duration, call: impl Future<Output = T>) -> T {
        *self.silence.lock() = Silence::begin(Instant::now());
        let mut call = std::pin::pin!(call);
        loop {
            tokio::select! {
                biased;
                answer = &mut call => return answer,
                () = tokio::time::sleep(CHECK_INTERVAL) => self.report_silence(give_up_after),
            }
        }
    }

    fn report_silence(&self, give_up_after: Duration) {
        let mut silence = self.silence.lock();
        let Some(lasted) = silence.due(Instant::now()) else {
            return;
        };
        let since = humantime::format_rfc3339_seconds(silence.since_clock);
        let text = format!(
            "the service has not answered since {since} ({}); the import waits for a call for up to {} (--give-up-after)",
            units::delay(Duration::from_secs(lasted.as_secs())),
            units::delay(give_up_after)
        );
        if self.progress.is_hidden() {
            crate::terminal::errln!("tally: {text}");
        } else {
            self.progress.set_message(text);
        }
    }

    /// Reports that a call failed with `status`, and is sent again after `delay`.
    pub(super) fn call_failed(&self, status: &Status, delay: Duration) {
        *self.silence.lock() = Silence::begin(Instant::now() + delay);
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
    /// [`ConnectError`] of the last attempt, or of the first attempt after which further attempts are useless.
    pub(super) async fn connect(
        &self,
        config: &ClientConfig,
        give_up_after: Duration,
    ) -> Result<Client, ConnectError> {
        let begin = Instant::now();
        let (delays, mut attempts) = (RetryPolicy::default(), 0_u32);
        loop {
            let error = match self.answer(give_up_after, Client::connect_with(config)).await {
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
    async fn a_silence_is_reported_after_a_while_and_again_after_a_longer_while() {
        let begin = Instant::now();
        let mut silence = Silence::begin(begin);
        let second = Duration::from_secs(1);
        assert_eq!(silence.due(begin + 4 * second), None);
        assert_eq!(silence.due(begin + 5 * second), Some(5 * second));
        assert_eq!(silence.due(begin + 6 * second), None);
        assert_eq!(silence.due(begin + 34 * second), None);
        assert_eq!(silence.due(begin + 35 * second), Some(35 * second));
        // A failed attempt is an answer, and the next one begins after a delay.
        let mut silence = Silence::begin(begin + 10 * second);
        assert_eq!(silence.due(begin), None);
        assert_eq!(silence.due(begin + 14 * second), None);
        assert_eq!(silence.due(begin + 15 * second), Some(5 * second));
    }

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
