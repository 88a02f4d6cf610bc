//! [`InFlightRing`]: counts the calls in flight by the time of their admission, so that a call that hangs is detected
//! before it ends.
//!
//! Each shard (a set of counters for one or several threads) has a ring of 128 time slots. The width of a slot is
//! between a sixteenth and an eighth of the slow threshold. A *lap* is the time in which the ring uses each slot once:
//! eight thresholds or more. A slot has two counts: *entered*, the calls admitted in the slot's time, and *left*, the
//! calls among them that have ended. The difference is the number of calls in flight. These calls are overdue if the
//! slot is older than the threshold. A thread always counts in the ring of the shard to which the thread belongs, even
//! when it ends a call that another thread admitted. So each word is written only by the threads of one shard, and no
//! count ever decreases. When a slot is used again in the next lap, its counts move to the *older* counters. The ring
//! has two such counters: one for entered counts and one for left counts.
//!
//! **A reading never reports more calls than are in flight.** For every call that ended before the reading began: if
//! the reading sees the call's entry, it also sees the call's end. The reading adds both to the sum of the same slot,
//! or both to the sum of the *older* calls. Two rules guarantee this:
//! - The entered counts are read first, *older* before the slots. A writer takes a slot over (writes the new lap into
//!   it) before it adds the slot's old count to *older*. So if a count moves during the reading, the reading may miss
//!   the count, but never counts it twice.
//! - The left counts are read second, the slots before *older*. A writer adds the slot's old count to *older* before it
//!   takes the slot over. So if a count moves during the reading, the reading may count it twice, but never misses it.
//!
//! A reading adds the counts of a slot to its own sum of the *older* calls in two cases: the reading finds a left count
//! of a later lap than that of the entered counts, so a writer took the slot over during the reading; or the slot was
//! used neither in the current lap nor in the previous lap. If a slot is taken over during a reading, the reading may
//! miss calls; the next reading counts them.
//!
//! This file imports only `super::sync` and `super::writer`, so that `tests/loom` can model-check it unchanged.

use std::ops::Range;

use super::{
    sync::{AtomicU64, CachePadded, Ordering},
    writer::{ShardAccess, Writer, publish},
};

/// The slot in which a call was counted as entered. It is needed to count the end of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RingPlace {
    /// The number of slots between the clock's origin and this slot.
    epoch: u64,
}

/// The calls in flight at one moment, and their age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct InFlight {
    /// Number of calls in flight.
    pub(super) calls: u64,
    /// Number of calls that have been in flight for the slow threshold or longer.
    pub(super) overdue: u64,
    /// Number of whole slow thresholds for which the oldest call has been in flight, at most [`ROUNDS_MAX`]. A service
    /// that completes one batch per slow threshold would have completed this number of batches in this time. Therefore
    /// this number may replace the number of bad batches that the setting `min_batches` requires.
    pub(super) rounds: u32,
    /// The earliest time at which the oldest call can have begun, in nanoseconds: the beginning of the call's slot,
    /// which is up to an eighth of the threshold too early. Zero if the call is in an *older* counter. None if no call
    /// is in flight.
    pub(super) oldest_ns: Option<u64>,
    /// Number of calls that were admitted at least one and less than two thresholds ago, ended or not.
    pub(super) due: u64,
    /// Number of calls in `due` that have not ended.
    pub(super) due_in_flight: u64,
}

/// The ring of one breaker.
#[derive(Debug)]
pub(super) struct InFlightRing {
    shards: Box<[CachePadded<Shard>]>,
    layout: Layout,
    threshold_ns: u64,
}

/// The counts that the threads of one shard write.
#[derive(Debug)]
struct Shard {
    /// Counts the calls that the shard's threads admitted.
    entered: Side,
    /// Counts the calls that the shard's threads ended.
    left: Side,
}

/// The entered counts or the left counts of one shard.
#[derive(Debug)]
struct Side {
    /// `generation:20 | lap | count`, see [`Layout`].
    slots: [AtomicU64; SLOTS],
    /// The count of earlier laps: `generation:22 | count:42`. The count wraps. Only the difference between the counts
    /// of the two sides is meaningful.
    older: AtomicU64,
}

