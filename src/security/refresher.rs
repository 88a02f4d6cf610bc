//! The thread that reads certificates and tokens again.
//!
//! A separate thread reads the files, because the disk with the files can hang. Two other tasks must not wait for that
//! disk: the periodic task of the circuits, which detects that a disk hangs, and the handling of a signal to stop.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::Thread,
};

use super::{state::Security, watched::RefreshKind};

/// Requests refreshes from the thread that reads the files. Dropping this value does not stop the thread, because the
/// thread may be waiting for a disk that hangs. The thread ends with the process.
#[derive(Debug)]
pub struct Refresher {
    requests: Arc<Requests>,
    thread: Thread,
}

/// The refreshes that were requested and have not started. There is at most one request of each kind, so that requests
/// do not accumulate while a disk hangs.
#[derive(Debug, Default)]
struct Requests {
    settled: AtomicBool,
    immediate: AtomicBool,
}

// ===== impl Refresher =====

impl Refresher {
    /// Starts the thread. `spawn` receives the thread's main function.
    ///
    /// # Errors
    /// The error of `spawn`.
    pub fn start<E>(
        security: Arc<Security>,
        spawn: impl FnOnce(Box<dyn FnOnce() + Send>) -> Result<Thread, E>,
    ) -> Result<Self, E> {
        let requests = Arc::new(Requests::default());
        let received = Arc::clone(&requests);
        let thread = spawn(Box::new(move || {
            loop {
                match received.next() {
                    Some(kind) => security.refresh(kind),
                    None => std::thread::park(),
                }
            }
        }))?;
        Ok(Refresher { requests, thread })
    }

    /// Requests a refresh, and returns at once.
    pub fn request(&self, kind: RefreshKind) {
        let flag = match kind {
            RefreshKind::Settled => &self.requests.settled,
            RefreshKind::Immediate => &self.requests.immediate,
        };
        // Release pairs with the acquire in `Requests::next`: the refresh reads files that are at least as new as those
        // that the caller of `request` saw.
        flag.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

// ===== impl Requests =====

impl Requests {
    /// Takes the next request. A request of an operator comes first, and also removes the periodic request, because
    /// both requests read the same files.
    fn next(&self) -> Option<RefreshKind> {
        if self.immediate.swap(false, Ordering::Acquire) {
            self.settled.store(false, Ordering::Relaxed);
            return Some(RefreshKind::Immediate);
        }
        self.settled
            .swap(false, Ordering::Acquire)
            .then_some(RefreshKind::Settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operators_request_comes_first_and_each_request_is_taken_once() {
        let requests = Requests::default();
        assert_eq!(requests.next(), None);
        requests.settled.store(true, Ordering::Relaxed);
        requests.settled.store(true, Ordering::Relaxed);
        assert_eq!(requests.next(), Some(RefreshKind::Settled));
        assert_eq!(requests.next(), None);
        requests.settled.store(true, Ordering::Relaxed);
        requests.immediate.store(true, Ordering::Relaxed);
        assert_eq!(requests.next(), Some(RefreshKind::Immediate));
        assert_eq!(requests.next(), None);
    }
}
