//! Numbers of threads. A thread claims a number when it first uses a breaker and releases it when the thread ends. The
//! numbers are common to all breakers of the process; at most one thread holds a number at a time.

use std::cell::Cell;

use super::{
    slots::ThreadSlots,
    sync::AtomicU64,
    writer::{ShardAccess, Writer},
};

/// A claimed number, released when the thread ends.
struct Lease(u32);

static SLOTS: ThreadSlots = ThreadSlots::new(AtomicU64::new(0));

/// The thread has not claimed a number yet.
const UNCLAIMED: usize = usize::MAX;
/// The thread has no number, because all were taken or because the thread is ending.
const NONE: usize = usize::MAX - 1;

thread_local! {
    /// Has no destructor, so reading it costs one load and works until the end of the thread.
    static SLOT: Cell<usize> = const { Cell::new(UNCLAIMED) };
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
    // Fails while the thread ends. Then no number is claimed, because nothing would release it.
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
        // Set before the release, because destructors that run later may still make calls.
        SLOT.set(NONE);
        SLOTS.release(self.0);
    }
}
