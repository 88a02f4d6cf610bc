//! Calls under way, by the moment they were admitted, so that a call that hangs is seen before it ends.
//!
//! A ring of slots, each between a sixteenth and an eighth of the slow threshold wide: a call counts +1 in the slot of its
//! admission and −1 in the same slot at its end, so a slot older than the threshold holds exactly the calls that are
//! overdue. When a slot's turn comes again (after eight thresholds or more), what it still holds moves to the *older*
//! counter.
//!
//! Imports nothing but `super::sync`, so that `tests/loom` can model-check this very file.

use super::sync::{AtomicU64, CachePadded, Ordering};

/// Where a call was counted in; needed to count it out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RingPlace {
    slot: usize,
    tag: u64,
}

/// Calls that have been under way for the slow threshold or longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Overdue {
    /// How many.
    pub(super) calls: u64,
    /// How many whole thresholds the oldest has been under way, at most [`ROUNDS_MAX`]. One pipeline that hangs for so
    /// long could have completed as many slow batches: the evidence that `min_batches` asks for.
    pub(super) rounds: u32,
}

/// The ring of one breaker.
#[derive(Debug)]
pub(super) struct InFlightRing {
    shards: Box<[CachePadded<Shard>]>,
    /// A slot is `2^slot_shift` nanoseconds wide: a division less for each call.
    slot_shift: u32,
    threshold_ns: u64,
}

#[derive(Debug)]
struct Shard {
    /// `generation:22 | lap:22 | count:20`; one thread writes, or the few that share the shard.
    slots: [AtomicU64; SLOTS],
    /// `generation:22 | count:42`, the count shifted by [`OLDER_ZERO`]: a call may end between the moment its slot is
    /// taken over and the moment the slot's count arrives here, and the counter is then below zero for an instant.
    older: AtomicU64,
}

const SLOTS: usize = 128;
/// At least so many slots to a threshold; a power of two may make it twice as many.
const SLOTS_PER_THRESHOLD: u64 = 8;
/// The most whole thresholds that the ring can tell apart.
pub(super) const ROUNDS_MAX: u32 = 7;

const COUNT_BITS: u32 = 20;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
const LAP_BITS: u32 = 22;
const LAP_MASK: u64 = (1 << LAP_BITS) - 1;
/// How many laps behind the others a thread may be when it counts a call in.
const LAPS_LATE_MAX: u64 = 8;

const OLDER_BITS: u32 = 42;
const OLDER_MASK: u64 = (1 << OLDER_BITS) - 1;
const OLDER_ZERO: u64 = 1 << (OLDER_BITS - 1);

// ===== impl InFlightRing =====

impl InFlightRing {
    pub(super) fn new(shards: usize, threshold_ns: u64) -> Self {
        Self {
            shards: (0..shards).map(|_| CachePadded::new(Shard::new())).collect(),
            slot_shift: (threshold_ns / SLOTS_PER_THRESHOLD).max(1).ilog2(),
            threshold_ns: threshold_ns.max(1),
        }
    }

    /// Counts in a call of `generation`. None if the generation is over, which `live` tells: such a call is not counted.
    pub(super) fn enter(
        &self,
        shard: usize,
        generation: u32,
        now_ns: u64,
        live: impl Fn() -> bool,
    ) -> Option<RingPlace> {
        let epoch = now_ns >> self.slot_shift;
        self.shards.get(shard)?.enter(epoch, generation, live)
    }

    /// Counts out a call of `generation`; one whose generation is over has nothing to be counted out of.
    pub(super) fn leave(&self, shard: usize, generation: u32, place: RingPlace, live: impl Fn() -> bool) {
        if let Some(shard) = self.shards.get(shard) {
            shard.leave(generation, place, live);
        }
    }

    /// The overdue calls of `generation`. A call admitted before `not_before_ns` is taken to have been admitted then.
    /// Never more than there are: *older* is read before the slots, so a count on its way is missed, not seen twice.
    pub(super) fn overdue(&self, generation: u32, now_ns: u64, not_before_ns: u64) -> Overdue {
        let mut sum = Overdue::default();
        let rounds_since =
            |began_ns: u64| now_ns.saturating_sub(began_ns.max(not_before_ns)) / self.threshold_ns;
        for shard in &self.shards {
            let older = shard.older_count(generation);
            if older > 0 {
                sum.add(older, rounds_since(0));
            }
            for (count, end_epoch) in shard.occupied(generation, now_ns >> self.slot_shift) {
                sum.add(count, rounds_since(end_epoch << self.slot_shift));
            }
        }
        sum
    }
}

