//! Detects that the calls in flight hang. Calls in flight are judged separately from completed calls. A rate over both
//! kinds of calls would hide a hang until the thousands of fast calls before the hang have left the window.
//!
//! A call is *overdue* when it has been in flight for the slow threshold or longer. There are three signs of a hang.
//! Only ticks check these signs, so they cost nothing per call:
//!
//! * **No call is answered** although calls wait. The circuit opens after `overdue_rounds` slow thresholds without an
//!   answer if at least `min_overdue` calls have become overdue in this time. With fewer overdue calls, but at least
//!   one, the circuit opens after `stall_after` without an answer.
//! * **No work is done**: the host (the program that uses the breaker) reports that the work behind the calls was busy
//!   for `stall_after` and that no piece of it was done, although there are callers. This sign also detects a hang if
//!   the callers' deadlines are so short that no call becomes overdue.
//! * **A share of the calls hangs**: of the calls admitted one to two slow thresholds ago, at least the share
//!   `stall_rate`, and at least `min_overdue` calls, are still in flight. The circuit opens when this has lasted for
//!   `overdue_rounds − 1` slow thresholds.
//!
//! The first two signs measure a *standstill*: the sum of the intervals between ticks in which a call or the work
//! waited for **the whole interval**. Three things count as waiting: a call that was in flight at both ticks; a call
//! that was given up between the ticks when it was already overdue; and work that was busy at both ticks with the same
//! number of pieces done. Calls that begin and end between two ticks do not count, whatever their number. If they
//! counted, callers whose deadlines have already passed could cause a standstill.
//!
//! The third sign compares calls that were admitted *at about the same time*. The share of overdue calls among all
//! calls in flight would be misleading, because slow calls are in flight for longer than fast calls. Example: of 1,000
//! calls per second, 1 % take one second each, and the others take one millisecond each. In this case, about ten calls
//! are overdue at any moment, and only about one call is in flight and not overdue.

use super::{clock::nanos, config::CircuitBreakerConfig, inflight::InFlight};

/// The progress of the work for which the guarded calls wait, such as the commits of a journal. Reported by the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Number of pieces of work done since the start. Never decreases.
    pub done: u64,
    /// Whether some work is in progress or queued. The work stays busy until a piece of it is done.
    pub busy: bool,
}

/// The state of the calls and of the work at one tick.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Observation {
    /// Time of the tick, in nanoseconds of the breaker's clock.
    pub(super) now_ns: u64,
    /// The breaker's generation, a number that grows with every transition. An observation is compared with the last
    /// observation only if both belong to the same generation.
    pub(super) generation: u32,
    /// Total time for which the process did not run, as far as the breaker knows.
    pub(super) paused_ns: u64,
    /// Number of calls answered since the start. May be slightly too low while calls end without an answer.
    pub(super) answered: u64,
    /// Number of calls that ended without an answer since the start.
    pub(super) unanswered: u64,
    /// Number of slow calls since the start, answered or not.
    pub(super) slow: u64,
    /// The calls of this generation that are in flight.
    pub(super) in_flight: InFlight,
    /// The progress of the work; None if the host does not report it.
    pub(super) work: Option<Work>,
}

/// Detects hangs by comparing each tick with the previous tick.
#[derive(Debug, Default)]
pub(super) struct HangWatch {
    last: Option<Seen>,
    /// The highest [`Observation::answered`] so far. The observed value may fall for a moment. A call was
    /// answered only if the observed value is above the value of this field.
    answered: u64,
    /// The time for which calls or the work have waited without progress.
    standstill_ns: u64,
    /// The time for which the work has waited without progress. At most `standstill_ns`.
    work_ns: u64,
    /// [`Observation::slow`] at the beginning of the standstill. No call is answered during a standstill, so all slow
    /// calls that ended since then were given up while overdue.
    slow_before: u64,
    /// The time for which a share of the calls has hung.
    share_ns: u64,
    lateness: Lateness,
}

