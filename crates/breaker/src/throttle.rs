//! Pauses of the process that the host (the program that uses the breaker) reports, because they are too short for the
//! breaker's ticks to detect.

use std::time::Duration;

use super::{
    clock::{millis, nanos},
    handle::LatencyCircuitBreaker,
};

impl LatencyCircuitBreaker {
    /// Reports that the process did not run for the time `pause`, and has just resumed. Use this method for pauses that
    /// are too short for ticks to detect: for example, a CPU quota stops the process repeatedly, for less than 100 ms
    /// each time. The latency of calls in flight is measured from this moment, and the pause is subtracted from
    /// the time for which calls have waited without progress. A part of the pause may already be counted; only
    /// the rest is added to [`self_throttled_ms`](super::LifetimeStats::self_throttled_ms). A pause of zero has no
    /// effect.
    pub fn note_self_throttled(&self, pause: Duration) {
        if pause.is_zero() {
            return;
        }
        let core = self.core();
        let Some(counted) = core.pauses.report_pause(core.clock.now_ns(), nanos(pause)) else {
            return;
        };
        let pause = Duration::from_nanos(counted);
        tracing::debug!(
            key = &*core.key,
            pause_ms = millis(pause),
            "the process was throttled; latencies are measured from now on"
        );
        if let Some(observer) = &core.observer {
            observer.on_self_throttled(&core.key, pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::super::{CircuitBreakerConfig, ManualClock, Transition, TransitionObserver, Verdict};
    use super::*;

    #[derive(Default)]
    struct Pauses(Mutex<Vec<Duration>>);

    impl TransitionObserver for Pauses {
        fn on_transition(&self, _key: &str, _transition: &Transition) {}

        fn on_self_throttled(&self, _key: &str, pause: Duration) {
            self.0.lock().push(pause);
        }
    }

    #[test]
    fn a_call_that_was_held_up_is_judged_from_the_end_of_the_pause() {
        let ms = Duration::from_millis;
        let (clock, pauses) = (Arc::new(ManualClock::new(1)), Arc::new(Pauses::default()));
        let config = CircuitBreakerConfig {
            slow_threshold: ms(50),
            ..CircuitBreakerConfig::default()
        };
        let breaker = LatencyCircuitBreaker::builder(config)
            .clock(clock.clone())
            .observer(pauses.clone())
            .build()
            .unwrap();
        let call_of = |before, after| {
            let permit = breaker.try_acquire().unwrap();
            clock.advance(before);
            breaker.note_self_throttled(before);
            clock.advance(after);
            permit.record(Verdict::success());
            breaker.stats().window.slow
        };
        assert_eq!(call_of(ms(60), ms(49)), 0);
        assert_eq!(
            call_of(ms(60), ms(50)),
            1,
            "a call that takes 50 ms after the pause is slow"
        );
        assert_eq!(breaker.stats().lifetime.self_throttled_ms, 120);
        breaker.note_self_throttled(Duration::ZERO);
        assert_eq!(*pauses.0.lock(), [ms(60), ms(60)]);
    }

    #[test]
    fn a_pause_that_the_ticker_saw_too_is_counted_once() {
        let ms = Duration::from_millis;
        let (clock, pauses) = (Arc::new(ManualClock::new(1)), Arc::new(Pauses::default()));
        let breaker = LatencyCircuitBreaker::builder(CircuitBreakerConfig::default())
            .clock(clock.clone())
            .observer(pauses.clone())
            .build()
            .unwrap();
        let throttled = || ms(breaker.stats().lifetime.self_throttled_ms);
        let late = breaker.config().tick_interval * 50;
        breaker.tick();
        clock.advance(late);
        breaker.tick();
        breaker.note_self_throttled(late);
        assert_eq!(throttled(), late, "the tick detects the pause before the report");
        clock.advance(late);
        breaker.note_self_throttled(late);
        breaker.tick();
        assert_eq!(throttled(), 2 * late, "the report comes before the tick");
        clock.advance(ms(1));
        breaker.note_self_throttled(late);
        assert_eq!(
            throttled(),
            2 * late + ms(1),
            "only 1 ms has passed since the last counted pause"
        );
        assert_eq!(*pauses.0.lock(), [late, late, ms(1)]);
    }
}
