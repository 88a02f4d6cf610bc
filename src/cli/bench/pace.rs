//! When calls are made: as soon as the last one is answered, or by a schedule that does not care.
//!
//! By a schedule ([`Pacer`]), a call's latency counts from when it should have been made. If all callers are busy with
//! slow calls, those that should have been made meanwhile are made late and their waiting is counted, where a closed
//! loop would make fewer calls and measure none of it ("coordinated omission").

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

/// When a caller makes its next call.
#[derive(Debug, Clone)]
pub(super) enum Pace {
    /// At once, until then.
    Closed {
        /// No call is begun after it.
        until: Instant,
    },
    /// By the schedule.
    Open(Arc<Pacer>),
}

/// A schedule of calls at equal distances, shared by the callers of one thread.
#[derive(Debug)]
pub(super) struct Pacer {
    start: Instant,
    until: Instant,
    /// Before the first call.
    offset: Duration,
    /// From one call to the next.
    interval: Duration,
    /// One for each call that is due and that no caller has begun.
    permits: Semaphore,
    due: AtomicU64,
    taken: AtomicU64,
}

/// A call that begins so much after its time is late.
const LATE_AFTER: Duration = Duration::from_millis(1);
/// The schedule is looked at no more often; calls that are closer together begin in twos or threes.
const TICK_MIN: Duration = Duration::from_micros(50);
/// The longest time between two looks at the schedule, so that the end is not missed.
const TICK_MAX: Duration = Duration::from_millis(100);

// ===== impl Pace =====

impl Pace {
    /// Waits for the next call's time, and says when that was; `None` at the end.
    pub(super) async fn next(&self) -> Option<Instant> {
        match self {
            Pace::Closed { until } => {
                let now = Instant::now();
                (now < *until).then_some(now)
            }
            Pace::Open(pacer) => pacer.next().await,
        }
    }

    /// Whether a call that should begin at `due` and begins now is late.
    pub(super) fn is_late(&self, due: Instant) -> bool {
        matches!(self, Pace::Open(_)) && due.elapsed() > LATE_AFTER
    }
}

// ===== impl Pacer =====

impl Pacer {
    /// From now for `duration`: the first call after `offset`, the others every `interval`.
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

    /// Lets calls begin when they are due, until the end.
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
        // Whoever waits goes home, even if calls are due that nobody was free to make: they are missed.
        self.permits.close();
        Ok(())
    }

    /// Calls that were due, and how many of them were never made.
    pub(super) fn due_and_missed(&self) -> (u64, u64) {
        let due = self.due.load(Ordering::Relaxed);
        (due, due.saturating_sub(self.taken.load(Ordering::Relaxed)))
    }

    /// Makes the calls due that are scheduled before `now`.
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
        let place = self.taken.fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(self.interval.as_nanos()).unwrap_or(u64::MAX);
        Some(self.start + self.offset + Duration::from_nanos(nanos.saturating_mul(place)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn calls_are_due_at_their_times_and_none_is_lost() {
        let millis = Duration::from_millis;
        let pacer = Pacer::new(millis(100), millis(1), millis(10));
        // The first is due after 1 ms, the others every 10 ms: ten before the end.
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
    async fn late_is_what_begins_after_its_time() {
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