// ===== impl Overdue =====

impl Overdue {
    fn add(&mut self, calls: u64, rounds: u64) {
        if rounds > 0 {
            self.calls += calls;
            self.rounds = self
                .rounds
                .max(u32::try_from(rounds).unwrap_or(u32::MAX).min(ROUNDS_MAX));
        }
    }
}

// ===== impl Shard =====

impl Shard {
    fn new() -> Self {
        Self {
            slots: std::array::from_fn(|_| AtomicU64::new(0)),
            older: AtomicU64::new(OLDER_ZERO),
        }
    }

    fn enter(&self, epoch: u64, generation: u32, live: impl Fn() -> bool) -> Option<RingPlace> {
        let index = usize::try_from(epoch % SLOTS as u64).ok()?;
        let slot = self.slots.get(index)?;
        let wanted = tag_of(generation, epoch / SLOTS as u64);
        let mut word = slot.load(Ordering::Acquire);
        loop {
            let seen = word >> COUNT_BITS;
            let same_generation = seen >> LAP_BITS == wanted >> LAP_BITS;
            if !same_generation && !live() {
                return None;
            }
            // A late thread finds the next lap's tag and counts itself in there, a little too young.
            let joins = seen == wanted || (same_generation && is_lap_ahead(seen, wanted));
            let (tag, count) = if joins {
                (seen, word & COUNT_MASK)
            } else {
                (wanted, 0)
            };
            let next = (tag << COUNT_BITS) | (count + 1).min(COUNT_MASK);
            match slot.compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    if !joins && same_generation {
                        self.add_older(generation, (word & COUNT_MASK).cast_signed(), live);
                    }
                    return Some(RingPlace { slot: index, tag });
                }
                Err(changed) => word = changed,
            }
        }
    }

    fn leave(&self, generation: u32, place: RingPlace, live: impl Fn() -> bool) {
        let Some(slot) = self.slots.get(place.slot) else {
            return;
        };
        let mut word = slot.load(Ordering::Acquire);
        while word >> COUNT_BITS == place.tag && word & COUNT_MASK > 0 {
            match slot.compare_exchange_weak(word, word - 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(changed) => word = changed,
            }
        }
        self.add_older(generation, -1, live);
    }

    fn add_older(&self, generation: u32, delta: i64, live: impl Fn() -> bool) {
        if delta == 0 {
            return;
        }
        let mut word = self.older.load(Ordering::Acquire);
        loop {
            let count = if word >> OLDER_BITS == u64::from(generation) {
                word & OLDER_MASK
            } else if live() {
                OLDER_ZERO
            } else {
                return;
            };
            let next =
                (u64::from(generation) << OLDER_BITS) | (count.wrapping_add_signed(delta) & OLDER_MASK);
            match self
                .older
                .compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return,
                Err(changed) => word = changed,
            }
        }
    }

    fn older_count(&self, generation: u32) -> u64 {
        let word = self.older.load(Ordering::Acquire);
        if word >> OLDER_BITS == u64::from(generation) {
            (word & OLDER_MASK).saturating_sub(OLDER_ZERO)
        } else {
            0
        }
    }

    /// The slots of `generation` that hold calls: how many, and the epoch that followed the slot's own.
    fn occupied(&self, generation: u32, epoch_now: u64) -> impl Iterator<Item = (u64, u64)> {
        let lap_now = epoch_now / SLOTS as u64;
        self.slots.iter().enumerate().filter_map(move |(index, slot)| {
            let word = slot.load(Ordering::Acquire);
            let (tag, count) = (word >> COUNT_BITS, word & COUNT_MASK);
            let laps_ago = lap_now.wrapping_sub(tag) & LAP_MASK;
            let same_generation = tag >> LAP_BITS == u64::from(generation);
            if count == 0 || !same_generation || laps_ago >= LAP_MASK - LAPS_LATE_MAX {
                return None;
            }
            let epoch = lap_now.saturating_sub(laps_ago) * SLOTS as u64 + index as u64;
            Some((count, epoch + 1))
        })
    }
}

const fn tag_of(generation: u32, lap: u64) -> u64 {
    ((generation as u64) << LAP_BITS) | (lap & LAP_MASK)
}

/// Whether the tag `a` is a little ahead of `b`, which is of the same generation.
const fn is_lap_ahead(a: u64, b: u64) -> bool {
    let laps = a.wrapping_sub(b) & LAP_MASK;
    laps > 0 && laps <= LAPS_LATE_MAX
}
