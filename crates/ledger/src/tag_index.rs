//! A hash index from 64-bit tags to 64-bit values. The index grows in small steps, so no insertion takes long.
//!
//! A tag is the hash of a key. The caller stores the keys (in the account table, or in the journal); the index stores
//! only a part of each tag, and needs 12.8 bytes per slot. A slot holds one entry. Lookups are exact nevertheless,
//! because the caller compares the key of every candidate. With n keys, a lookup meets the entry of another key with
//! probability n / 2^46: once in a million lookups with 50 million keys.
//!
//! The index consists of shards that grow independently. With 50 million keys, the growth of a shard moves about two
//! megabytes.
//!
//! A shard is an array of cache lines with five slots each. Every tag has a home line. If the home line is full, the
//! entry goes to the next line that has room, and each full line before that line is marked as passed. A lookup ends at
//! the first line without the mark. So most lookups read only the home line, which [`TagIndex::prefetch`] can prefetch.
//!
//! The number of the home line is the upper bits of the tag, taken as a fraction below 1, times the number of lines. So
//! the number of lines need not be a power of two. A shard grows when five sixths of its slots are in use, and then has
//! 1.5 times as many lines. So at least five ninths of the slots of a large shard are in use.

use crate::sys::prefetch::prefetch_read;

/// Number of shards, a power of two. With this number, an empty index is small and a large index grows in small steps.
const SHARDS: usize = 512;
/// The bits of a tag that select the shard. The highest bits of the tag select the home line in the shard.
const SHARD_MASK: u64 = SHARDS as u64 - 1;
/// Number of lines of shard 0 after its first insertion. The other shards start with up to 1.5 times this number. All
/// shards fill at the same rate, so shards of different sizes grow at different times.
const LINES_MIN: usize = 2;
/// The sizes of shards are computed in fractions of a line; a line has this many fractions. If sizes were rounded to
/// whole lines at each growth, only a few sizes would occur, and many shards would grow at the same time.
const LINE_FRACTIONS: usize = 256;
/// Number of slots of a line.
const LINE_SLOTS: u32 = 5;
/// Number of bits of a tag that [`Line::more`] stores for each slot. These bits of the tag follow its 32
/// highest bits.
const EXTRA_BITS: u32 = 5;
/// The bits of a tag that a slot stores: the 32 highest bits and the extra bits.
const KEPT_MASK: u64 = u64::MAX << (u32::BITS - EXTRA_BITS);
/// Position in [`Line::more`] of the number of slots in use. The bits below this position hold the extra bits of the
/// slots.
const USED_SHIFT: u32 = EXTRA_BITS * LINE_SLOTS;
/// The mark in [`Line::more`] that an entry passed this line because the line was full.
const PASSED: u32 = 1 << (u32::BITS - 1);
/// Mask of the extra bits of one slot.
const EXTRA_MASK: u32 = (1 << EXTRA_BITS) - 1;

/// A map from tags to values. Several keys may have the same tag.
#[derive(Debug)]
pub struct TagIndex {
    shards: Box<[Shard]>,
    len: usize,
    /// Number of lines of all shards.
    lines: usize,
}

#[derive(Debug, Default)]
struct Shard {
    lines: Vec<Line>,
    len: usize,
}

/// A line of slots, which is a cache line of the CPU.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
struct Line {
    values: [u64; LINE_SLOTS as usize],
    /// The upper 32 bits of each tag.
    tags: [u32; LINE_SLOTS as usize],
    /// The extra bits of each tag, the number of slots in use, and the mark that an entry passed this line.
    more: u32,
}

/// Returns the tag of a key (an id or a name): its hash with the given seed. The seed is secret, so no client can
/// choose keys that collide.
#[inline]
#[must_use]
pub fn tag(key: &[u8], seed: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(key, seed)
}

/// Returns a second tag for a key whose tag is `tag`. Its home line is nearly always the same, so a caller who looks up or adds entries
/// under both tags reads one cache line. Use it for at most one more entry of each key, because a line has few slots.
#[inline]
#[must_use]
pub const fn companion(tag: u64) -> u64 {
    // The lowest bit that a slot stores. It decides about the home line only in a shard of 2^36 lines or more.
    tag ^ 1 << (u32::BITS - EXTRA_BITS)
}

// ===== impl TagIndex =====

impl TagIndex {
    /// Creates an empty index.
    #[must_use]
    pub fn new() -> Self {
        TagIndex {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            len: 0,
            lines: 0,
        }
    }

