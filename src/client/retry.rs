//! Retries: when a call is sent again, and after which delay.
//!
//! A retry is always safe: a transaction id is applied at most once, and creating the same account twice creates one account.
//! The rules below decide whether a retry can succeed, and how long to wait before it:
//!
//! 1. A lost connection and `UNAVAILABLE` are temporary. `RESOURCE_EXHAUSTED` is temporary only if the server sends a delay.
//!    The server sends a delay if its queue is full, but not if the ledger has its maximum number of accounts. After any other error, a
//!    retry would fail with the same error.
//! 2. `grpc-retry-pushback-ms` (gRFC A6) is the delay. A negative or malformed number forbids a retry.
//!    Without this metadata, `google.rpc.RetryInfo` is the delay.
//! 3. If the server sends neither, the delay doubles with each attempt. Every delay has a random part, so that rejected clients do
//!    not all return at once. A delay is never shorter than the delay of the server.
//! 4. With several endpoints, an error may make the client leave an endpoint ([`Verdict`]). The next attempt then goes to another endpoint,
//!    so the delay is shorter: at most an eighth of the time since the first failure. So an attempt soon finds a new leader, and few
//!    attempts are made while there is no leader. The delay of the server concerns only the endpoint that was left.
//! 5. The number of attempts and the total time are bounded.
//!
//! A failed call reports whether it may have been executed ([`CallError::executed`]). An attempt with an unknown outcome makes
//! the whole call unknown, until the ledger answers a later attempt.

use std::{
    error::Error,
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use tonic::{Code, ConnectError, Status, metadata::MetadataMap};
use tonic_types::StatusExt;

use super::{
    failover::{Verdict, causes, connection_lost},
    fault::{Fault, code_name, failed_endpoint},
};

/// Metadata key of the delay that the server requests, in milliseconds.
const PUSHBACK: &str = "grpc-retry-pushback-ms";
/// A delay that the server sent is lengthened by a random share of the delay, at most this share.
const DELAY_SPREAD: f64 = 0.2;
/// The share of the time since the first failure that a client with several endpoints waits at most before the next attempt. With an
/// election of a second, this adds an eighth of a second at most.
const FAILOVER_SHARE: u32 = 8;

/// How often and for how long a call is retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Maximum number of attempts, including the first; at least 1.
    pub attempts_max: u32,
    /// Maximum time of a call with all its attempts and delays. The deadline of each attempt is the remaining time.
    pub total_max: Duration,
    /// Delay after the first attempt if the server sends none. Doubles with every attempt. A random part of at most half is
    /// subtracted.
    pub backoff_base: Duration,
    /// Maximum delay if the server sends none.
    pub backoff_max: Duration,
}

/// The failed attempts of a call, or of a stream since its last message.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Failures {
    /// Whether the client has several endpoints.
    pub(super) has_alternatives: bool,
    /// Number of failed attempts.
    pub(super) attempts: u32,
    /// When the first of these attempts failed.
    since: Option<Instant>,
}

/// The function of a [`RetryObserver`].
type Observe = dyn Fn(&Status, Duration) + Send + Sync;

/// A function that is called before each delay of a retry, with the status of the failed attempt and the delay.
#[derive(Clone, Default)]
pub struct RetryObserver(Option<Arc<Observe>>);

/// A call that failed in its last attempt.
#[derive(Debug)]
pub struct CallError {
    /// Boxed, because a status is large and most calls succeed.
    status: Box<Status>,
    attempts: u32,
    executed: Executed,
}

/// Whether a failed call was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Executed {
    /// The call had no effect, and will have none.
    No,
    /// The call may have been executed, or may still be. Repeat it with the same id to learn the outcome.
    Unknown,
}

/// The action after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    /// A retry would fail the same way, or the server forbids it.
    GiveUp,
    /// A retry may succeed. The server did not send a delay.
    Backoff,
    /// A retry may succeed after this delay of the server.
    After(Duration),
}

// ===== impl RetryPolicy =====

impl Default for RetryPolicy {
    /// Up to 128 attempts within a minute: enough time to restart a server, or to elect a leader.
    fn default() -> Self {
        RetryPolicy {
            attempts_max: 128,
            total_max: Duration::from_secs(60),
            backoff_base: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
        }
    }
}

