//! [`TransitionLog`]: the last transitions and the counts of all transitions. The thread that makes a transition holds
//! the log's lock while it computes the deadline of the new state, changes the state and adds the transition to the
//! log. A call that asks for admission takes no lock.

use std::{collections::VecDeque, time::SystemTime};

use super::{
    gate::CircuitState,
    stats::{Transition, TransitionReason},
};

/// Number of transitions that a breaker remembers.
pub const HISTORY_MAX: usize = 16;

/// The last transitions and the counts of all transitions. Protected by a lock.
#[derive(Debug)]
pub(super) struct TransitionLog {
    /// Time at which the current state began, in nanoseconds of the breaker's clock.
    pub(super) since_ns: u64,
    /// Time of day at which the current state began.
    pub(super) since: SystemTime,
    /// Number of times in a row that the circuit has opened.
    pub(super) attempt: u32,
    pub(super) reason_opened: Option<TransitionReason>,
    pub(super) opens: u64,
    pub(super) half_opens: u64,
    pub(super) closes: u64,
    /// Oldest first, at most [`HISTORY_MAX`].
    history: VecDeque<Transition>,
}

// ===== impl TransitionLog =====

impl TransitionLog {
    pub(super) fn new(now_ns: u64, now: SystemTime) -> Self {
        Self {
            since_ns: now_ns,
            since: now,
            attempt: 0,
            reason_opened: None,
            opens: 0,
            half_opens: 0,
            closes: 0,
            history: VecDeque::with_capacity(HISTORY_MAX),
        }
    }

    /// Returns the number of times in a row that the circuit has opened. Returns 0 if the circuit has stayed closed for
    /// `stable_ns`.
    pub(super) fn attempt_at(&self, state: CircuitState, now_ns: u64, stable_ns: u64) -> u32 {
        let stable = state == CircuitState::Closed && now_ns.saturating_sub(self.since_ns) >= stable_ns;
        if stable { 0 } else { self.attempt }
    }

    /// Adds a transition. If [`HISTORY_MAX`] transitions are stored, removes the oldest transition.
    pub(super) fn push(&mut self, transition: Transition) {
        self.since_ns = transition.at_ns;
        self.since = transition.time;
        match transition.to {
            CircuitState::Open => {
                self.opens += 1;
                self.reason_opened = Some(transition.reason);
            }
            CircuitState::HalfOpen => self.half_opens += 1,
            CircuitState::Closed => self.closes += 1,
            CircuitState::Ramp => {}
        }
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(transition);
    }

    pub(super) fn history(&self) -> Vec<Transition> {
        self.history.iter().copied().collect()
    }
}
