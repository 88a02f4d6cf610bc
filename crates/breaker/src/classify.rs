//! Classification of results. The breaker knows no protocol: the host supplies a [`Classify`] that maps its results to a
//! [`Verdict`].

use std::time::Duration;

/// What a call says about the health of the guarded service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The service worked. A business error (insufficient funds, not found) is a success, because the service did its work.
    Success,
    /// The service failed, and the caller did not cause the failure.
    Failure,
    /// No evidence: for example, the call was shed by a full queue or rejected before it began.
    Neutral,
    /// The caller stopped waiting: the call was cancelled or its deadline has passed. No evidence, unless the call had already
    /// taken the slow threshold or longer; then it was slow.
    GivenUp,
}

/// The verdict on a completed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Success, failure or no evidence.
    pub outcome: Outcome,
    /// Whether the latency counts. False for a call that never reached the executor: many fast rejections would hide slow
    /// commits.
    pub sampled: bool,
    /// How long the call waited to be taken into a batch, if known.
    pub queue_wait: Option<Duration>,
    /// How long the batch took to become durable, if known. If both durations are known, their sum is compared with the slow
    /// threshold; otherwise the time from admission to the end of the call.
    pub commit: Option<Duration>,
    /// The id of the commit batch, if any. Ids must grow. The calls of one batch succeed or fail together, so a batch counts as
    /// evidence only once. A call without an id is a batch by itself.
    pub batch: Option<u64>,
}

/// Maps a result to a [`Verdict`].
pub trait Classify<R, E> {
    /// Returns the verdict on `result`.
    fn classify(&self, result: Result<&R, &E>) -> Verdict;
}

/// Classifies `Ok` as a success and `Err` as a failure; every latency counts. Use it where every error is a fault.
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

    /// Returns the verdict "no evidence"; the latency does not count.
    #[must_use]
    #[inline]
    pub const fn neutral() -> Self {
        Self::new(Outcome::Neutral, false)
    }

    /// Returns the verdict of a call whose caller stopped waiting. It has the same effect as dropping the permit.
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

    /// Sets the two parts of the latency.
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
