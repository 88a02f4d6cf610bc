//! A timer as exact as the kernel's: tokio's own know milliseconds only.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::{Interest, unix::AsyncFd};

/// Goes off at equal distances.
#[derive(Debug)]
pub struct IntervalTimer(AsyncFd<OwnedFd>);

impl IntervalTimer {
    /// Goes off every `interval`, which is more than zero, for the first time after one. Within a tokio runtime.
    ///
    /// # Errors
    /// When the system has no more timers or descriptors.
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
        // SAFETY: an `OwnedFd` owns a valid descriptor and always tells the same one. It is moved in here, and nothing
        // takes it out, replaces it or closes it before the `AsyncFd` is dropped.
        let registered = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) };
        Ok(IntervalTimer(registered?))
    }

    /// Waits until it goes off, or returns at once if it has since the last time, once for all the times that it did.
    ///
    /// # Errors
    /// When the timer can't be read.
    pub async fn tick(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            let read = ready.try_io(|timer| {
                let mut count = [0; 8];
                Ok(rustix::io::read(timer.get_ref(), &mut count)?)
            });
            // Otherwise it was woken for nothing.
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
    async fn it_never_goes_off_early() {
        let interval = Duration::from_micros(300);
        let begun = Instant::now();
        let mut timer = IntervalTimer::every(interval).unwrap();
        for tick in 1..=5 {
            timer.tick().await.unwrap();
            assert!(begun.elapsed() >= interval * tick, "tick {tick}");
        }
    }
}