    /// The number of entries.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the index has no entries.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the index can't distinguish the two tags, because they are equal in all bits that the index stores.
    #[inline]
    #[must_use]
    pub const fn is_same_tag(a: u64, b: u64) -> bool {
        (a ^ b) & (KEPT_MASK | SHARD_MASK) == 0
    }

    /// Returns the first value for which `matches` returns true, among the values under this `tag` and under tags that
    /// [the index can't distinguish from it](Self::is_same_tag).
    #[must_use]
    pub fn find(&self, tag: u64, mut matches: impl FnMut(u64) -> bool) -> Option<u64> {
        let shard = self.shard(tag);
        let (head, tail) = shard.lines.split_at(shard.home(tag));
        // Almost every lookup ends in the home line.
        let (home, tail) = tail.split_first()?;
        if let Some(value) = home.find(tag, &mut matches) {
            return Some(value);
        }
        if !home.was_passed() {
            return None;
        }
        // A shard with lines always has a line with room. Such a line is not marked as passed, so the loop ends there
        // at the latest.
        for line in tail.iter().chain(head) {
            if let Some(value) = line.find(tag, &mut matches) {
                return Some(value);
            }
            if !line.was_passed() {
                return None;
            }
        }
        None
    }

    /// Returns the first value under this `tag`. The value may belong to another key, so use it only for prefetching, or to find out
    /// that the tag has no value.
    #[inline]
    #[must_use]
    pub fn first(&self, tag: u64) -> Option<u64> {
        self.find(tag, |_| true)
    }

    /// Prefetches the memory that a lookup of `tag` reads first.
    #[inline]
    pub fn prefetch(&self, tag: u64) {
        let shard = self.shard(tag);
        if let Some(line) = shard.lines.get(shard.home(tag)) {
            prefetch_read(line);
        }
    }

    /// Adds an entry. The caller ensures that the key of the entry has no entry yet.
    ///
    /// # Panics
    /// If no line of the shard has room. If the entry were dropped instead, a lookup would not find its key, and a
    /// transaction could be applied twice.
    #[inline]
    pub fn insert(&mut self, tag: u64, value: u64) {
        let number = shard_of(tag);
        #[expect(
            clippy::indexing_slicing,
            reason = "`shard_of` returns a number below the number of shards"
        )]
        let shard = &mut self.shards[number];
        self.lines += shard.insert(tag, value, number);
        self.len += 1;
    }

    /// Allocates memory for `entries` entries in total, so that later insertions move no existing entries.
    pub fn reserve(&mut self, entries: usize) {
        for (number, shard) in self.shards.iter_mut().enumerate() {
            self.lines += shard.reserve(entries / SHARDS, number);
        }
    }

    /// Memory used, in bytes.
    #[inline]
    #[must_use]
    pub const fn memory_bytes(&self) -> usize {
        self.lines * size_of::<Line>() + SHARDS * size_of::<Shard>()
    }

    /// The maximum number of lines that a lookup may read: the longest run of marked lines, and the line that ends it.
    #[cfg(test)]
    pub(super) fn longest_walk(&self) -> usize {
        let runs = |shard: &Shard| {
            // A lookup continues at the start of its shard, so the lines are visited twice.
            let lines = shard.lines.iter().chain(&shard.lines);
            let longest = |(run, most): (usize, usize), line: &Line| {
                let run = if line.was_passed() { run + 1 } else { 0 };
                (run, most.max(run))
            };
            lines.fold((0, 0), longest).1
        };
        self.shards.iter().map(runs).fold(0, usize::max) + 1
    }

    #[inline]
    fn shard(&self, tag: u64) -> &Shard {
        #[expect(
            clippy::indexing_slicing,
            reason = "`shard_of` returns a number below the number of shards"
        )]
        &self.shards[shard_of(tag)]
    }
}

impl Default for TagIndex {
    fn default() -> Self {
        Self::new()
    }
}

// ===== impl Shard =====

