//! The ring between many callers and one executor, and the door in front of it.
//!
//! The door lets the executor say "nobody else comes in" and then wait for those who are just stepping through, so
//! that after the last drain nothing can be left behind in the ring.

use super::sync::{ArrayQueue, AtomicUsize, Ordering};

/// The door's highest bit: closed. The bits below count the callers that are stepping through.
const CLOSED: usize = 1 << (usize::BITS - 1);

/// A bounded queue that can be closed.
pub(crate) struct Ring<T> {
    queue: ArrayQueue<T>,
    door: AtomicUsize,
    /// Callers wake the executor once so many items wait. One when it has nothing else to do, more when it is busy
    /// anyway and would only be disturbed.
    wake_at: AtomicUsize,
}

/// Why an item was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused<T> {
    /// The ring is full.
    Full(T),
    /// The ring is closed.
    Closed(T),
}

// ===== impl Ring =====

impl<T> Ring<T> {
    /// A ring for `capacity` items.
    #[must_use]
    pub(crate) fn new(capacity: usize) -> Self {
        Ring {
            queue: ArrayQueue::new(capacity),
            door: AtomicUsize::new(0),
            wake_at: AtomicUsize::new(1),
        }
    }

    /// Puts an item in. `Ok(true)` means that the executor wants to be woken.
    ///
    /// # Errors
    /// [`Refused`], with the item.
    pub(crate) fn push(&self, item: T) -> Result<bool, Refused<T>> {
        // SeqCst, as with `close` and `is_drained`: of a caller that steps in and an executor that closes, at least
        // one must see the other.
        let door = self.door.fetch_add(1, Ordering::SeqCst);
        let pushed = if door & CLOSED == 0 {
            self.queue.push(item).map_err(Refused::Full)
        } else {
            Err(Refused::Closed(item))
        };
        self.door.fetch_sub(1, Ordering::SeqCst);
        pushed.map(|()| self.wants_wake())
    }

    /// Whether the executor wants to be woken by a caller who has just left the door, with or without success: it may
    /// have gone to sleep because somebody stood in the door of a closed ring.
    #[must_use]
    pub(crate) fn wants_wake(&self) -> bool {
        // SeqCst, as with `wake_at`: either this load sees the executor's wish, or the executor sees the item.
        self.queue.len() >= self.wake_at.load(Ordering::SeqCst) || self.is_closed()
    }

    /// Takes the oldest item out.
    #[must_use]
    pub(crate) fn pop(&self) -> Option<T> {
        self.queue.pop()
    }

    /// How many items wait.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// How many items can wait.
    #[must_use]
    pub(crate) fn capacity(&self) -> usize {
        self.queue.capacity()
    }

    /// Lets nobody in any more.
    pub(crate) fn close(&self) {
        self.door.fetch_or(CLOSED, Ordering::SeqCst);
    }

    /// Whether the ring is closed.
    #[must_use]
    pub(crate) fn is_closed(&self) -> bool {
        self.door.load(Ordering::SeqCst) & CLOSED != 0
    }

    /// Whether the ring is closed, nobody is stepping through the door, and nothing is left.
    #[must_use]
    pub(crate) fn is_drained(&self) -> bool {
        // The order matters: an item that is pushed by the last caller in the door is seen by the second look.
        self.door.load(Ordering::SeqCst) == CLOSED && self.queue.is_empty()
    }

    /// Tells callers to wake the executor once `items` wait, and says whether so many wait already: then the executor
    /// must not go to sleep.
    #[must_use]
    pub(crate) fn wake_at(&self, items: usize) -> bool {
        self.wake_at.store(items, Ordering::SeqCst);
        self.queue.len() >= items
    }
}

impl<T> std::fmt::Debug for Ring<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}
