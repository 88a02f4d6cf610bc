//! Requests as callers submit them, and answers as callers receive them.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    caller::UNKNOWN,
    error::BatchError,
    sequence::{Sequence, Turn},
};

/// What the processor has to know of a request.
pub trait BatchItem {
    /// Number of items that the request counts for. Must always be the same for the same request.
    fn items(&self) -> usize;
    /// Approximate number of bytes of memory that the request holds. Must always be the same for the same request.
    fn bytes(&self) -> usize;
}

/// A request and its deadline.
#[derive(Debug)]
pub struct Submission<T> {
    /// The request.
    pub item: T,
    /// The time at which the caller stops waiting; `None`: the caller waits for as long as it takes.
    pub deadline: Option<Instant>,
    /// The client's number, see [`Caller::client`](super::Caller::client). 0 if it is not known: then it is the client of the call
    /// that the submitting thread polls ([`Caller::calling`](super::Caller::calling)), if any.
    pub client: u64,
    /// The request's place in its [`Sequence`](super::Sequence), if it is part of one.
    pub turn: Option<Turn>,
}

/// The executor's answer, and how long it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<R> {
    /// The answer.
    pub value: R,
    /// How long it took.
    pub timing: Timing,
}

/// Where a request spent its time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// From entering the queue to being claimed by the executor.
    pub queue_wait: Duration,
    /// From being claimed to being answered.
    pub commit: Duration,
}

/// The content of a reply slot.
pub(super) type SlotContent<R> = Result<Answer<R>, BatchError>;

// ===== impl Submission =====

impl<T> Submission<T> {
    /// A request of the client whose call the submitting thread polls, if there is one.
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
    /// Returns the next request, which must be submitted before this is called again. `None` if an earlier request was not
    /// executed: then this one must not be submitted.
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