impl Shard {
    /// The number of the home line of `tag`, which is below the number of lines. Returns 0 if the shard has no lines.
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the upper half of a product of 64-bit numbers fits 64 bits, and is below the number of lines"
    )]
    fn home(&self, tag: u64) -> usize {
        ((u128::from(tag & KEPT_MASK) * self.lines.len() as u128) >> u64::BITS) as usize
    }

    /// Adds an entry to this shard, which has the given `number`. Returns the number of lines by which the shard grew.
    #[inline]
    fn insert(&mut self, tag: u64, value: u64, number: usize) -> usize {
        let more = if is_full(self.len, self.lines.len()) {
            self.grow_to(next_lines(self.lines.len(), number))
        } else {
            0
        };
        self.put(tag, value);
        self.len += 1;
        more
    }

    /// Makes room for `entries` entries in total. Returns the number of lines by which the shard grew.
    fn reserve(&mut self, entries: usize, number: usize) -> usize {
        let mut lines = self.lines.len();
        while entries > 0 && is_full(entries, lines) {
            lines = next_lines(lines, number);
        }
        if lines > self.lines.len() {
            self.grow_to(lines)
        } else {
            0
        }
    }

    /// Puts an entry into the first line that has room, from its home line on.
    #[inline]
    fn put(&mut self, tag: u64, value: u64) {
        let home = self.home(tag);
        let (head, tail) = self.lines.split_at_mut(home);
        // The home line almost always has room.
        let placed = tail.split_first_mut().is_some_and(|(first, tail)| {
            first.put(tag, value) || tail.iter_mut().chain(head).any(|line| line.put(tag, value))
        });
        assert!(
            placed,
            "a shard of the index is full: the entry with value {value} would be lost"
        );
    }

    /// Moves all entries to a new array of `lines` lines. Returns the number of lines by which the shard grew. Entries
    /// keep the order of their home lines, so this function reads and writes memory from front to back.
    fn grow_to(&mut self, lines: usize) -> usize {
        let smaller = std::mem::replace(&mut self.lines, vec![Line::default(); lines]);
        let mut moved = 0;
        for line in &smaller {
            for (tag, value) in line.entries() {
                self.put(tag, value);
                moved += 1;
            }
        }
        assert_eq!(moved, self.len, "a shard of the index lost entries when it grew");
        lines - smaller.len()
    }
}

// ===== impl Line =====

impl Line {
    #[inline]
    const fn used(&self) -> u32 {
        self.more >> USED_SHIFT & 0b111
    }

    #[inline]
    const fn was_passed(&self) -> bool {
        self.more & PASSED != 0
    }

    /// Returns the stored bits of the tag, and the value, of each entry.
    fn entries(&self) -> impl Iterator<Item = (u64, u64)> {
        let tags = self.tags.iter().zip(0_u32..).map(|(upper, place)| {
            u64::from(*upper) << u32::BITS | u64::from(self.extra(place)) << (u32::BITS - EXTRA_BITS)
        });
        tags.zip(self.values).take(self.used() as usize)
    }

    /// Returns the first value under `tag` for which `matches` returns true. Compares all slots without a branch for
    /// each slot. The CPU could not predict such branches, and would wait for the data of this line before it loads
    /// other memory.
    #[inline]
    fn find(&self, tag: u64, matches: &mut impl FnMut(u64) -> bool) -> Option<u64> {
        let mut candidates = self.candidates(tag);
        while candidates != 0 {
            let place = candidates.trailing_zeros();
            candidates &= candidates - 1;
            #[expect(
                clippy::indexing_slicing,
                reason = "`candidates` has a bit for each slot only"
            )]
            let value = self.values[place as usize];
            if self.extra(place) == extra_of(tag) && matches(value) {
                return Some(value);
            }
        }
        None
    }

    /// Returns a bit for each slot in use whose tag has the same upper 32 bits as `tag`.
    #[inline]
    fn candidates(&self, tag: u64) -> u32 {
        let upper = upper_of(tag);
        let used = (1 << self.used()) - 1;
        // Without a loop, because a build for tests does not unroll loops.
        let [a, b, c, d, e] = self.tags.map(|kept| u32::from(kept == upper));
        (a | b << 1 | c << 2 | d << 3 | e << 4) & used
    }

    #[inline]
    const fn extra(&self, place: u32) -> u32 {
        self.more >> (place * EXTRA_BITS) & EXTRA_MASK
    }

    /// Adds an entry and returns true if the line has room. Otherwise marks the line and returns false.
    #[inline]
    fn put(&mut self, tag: u64, value: u64) -> bool {
        let used = self.used();
        let (upper, place) = (
            self.tags.get_mut(used as usize),
            self.values.get_mut(used as usize),
        );
        let (Some(upper), Some(place)) = (upper, place) else {
            self.more |= PASSED;
            return false;
        };
        *upper = upper_of(tag);
        *place = value;
        let extra = extra_of(tag) << (used * EXTRA_BITS);
        self.more = (self.more | extra) + (1 << USED_SHIFT);
        true
    }
}

#[inline]
const fn upper_of(tag: u64) -> u32 {
    (tag >> u32::BITS) as u32
}

#[expect(clippy::cast_possible_truncation, reason = "only the lowest bits are used")]
#[inline]
const fn extra_of(tag: u64) -> u32 {
    (tag >> (u32::BITS - EXTRA_BITS)) as u32 & EXTRA_MASK
}