/// The width of the slots, and the position of the fields in their words. A slot of `2^n` ns has `n − 2` bits for its
/// count, which is enough for 250 million calls per second in one shard. The remaining bits hold the number of the lap.
/// Lap numbers repeat after 104 days, or after 3 to 52 days if the threshold is below 131 µs. A reading could mistake
/// old counts for new counts only if a slot of a shard did not change for this time, plus or minus a sixty-fourth.
#[derive(Debug, Clone, Copy)]
struct Layout {
    /// A slot is `2^slot_shift` nanoseconds wide. The width is a power of two, because a shift is cheaper than a
    /// division.
    slot_shift: u32,
    count_bits: u32,
}

/// The sums of the counts in the slots with the same index, over all shards.
#[derive(Debug, Default, Clone, Copy)]
struct SlotSum {
    /// Calls of the newest lap that are in flight. May be negative if a write races with the reading.
    newest: i64,
    /// Calls of the newest lap, ended or not.
    entered: u64,
    /// The number of slots between the clock's origin and the slot of the newest lap.
    epoch: u64,
    /// Calls of earlier laps that are in flight: entered minus left.
    older: i64,
}

const SLOTS: usize = 128;
/// Minimum number of slots per threshold. The width is rounded down to a power of two, so a threshold may have up to
/// twice as many slots.
const SLOTS_PER_THRESHOLD: u64 = 8;
/// The largest number of whole thresholds that the ring can distinguish.
pub(super) const ROUNDS_MAX: u32 = 7;
/// If the newest counts of a slot are older than this number of laps, a reading adds them to *older*, because their
/// calls are older than [`ROUNDS_MAX`] thresholds.
const LAPS_RECENT_MAX: u64 = 1;
/// If a call is older than this number of laps, its end is counted in *older*, otherwise in the slot. This number is
/// larger than [`LAPS_RECENT_MAX`]. So a reading that begins after the end of such a call adds the counts of the call's
/// slot to the sum of the *older* calls, where the call's end is, too.
const LAPS_IN_SLOT_MAX: u64 = 3;

const GENERATION_BITS: u32 = 20;
const GENERATION_MASK: u64 = (1 << GENERATION_BITS) - 1;
const TAG_BITS_MIN: u32 = 14;
const COUNT_BITS_MIN: u32 = 12;
const COUNT_BITS_MAX: u32 = u64::BITS - GENERATION_BITS - TAG_BITS_MIN;

const OLDER_BITS: u32 = 42;
const OLDER_MASK: u64 = (1 << OLDER_BITS) - 1;

// ===== impl InFlightRing =====

impl InFlightRing {
    pub(super) fn new(shards: usize, threshold_ns: u64) -> Self {
        Self {
            shards: (0..shards).map(|_| CachePadded::new(Shard::new())).collect(),
            layout: Layout::new(threshold_ns),
            threshold_ns: threshold_ns.max(1),
        }
    }

    /// Counts a call of `generation` as entered. Returns None, without counting, if the generation is over. `live`
    /// returns whether the generation is current.
    #[inline(always)]
    pub(super) fn enter(
        &self,
        access: ShardAccess,
        generation: u32,
        now_ns: u64,
        live: impl Fn() -> bool,
    ) -> Option<RingPlace> {
        let epoch = now_ns >> self.layout.slot_shift;
        let side = &self.shards.get(access.shard)?.entered;
        side.enter(self.layout, access.writer, epoch, generation, live)
    }

    /// Counts the end of a call of `generation`. Does nothing if the generation is over, because the counts of this
    /// generation have been discarded.
    #[inline]
    pub(super) fn leave(
        &self,
        access: ShardAccess,
        generation: u32,
        place: RingPlace,
        now_ns: u64,
        live: impl Fn() -> bool,
    ) {
        let Some(shard) = self.shards.get(access.shard) else {
            return;
        };
        let lap_now = (now_ns >> self.layout.slot_shift) / SLOTS as u64;
        if lap_now.saturating_sub(place.epoch / SLOTS as u64) > LAPS_IN_SLOT_MAX {
            shard.left.add_older(access.writer, generation, 1, live);
        } else {
            shard
                .left
                .leave(self.layout, access.writer, place.epoch, generation, live);
        }
    }

    /// Returns the calls of `generation` in flight. A call admitted before `not_before_ns` is treated as admitted at
    /// that time.
    pub(super) fn in_flight(&self, generation: u32, now_ns: u64, not_before_ns: u64) -> InFlight {
        self.in_flight_of_slots(0..SLOTS, generation, now_ns, not_before_ns)
    }

