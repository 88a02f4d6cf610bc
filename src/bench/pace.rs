//! Decides when calls start: as soon as the previous call is answered, or on a fixed schedule.
//!
//! With a schedule ([`Pacer`]), the latency of a call counts from its scheduled time. If all callers are busy with slow calls,
//! the next calls start late, and their waiting time counts. A closed loop would make fewer calls and would not measure that
//! waiting time ("coordinated omission").

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Semaphore, time::Instant};

use crate::sys::timer::IntervalTimer;

/// The time at which a caller starts its next call.
#[derive(Debug, Clone)]
pub(super) enum Pace {
    /// As soon as the previous call is answered.
    Closed {
        /// No call starts after this time.
        until: Instant,
    },
    /// On the schedule.
    Open(Arc<Pacer>),
}

/// A schedule of calls at equal intervals, shared by the callers of one thread.
#[derive(Debug)]
pub(super) struct Pacer {
    start: Instant,
    until: Instant,
    /// Time before the first call.
    offset: Duration,
    /// Time from one call to the next.
    interval: Duration,
    /// One permit for each call that is due and has not started.
    permits: Semaphore,
    due: AtomicU64,
    taken: AtomicU64,
}

/// A call is late if it starts more than this after its scheduled time.
const LATE_AFTER: Duration = Duration::from_millis(1);
/// Shortest time between two releases of due calls. Calls with a shorter interval are released several at a time.
const TICK_MIN: Duration = Duration::from_micros(50);
/// Longest time between two releases, so that a long interval does not delay the end of the round.
const TICK_MAX: Duration = Duration::from_millis(100);

// ===== impl Pace =====

impl Pace {
    /// Waits until the next call is due, and returns its scheduled time; `None` at the end of the round.
    pub(super) async fn next(&self) -> Option<Instant> {
        match self {
            Pace::Closed { until } => {
                let now = Instant::now();
                (now < *until).then_some(now)
            }
            Pace::Open(pacer) => pacer.next().await,
        }
    }

    /// Returns whether a call that was scheduled for `due` and starts now is late. In a closed loop, no call is late.
    pub(super) fn is_late(&self, due: Instant) -> bool {
        matches!(self, Pace::Open(_)) && due.elapsed() > LATE_AFTER
    }
}

// ===== impl Pacer =====

impl Pacer {
    /// Creates a schedule from now for `duration`: the first call after `offset`, then one every `interval`.
    pub(super) fn new(duration: Duration, offset: Duration, interval: Duration) -> Self {
        let start = Instant::now();
        Pacer {
            start,
            until: start + duration,
            offset,
            interval: interval.max(Duration::from_nanos(1)),
            permits: Semaphore::new(0),
            due: AtomicU64::new(0),
            taken: AtomicU64::new(0),
        }
    }

    /// Releases calls when they are due, until the end of the round.
    pub(super) async fn run(&self) -> io::Result<()> {
        let mut timer = IntervalTimer::every(self.interval.clamp(TICK_MIN, TICK_MAX))?;
        loop {
            let now = Instant::now();
            self.release(now.min(self.until));
            if now >= self.until {
                break;
            }
            timer.tick().await?;
        }
        // Wakes the waiting callers. Calls that are due and not started count as missed.
        self.permits.close();
        Ok(())
    }

    /// Returns the number of calls that were due, and how many of them never started.
    pub(super) fn due_and_missed(&self) -> (u64, u64) {
        let due = self.due.load(Ordering::Relaxed);
        (due, due.saturating_sub(self.taken.load(Ordering::Relaxed)))
    }

    /// Releases the calls that are scheduled before `now`.
    fn release(&self, now: Instant) {
        let since_first = now.duration_since(self.start).as_nanos();
        let due = since_first
            .saturating_sub(self.offset.as_nanos())
            .div_ceil(self.interval.as_nanos());
        let due = u64::try_from(due).unwrap_or(u64::MAX);
        let new = due.saturating_sub(self.due.swap(due, Ordering::Relaxed));
        self.permits
            .add_permits(usize::try_from(new).unwrap_or(usize::MAX));
    }

    async fn next(&self) -> Option<Instant> {
        self.permits.acquire().await.ok()?.forget();
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(self.interval.as_nanos()).unwrap_or(u64::MAX);
        Some(self.start + self.offset + Duration::from_nanos(nanos.saturating_mul(number)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_scheduled_call_is_due_at_its_time() {
        let millis = Duration::from_millis;
        let pacer = Pacer::new(millis(100), millis(1), millis(10));
        // The first call is due after 1 ms, and each further call 10 ms later. So ten calls are due before the end.
        for (now, due) in [(1, 0), (2, 1), (11, 1), (12, 2), (95, 10), (100, 10)] {
            pacer.release(pacer.start + millis(now));
            assert_eq!(pacer.due_and_missed().0, due, "after {now} ms");
        }
        for place in 0..7 {
            let due = pacer.next().await.unwrap();
            assert_eq!(due, pacer.start + millis(1 + 10 * place));
        }
        tokio::time::advance(millis(100)).await;
        pacer.run().await.unwrap();
        assert_eq!(pacer.next().await, None);
        assert_eq!(pacer.due_and_missed(), (10, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_late_if_it_starts_after_its_time() {
        let now = Instant::now();
        let pacer = Pacer::new(Duration::from_secs(1), Duration::ZERO, Duration::from_secs(1));
        let (open, closed) = (Pace::Open(Arc::new(pacer)), Pace::Closed { until: now });
        assert!(!open.is_late(now));
        tokio::time::advance(LATE_AFTER * 2).await;
        assert!(open.is_late(now));
        assert!(!closed.is_late(now));
        assert_eq!(closed.next().await, None);
    }
}