/// Whether a shard must grow before the next insertion. The limit is five sixths of the slots, because a fuller shard
/// has long runs of marked lines.
#[inline]
const fn is_full(entries: usize, lines: usize) -> bool {
    entries * 6 >= lines * LINE_SLOTS as usize * 5
}

/// The number of lines of shard `number` after its next growth. The shard has `lines` lines now. A shard first gets
/// [`LINES_MIN`] to 1.5 × [`LINES_MIN`] lines; the number of the shard decides how many. After that, each growth
/// adds half of the shard's lines.
fn next_lines(lines: usize, number: usize) -> usize {
    let mut next = LINE_FRACTIONS * LINES_MIN + LINE_FRACTIONS * LINES_MIN * number / (2 * SHARDS);
    while next / LINE_FRACTIONS <= lines {
        next += next / 2;
    }
    next / LINE_FRACTIONS
}

#[inline]
const fn shard_of(tag: u64) -> usize {
    (tag & SHARD_MASK) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Only a few tags occur, so that several keys share a tag. Some home lines are at the end of a shard, so
        /// lookups continue at its start.
        #[test]
        fn every_inserted_key_is_found_even_if_keys_share_a_tag(keys in proptest::collection::hash_set(0..2000_u64, 0..600)) {
            let tag = |key: u64| (u64::MAX - (key % 7) * (u64::MAX / 7)) & !SHARD_MASK | (key % 3);
            let mut index = TagIndex::new();
            for key in &keys {
                index.insert(tag(*key), *key);
            }
            prop_assert_eq!(index.len(), keys.len());
            for key in 0..2000 {
                index.prefetch(tag(key));
                let found = index.find(tag(key), |value| value == key);
                prop_assert_eq!(found.is_some(), keys.contains(&key));
            }
        }

        /// The index confuses two tags exactly if `is_same_tag` returns true. A lookup returns all bits of a value.
        #[test]
        fn tags_are_distinguished_by_the_stored_bits(tag: u64, bit in 0..u64::BITS, value: u64) {
            let mut index = TagIndex::new();
            index.insert(tag, value);
            let other = tag ^ 1 << bit;
            let same = TagIndex::is_same_tag(tag, other);
            prop_assert_eq!(same, (SHARD_MASK.count_ones()..u32::BITS - EXTRA_BITS).contains(&bit));
            prop_assert_eq!(index.first(other), same.then_some(value));
            prop_assert_eq!(index.first(tag), Some(value));
        }
    }

    #[test]
    #[should_panic(expected = "a shard of the index is full: the entry with value 10 would be lost")]
    fn an_entry_that_has_no_room_is_not_dropped() {
        let mut shard = Shard {
            lines: vec![Line::default(); 2],
            len: 0,
        };
        for value in 0..11 {
            shard.put(0, value);
        }
    }

    #[test]
    fn a_line_is_a_cache_line() {
        assert_eq!((size_of::<Line>(), align_of::<Line>()), (64, 64));
    }

    #[test]
    fn reserving_memory_changes_no_entry() {
        let (mut grown, mut reserved) = (TagIndex::new(), TagIndex::new());
        reserved.reserve(1_000_000);
        let before = reserved.memory_bytes();
        for key in 0..1_000_000_u64 {
            let tag = tag(&key.to_le_bytes(), 7);
            grown.insert(tag, key);
            reserved.insert(tag, key);
        }
        assert_eq!(
            reserved.memory_bytes() * 100 / before,
            100,
            "the reserved memory suffices for almost all shards"
        );
        assert_eq!(reserved.memory_bytes() * 50 / grown.memory_bytes(), 50);
        // Later reservations keep the existing entries.
        grown.reserve(3_000_000);
        grown.reserve(10);
        for key in (0..1_000_000_u64).step_by(997) {
            assert_eq!(grown.first(tag(&key.to_le_bytes(), 7)), Some(key));
        }
    }

    #[test]
    fn an_entry_takes_at_most_20_bytes_in_a_large_index() {
        let mut index = TagIndex::new();
        let mut checked = 0;
        for key in 0..8_000_000_u64 {
            index.insert(tag(&key.to_le_bytes(), 7), key);
            if key > 2_000_000 && key % 250_000 == 0 {
                let bytes = index.memory_bytes() as u64;
                assert!(bytes <= key * 20, "{bytes} bytes for {key} keys");
                checked += 1;
            }
        }
        assert!(checked > 20);
        for key in (0..8_000_000_u64).step_by(9973) {
            assert_eq!(index.first(tag(&key.to_le_bytes(), 7)), Some(key));
        }
    }
}