impl RetryPolicy {
    /// Calls `attempt` with the remaining time until it succeeds, or until a retry is not possible.
    ///
    /// # Errors
    /// The status of the last attempt, and whether any attempt may have been executed.
    pub async fn run<T, F, Fut>(&self, attempt: F) -> Result<T, CallError>
    where
        F: FnMut(Duration) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        self.run_observed(&RetryObserver::default(), attempt).await
    }

    /// The same as [`RetryPolicy::run`], but calls `observer` before each delay.
    ///
    /// # Errors
    /// As [`RetryPolicy::run`].
    pub async fn run_observed<T, F, Fut>(&self, observer: &RetryObserver, attempt: F) -> Result<T, CallError>
    where
        F: FnMut(Duration) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        self.run_over(false, observer, attempt).await
    }

    /// The same as [`RetryPolicy::run_observed`]. `has_alternatives` says whether the connection has several endpoints.
    pub(crate) async fn run_over<T, F, Fut>(
        &self,
        has_alternatives: bool,
        observer: &RetryObserver,
        mut attempt: F,
    ) -> Result<T, CallError>
    where
        F: FnMut(Duration) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let begin = Instant::now();
        let mut failures = Failures::new(has_alternatives);
        let mut executed = Executed::No;
        loop {
            let status = match attempt(self.total_max.saturating_sub(begin.elapsed())).await {
                Ok(value) => return Ok(value),
                Err(status) => status,
            };
            executed = executed.after(&status);
            failures.count();
            let delay = self.delay(&status, failures, random_share());
            match delay.filter(|delay| begin.elapsed() + *delay < self.total_max) {
                Some(delay) => {
                    observer.call(&status, delay);
                    tokio::time::sleep(delay).await;
                }
                None => {
                    return Err(CallError {
                        status: Box::new(status),
                        attempts: failures.attempts,
                        executed,
                    });
                }
            }
        }
    }

    /// Returns the delay before the next attempt of a stream that has failed with `status`. Returns `None` to give up.
    pub(super) fn delay_of_stream(&self, status: &Status, failures: Failures) -> Option<Duration> {
        self.delay(status, failures, random_share())
            .filter(|delay| failures.lasted() + *delay < self.total_max)
    }

    /// Returns the delay before the next attempt, after `failures`, the last of them with the error `status`. Returns `None` to give
    /// up. `random` is from 0 to 1.
    fn delay(&self, status: &Status, failures: Failures, random: f64) -> Option<Duration> {
        if failures.attempts >= self.attempts_max {
            return None;
        }
        let decision = decide(status);
        if failures.has_alternatives && decision != Decision::GiveUp && Verdict::of(status) != Verdict::Stay {
            let ceiling = failures.lasted() / FAILOVER_SHARE;
            let ceiling = ceiling.max(self.backoff_base).min(self.backoff_max);
            return Some(jittered(ceiling, random));
        }
        match decision {
            Decision::GiveUp => None,
            Decision::After(delay) => Some(delay.mul_f64(1.0 + DELAY_SPREAD * random)),
            Decision::Backoff => Some(self.backoff_at(failures.attempts, random)),
        }
    }

    /// Returns the delay after `attempts` failed attempts, if no server has sent a delay: a random time between half of the bound
    /// and the bound. The bound doubles with every attempt, from [`RetryPolicy::backoff_base`] to [`RetryPolicy::backoff_max`].
    #[must_use]
    pub fn backoff(&self, attempts: u32) -> Duration {
        self.backoff_at(attempts, random_share())
    }

    fn backoff_at(&self, attempts: u32, random: f64) -> Duration {
        let doublings = attempts.saturating_sub(1).min(31);
        let ceiling = self
            .backoff_base
            .saturating_mul(1 << doublings)
            .min(self.backoff_max);
        jittered(ceiling, random)
    }
}

/// Returns a part of `ceiling`: at least half of it, so that the delay is never close to zero.
fn jittered(ceiling: Duration, random: f64) -> Duration {
    ceiling.mul_f64(0.5 + 0.5 * random)
}

// ===== impl Failures =====

impl Failures {
    pub(super) const fn new(has_alternatives: bool) -> Self {
        Failures {
            has_alternatives,
            attempts: 0,
            since: None,
        }
    }

    /// Counts a failed attempt.
    pub(super) fn count(&mut self) {
        self.attempts = self.attempts.saturating_add(1);
        self.since.get_or_insert_with(Instant::now);
    }

    /// Returns the time since the first failure.
    fn lasted(&self) -> Duration {
        self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

// ===== impl RetryObserver =====

impl RetryObserver {
    /// Creates an observer.
    #[must_use]
    pub fn new(observer: impl Fn(&Status, Duration) + Send + Sync + 'static) -> Self {
        RetryObserver(Some(Arc::new(observer)))
    }

    pub(super) fn call(&self, status: &Status, delay: Duration) {
        if let Some(observer) = &self.0 {
            observer(status, delay);
        }
    }
}

impl fmt::Debug for RetryObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RetryObserver").field(&self.0.is_some()).finish()
    }
}