/// The observation of the last tick and its judgement.
#[derive(Debug, Clone, Copy)]
struct Seen {
    observation: Observation,
    /// Whether a share of the calls hung.
    share_hangs: bool,
}

/// Decides how much of the time between two ticks counts. Time in which the process did not run does not count.
#[derive(Debug, Default)]
struct Lateness {
    /// The time that was excluded because ticks were late. The host may later report the same time as a pause.
    left_out_ns: u64,
    /// Time of the last exclusion.
    left_out_at_ns: u64,
    /// Time of the last reported pause.
    reported_at_ns: Option<u64>,
}

/// The largest delay of a tick that counts in full: 40 ms. If a tick is later, the process did not run, and only 40 ms
/// of the delay count.
const LATE_MAX_NS: u64 = 40_000_000;
/// A CPU quota has periods of typically 100 ms. A pause by a quota is reported within one period after its end, and the
/// next pause follows within two periods. Therefore, for 250 ms after a report, the process counts as throttled. For
/// 250 ms after time was excluded, a reported pause may be the excluded time.
const REPORTED_WITHIN_NS: u64 = 250_000_000;

// ===== impl HangWatch =====

impl HangWatch {
    /// Evaluates a tick. Returns whether the calls in flight hang.
    pub(super) fn observe(&mut self, config: &CircuitBreakerConfig, observation: &Observation) -> bool {
        let share_hangs = share_hangs(config, &observation.in_flight);
        let last = self.last.replace(Seen {
            observation: *observation,
            share_hangs,
        });
        let Some(last) = last.filter(|last| last.observation.generation == observation.generation) else {
            self.begin(observation);
            return false;
        };
        let gap_ns = self.lateness.counted_ns(
            last.observation.now_ns,
            observation.now_ns,
            nanos(config.tick_interval),
        );
        self.update_standstill(&last.observation, observation, gap_ns);
        self.share_ns = if share_hangs && last.share_hangs {
            self.share_ns.saturating_add(gap_ns)
        } else {
            0
        };
        let paused_ns = observation.paused_ns.saturating_sub(last.observation.paused_ns);
        if paused_ns > 0 {
            let excused_ns = self.lateness.report(observation.now_ns, paused_ns);
            self.standstill_ns = self.standstill_ns.saturating_sub(excused_ns);
            self.work_ns = self.work_ns.saturating_sub(excused_ns);
            // The paused threads have not had time to run yet, so the next tick decides.
            return false;
        }
        let share_for_ns = rounds_ns(config, config.overdue_rounds.saturating_sub(1));
        self.calls_hang(config, observation)
            || self.work_hangs(config, &last.observation, observation)
            || share_hangs && self.share_ns >= share_for_ns
    }

    /// Forgets the last tick, so the next tick begins the detection anew.
    pub(super) fn discard(&mut self) {
        self.last = None;
    }

    fn begin(&mut self, observation: &Observation) {
        self.answered = self.answered.max(observation.answered);
        self.standstill_ns = 0;
        self.work_ns = 0;
        self.slow_before = observation.slow;
        self.share_ns = 0;
    }

    /// Adds the time since the last tick to the standstill, or ends the standstill.
    fn update_standstill(&mut self, last: &Observation, observation: &Observation, gap_ns: u64) {
        let works = observation.work.zip(last.work);
        let moved = observation.answered > self.answered
            || works.is_some_and(|(now, before)| now.done != before.done);
        self.answered = self.answered.max(observation.answered);
        let work_waits = !moved && works.is_some_and(|(now, before)| now.busy && before.busy);
        let oldest_ns = observation.in_flight.oldest_ns;
        let call_waits =
            !moved && (oldest_ns.is_some_and(|since| since <= last.now_ns) || observation.slow > last.slow);
        self.work_ns = if work_waits {
            self.work_ns.saturating_add(gap_ns)
        } else {
            0
        };
        if work_waits || call_waits {
            self.standstill_ns = self.standstill_ns.saturating_add(gap_ns);
        } else {
            self.standstill_ns = 0;
            self.slow_before = observation.slow;
        }
    }

