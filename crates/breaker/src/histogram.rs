//! The words that a window is made of: a pair of counters that empties itself when its time slice comes round again,
//! and a logarithmic histogram of such pairs.
//!
//! Imports nothing but `super::sync` and `super::writer`, so that `tests/loom` can model-check this very file.

use super::{
    sync::{AtomicU64, Ordering},
    writer::{Writer, publish},
};

/// Which time slice of which generation a word belongs to: `generation:8 | lap:16`. A slot of a ring of `n` slices is
/// used once a lap, so the lap alone tells its contents from those of the last time round. Sixteen bits of laps last
/// 7.6 days with the default window; a shard that saw neither a call nor a sweep for exactly that long is the one case
/// in which an old slice could pass for a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag(u64);

/// Two counters and their tag in one word: `tag:24 | a:20 | b:20`. Adding is lock-free and loses nothing: a thread that
/// finds an older tag starts the word afresh, and a late one that finds the next lap's tag adds to that. Each counter stops at [`COUNT_MAX`] (a million calls in one slice of one shard) instead of spilling over.
#[derive(Debug, Default)]
pub(super) struct TaggedPair(AtomicU64);

/// A histogram with [`CELLS`] cells, four to an octave, from 1 µs to 67 s.
#[derive(Debug)]
pub(super) struct LogHistogram {
    cells: [TaggedPair; CELLS],
}

const COUNT_BITS: u32 = 20;
/// Where a counter of a [`TaggedPair`] stops.
pub(super) const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
/// The highest bits of both counters.
const NEARLY_FULL: u64 = (1 << (2 * COUNT_BITS - 1)) | (1 << (COUNT_BITS - 1));
const TAG_SHIFT: u32 = 2 * COUNT_BITS;
const LAP_BITS: u32 = 16;
const LAP_MASK: u64 = (1 << LAP_BITS) - 1;
const GENERATION_MASK: u64 = 0xff;
/// How many laps behind the others a thread may be when it adds. More than that and the word is the one that is behind.
const LAPS_LATE_MAX: u64 = 8;

/// Cells in a histogram: 26 octaves of four.
pub(super) const CELLS: usize = 104;
const CELLS_PER_OCTAVE: usize = 4;
/// The longest duration that has a cell of its own; longer ones share the last.
const MICROS_MAX: u64 = (1 << (CELLS / CELLS_PER_OCTAVE)) - 1;
/// A cell's upper edge is a whole multiple of this many nanoseconds, shifted by its octave.
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

    /// Whether `self` is a little ahead of `other`, which belongs to the same generation.
    const fn is_ahead_of(self, other: Self) -> bool {
        let laps = self.0.wrapping_sub(other.0) & LAP_MASK;
        laps > 0 && laps <= LAPS_LATE_MAX
    }
}

// ===== impl TaggedPair =====

impl TaggedPair {
    /// Adds to both counters under `tag`. `live` tells whether the tag's generation is still in force; it is asked only
    /// when the word holds another generation's counts. Returns false, having added nothing, if it is not.
    #[inline(always)]
    pub(super) fn add(&self, writer: Writer, tag: Tag, a: u64, b: u64, live: impl Fn() -> bool) -> bool {
        let word = self.0.load(Ordering::Acquire);
        // By far the commonest case: this slice, and room for half as many counts again.
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

    /// Empties the word if it holds something older than `tag`. Anybody may, whoever writes the word: an exclusive writer
    /// that comes in between writes over the empty word, see [`publish`].
    pub(super) fn sweep(&self, tag: Tag, live: impl Fn() -> bool) {
        self.add_slow_path(Writer::Shared, tag, 0, 0, live);
    }

    /// Both counters, if the word belongs to `tag`; zeroes if it holds something older.
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

    /// Counts one duration of `micros` microseconds. See [`TaggedPair::add`].
    #[inline(always)]
    pub(super) fn record(&self, writer: Writer, tag: Tag, micros: u64, live: impl Fn() -> bool) -> bool {
        self.cells
            .get(cell_of(micros))
            .is_some_and(|cell| cell.add(writer, tag, 1, 0, live))
    }

    /// Adds this slice's counts to `sums`.
    pub(super) fn add_to(&self, tag: Tag, sums: &mut [u64; CELLS]) {
        for (cell, sum) in self.cells.iter().zip(sums) {
            *sum += cell.read(tag).0;
        }
    }

    /// Empties the cells that hold something older than `tag`.
    pub(super) fn sweep(&self, tag: Tag, live: impl Fn() -> bool) {
        for cell in &self.cells {
            cell.sweep(tag, &live);
        }
    }
}

/// The cell that counts `micros`: the octave, then the two bits below the leading one.
pub(super) fn cell_of(micros: u64) -> usize {
    let micros = micros.clamp(1, MICROS_MAX);
    let octave = micros.ilog2();
    // Shifting left first, because the octaves 0 and 1 have fewer than two bits below their leader.
    let quarter = ((micros << 2) >> octave) & 3;
    octave as usize * CELLS_PER_OCTAVE + quarter as usize
}

/// The upper edge of a cell in nanoseconds; every duration counted in it is shorter, except that the last cell also
/// holds what is longer than the histogram reaches.
pub(super) fn upper_edge_ns(cell: usize) -> u64 {
    let quarters = (CELLS_PER_OCTAVE + cell % CELLS_PER_OCTAVE + 1) as u64;
    (quarters << (cell / CELLS_PER_OCTAVE)) * EDGE_UNIT_NS
}

/// The middle of a cell in nanoseconds: at most an eighth away from every duration of 4 µs to 67 s that the cell counts.
pub(super) fn middle_ns(cell: usize) -> u64 {
    let eighths = (2 * (CELLS_PER_OCTAVE + cell % CELLS_PER_OCTAVE) + 1) as u64;
    (eighths << (cell / CELLS_PER_OCTAVE)) * (EDGE_UNIT_NS / 2)
}
