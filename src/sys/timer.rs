//! A timer for intervals below one millisecond. Tokio's own timers have a resolution of one millisecond. This timer has
//! the resolution of the kernel's timers.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::{Interest, unix::AsyncFd};

/// A timer that expires at a fixed interval.
#[derive(Debug)]
pub struct IntervalTimer(AsyncFd<OwnedFd>);

impl IntervalTimer {
    /// Starts a timer that expires after each `interval`, for the first time after one interval. `interval` must be
    /// more than zero. Call this function within a tokio runtime.
    ///
    /// # Errors
    /// If the system has no free timer or file descriptor.
    pub fn every(interval: Duration) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let interval = Timespec {
            tv_sec: i64::try_from(interval.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: interval.subsec_nanos().into(),
        };
        let setting = Itimerspec {
            it_interval: interval,
            it_value: interval,
        };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &setting)?;
        // SAFETY: an `OwnedFd` owns a valid descriptor and always returns the same number. It moves into the `AsyncFd`,
        // and nothing takes it out, replaces it or closes it before the `AsyncFd` is dropped.
        let registered = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) };
        Ok(IntervalTimer(registered?))
    }

    /// Waits until the timer expires. If the timer has expired since the last call, even several times, returns at once.
    ///
    /// # Errors
    /// If the timer can't be read.
    pub async fn tick(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            let read = ready.try_io(|timer| {
                let mut count = [0; 8];
                Ok(rustix::io::read(timer.get_ref(), &mut count)?)
            });
            // An error of `try_io` means that the wake-up was spurious: the timer has not expired. Wait again.
            if let Ok(read) = read {
                return read.map(|_bytes| ());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn the_timer_never_expires_early() {
        let interval = Duration::from_micros(300);
        let begun = Instant::now();
        let mut timer = IntervalTimer::every(interval).unwrap();
        for tick in 1..=5 {
            timer.tick().await.unwrap();
            assert!(begun.elapsed() >= interval * tick, "tick {tick}");
        }
    }
}