    fn calls_hang(&self, config: &CircuitBreakerConfig, observation: &Observation) -> bool {
        let overdue = observation.in_flight.overdue + observation.slow.saturating_sub(self.slow_before);
        let enough_ns = if overdue >= u64::from(config.min_overdue) {
            rounds_ns(config, config.overdue_rounds)
        } else {
            nanos(config.effective_stall_after())
        };
        overdue > 0 && self.standstill_ns >= enough_ns
    }

    /// Returns whether the work has hung although there are callers. Calls that ended without an answer count as
    /// callers, too, because a call may begin and reach its deadline between two ticks.
    fn work_hangs(
        &self,
        config: &CircuitBreakerConfig,
        last: &Observation,
        observation: &Observation,
    ) -> bool {
        let has_callers = observation.in_flight.calls > 0 || observation.unanswered > last.unanswered;
        has_callers && self.work_ns >= nanos(config.effective_stall_after())
    }
}

// ===== impl Lateness =====

impl Lateness {
    /// Returns how much of the time between two ticks counts. If the process is throttled and a tick is late, the
    /// process was probably paused and the host has not reported the pause yet, so the whole time is excluded.
    fn counted_ns(&mut self, last_ns: u64, now_ns: u64, tick_ns: u64) -> u64 {
        let gap_ns = now_ns.saturating_sub(last_ns);
        let is_recent = |at_ns: u64| now_ns.saturating_sub(at_ns) <= REPORTED_WITHIN_NS;
        let counted_ns = if !self.reported_at_ns.is_some_and(is_recent) {
            gap_ns.min(tick_ns.saturating_add(LATE_MAX_NS))
        } else if gap_ns <= tick_ns.saturating_mul(2) {
            gap_ns
        } else {
            0
        };
        if !is_recent(self.left_out_at_ns) {
            self.left_out_ns = 0;
        }
        if counted_ns < gap_ns {
            self.left_out_ns = self.left_out_ns.saturating_add(gap_ns - counted_ns);
            self.left_out_at_ns = now_ns;
        }
        counted_ns
    }

    /// Records a pause that the host reported. Returns the part of the pause that was not excluded before.
    fn report(&mut self, now_ns: u64, paused_ns: u64) -> u64 {
        self.reported_at_ns = Some(now_ns);
        paused_ns.saturating_sub(std::mem::take(&mut self.left_out_ns))
    }
}

fn rounds_ns(config: &CircuitBreakerConfig, rounds: u32) -> u64 {
    nanos(config.slow_threshold.saturating_mul(rounds))
}

fn share_hangs(config: &CircuitBreakerConfig, in_flight: &InFlight) -> bool {
    in_flight.due_in_flight >= u64::from(config.min_overdue)
        && in_flight.due_in_flight as f64 >= config.stall_rate * in_flight.due as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The number of answers is the difference of two counters, which are read one after the other. The difference is
    /// too low for a moment if a call is given up between the two reads. During a hang, callers give up thousands of
    /// calls.
    #[test]
    fn a_momentary_fall_of_the_answers_does_not_hide_a_hang() {
        let config = CircuitBreakerConfig::default();
        let bound = config.slow_threshold * 2 + Duration::from_millis(100);
        let tick_ns = nanos(config.tick_interval);
        for falls_every in [2, 3, 7] {
            let mut watch = HangWatch::default();
            let opened = (1..1000).find(|tick| {
                let observation = Observation {
                    now_ns: tick * tick_ns,
                    answered: if tick % falls_every == 0 { 998 } else { 1000 },
                    unanswered: tick * 100,
                    work: Some(Work { done: 7, busy: true }),
                    ..Observation::default()
                };
                watch.observe(&config, &observation)
            });
            assert!(
                opened.is_some_and(|tick| u128::from(tick * tick_ns) <= bound.as_nanos()),
                "the number of answers falls every {falls_every} ticks; the hang is detected at tick {opened:?}"
            );
        }
    }
}
