//! Defines how a thread writes the counters of its shard. An exclusive shard has one writing thread. This thread loads
//! a word and stores the next value, so it needs no locked CPU instruction. The shared shard has many writing threads,
//! which use compare-and-exchange.
//!
//! This file imports only `super::sync`, so that `tests/loom` can model-check it unchanged.

use super::sync::{AtomicU64, Ordering};

/// How the calling thread may change the words of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    /// No other thread adds counts to these words, so the thread may load and store them.
    Exclusive,
    /// Other threads add counts to these words, too, so the thread must use compare-and-exchange.
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

/// Replaces the value `seen` by `next` with Release ordering: a thread that reads `next` also sees every earlier write.
/// If the word has changed, a shared writer fails with the current value. A shared writer may also fail without a
/// reason, like every weak compare-and-exchange.
///
/// An exclusive writer never fails. A sweep (which resets old counts, see `TaggedPair::sweep`) by another thread may
/// reset the word between the exclusive writer's load and its store. In this case, the store overwrites the reset. No
/// count is lost: if `next` belongs to the current time slice, the reset was no longer needed; if `next` belongs to an
/// older slice, readers ignore `next`.
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

/// Adds one to a counter and returns its previous value. The counter wraps.
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
