//! Assigns threads to shards by thread numbers. A thread claims a number when it first uses a breaker, and releases the
//! number when the thread ends. At most one thread holds a number at a time. All breakers of the process use the same
//! numbers.

use std::cell::Cell;

use super::{
    slots::ThreadSlots,
    sync::AtomicU64,
    writer::{ShardAccess, Writer},
};

/// A claimed number. Dropping it, when the thread ends, releases the number.
struct Lease(u32);

/// The numbers that threads hold.
static SLOTS: ThreadSlots = ThreadSlots::new(AtomicU64::new(0));

/// Value of `SLOT` before the thread has tried to claim a number.
const UNCLAIMED: usize = usize::MAX;
/// Value of `SLOT` if the thread has no number, because all numbers were taken or because the thread is ending.
const NONE: usize = usize::MAX - 1;

thread_local! {
    /// The thread's number, [`UNCLAIMED`] or [`NONE`]. It has no destructor, so reading it costs one load and works
    /// until the end of the thread.
    static SLOT: Cell<usize> = const { Cell::new(UNCLAIMED) };
    /// Releases the number when the thread ends.
    static LEASE: Cell<Option<Lease>> = const { Cell::new(None) };
}

/// Returns the calling thread's shard, in a breaker whose first `exclusive` shards have one writing thread each. All
/// other threads share the next shard.
#[inline]
pub(super) fn shard_access(exclusive: usize) -> ShardAccess {
    let slot = match SLOT.get() {
        UNCLAIMED => claim_slot(),
        slot => slot,
    };
    if slot < exclusive {
        ShardAccess {
            shard: slot,
            writer: Writer::Exclusive,
        }
    } else {
        ShardAccess {
            shard: exclusive,
            writer: Writer::Shared,
        }
    }
}

#[cold]
fn claim_slot() -> usize {
    // `try_with` fails while the thread is ending. In this case, the thread claims no number, because nothing would
    // release the number.
    let slot = LEASE.try_with(|lease| {
        let slot = SLOTS.claim()?;
        lease.set(Some(Lease(slot)));
        usize::try_from(slot).ok()
    });
    let slot = slot.ok().flatten().unwrap_or(NONE);
    SLOT.set(slot);
    slot
}

// ===== impl Lease =====

impl Drop for Lease {
    fn drop(&mut self) {
        // `SLOT` is set before the release, because other destructors of this thread may still make calls afterwards.
        SLOT.set(NONE);
        SLOTS.release(self.0);
    }
}
