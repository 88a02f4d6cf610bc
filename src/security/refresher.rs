//! The thread that reads certificates and tokens again.
//!
//! It is a thread of its own, since the disk that holds the files can hang: then neither the circuits' ticks, which tell
//! that the disk hangs, nor a signal to stop may wait for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::Thread,
};

use super::{state::Security, watched::Look};

/// Asks the thread for looks. Dropping it does not end the thread, which may hang with the disk; the process does.
#[derive(Debug)]
pub struct Refresher {
    wanted: Arc<Wanted>,
    thread: Thread,
}

/// The looks that were asked for and have not begun: one of each kind at most, so that none are held for a disk that hangs.
#[derive(Debug, Default)]
struct Wanted {
    settled: AtomicBool,
    now: AtomicBool,
}

// ===== impl Refresher =====

impl Refresher {
    /// Has `spawn` start the thread, with what it is to run.
    ///
    /// # Errors
    /// Those of `spawn`.
    pub fn start<E>(
        security: Arc<Security>,
        spawn: impl FnOnce(Box<dyn FnOnce() + Send>) -> Result<Thread, E>,
    ) -> Result<Self, E> {
        let wanted = Arc::new(Wanted::default());
        let theirs = Arc::clone(&wanted);
        let thread = spawn(Box::new(move || {
            loop {
                match theirs.next() {
                    Some(look) => security.refresh(look),
                    None => std::thread::park(),
                }
            }
        }))?;
        Ok(Refresher { wanted, thread })
    }

    /// Asks for a look at the files. Returns at once.
    pub fn look(&self, look: Look) {
        let flag = match look {
            Look::Settled => &self.wanted.settled,
            Look::Now => &self.wanted.now,
        };
        // Release: what the caller saw of the files before it asked is seen by the look.
        flag.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

// ===== impl Wanted =====

impl Wanted {
    /// The next look that was asked for. An operator's comes first, and makes the other one superfluous.
    fn next(&self) -> Option<Look> {
        if self.now.swap(false, Ordering::Acquire) {
            self.settled.store(false, Ordering::Relaxed);
            return Some(Look::Now);
        }
        self.settled
            .swap(false, Ordering::Acquire)
            .then_some(Look::Settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operators_look_comes_first_and_each_is_made_once() {
        let wanted = Wanted::default();
        assert_eq!(wanted.next(), None);
        wanted.settled.store(true, Ordering::Relaxed);
        wanted.settled.store(true, Ordering::Relaxed);
        assert_eq!(wanted.next(), Some(Look::Settled));
        assert_eq!(wanted.next(), None);
        wanted.settled.store(true, Ordering::Relaxed);
        wanted.now.store(true, Ordering::Relaxed);
        assert_eq!(wanted.next(), Some(Look::Now));
        assert_eq!(wanted.next(), None);
    }
}
