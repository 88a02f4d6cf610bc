//! When a call is sent again, and after how long.
//!
//! Sending again is always safe: a transaction's id makes it apply once, and creating the same account twice is one
//! account. So the only questions are whether it can help, and when the server wants to hear from us again:
//!
//! 1. A lost connection, and `UNAVAILABLE`, can pass. `RESOURCE_EXHAUSTED` can only if the server says when (a full queue
//!    does, a ledger that can't number any more accounts does not). Everything else would be answered the same again.
//! 2. `grpc-retry-pushback-ms` (gRFC A6) names the delay; a negative number, or one that can't be read, means "never".
//!    Without it, `google.rpc.RetryInfo` does.
//! 3. Without either, the delay doubles from attempt to attempt. All of them are spread by chance, so that clients that
//!    were turned away together don't come back together; never below what the server asked for.
//! 4. Attempts and total time are bounded.

use std::{
    error::Error,
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

use tokio::time::Instant;
use tonic::{Code, Status, TimeoutExpired, metadata::MetadataMap};
use tonic_types::StatusExt;

/// The metadata by which a server says when to try again, in milliseconds.
const PUSHBACK: &str = "grpc-retry-pushback-ms";
/// A delay that the server named is lengthened by up to this share of itself.
const HINT_SPREAD: f64 = 0.2;
/// Causes of an error that are looked at; a chain of errors is never so long.
const CAUSES_MAX: usize = 16;

/// How often and for how long a call is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Most attempts, the first one counted; at least 1.
    pub attempts_max: u32,
    /// Longest time for a call, all attempts and delays in it. Each attempt carries what is left as its deadline.
    pub total_max: Duration,
    /// About how long to wait after the first attempt if the server does not say. Doubles with every attempt.
    pub backoff_base: Duration,
    /// About how long to wait at most if the server does not say.
    pub backoff_max: Duration,
}

/// A call that failed for good.
#[derive(Debug)]
pub struct CallError {
    /// Boxed: a status is large, and most calls have none.
    status: Box<Status>,
    attempts: u32,
}

/// What a failed attempt calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Another attempt would end the same, or the server wants none.
    GiveUp,
    /// Another attempt may help; nobody knows when.
    Backoff,
    /// The server knows when.
    After(Duration),
}

// ===== impl RetryPolicy =====

impl Default for RetryPolicy {
    /// Up to 64 attempts within a minute: long enough for a server to be started again.
    fn default() -> Self {
        RetryPolicy {
            attempts_max: 64,
            total_max: Duration::from_secs(60),
            backoff_base: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
        }
    }
}

impl RetryPolicy {
    /// Calls `attempt` until it succeeds or there is no point in going on. It is given the time that is left.
    ///
    /// # Errors
    /// The status of the last attempt.
    pub async fn run<T, F, Fut>(&self, mut attempt: F) -> Result<T, CallError>
    where
        F: FnMut(Duration) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let begin = Instant::now();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let status = match attempt(self.total_max.saturating_sub(begin.elapsed())).await {
                Ok(value) => return Ok(value),
                Err(status) => status,
            };
            let delay = self.delay(&status, attempts, random_share());
            match delay.filter(|delay| begin.elapsed() + *delay < self.total_max) {
                Some(delay) => tokio::time::sleep(delay).await,
                None => {
                    return Err(CallError {
                        status: Box::new(status),
                        attempts,
                    });
                }
            }
        }
    }

    /// How long to wait after `attempts` attempts of which the last ended in `status`; `None` to give up. `chance` is
    /// drawn from 0 to 1.
    fn delay(&self, status: &Status, attempts: u32, chance: f64) -> Option<Duration> {
        if attempts >= self.attempts_max {
            return None;
        }
        match verdict(status) {
            Verdict::GiveUp => None,
            Verdict::After(hint) => Some(hint.mul_f64(1.0 + HINT_SPREAD * chance)),
            Verdict::Backoff => {
                let doublings = attempts.saturating_sub(1).min(31);
                let ceiling = self
                    .backoff_base
                    .saturating_mul(1 << doublings)
                    .min(self.backoff_max);
                // Never less than half of it: a delay of nothing would not be a delay.
                Some(ceiling.mul_f64(0.5 + 0.5 * chance))
            }
        }
    }
}

// ===== impl CallError =====

impl CallError {
    pub(super) fn new(status: Status) -> Self {
        CallError {
            status: Box::new(status),
            attempts: 1,
        }
    }

    /// The answer to the last attempt.
    #[must_use]
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// How many attempts were made.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The reason of the answer's `google.rpc.ErrorInfo`, if the server sent one.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.status.get_details_error_info().map(|info| info.reason)
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason() {
            Some(reason) => write!(f, "{reason}: {}", self.status.message())?,
            None => write!(f, "{:?}: {}", self.status.code(), self.status.message())?,
        }
        if self.attempts > 1 {
            write!(f, " (after {} attempts)", self.attempts)?;
        }
        Ok(())
    }
}

impl Error for CallError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.status.source()
    }
}

fn verdict(status: &Status) -> Verdict {
    let hint = hint(status);
    match (status.code(), hint) {
        _ if connection_lost(status) => Verdict::Backoff,
        (Code::Unavailable, None) => Verdict::Backoff,
        (Code::Unavailable | Code::ResourceExhausted, Some(Some(delay))) => Verdict::After(delay),
        _ => Verdict::GiveUp,
    }
}

/// What the server says about another attempt: nothing, or never (`Some(None)`), or when.
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

/// Whether this is no answer of the server at all. A status that came over the wire has no cause; one that was made on
/// this side of it has, and it is the connection unless it is our own patience.
fn connection_lost(status: &Status) -> bool {
    let mut cause = status.source();
    let mut lost = false;
    for _ in 0..CAUSES_MAX {
        let Some(error) = cause else { break };
        if error.is::<TimeoutExpired>() {
            return false;
        }
        lost = true;
        cause = error.source();
    }
    lost
}

/// Anything from 0 to 1. The standard library seeds every `RandomState` anew, which is all the chance needed here.
fn random_share() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 32;
    u32::try_from(bits).map_or(0.5, |bits| f64::from(bits) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests;
