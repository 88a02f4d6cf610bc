//! What an outcome says about the health of what is behind the breaker. The breaker knows no protocol: the host brings a
//! [`Classify`] that maps its own results to a [`Verdict`].

use std::time::Duration;

/// Whether a call speaks for or against what is behind the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It worked. A business refusal (insufficient funds, not found) is a success: the engine did its work.
    Success,
    /// It did not work, and the caller is not to blame.
    Failure,
    /// It says nothing: shed by a full queue, turned away before it began.
    Neutral,
    /// Nobody waits for it any more: cancelled, or its deadline has passed. It says nothing, unless it was overdue by then:
    /// then it was slow.
    GivenUp,
}

/// What a completed call says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// For or against.
    pub outcome: Outcome,
    /// Whether its latency counts. False for what never reached the executor: a stream of fast refusals would drown the
    /// slow commits.
    pub sampled: bool,
    /// How long it waited to be taken into a batch, if known.
    pub queue_wait: Option<Duration>,
    /// How long its batch took to become durable, if known. With both durations known their sum is what is held against
    /// the slow threshold, else the time from admission to the answer.
    pub commit: Option<Duration>,
    /// The commit batch it was part of, if any. Ids must grow; the calls of one batch share one fate, so it counts as
    /// evidence only once. Without an id each call is its own batch.
    pub batch: Option<u64>,
}

/// Maps a result to a [`Verdict`].
pub trait Classify<R, E> {
    /// The verdict on `result`.
    fn classify(&self, result: Result<&R, &E>) -> Verdict;
}

/// `Ok` is a success, `Err` a failure, and every latency counts. Right where errors are faults and nothing else.
#[derive(Debug, Clone, Copy, Default)]
pub struct ResultClassifier;

/// A closure as a [`Classify`]; see [`classify_fn`].
#[derive(Clone, Copy)]
pub struct ClassifyFn<F>(F);

/// Classifies by a closure `Fn(Result<&R, &E>) -> Verdict`.
pub const fn classify_fn<F>(classify: F) -> ClassifyFn<F> {
    ClassifyFn(classify)
}

// ===== impl Verdict =====

impl Verdict {
    const fn new(outcome: Outcome, sampled: bool) -> Self {
        Self {
            outcome,
            sampled,
            queue_wait: None,
            commit: None,
            batch: None,
        }
    }

    /// It worked, and its latency counts.
    #[must_use]
    pub const fn success() -> Self {
        Self::new(Outcome::Success, true)
    }

    /// It failed, and its latency counts.
    #[must_use]
    pub const fn failure() -> Self {
        Self::new(Outcome::Failure, true)
    }

    /// It says nothing, nor does its latency.
    #[must_use]
    pub const fn neutral() -> Self {
        Self::new(Outcome::Neutral, false)
    }

    /// Nobody waits for it any more; as if its permit had been dropped.
    #[must_use]
    pub const fn given_up() -> Self {
        Self::new(Outcome::GivenUp, false)
    }

    /// The same, with a latency that counts.
    #[must_use]
    pub const fn sampled(mut self) -> Self {
        self.sampled = true;
        self
    }

    /// The same, with a latency that does not count.
    #[must_use]
    pub const fn unsampled(mut self) -> Self {
        self.sampled = false;
        self
    }

    /// The same, with the two parts of its latency.
    #[must_use]
    pub const fn timed(mut self, queue_wait: Duration, commit: Duration) -> Self {
        self.queue_wait = Some(queue_wait);
        self.commit = Some(commit);
        self
    }

    /// The same, as part of a commit batch.
    #[must_use]
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