    /// Returns the same as [`Self::in_flight`], but reads only *older* and the slots with these indexes. The loom
    /// models use this method, because loom can't explore the reading of all slots.
    pub(super) fn in_flight_of_slots(
        &self,
        indexes: Range<usize>,
        generation: u32,
        now_ns: u64,
        not_before_ns: u64,
    ) -> InFlight {
        let mut sum = InFlight::default();
        let rounds_since =
            |began_ns: u64| now_ns.saturating_sub(began_ns.max(not_before_ns)) / self.threshold_ns;
        let older_of = |side: fn(&Shard) -> &Side| -> u64 {
            let counts = self.shards.iter().map(|shard| side(shard).older(generation));
            counts.fold(0, u64::wrapping_add)
        };
        let mut older = older_of(|shard| &shard.entered);
        for index in indexes {
            let slot = self.slot(index, generation, now_ns >> self.layout.slot_shift);
            older = older.wrapping_add_signed(slot.older);
            if slot.entered > 0 {
                let calls = u64::try_from(slot.newest).unwrap_or(0);
                let rounds = rounds_since((slot.epoch + 1) << self.layout.slot_shift);
                sum.add(calls, rounds, slot.epoch << self.layout.slot_shift);
                if rounds == 1 {
                    sum.due += slot.entered;
                    sum.due_in_flight += calls;
                }
            }
        }
        older = older.wrapping_sub(older_of(|shard| &shard.left));
        // Sign-extends the difference of two counts that wrap at 42 bits.
        let in_flight = (older << (u64::BITS - OLDER_BITS)).cast_signed() >> (u64::BITS - OLDER_BITS);
        sum.add(u64::try_from(in_flight).unwrap_or(0), rounds_since(0), 0);
        sum
    }

    /// Sums up the slots of one index over the shards.
    fn slot(&self, index: usize, generation: u32, epoch_now: u64) -> SlotSum {
        let layout = self.layout;
        let lap_now = epoch_now / SLOTS as u64;
        let of_generation = |side: fn(&Shard) -> &Side| {
            self.shards
                .iter()
                .filter_map(move |shard| side(shard).slot(layout, index, generation, lap_now))
        };
        let mut sum = SlotSum::default();
        let mut newest_age = u64::MAX;
        for (age, count) in of_generation(|shard| &shard.entered) {
            if age < newest_age {
                newest_age = age;
                sum.older += sum.newest;
                sum.newest = 0;
                sum.entered = 0;
            }
            if age == newest_age {
                sum.newest += count;
                sum.entered += count.unsigned_abs();
            } else {
                sum.older += count;
            }
        }
        if newest_age == u64::MAX {
            return sum;
        }
        let mut taken_over = false;
        for (age, count) in of_generation(|shard| &shard.left) {
            if age == newest_age {
                sum.newest -= count;
            } else if age > newest_age {
                sum.older -= count;
            } else {
                // The calls in `count` entered and left after the entered counts were read, so they are not counted.
                // But the left counts of the lap of `sum.newest` may have moved to the side's *older* counter. So
                // `sum.newest` must be added to `sum.older`, too.
                taken_over = true;
            }
        }
        if taken_over || newest_age > layout.laps_ahead_max() + LAPS_RECENT_MAX {
            sum.older += sum.newest;
            sum.newest = 0;
            sum.entered = 0;
        }
        let lap = (lap_now + layout.laps_ahead_max()).saturating_sub(newest_age);
        sum.epoch = lap * SLOTS as u64 + index as u64;
        sum
    }
}

// ===== impl InFlight =====

impl InFlight {
    fn add(&mut self, calls: u64, rounds: u64, began_ns: u64) {
        self.calls += calls;
        if calls > 0 {
            self.oldest_ns = Some(self.oldest_ns.map_or(began_ns, |oldest| oldest.min(began_ns)));
        }
        if calls > 0 && rounds > 0 {
            self.overdue += calls;
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
            entered: Side::new(),
            left: Side::new(),
        }
    }
}

// ===== impl Side =====

impl Side {
    fn new() -> Self {
        Self {
            slots: std::array::from_fn(|_| AtomicU64::new(0)),
            older: AtomicU64::new(0),
        }
    }

