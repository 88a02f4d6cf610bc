//! Whether the calls under way hang. They are judged by themselves: thousands of fast calls that ended before a hang say
//! nothing about it, and as part of one rate with them a hang would stay invisible until they have left the window.
//!
//! There are two signs, and only the ticker looks for them, so no call pays for it:
//!
//! * **A standstill**: calls wait and none is answered. It opens the circuit once it has lasted for `overdue_rounds` slow
//!   thresholds and `min_overdue` calls have become overdue in it. If fewer wait, down to one, it has to last for
//!   `stall_after`.
//! * **A share that hangs**: of the calls admitted one to two thresholds ago, `stall_rate` or more are still under way,
//!   `min_overdue` at least, and this has been so for `overdue_rounds − 1` thresholds.
//!
//! The second sign compares calls that were admitted *together*. The share of overdue calls among all under way would be
//! wrong: a slow call is under way for longer than a fast one, so of 1,000 calls a second of which 1 % take a second,
//! ten are overdue and one is not at any moment.

use super::{config::CircuitBreakerConfig, inflight::UnderWay, machine::nanos};

/// What the host knows of the work that the guarded calls wait for, such as the blocks of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Pieces of it done since the start. Never falls.
    pub done: u64,
    /// Some of it is being done, or waits.
    pub busy: bool,
}

/// What one tick sees.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sight {
    /// By the breaker's clock.
    pub(super) now_ns: u64,
    /// The breaker's generation. Evidence never outlives it.
    pub(super) generation: u32,
    /// When the process last came back from being held up.
    pub(super) resumed_ns: u64,
    /// Calls answered since the start.
    pub(super) answered: u64,
    /// Calls that ended without an answer since the start.
    pub(super) unanswered: u64,
    /// Calls that ended slow since the start, answered or not.
    pub(super) slow: u64,
    /// The calls of this generation that are under way.
    pub(super) under_way: UnderWay,
    /// What the host knows.
    pub(super) work: Option<Work>,
}

/// What was seen from tick to tick.
#[derive(Debug, Default)]
pub(super) struct HangWatch {
    last: Option<Seen>,
    /// For how long calls have waited and nothing has moved.
    standstill_ns: u64,
    /// [`Sight::slow`] at the beginning of the standstill. What is added without an answer was given up when overdue.
    slow_before: u64,
    /// For how long a share of the calls has hung.
    share_ns: u64,
}

/// The last tick.
#[derive(Debug, Clone, Copy)]
struct Seen {
    sight: Sight,
    /// Calls waited.
    waits: bool,
    /// A share of the calls hung.
    share_hangs: bool,
}

/// A tick may be late by so much. When it is later, the process did not get to run, and its calls neither: only so much of
/// the time counts.
const LATE_MAX_NS: u64 = 40_000_000;

// ===== impl HangWatch =====

impl HangWatch {
    /// Looks at what a tick sees; true if the calls under way hang.
    pub(super) fn look(&mut self, config: &CircuitBreakerConfig, sight: &Sight) -> bool {
        let last = self.last.filter(|last| {
            last.sight.generation == sight.generation && sight.resumed_ns <= last.sight.now_ns
        });
        let Some(last) = last else {
            self.begin(sight, config);
            return false;
        };
        let gap_ns = sight
            .now_ns
            .saturating_sub(last.sight.now_ns)
            .min(nanos(config.tick_interval).saturating_add(LATE_MAX_NS));
        let (still, gave_up) = self.stand_still(&last, sight, gap_ns);
        let share_hangs = share_hangs(config, &sight.under_way);
        self.share_ns = if share_hangs && last.share_hangs {
            self.share_ns.saturating_add(gap_ns)
        } else {
            0
        };
        self.last = Some(Seen {
            sight: *sight,
            waits: waits(sight, gave_up),
            share_hangs,
        });
        let rounds_ns = |rounds: u32| nanos(config.slow_threshold.saturating_mul(rounds));
        still && self.is_long_enough(config, sight, gave_up, rounds_ns(config.overdue_rounds))
            || share_hangs && self.share_ns >= rounds_ns(config.overdue_rounds.saturating_sub(1))
    }

    /// Forgets everything: what comes next has nothing to do with it.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    fn begin(&mut self, sight: &Sight, config: &CircuitBreakerConfig) {
        *self = Self {
            last: Some(Seen {
                sight: *sight,
                waits: waits(sight, false),
                share_hangs: share_hangs(config, &sight.under_way),
            }),
            standstill_ns: 0,
            slow_before: sight.slow,
            share_ns: 0,
        };
    }

    /// Whether nothing has moved since the last tick though calls wait, and whether calls were given up meanwhile.
    fn stand_still(&mut self, last: &Seen, sight: &Sight, gap_ns: u64) -> (bool, bool) {
        let gave_up = sight.unanswered > last.sight.unanswered;
        let moved = sight.answered > last.sight.answered
            || sight
                .work
                .zip(last.sight.work)
                .is_some_and(|(now, before)| now.done != before.done);
        let still = last.waits && waits(sight, gave_up) && !moved;
        if still {
            self.standstill_ns = self.standstill_ns.saturating_add(gap_ns);
        } else {
            self.standstill_ns = 0;
            self.slow_before = sight.slow;
        }
        (still, gave_up)
    }

    fn is_long_enough(
        &self,
        config: &CircuitBreakerConfig,
        sight: &Sight,
        gave_up: bool,
        rounds_ns: u64,
    ) -> bool {
        let overdue = sight.under_way.overdue + sight.slow.saturating_sub(self.slow_before);
        // The host's own word that its work hangs does for calls whose deadlines end them before they are overdue.
        let concerned =
            overdue > 0 || sight.work.is_some_and(|work| work.busy) && (sight.under_way.calls > 0 || gave_up);
        let enough_ns = if overdue >= u64::from(config.min_overdue) {
            rounds_ns
        } else {
            nanos(config.effective_stall_after())
        };
        concerned && self.standstill_ns >= enough_ns
    }
}

/// Whether somebody waits: a call, or the work that calls have left behind when they were given up.
fn waits(sight: &Sight, gave_up: bool) -> bool {
    sight.under_way.calls > 0 || gave_up || sight.work.is_some_and(|work| work.busy)
}

fn share_hangs(config: &CircuitBreakerConfig, under_way: &UnderWay) -> bool {
    under_way.due_under_way >= u64::from(config.min_overdue)
        && under_way.due_under_way as f64 >= config.stall_rate * under_way.due as f64
}
