//! The counters of the sliding window: [`TaggedPair`], which is two counters in one word, and [`LogHistogram`], a
//! histogram of such words. The window is a ring of time slices (see `window.rs`). A counter is reset when its time
//! slice is used again.
//!
//! This file imports only `super::sync` and `super::writer`, so that `tests/loom` can model-check it unchanged.

use super::{
    sync::{AtomicU64, Ordering},
    writer::{Writer, publish},
};

/// The generation and lap to which the counts of a word belong: `generation:8 | lap:16`. A generation is the time
/// between two transitions of the breaker. A lap is the time in which the ring uses each time slice once. So the lap
/// distinguishes the current counts of a slice from the counts of the lap before. With the default window, lap numbers
/// repeat after 7.6 days (2^16 laps). Old counts could be mistaken for new counts only if a shard had neither a call
/// nor a sweep for exactly this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag(u64);

/// Two counters and their tag in one word: `tag:24 | a:20 | b:20`. Adding is lock-free and loses no count. If a thread
/// finds an older tag, it resets the word. If a late thread finds the tag of a later lap, it adds its counts to the
/// later lap. A counter saturates at [`COUNT_MAX`], which is a million calls in one slice of one shard.
#[derive(Debug, Default)]
pub(super) struct TaggedPair(AtomicU64);

/// A histogram of durations from 1 µs to 67 s. It has [`CELLS`] cells: four per octave (a factor of two).
#[derive(Debug)]
pub(super) struct LogHistogram {
    cells: [TaggedPair; CELLS],
}

const COUNT_BITS: u32 = 20;
/// The largest value of a counter of a [`TaggedPair`]; the counter saturates there.
pub(super) const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
/// The highest bit of each of the two counters.
const NEARLY_FULL: u64 = (1 << (2 * COUNT_BITS - 1)) | (1 << (COUNT_BITS - 1));
const TAG_SHIFT: u32 = 2 * COUNT_BITS;
const LAP_BITS: u32 = 16;
const LAP_MASK: u64 = (1 << LAP_BITS) - 1;
const GENERATION_MASK: u64 = 0xff;
/// A thread that adds may be late by up to this number of laps. If the word's lap seems to be further ahead, the word
/// is in fact older than the thread's lap, because lap numbers repeat.
const LAPS_LATE_MAX: u64 = 8;

/// Number of cells in a histogram: four in each of 26 octaves.
pub(super) const CELLS: usize = 104;
const CELLS_PER_OCTAVE: usize = 4;
/// The longest duration, in microseconds, that the histogram distinguishes. Longer durations are counted in the last
/// cell.
const MICROS_MAX: u64 = (1 << (CELLS / CELLS_PER_OCTAVE)) - 1;
/// The unit of the cells' upper edges in nanoseconds. An edge is a multiple of this unit, shifted left by the octave.
const EDGE_UNIT_NS: u64 = 250;

// ===== impl Tag =====

impl Tag {
    pub(super) const fn new(generation: u32, lap: u64) -> Self {
        Self(((generation as u64 & GENERATION_MASK) << LAP_BITS) | (lap & LAP_MASK))
    }

    const fn of(word: u64) -> Self {
        Self(word >> TAG_SHIFT)
    }

    const fn same_generation(self, other: Self) -> bool {
        self.0 >> LAP_BITS == other.0 >> LAP_BITS
    }

    /// Returns whether `self` is 1 to [`LAPS_LATE_MAX`] laps ahead of `other`. Both must belong to the same generation.
    const fn is_ahead_of(self, other: Self) -> bool {
        let laps = self.0.wrapping_sub(other.0) & LAP_MASK;
        laps > 0 && laps <= LAPS_LATE_MAX
    }
}

// ===== impl TaggedPair =====

impl TaggedPair {
    /// Adds `a` and `b` to the counters, for the slice and generation of `tag`. Returns false, without a change, if the
    /// generation of `tag` is over. `live` returns whether this generation is current. `live` is called only if the
    /// word holds counts of another generation.
    #[inline(always)]
    pub(super) fn add(&self, writer: Writer, tag: Tag, a: u64, b: u64, live: impl Fn() -> bool) -> bool {
        let word = self.0.load(Ordering::Acquire);
        // The most common case: the word belongs to this slice, and both counters are at most half full.
        if Tag::of(word) == tag && word & NEARLY_FULL == 0 && (a | b) < COUNT_MAX / 2 {
            let next = word + ((a << COUNT_BITS) | b);
            if publish(&self.0, word, next, writer).is_ok() {
                return true;
            }
        }
        self.add_slow_path(writer, tag, a, b, live)
    }

