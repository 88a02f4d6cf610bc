//! Remembers which task was woken, and rings the bell of the scheduler.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;
use tokio::time::{Instant, sleep_until};

/// Wakes the scheduler, which waits until somebody has work.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: AtomicBool,
    scheduler: AtomicWaker,
}

/// A flag of one task.
#[derive(Debug)]
pub(crate) struct Alarm {
    raised: AtomicBool,
    bell: Arc<Bell>,
}

// ===== impl Bell =====

impl Bell {
    /// Waits until a task was woken, or until this time.
    pub(crate) async fn rest(&self, until: Instant) {
        let mut sleep = pin!(sleep_until(until));
        poll_fn(|context| {
            self.scheduler.register(context.waker());
            if self.rung.swap(false, Ordering::Relaxed) {
                return Poll::Ready(());
            }
            sleep.as_mut().poll(context)
        })
        .await;
    }
}

// ===== impl Alarm =====

impl Alarm {
    /// Makes the alarm of a task that was not polled yet.
    pub(crate) fn raised(bell: &Arc<Bell>) -> Arc<Self> {
        Arc::new(Alarm {
            raised: AtomicBool::new(true),
            bell: Arc::clone(bell),
        })
    }

    pub(crate) fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }

    /// Lowers the flag, and returns the waker that raises it.
    pub(crate) fn lower(self: &Arc<Self>) -> Waker {
        self.raised.store(false, Ordering::Relaxed);
        Waker::from(Arc::clone(self))
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.raised.store(true, Ordering::Relaxed);
        self.bell.rung.store(true, Ordering::Relaxed);
        self.bell.scheduler.wake();
    }
}
