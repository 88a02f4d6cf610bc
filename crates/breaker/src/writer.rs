//! How a thread writes the words of its shard. An exclusive shard has one writing thread, which needs no locked
//! instruction: it loads a word and stores the next value. The shared shard has many writing threads, which use
//! compare-and-exchange.
//!
//! This file imports only `super::sync`, so that `tests/loom` can model-check it unchanged.

use super::sync::{AtomicU64, Ordering};

/// How the calling thread may change the words of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    /// No other thread adds counts to these words: load and store.
    Exclusive,
    /// Other threads add counts to these words too: compare and exchange.
    Shared,
}

/// The shard of the calling thread, and how the thread may write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ShardAccess {
    /// Index of the shard.
    pub(super) shard: usize,
    /// How the thread writes the words of the shard.
    pub(super) writer: Writer,
}

/// Replaces the value `seen` by `next` with release ordering: a thread that reads `next` also sees every earlier write.
/// A shared writer fails with the current value if the word has changed. It may also fail spuriously, as weak exchanges
/// do.
///
/// An exclusive writer never fails, although a sweep by another thread may reset the word between the load and the
/// store. The store then overwrites the reset, and this loses nothing. If `next` is up to date, the reset was no longer
/// needed. If `next` is out of date, readers ignore it.
#[inline]
pub(super) fn publish(cell: &AtomicU64, seen: u64, next: u64, writer: Writer) -> Result<(), u64> {
    match writer {
        Writer::Exclusive => {
            cell.store(next, Ordering::Release);
            Ok(())
        }
        Writer::Shared => cell
            .compare_exchange_weak(seen, next, Ordering::AcqRel, Ordering::Acquire)
            .map(drop),
    }
}

/// Adds one to a counter, which wraps, and returns its previous value.
#[inline]
pub(super) fn increment(cell: &AtomicU64, writer: Writer) -> u64 {
    match writer {
        Writer::Exclusive => {
            let count = cell.load(Ordering::Relaxed);
            cell.store(count.wrapping_add(1), Ordering::Release);
            count
        }
        Writer::Shared => cell.fetch_add(1, Ordering::AcqRel),
    }
}