    #[cold]
    #[inline(never)]
    fn add_slow_path(&self, writer: Writer, tag: Tag, a: u64, b: u64, live: impl Fn() -> bool) -> bool {
        let mut word = self.0.load(Ordering::Acquire);
        loop {
            let seen = Tag::of(word);
            let next = if seen == tag || (seen.same_generation(tag) && seen.is_ahead_of(tag)) {
                pack(
                    seen,
                    count_a(word).saturating_add(a),
                    count_b(word).saturating_add(b),
                )
            } else if seen.same_generation(tag) || live() {
                pack(tag, a, b)
            } else {
                return false;
            };
            if next == word {
                return true;
            }
            match publish(&self.0, word, next, writer) {
                Ok(()) => return true,
                Err(changed) => word = changed,
            }
        }
    }

    /// Resets the word if it holds counts older than `tag`. Any thread may call this method, even if only one other
    /// thread may add counts to the word ([`Writer::Exclusive`]). [`publish`] explains why this race is harmless.
    pub(super) fn sweep(&self, tag: Tag, live: impl Fn() -> bool) {
        self.add_slow_path(Writer::Shared, tag, 0, 0, live);
    }

    /// Returns both counters if the word belongs to `tag`, otherwise zeroes.
    pub(super) fn read(&self, tag: Tag) -> (u64, u64) {
        let word = self.0.load(Ordering::Acquire);
        if Tag::of(word) == tag {
            (count_a(word), count_b(word))
        } else {
            (0, 0)
        }
    }
}

const fn count_a(word: u64) -> u64 {
    (word >> COUNT_BITS) & COUNT_MAX
}

const fn count_b(word: u64) -> u64 {
    word & COUNT_MAX
}

const fn pack(tag: Tag, a: u64, b: u64) -> u64 {
    let a = if a > COUNT_MAX { COUNT_MAX } else { a };
    let b = if b > COUNT_MAX { COUNT_MAX } else { b };
    (tag.0 << TAG_SHIFT) | (a << COUNT_BITS) | b
}

// ===== impl LogHistogram =====

impl LogHistogram {
    pub(super) fn new() -> Self {
        Self {
            cells: std::array::from_fn(|_| TaggedPair::default()),
        }
    }

    /// Counts one duration of `micros` microseconds. `tag`, `live` and the result have the same meaning as in
    /// [`TaggedPair::add`].
    #[inline(always)]
    pub(super) fn record(&self, writer: Writer, tag: Tag, micros: u64, live: impl Fn() -> bool) -> bool {
        self.cells
            .get(cell_of(micros))
            .is_some_and(|cell| cell.add(writer, tag, 1, 0, live))
    }

    /// Adds the counts that belong to `tag` to `sums`.
    pub(super) fn add_to(&self, tag: Tag, sums: &mut [u64; CELLS]) {
        for (cell, sum) in self.cells.iter().zip(sums) {
            *sum += cell.read(tag).0;
        }
    }

    /// Resets the cells that hold counts older than `tag`.
    pub(super) fn sweep(&self, tag: Tag, live: impl Fn() -> bool) {
        for cell in &self.cells {
            cell.sweep(tag, &live);
        }
    }
}

/// Returns the index of the cell that counts durations of `micros` microseconds. The position of the number's leading
/// bit is the octave, and the two bits below the leading bit are the quarter of the octave.
pub(super) fn cell_of(micros: u64) -> usize {
    let micros = micros.clamp(1, MICROS_MAX);
    let octave = micros.ilog2();
    // Shifts left first, because in octaves 0 and 1 fewer than two bits follow the leading bit.
    let quarter = ((micros << 2) >> octave) & 3;
    octave as usize * CELLS_PER_OCTAVE + quarter as usize
}

/// Returns the upper edge of a cell in nanoseconds. Every duration counted in the cell is shorter, except in the last
/// cell, which also counts all longer durations.
pub(super) fn upper_edge_ns(cell: usize) -> u64 {
    let quarters = (CELLS_PER_OCTAVE + cell % CELLS_PER_OCTAVE + 1) as u64;
    (quarters << (cell / CELLS_PER_OCTAVE)) * EDGE_UNIT_NS
}

/// Returns the middle of a cell in nanoseconds. It differs by at most an eighth from every duration counted in the
/// cell, for durations of 4 µs to 67 s.
pub(super) fn middle_ns(cell: usize) -> u64 {
    let eighths = (2 * (CELLS_PER_OCTAVE + cell % CELLS_PER_OCTAVE) + 1) as u64;
    (eighths << (cell / CELLS_PER_OCTAVE)) * (EDGE_UNIT_NS / 2)
}