    #[inline(always)]
    fn enter(
        &self,
        layout: Layout,
        writer: Writer,
        epoch: u64,
        generation: u32,
        live: impl Fn() -> bool,
    ) -> Option<RingPlace> {
        if self.count_one(layout, writer, epoch, generation) {
            return Some(RingPlace { epoch });
        }
        self.enter_slow_path(layout, writer, epoch, generation, live)
    }

    /// Counts a call as entered when `count_one` could not: the call is the first of its slot, or another thread
    /// changes the slot.
    #[cold]
    #[inline(never)]
    fn enter_slow_path(
        &self,
        layout: Layout,
        writer: Writer,
        epoch: u64,
        generation: u32,
        live: impl Fn() -> bool,
    ) -> Option<RingPlace> {
        let slot = self.slot_of(epoch)?;
        let wanted = layout.tag(generation, epoch / SLOTS as u64);
        let mut word = slot.load(Ordering::Acquire);
        loop {
            let seen = layout.tag_of(word);
            let same_generation = layout.is_same_generation(seen, wanted);
            if !same_generation && !live() {
                return None;
            }
            // If this thread is late, the slot may already belong to a later lap. In this case, the call is counted in
            // the later lap, so the breaker treats the call as slightly younger than it is.
            let laps_ahead = layout.laps_ahead(word, wanted);
            let next = if laps_ahead.is_some() {
                layout.one_more(word)
            } else {
                layout.word(wanted, 1)
            };
            match publish(slot, word, next, writer) {
                Ok(()) => {
                    if same_generation && laps_ahead.is_none() {
                        self.add_older(writer, generation, layout.count(word), live);
                    }
                    let late = laps_ahead.unwrap_or(0) * SLOTS as u64;
                    return Some(RingPlace { epoch: epoch + late });
                }
                Err(changed) => word = changed,
            }
        }
    }

    #[inline]
    fn leave(&self, layout: Layout, writer: Writer, epoch: u64, generation: u32, live: impl Fn() -> bool) {
        if !self.count_one(layout, writer, epoch, generation) {
            self.leave_slow_path(layout, writer, epoch, generation, live);
        }
    }

    /// Counts a call as left when `count_one` could not: the call is the first to leave its slot, or another thread
    /// changes the slot.
    #[cold]
    #[inline(never)]
    fn leave_slow_path(
        &self,
        layout: Layout,
        writer: Writer,
        epoch: u64,
        generation: u32,
        live: impl Fn() -> bool,
    ) {
        let Some(slot) = self.slot_of(epoch) else { return };
        let wanted = layout.tag(generation, epoch / SLOTS as u64);
        let mut word = slot.load(Ordering::Acquire);
        loop {
            let seen = layout.tag_of(word);
            let same_generation = layout.is_same_generation(seen, wanted);
            if !same_generation && !live() {
                return;
            }
            let laps_ahead = layout.laps_ahead(word, wanted);
            // Calls of an earlier lap are added to *older* before they are removed from the slot.
            let moved = if same_generation && laps_ahead.is_none() {
                layout.count(word)
            } else {
                0
            };
            let next = match laps_ahead {
                Some(0) => layout.one_more(word),
                Some(_) => return self.add_older(writer, generation, 1, live),
                None => layout.word(wanted, 1),
            };
            self.add_older(writer, generation, moved, &live);
            match publish(slot, word, next, writer) {
                Ok(()) => return,
                Err(changed) => word = changed,
            }
            // Lost the compare-and-swap: undo, and let the next round recompute what to move.
            self.add_older(writer, generation, moved.wrapping_neg(), &live);
        }
    }

    /// Counts a call in the common case: the slot already holds calls of the same lap and generation, and no other
    /// thread changes the slot. In any other case, returns false without a change.
    #[inline(always)]
    fn count_one(&self, layout: Layout, writer: Writer, epoch: u64, generation: u32) -> bool {
        let Some(slot) = self.slot_of(epoch) else {
            return false;
        };
        let word = slot.load(Ordering::Acquire);
        let next = word.wrapping_add(1);
        // Adding one to a full count changes the tag, so the comparison of the tag fails. For an empty slot, the
        // comparison of the count fails.
        layout.tag_of(next) == layout.tag(generation, epoch / SLOTS as u64)
            && layout.count(next) > 1
            && publish(slot, word, next, writer).is_ok()
    }

