//! Classification of results. The breaker depends on no protocol: the program that uses the breaker supplies a
//! [`Classify`], which maps each result to a [`Verdict`].

use std::time::Duration;

/// What the result of a call shows about the health of the guarded service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The service worked. A business error (insufficient funds, not found) is a success, because the service did its
    /// work.
    Success,
    /// The service failed, and the caller did not cause the failure.
    Failure,
    /// The call shows nothing about the service. For example, a full queue rejected the call before it began.
    Neutral,
    /// The caller stopped waiting: it cancelled the call, or the call's deadline passed. The call counts as slow if it
    /// had already taken the slow threshold or longer; otherwise the call shows nothing about the service.
    GivenUp,
}

/// The verdict on a completed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// The outcome of the call.
    pub outcome: Outcome,
    /// Whether the latency counts. Use false for a call that was answered without being executed, because many fast
    /// rejections would hide slow commits.
    pub sampled: bool,
    /// The time that the call waited until it was taken into a batch, if known.
    pub queue_wait: Option<Duration>,
    /// The time that the batch took to become durable, if known. If `queue_wait` and `commit` are both known, their sum
    /// is compared with the slow threshold. Otherwise, the time from admission to the end of the call is compared.
    pub commit: Option<Duration>,
    /// The id of the commit batch, if any. Later batches must have larger ids. The calls of one batch succeed or fail
    /// together, so several slow or failed calls of one batch count as one event. A call without an id is a batch by
    /// itself.
    pub batch: Option<u64>,
}

/// Maps a result to a [`Verdict`].
pub trait Classify<R, E> {
    /// Returns the verdict on `result`.
    fn classify(&self, result: Result<&R, &E>) -> Verdict;
}

/// Classifies `Ok` as a success and `Err` as a failure. Every latency counts. Use this classifier if every error is a
/// fault of the service.
#[derive(Debug, Clone, Copy, Default)]
pub struct ResultClassifier;

/// A closure used as a [`Classify`]; see [`classify_fn`].
#[derive(Clone, Copy)]
pub struct ClassifyFn<F>(F);

/// Makes a [`Classify`] from a closure `Fn(Result<&R, &E>) -> Verdict`.
#[inline]
pub const fn classify_fn<F>(classify: F) -> ClassifyFn<F> {
    ClassifyFn(classify)
}

// ===== impl Verdict =====

impl Verdict {
    #[inline]
    const fn new(outcome: Outcome, sampled: bool) -> Self {
        Self {
            outcome,
            sampled,
            queue_wait: None,
            commit: None,
            batch: None,
        }
    }

    /// Returns the verdict "success"; the latency counts.
    #[must_use]
    #[inline]
    pub const fn success() -> Self {
        Self::new(Outcome::Success, true)
    }

    /// Returns the verdict "failure"; the latency counts.
    #[must_use]
    #[inline]
    pub const fn failure() -> Self {
        Self::new(Outcome::Failure, true)
    }

    /// Returns the verdict "neutral": the call shows nothing about the service, and the latency does not count.
    #[must_use]
    #[inline]
    pub const fn neutral() -> Self {
        Self::new(Outcome::Neutral, false)
    }

    /// Returns the verdict of a call whose caller stopped waiting. This verdict has the same effect as dropping the
    /// permit.
    #[must_use]
    #[inline]
    pub const fn given_up() -> Self {
        Self::new(Outcome::GivenUp, false)
    }

    /// Makes the latency count.
    #[must_use]
    #[inline]
    pub const fn sampled(mut self) -> Self {
        self.sampled = true;
        self
    }

    /// Makes the latency not count.
    #[must_use]
    #[inline]
    pub const fn unsampled(mut self) -> Self {
        self.sampled = false;
        self
    }

    /// Sets the two parts of the latency: the wait in the queue and the commit.
    #[must_use]
    #[inline]
    pub const fn timed(mut self, queue_wait: Duration, commit: Duration) -> Self {
        self.queue_wait = Some(queue_wait);
        self.commit = Some(commit);
        self
    }

    /// Sets the id of the commit batch.
    #[must_use]
    #[inline]
    pub const fn in_batch(mut self, batch: u64) -> Self {
        self.batch = Some(batch);
        self
    }
}

// ===== impl ResultClassifier =====

impl<R, E> Classify<R, E> for ResultClassifier {
    fn classify(&self, result: Result<&R, &E>) -> Verdict {
        if result.is_ok() {
            Verdict::success()
        } else {
            Verdict::failure()
        }
    }
}

// ===== impl ClassifyFn =====

impl<F, R, E> Classify<R, E> for ClassifyFn<F>
where
    F: Fn(Result<&R, &E>) -> Verdict,
{
    fn classify(&self, result: Result<&R, &E>) -> Verdict {
        (self.0)(result)
    }
}

impl<F> std::fmt::Debug for ClassifyFn<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClassifyFn").finish_non_exhaustive()
    }
}
