//! Requests as callers submit them, and answers as callers receive them.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    caller::UNKNOWN,
    error::BatchError,
    sequence::{Sequence, Turn},
};

/// The sizes of a request that the processor needs to know.
pub trait BatchItem {
    /// Number of items in the request. Every call for the same request must return the same number.
    fn items(&self) -> usize;
    /// Approximate number of bytes of memory that the request holds. Every call for the same request must return the
    /// same number.
    fn bytes(&self) -> usize;
}

/// A request, and the data that the queue needs about it.
#[derive(Debug)]
pub struct Submission<T> {
    /// The request.
    pub item: T,
    /// The time at which the caller stops waiting; `None`: the caller waits without a limit.
    pub deadline: Option<Instant>,
    /// The client's number, see [`Caller::client`](super::Caller::client). If 0, the request belongs to the client
    /// whose call the submitting thread polls ([`Caller::calling`](super::Caller::calling)); outside of such a call,
    /// the client is unknown.
    pub client: u64,
    /// The request's position in its [`Sequence`](super::Sequence); `None` if the request belongs to no sequence.
    pub turn: Option<Turn>,
}

/// The executor's answer, and the times that the request took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<R> {
    /// The answer.
    pub value: R,
    /// The times that the request took.
    pub timing: Timing,
}

/// The times that a request spent in the queue and in the executor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// Time from the submission to the moment at which the executor claimed the request.
    pub queue_wait: Duration,
    /// Time from the claim to the answer.
    pub commit: Duration,
}

/// The content of a reply slot.
pub(super) type SlotContent<R> = Result<Answer<R>, BatchError>;

// ===== impl Submission =====

impl<T> Submission<T> {
    /// Makes a submission without a sequence. The request belongs to the client whose call the submitting thread polls;
    /// outside of such a call, the client is unknown.
    #[must_use]
    pub const fn new(item: T, deadline: Option<Instant>) -> Self {
        Submission {
            item,
            deadline,
            client: UNKNOWN,
            turn: None,
        }
    }

    /// Sets the client.
    #[must_use]
    pub fn of_client(self, client: u64) -> Self {
        Submission { client, ..self }
    }
}

// ===== impl Sequence =====

impl Sequence {
    /// Makes the submission of the next request, which must be submitted before this method is called again. `None` if
    /// an earlier request was not executed; in that case, no further request can be submitted.
    pub fn next<T>(&mut self, item: T, deadline: Option<Instant>) -> Option<Submission<T>> {
        let turn = self.next_turn()?;
        Some(Submission {
            item,
            deadline,
            client: self.client(),
            turn: Some(turn),
        })
    }
}
