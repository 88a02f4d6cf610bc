//! Numbers of threads. A thread takes a number when it first uses a breaker, and returns the number when it ends. At any time
//! at most one thread has a number, in all breakers of the process.

use std::cell::Cell;

use super::{
    slots::ThreadSlots,
    sync::AtomicU64,
    writer::{ShardAccess, Writer},
};

/// Returns the thread's number when the thread ends.
struct Lease(u32);

static SLOTS: ThreadSlots = ThreadSlots::new(AtomicU64::new(0));

/// The thread has not asked for a number yet.
const UNCLAIMED: usize = usize::MAX;
/// The thread has no number: there was none left, or it is being torn down.
const NONE: usize = usize::MAX - 1;

thread_local! {
    /// Without a destructor, so that reading it costs one load and is possible to the thread's very end.
    static SLOT: Cell<usize> = const { Cell::new(UNCLAIMED) };
    static LEASE: Cell<Option<Lease>> = const { Cell::new(None) };
}

/// Returns the calling thread's shard in a breaker whose first `exclusive` shards have one writer each and whose next shard is
/// shared by all other threads.
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
    // Fails while the thread ends. Then no number is taken, because nothing would return it.
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
        // Before the release: destructors that run later may still make calls.
        SLOT.set(NONE);
        SLOTS.release(self.0);
    }
}