    /// Adds `delta` to the *older* counter, modulo 2^42.
    fn add_older(&self, writer: Writer, generation: u32, delta: u64, live: impl Fn() -> bool) {
        if delta == 0 {
            return;
        }
        let mut word = self.older.load(Ordering::Acquire);
        loop {
            let count = if word >> OLDER_BITS == u64::from(generation) {
                word & OLDER_MASK
            } else if live() {
                0
            } else {
                return;
            };
            let next = (u64::from(generation) << OLDER_BITS) | (count.wrapping_add(delta) & OLDER_MASK);
            match publish(&self.older, word, next, writer) {
                Ok(()) => return,
                Err(changed) => word = changed,
            }
        }
    }

    fn older(&self, generation: u32) -> u64 {
        let word = self.older.load(Ordering::Acquire);
        if word >> OLDER_BITS == u64::from(generation) {
            word & OLDER_MASK
        } else {
            0
        }
    }

    #[inline]
    fn slot_of(&self, epoch: u64) -> Option<&AtomicU64> {
        let index = usize::try_from(epoch % SLOTS as u64).ok()?;
        self.slots.get(index)
    }

    /// Returns the age and the count of a slot if the slot holds calls of `generation`. The age is the number of laps
    /// before the newest lap that any thread may have reached.
    fn slot(&self, layout: Layout, index: usize, generation: u32, lap_now: u64) -> Option<(u64, i64)> {
        let word = self.slots.get(index)?.load(Ordering::Acquire);
        let newest = layout.tag(generation, lap_now + layout.laps_ahead_max());
        let tag = layout.tag_of(word);
        let count = layout.count(word);
        if count == 0 || !layout.is_same_generation(tag, newest) {
            return None;
        }
        Some((newest.wrapping_sub(tag) & layout.lap_mask(), count.cast_signed()))
    }
}

// ===== impl Layout =====

impl Layout {
    fn new(threshold_ns: u64) -> Self {
        let slot_shift = (threshold_ns / SLOTS_PER_THRESHOLD).max(1).ilog2();
        let count_bits = slot_shift.saturating_sub(2).clamp(COUNT_BITS_MIN, COUNT_BITS_MAX);
        Self {
            slot_shift,
            count_bits,
        }
    }

    #[inline]
    const fn lap_bits(self) -> u32 {
        u64::BITS - GENERATION_BITS - self.count_bits
    }

    #[inline]
    const fn lap_mask(self) -> u64 {
        (1 << self.lap_bits()) - 1
    }

    /// The largest number of laps by which one thread may be ahead of another thread: a sixty-fourth of all lap
    /// numbers. This is 39 hours if lap numbers repeat after 104 days.
    const fn laps_ahead_max(self) -> u64 {
        1 << (self.lap_bits() - 6)
    }

    #[inline]
    const fn tag(self, generation: u32, lap: u64) -> u64 {
        ((generation as u64 & GENERATION_MASK) << self.lap_bits()) | (lap & self.lap_mask())
    }

    #[inline]
    const fn tag_of(self, word: u64) -> u64 {
        word >> self.count_bits
    }

    #[inline]
    const fn count(self, word: u64) -> u64 {
        word & ((1 << self.count_bits) - 1)
    }

    const fn word(self, tag: u64, count: u64) -> u64 {
        (tag << self.count_bits) | count
    }

    /// Returns the word with its count raised by one. A full count stays the same.
    const fn one_more(self, word: u64) -> u64 {
        if self.count(word.wrapping_add(1)) == 0 {
            word
        } else {
            word + 1
        }
    }

    const fn is_same_generation(self, a: u64, b: u64) -> bool {
        (a ^ b) >> self.lap_bits() == 0
    }

    /// Returns the number of laps by which the calls in `word` are ahead of `tag`. None if the calls are behind or
    /// belong to another generation, or if the word holds no calls.
    #[inline]
    fn laps_ahead(self, word: u64, tag: u64) -> Option<u64> {
        let seen = self.tag_of(word);
        if seen == tag {
            return Some(0);
        }
        let laps = seen.wrapping_sub(tag) & self.lap_mask();
        let holds_calls = self.count(word) > 0 && self.is_same_generation(seen, tag);
        (holds_calls && laps <= self.laps_ahead_max()).then_some(laps)
    }
}
