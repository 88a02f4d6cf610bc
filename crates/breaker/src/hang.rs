//! Detects that the calls in flight hang. Calls in flight are judged separately from completed calls: a rate over both
//! would hide a hang until the thousands of fast calls before it have left the window.
//!
//! There are three signs. Only the ticker checks them, so calls have no extra cost:
//!
//! * **No call is answered** although calls wait. The circuit opens when this has lasted for `overdue_rounds` slow
//!   thresholds and at least `min_overdue` calls have become overdue meanwhile. With fewer overdue calls, but at least
//!   one, it must last for `stall_after`.
//! * **No work is done**: the host reports that the work behind the calls has been busy for `stall_after` and nothing
//!   was done, although callers call. Callers whose deadlines are shorter than the threshold therefore do not hide a
//!   hang.
//! * **A share of the calls hangs**: of the calls admitted one to two thresholds ago, at least `stall_rate`, and at
//!   least `min_overdue` calls, are still in flight, and this has lasted for `overdue_rounds − 1` thresholds.
//!
//! The first two signs measure a standstill: the sum of the intervals between ticks in which something waited for **the
//! whole interval**. Three things count as waiting: a call that was in flight at both ticks; a call that was given up
//! between the ticks when it was already overdue; and work that was busy at both ticks with the same number of pieces
//! done. Calls that begin and end between two ticks do not count, however many there are. Otherwise callers whose
//! deadlines have already passed could cause a standstill.
//!
//! The third sign compares calls that were admitted *at the same time*. The share of overdue calls among all calls in
//! flight would be misleading, because slow calls are in flight for longer than fast calls. Example: of 1,000 calls a
//! second, 1 % take a second. Then about ten calls are overdue at any moment, and only about one call is in flight and
//! not overdue.

use super::{clock::nanos, config::CircuitBreakerConfig, inflight::InFlight};

/// Progress of the work that the guarded calls wait for, such as the blocks of a journal, as the host reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Number of pieces of work done since the start. Never decreases.
    pub done: u64,
    /// Whether some work is in progress or queued. The work stays busy until a piece of it is done.
    pub busy: bool,
}

/// What the ticker sees at one tick.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Observation {
    /// Time of the tick, in nanoseconds of the breaker's clock.
    pub(super) now_ns: u64,
    /// The breaker's generation. Evidence counts only within a generation.
    pub(super) generation: u32,
    /// Total time for which the process did not run, as far as it is known.
    pub(super) paused_ns: u64,
    /// Calls answered since the start. The value may be slightly too low while calls end without an answer.
    pub(super) answered: u64,
    /// Calls that ended without an answer since the start.
    pub(super) unanswered: u64,
    /// Calls that were slow, since the start, answered or not.
    pub(super) slow: u64,
    /// The calls of this generation that are in flight.
    pub(super) in_flight: InFlight,
    /// The progress that the host reports, if it does.
    pub(super) work: Option<Work>,
}

/// State of the detection, carried from tick to tick.
#[derive(Debug, Default)]
pub(super) struct HangWatch {
    last: Option<Seen>,
    /// The highest [`Observation::answered`] so far. The observed value may fall for a moment; when it rises to this
    /// value again, that is not a new answer.
    answered: u64,
    /// How long calls or the work have waited without progress.
    standstill_ns: u64,
    /// How long the work has waited without progress. At most `standstill_ns`.
    work_ns: u64,
    /// [`Observation::slow`] at the beginning of the standstill. Slow calls added since then were given up while
    /// overdue.
    slow_before: u64,
    /// How long a share of the calls has hung.
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

/// The time between ticks that does not count, because the process did not run.
#[derive(Debug, Default)]
struct Lateness {
    /// The time that was excluded because ticks were late. The host may still report it as a pause.
    left_out_ns: u64,
    /// Time of the last exclusion.
    left_out_at_ns: u64,
    /// Time of the last reported pause.
    reported_at_ns: Option<u64>,
}

/// The largest delay of a tick that counts in full. If a tick is later, the process and its calls did not run, and only
/// this much of the delay counts.
const LATE_MAX_NS: u64 = 40_000_000;
/// A pause by a CPU quota is reported within one period after its end, and the next pause follows within two periods.
/// For this long after a report the process counts as throttled. For this long after an exclusion a reported pause may
/// mean the excluded time.
const REPORTED_WITHIN_NS: u64 = 250_000_000;

// ===== impl HangWatch =====

impl HangWatch {
    /// Evaluates a tick; returns whether the calls in flight hang.
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
            // Lets the paused threads run first; the next tick decides.
            return false;
        }
        let share_for_ns = rounds_ns(config, config.overdue_rounds.saturating_sub(1));
        self.calls_hang(config, observation)
            || self.work_hangs(config, &last.observation, observation)
            || share_hangs && self.share_ns >= share_for_ns
    }

    /// Discards the evidence.
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

    /// Returns whether the work has hung while callers call. The calls in flight alone do not show this: their
    /// deadlines may end them between two ticks.
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
    /// Returns how much of the time between two ticks counts. While the process is throttled, a late tick means a pause
    /// that the host has not reported yet.
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

    /// Records a reported pause; returns the part that was not excluded already.
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

    /// The number of answers is the difference of two counters, which are read one after the other. It falls for a
    /// moment whenever a call is given up between the two reads. During a hang this happens to thousands of calls.
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
                "a fall every {falls_every} ticks: {opened:?}"
            );
        }
    }
}
