//! Couriers: one wake-up of a runtime for all of its callers that are answered together.
//!
//! A batch is answered by a thread that is not the callers' own. Waking each caller by itself costs a system call each,
//! and, worse, makes a single-threaded runtime run caller and connection by turns, so that every answer is written to
//! its socket alone. With a courier, the answering thread leaves the wakers in the runtime's letter box and wakes one
//! task, which wakes all callers from within: they all run before their connections do, and each connection writes its
//! answers at once.
//!
//! The other way round it is the same: callers that have something for the executor leave word with the courier, who
//! wakes it when all callers that could run have run. So a burst of requests costs one wake-up and shares a batch; for a
//! lone request the courier's turn comes at once.

use std::{cell::Cell, future::poll_fn, task::Waker};

use super::letters::LetterBox;

/// Runtimes that can have a courier. Callers elsewhere are woken one by one.
pub const COURIERS_MAX: usize = 64;

thread_local! {
    /// The courier of this thread's runtime: whose it is, and its number.
    static COURIER: Cell<Option<(Processor, usize)>> = const { Cell::new(None) };
    /// Whether the executor is to be woken.
    static OUTBOX: Cell<bool> = const { Cell::new(false) };
}

/// Tells processors apart: where its letter boxes are. A caller of another processor than its runtime's courier serves is
/// woken by itself.
type Processor = usize;

/// The letter boxes of one batch processor.
#[derive(Debug)]
pub(super) struct Couriers {
    boxes: Box<[LetterBox]>,
}

/// While it lives, the calling thread has a courier.
struct Here;

/// Wakers on their way to their letter boxes; kept to be filled again.
#[derive(Debug)]
pub(super) struct Post {
    bags: Box<[Vec<Waker>]>,
}

// ===== impl Couriers =====

impl Couriers {
    pub(super) fn new() -> Self {
        Couriers {
            boxes: (0..COURIERS_MAX).map(|_| LetterBox::new()).collect(),
        }
    }

    /// The courier of the calling thread, to be noted with a request.
    pub(super) fn here(&self) -> Option<usize> {
        COURIER
            .get()
            .filter(|(processor, _)| *processor == self.processor())
            .map(|(_, index)| index)
    }

    fn processor(&self) -> Processor {
        self.boxes.as_ptr().addr()
    }

    /// Has the executor woken by the courier of the calling thread, soon. `false` if there is none.
    pub(super) fn send(&self) -> bool {
        let Some(letter_box) = self.here().and_then(|index| self.boxes.get(index)) else {
            return false;
        };
        OUTBOX.set(true);
        letter_box.call();
        true
    }

    /// Carries letters on the calling thread for as long as it is polled there, and wakes the executor with `notify`.
    pub(super) async fn carry(&self, index: usize, notify: impl Fn()) {
        let Some(letter_box) = self.boxes.get(index) else {
            return;
        };
        COURIER.set(Some((self.processor(), index)));
        let _here = Here;
        let mut letters = Vec::new();
        loop {
            poll_fn(|context| {
                // Set by callers on this very thread, so never while this runs.
                if OUTBOX.take() {
                    notify();
                }
                letter_box.poll_empty(context, &mut letters)
            })
            .await;
            letters.drain(..).for_each(Waker::wake);
            // The callers are before us in the runtime's queue now.
            tokio::task::yield_now().await;
        }
    }

    /// Delivers what was collected: one lock and one wake-up for each runtime.
    pub(super) fn deliver(&self, post: &mut Post) {
        for (letter_box, bag) in self.boxes.iter().zip(&mut post.bags) {
            if !bag.is_empty() {
                letter_box.post(bag);
            }
        }
    }
}

// ===== impl Here =====

impl Drop for Here {
    fn drop(&mut self) {
        COURIER.set(None);
    }
}

// ===== impl Post =====

impl Post {
    pub(super) fn new() -> Self {
        Post {
            bags: (0..COURIERS_MAX).map(|_| Vec::new()).collect(),
        }
    }

    /// Takes a waker along, or wakes it at once if its caller has no courier.
    pub(super) fn collect(&mut self, courier: Option<usize>, waker: Waker) {
        match courier.and_then(|index| self.bags.get_mut(index)) {
            Some(bag) => bag.push(waker),
            None => waker.wake(),
        }
    }
}
