//! Who writes a word, and how. Most words of a shard have one writer, which needs no locked instruction to change them: it
//! reads the word and stores the next one. The words of the shared shard have many, which compare and exchange.
//!
//! Imports nothing but `super::sync`, so that `tests/loom` can model-check this very file.

use super::sync::{AtomicU64, Ordering};

/// How the words of a shard may be changed by the calling thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    /// Nobody else puts counts into them: load and store.
    Exclusive,
    /// Other threads do, too: compare and exchange.
    Shared,
}

/// Where the calling thread counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ShardAccess {
    /// Its shard.
    pub(super) shard: usize,
    /// What it may do there.
    pub(super) writer: Writer,
}

/// Replaces `seen` by `next`, so that whoever reads the new word also sees what was written before it. Fails with the
/// present word if that is another one by now, or, as a weak exchange may, for no reason.
///
/// The exclusive writer never fails, though somebody else may touch its words: a sweeper, which replaces what is out of
/// date by an empty word. Between the owner's load and its store that is lost, and nothing with it: the owner either
/// writes a word that is up to date, as the sweeper wanted, or one that is out of date and counts for nothing.
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

/// Adds one to a counter that wraps; returns what it was.
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