// ===== impl CallError =====

impl CallError {
    pub(super) fn new(status: Status) -> Self {
        CallError {
            executed: Executed::No.after(&status),
            status: Box::new(status),
            attempts: 1,
        }
    }

    /// Sets the number of attempts.
    pub(super) const fn after(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// Returns the status of the last attempt. Its detail `executed` describes only the last attempt; [`Self::executed`] describes
    /// all attempts.
    #[must_use]
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Returns the number of attempts.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Returns whether the call may have been executed by any of its attempts.
    #[must_use]
    pub const fn executed(&self) -> Executed {
        self.executed
    }

    /// Returns the reason in the `google.rpc.ErrorInfo` of the last attempt, if the server sent one.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.status.get_details_error_info().map(|info| info.reason)
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.reason(), self.status.source()) {
            (Some(reason), _) => write!(f, "{reason}: {}", self.status.message())?,
            (None, Some(source)) => {
                if let Some(endpoint) = failed_endpoint(&self.status) {
                    write!(f, "{endpoint}: ")?;
                }
                write!(f, "{}", Fault::of(source))?;
            }
            (None, None) => {
                let name = code_name(self.status.code());
                write!(f, "{name}: {}", self.status.message())?;
            }
        }
        if self.attempts > 1 {
            write!(f, " (after {} attempts)", self.attempts)?;
            if self.executed == Executed::Unknown {
                f.write_str("; an attempt may have been executed")?;
            }
        }
        Ok(())
    }
}

// This error has no `source`, because its text already names the cause. The causes in the status are in the words of
// libraries.
impl Error for CallError {}

// ===== impl Executed =====

impl Executed {
    /// Returns the state of a call after another attempt failed with `status`.
    ///
    /// An answer of the ledger is valid for all attempts: if an earlier attempt with the same id had been executed, the ledger
    /// would have answered with its result. Any other rejection, such as an open circuit, says nothing about earlier attempts.
    fn after(self, status: &Status) -> Self {
        match executed_attempt(status) {
            Executed::Unknown => Executed::Unknown,
            Executed::No if is_answer_of_ledger(status.code()) => Executed::No,
            Executed::No => self,
        }
    }
}

/// Returns whether one attempt was executed. If the service does not say so, the outcome is unknown, except if there was no
/// connection.
fn executed_attempt(status: &Status) -> Executed {
    let info = status.get_details_error_info();
    let executed = info.as_ref().and_then(|info| info.metadata.get("executed"));
    if executed.is_some_and(|executed| executed == "false")
        || causes(status).any(|cause| cause.is::<ConnectError>())
    {
        Executed::No
    } else {
        Executed::Unknown
    }
}

/// Returns whether the ledger sends this code only after it has looked up the id of the call, and sends the same answer for every
/// later call with the id. NOT_FOUND is not such an answer: somebody may create the account later, and then an earlier attempt that
/// is still in flight executes.
const fn is_answer_of_ledger(code: Code) -> bool {
    matches!(
        code,
        Code::FailedPrecondition | Code::AlreadyExists | Code::OutOfRange
    )
}

fn decide(status: &Status) -> Decision {
    let hint = hint(status);
    match (status.code(), hint) {
        _ if connection_lost(status) => Decision::Backoff,
        (Code::Unavailable, None) => Decision::Backoff,
        (Code::Unavailable | Code::ResourceExhausted, Some(Some(delay))) => Decision::After(delay),
        _ => Decision::GiveUp,
    }
}

/// Returns what the server says about a retry: nothing (`None`), do not retry (`Some(None)`), or the delay (`Some(Some(delay))`).
fn hint(status: &Status) -> Option<Option<Duration>> {
    if status.metadata().contains_key(PUSHBACK) {
        return Some(pushback(status.metadata()));
    }
    status
        .get_details_retry_info()
        .and_then(|info| info.retry_delay)
        .map(Some)
}

fn pushback(metadata: &MetadataMap) -> Option<Duration> {
    let millis: i32 = metadata.get(PUSHBACK)?.to_str().ok()?.parse().ok()?;
    u64::try_from(millis).ok().map(Duration::from_millis)
}

/// Returns a random number from 0 to 1. The standard library seeds every `RandomState` differently, which is random enough
/// here.
fn random_share() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 32;
    u32::try_from(bits).map_or(0.5, |bits| f64::from(bits) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests;
