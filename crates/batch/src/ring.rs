//! [`LockFreeRingBuffer`]: the bounded queue between many callers and one executor.
//!
//! A close must not leave an item behind: after the executor has seen the buffer closed and empty, no caller may add an
//! item. Therefore each caller increments a counter before it reads the closed flag, and decrements the counter after
//! its push. The executor regards the buffer as drained only if the counter is zero.

use super::sync::{ArrayQueue, AtomicUsize, Ordering};

/// The highest bit of `entry`: the buffer is closed. The lower bits count the callers inside `push`.
const CLOSED: usize = 1 << (usize::BITS - 1);

/// A bounded, lock-free, multi-producer queue that can be closed. Items leave in the order in which they entered.
///
/// ```
/// use tally_batch::{LockFreeRingBuffer, PushError};
///
/// let buffer = LockFreeRingBuffer::new(2);
/// assert_eq!(buffer.push("a"), Ok(()));
/// assert_eq!(buffer.push("b"), Ok(()));
/// assert_eq!(buffer.push("c"), Err(PushError::Full("c")), "a full buffer returns the item");
/// assert_eq!(buffer.pop(), Some("a"));
/// buffer.close();
/// assert_eq!(buffer.push("d"), Err(PushError::Closed("d")));
/// assert_eq!((buffer.pop(), buffer.pop()), (Some("b"), None), "queued items can still be taken");
/// assert!(buffer.is_drained());
/// ```
pub struct LockFreeRingBuffer<T> {
    queue: ArrayQueue<T>,
    /// The number of callers inside `push`, and the flag [`CLOSED`].
    entry: AtomicUsize,
    /// Callers wake the executor if at least this many items are queued. The executor sets 1 when it has nothing to do.
    /// While it waits for a larger batch, it sets a larger number, because an earlier wake-up would be useless.
    wake_at: AtomicUsize,
}

/// Why an item was not queued. The error holds the item.
#[derive(Debug, PartialEq, Eq)]
pub enum PushError<T> {
    /// The buffer is full.
    Full(T),
    /// The buffer is closed.
    Closed(T),
}

// ===== impl LockFreeRingBuffer =====

impl<T> LockFreeRingBuffer<T> {
    /// Makes a buffer for `capacity` items, and allocates its whole memory.
    ///
    /// # Panics
    /// If `capacity` is 0.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        LockFreeRingBuffer {
            queue: ArrayQueue::new(capacity),
            entry: AtomicUsize::new(0),
            wake_at: AtomicUsize::new(1),
        }
    }

    /// Adds an item at the end. Never waits.
    ///
    /// # Errors
    /// If the buffer is full or closed; the error holds the item.
    #[inline]
    pub fn push(&self, item: T) -> Result<(), PushError<T>> {
        self.push_for_executor(item).map(drop)
    }

    /// Adds an item, like [`push`](Self::push). Returns whether the executor has to be woken.
    #[inline]
    pub(crate) fn push_for_executor(&self, item: T) -> Result<bool, PushError<T>> {
        // SeqCst here, in `close` and in `is_drained`: either this caller sees the closed flag, or the executor sees
        // this caller in the counter.
        let entry = self.entry.fetch_add(1, Ordering::SeqCst);
        let pushed = if entry & CLOSED == 0 {
            self.queue.push(item).map_err(PushError::Full)
        } else {
            Err(PushError::Closed(item))
        };
        self.entry.fetch_sub(1, Ordering::SeqCst);
        pushed.map(|()| self.executor_wants_wake())
    }

    /// Whether a caller that has just left `push` has to wake the executor, because enough items are queued or the
    /// buffer is closed. If the buffer is closed, the executor may be asleep because this caller was still inside
    /// `push`.
    #[must_use]
    #[inline]
    pub(crate) fn executor_wants_wake(&self) -> bool {
        // SeqCst here and in `wake_at`: either this load sees the number that the executor has set, or the executor
        // sees the item.
        self.queue.len() >= self.wake_at.load(Ordering::SeqCst) || self.is_closed()
    }

    /// Removes and returns the oldest item; `None` if the buffer is empty.
    #[must_use]
    #[inline]
    pub fn pop(&self) -> Option<T> {
        self.queue.pop()
    }

    /// Number of queued items.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether no item is queued.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Maximum number of queued items.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.queue.capacity()
    }

    /// Makes every later [`push`](Self::push) fail. Queued items can still be taken.
    pub fn close(&self) {
        self.entry.fetch_or(CLOSED, Ordering::SeqCst);
    }

    /// Whether the buffer is closed.
    #[must_use]
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.entry.load(Ordering::SeqCst) & CLOSED != 0
    }

    /// Whether the buffer is closed and empty. If so, no item can be added any more.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        // The order of the two checks matters. When the buffer is closed and no caller is inside `push`, the queue
        // contains all items that will ever be added. Therefore the queue is checked second.
        self.entry.load(Ordering::SeqCst) == CLOSED && self.queue.is_empty()
    }

    /// Makes callers wake the executor when `items` items are queued. Returns whether at least `items` items are
    /// already queued. If so, the executor must not go to sleep.
    #[must_use]
    pub(crate) fn wake_at(&self, items: usize) -> bool {
        self.wake_at.store(items, Ordering::SeqCst);
        self.queue.len() >= items
    }
}

impl<T> std::fmt::Debug for LockFreeRingBuffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LockFreeRingBuffer")
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}

// ===== impl PushError =====

impl<T> PushError<T> {
    /// Returns the item.
    pub fn into_inner(self) -> T {
        match self {
            PushError::Full(item) | PushError::Closed(item) => item,
        }
    }
}
