//! Counts calls in flight by the time of their admission, so that a call that hangs is noticed before it ends.
//!
//! A ring of slots, each between a sixteenth and an eighth of the slow threshold wide. A slot counts the calls that were
//! admitted in its time and, apart from them, those of them that have ended; the difference is under way, and overdue if
//! the slot is older than the threshold. Each shard of threads has a ring of its own, in which its threads count the calls
//! they admit and the calls they end, whoever admitted those: so every word has the writers of one shard only, and both
//! counts never fall. When a slot's turn comes again (after eight thresholds or more), what it holds moves to the *older*
//! counter of its side.
//!
//! **Never more than there are.** Of the calls that had ended when a reading began, each one that is seen as entered is
//! also seen as left, in the same sum. Entered counts are read first: *older* before the slots, while writers take a slot
//! over before they add to *older*, so a count on its way is missed, not seen twice. Then the left ones: slots before
//! *older*, while writers add to *older* before they take the slot over, so a count on its way is seen twice, not missed.
//! A slot that is found to have been taken over by a left count, or that has not been used in this lap or the last one,
//! is judged together with *older*. So a reading that races with a take-over may miss calls; the next one will not.
//!
//! Imports nothing but `super::sync` and `super::writer`, so that `tests/loom` can model-check this very file.

use std::ops::Range;

use super::{
    sync::{AtomicU64, CachePadded, Ordering},
    writer::{ShardAccess, Writer, publish},
};

/// The slot that a call was counted in, by its number from the clock's origin; needed to count it out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RingPlace {
    epoch: u64,
}

/// The calls in flight at one moment, and their age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct InFlight {
    /// All of them.
    pub(super) calls: u64,
    /// Calls that have been in flight for the slow threshold or longer.
    pub(super) overdue: u64,
    /// Number of whole thresholds for which the oldest call has been in flight, at most [`ROUNDS_MAX`]. A pipeline that hangs
    /// for this long could have completed as many slow batches, which is the evidence that `min_batches` requires.
    pub(super) rounds: u32,
    /// Since when the oldest has been under way, at the earliest: where its slot begins, so up to an eighth of the threshold
    /// too early. Zero for one that has left the ring of slots.
    pub(super) oldest_ns: Option<u64>,
    /// Calls that were admitted at least one and less than two thresholds ago, ended or not.
    pub(super) due: u64,
    /// The calls of `due` that have not ended.
    pub(super) due_in_flight: u64,
}

/// The ring of one breaker.
#[derive(Debug)]
pub(super) struct InFlightRing {
    shards: Box<[CachePadded<Shard>]>,
    layout: Layout,
    threshold_ns: u64,
}

#[derive(Debug)]
struct Shard {
    /// Calls admitted by the shard's threads.
    entered: Side,
    /// Calls ended by the shard's threads.
    left: Side,
}

#[derive(Debug)]
struct Side {
    /// `generation:20 | lap | count`, see [`Layout`].
    slots: [AtomicU64; SLOTS],
    /// `generation:22 | count:42`; the count wraps, and only its difference to the other side's means something.
    older: AtomicU64,
}

/// How wide the slots are, and how their words are divided. A slot of `2^n` ns has `n − 2` bits for its count, enough for
/// 268 million calls a second in one shard, and the rest for its lap: laps come round again after 104 days, or 3 if the
/// threshold is below 130 µs. A slot of a shard in which no call came or went for just that long (give or take a
/// sixty-fourth of it) is the one case in which old counts could pass for new ones.
#[derive(Debug, Clone, Copy)]
struct Layout {
    /// A slot is `2^slot_shift` nanoseconds wide: a division less for each call.
    slot_shift: u32,
    count_bits: u32,
}

/// What the shards hold in the slots of one index.
#[derive(Debug, Default, Clone, Copy)]
struct SlotSum {
    /// Calls of the last lap under way; negative if a reading races.
    newest: i64,
    /// Calls of the last lap, ended or not.
    entered: u64,
    /// Where those began: the number of the slot, counted from the clock's origin.
    epoch: u64,
    /// Calls of earlier laps: entered, less left.
    older: i64,
}

const SLOTS: usize = 128;
/// Minimum number of slots in a threshold; rounding to a power of two may double it.
const SLOTS_PER_THRESHOLD: u64 = 8;
/// The most whole thresholds that the ring can tell apart.
pub(super) const ROUNDS_MAX: u32 = 7;
/// A slot whose last lap is so many laps ago is judged together with *older*; it is more than [`ROUNDS_MAX`] thresholds
/// old.
const LAPS_RECENT_MAX: u64 = 1;
/// A call that ends after so many laps is counted in *older*. More than [`LAPS_RECENT_MAX`], so that no reading that
/// begins after the call has ended looks for it in its slot.
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

    /// Counts in a call of `generation`. None if the generation is over, which `live` tells: such a call is not counted.
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

    /// Counts out a call of `generation`; one whose generation is over has nothing to be counted out of.
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

    /// The calls of `generation` under way. A call admitted before `not_before_ns` is taken to have been admitted then.
    pub(super) fn in_flight(&self, generation: u32, now_ns: u64, not_before_ns: u64) -> InFlight {
        self.in_flight_of_slots(0..SLOTS, generation, now_ns, not_before_ns)
    }

    /// The same, from the slots of some indexes and *older*. (A model checker cannot look at all of them in all ways.)
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
        // The difference of two counts that wrap at 42 bits.
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
                // Calls that came and went since we looked at who entered. They are not to be counted; but those of the
                // lap before may have moved to *older*.
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

    /// As [`Self::enter`], for a call that is the first one of its slot or that others get in the way of.
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
            // A late thread finds the tag of a later lap and counts its call there, slightly too young.
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

    /// As [`Self::leave`], for a call that is the first one of its slot or that others get in the way of.
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

    /// The common case: the slot already holds calls of its current lap, and no other thread changes it. Returns false,
    /// without a change, otherwise.
    #[inline(always)]
    fn count_one(&self, layout: Layout, writer: Writer, epoch: u64, generation: u32) -> bool {
        let Some(slot) = self.slot_of(epoch) else {
            return false;
        };
        let word = slot.load(Ordering::Acquire);
        let next = word.wrapping_add(1);
        // Of the next word, so that neither a count at its end nor an empty slot passes.
        layout.tag_of(next) == layout.tag(generation, epoch / SLOTS as u64)
            && layout.count(next) > 1
            && publish(slot, word, next, writer).is_ok()
    }

    /// Adds `delta`, modulo the counter's size.
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

    /// What a slot holds of `generation`: by how many laps it is older than the newest one that anybody may have reached,
    /// and its count.
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

    /// How many laps one thread may be ahead of another: a sixty-fourth of them all, 39 hours.
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

    /// The word with its count one higher; at its end it stays there.
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

    /// By how many laps the calls in `word` are ahead of `tag`; None if they are behind, of another generation, or none.
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
