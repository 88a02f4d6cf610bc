//! A hash index from a 64-bit tag to a 64-bit value that never stops the world to grow.
//!
//! The caller keeps the keys (an account table, the journal) and the index keeps only part of their hashes: 12.8 bytes a
//! slot. It is exact all the same, because the caller compares the real key of every candidate; of n keys, one that is
//! looked for meets another's entry with probability n / 2^46, once in a million at 50 million keys. It is split into
//! shards, each of which grows by itself, so that no insertion pays for moving all of it: with 50 million keys a shard moves
//! about two megabytes.
//!
//! A shard is one array of cache lines, each with five slots. A tag has a home line; what finds it full goes to the next
//! line that is not. The line that was passed remembers it, so that a look-up, whether it finds something or not, mostly
//! takes one line, which can be asked for ahead of time ([`TagIndex::prefetch`]). The home is the tag's share of the array
//! (its upper bits times the number of lines), so that this number need not be a power of two: a shard grows by half, and
//! once it is large, at least five ninths of its slots are in use.

use crate::sys::prefetch::prefetch_read;

/// Shards; a power of two. Chosen so that an empty index is small and a large one grows in small steps.
const SHARDS: usize = 512;
/// The shard is taken from the lowest bits of the tag; the home in it from the highest.
const SHARD_MASK: u64 = SHARDS as u64 - 1;
/// Lines of the first shard when it has its first entry. Others have up to half as many again, in fractions of a line, which
/// show when they have grown a few times. So shards, which fill alike, do not all grow at the same time: memory is taken
/// evenly, and no moment is slower than others.
const LINES_MIN: usize = 2;
/// Fractions of a line, in which sizes are computed: rounded to lines, shards would soon be of few sizes.
const LINE_FRACTIONS: usize = 256;
/// Slots of a line.
const LINE_SLOTS: u32 = 5;
/// Upper bits of a tag that a slot keeps, after the 32 that have a word of their own.
const EXTRA_BITS: u32 = 5;
/// The bits of a tag that are kept, by which two can be told apart within a shard.
const KEPT_MASK: u64 = u64::MAX << (u32::BITS - EXTRA_BITS);
/// In [`Line::more`]: above the extra bits of each slot, how many slots are in use.
const USED_SHIFT: u32 = EXTRA_BITS * LINE_SLOTS;
/// Above it: an entry whose walk passed this line stands behind it.
const PASSED: u32 = 1 << (u32::BITS - 1);
/// The extra bits of one slot.
const EXTRA_MASK: u32 = (1 << EXTRA_BITS) - 1;

/// From tag to values. Several keys may share a tag.
#[derive(Debug)]
pub struct TagIndex {
    shards: Box<[Shard]>,
    len: usize,
    /// Of all shards.
    lines: usize,
}

#[derive(Debug, Default)]
struct Shard {
    lines: Vec<Line>,
    len: usize,
}

/// A cache line.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
struct Line {
    values: [u64; LINE_SLOTS as usize],
    /// The upper 32 bits of each tag.
    tags: [u32; LINE_SLOTS as usize],
    /// Their next bits, how many slots are in use, and whether others were turned away.
    more: u32,
}

/// The hash by which a name is found. `seed` is the data directory's secret, so that nobody outside can choose names that
/// collide.
#[must_use]
pub fn tag(name: &[u8], seed: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(name, seed)
}

// ===== impl TagIndex =====

impl TagIndex {
    /// Without entries.
    #[must_use]
    pub fn new() -> Self {
        TagIndex {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            len: 0,
            lines: 0,
        }
    }

    /// How many entries there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the index takes one of these tags for the other: it keeps only so many of their bits.
    #[must_use]
    pub const fn takes_for_same(a: u64, b: u64) -> bool {
        (a ^ b) & (KEPT_MASK | SHARD_MASK) == 0
    }

    /// The value of the entry with this `tag`, or one that [the index takes for it](Self::takes_for_same), that `is_it`
    /// recognises.
    #[must_use]
    pub fn find(&self, tag: u64, mut is_it: impl FnMut(u64) -> bool) -> Option<u64> {
        let shard = self.shard(tag);
        let (head, tail) = shard.lines.split_at_checked(shard.home(tag))?;
        // Some lines always have room, and nothing was ever turned away there: both parts together end the walk.
        for line in tail.iter().chain(head) {
            if let Some(value) = line.find(tag, &mut is_it) {
                return Some(value);
            }
            if !line.was_passed() {
                return None;
            }
        }
        None
    }

    /// The first value under this `tag`, whosever it is: a guess at what [`TagIndex::find`] will look at.
    #[must_use]
    pub fn first(&self, tag: u64) -> Option<u64> {
        self.find(tag, |_| true)
    }

    /// Asks for the memory where entries with this `tag` are.
    pub fn prefetch(&self, tag: u64) {
        let shard = self.shard(tag);
        if let Some(line) = shard.lines.get(shard.home(tag)) {
            prefetch_read(line);
        }
    }

    /// Adds an entry. The caller has made sure that its key is not there yet.
    pub fn insert(&mut self, tag: u64, value: u64) {
        let number = shard_of(tag);
        if let Some(shard) = self.shards.get_mut(number) {
            self.lines += shard.insert(tag, value, number);
            self.len += 1;
        }
    }

    /// Takes the memory for so many entries in all, which so are not moved from one array to the next as they come.
    pub fn reserve(&mut self, entries: usize) {
        for (number, shard) in self.shards.iter_mut().enumerate() {
            self.lines += shard.reserve(entries / SHARDS, number);
        }
    }

    /// Memory taken, in bytes.
    #[must_use]
    pub const fn memory_bytes(&self) -> usize {
        self.lines * size_of::<Line>() + SHARDS * size_of::<Shard>()
    }

    /// The most lines that a look-up may read: the longest run of lines that were passed, and the line that ends it.
    #[cfg(test)]
    pub(super) fn longest_walk(&self) -> usize {
        let runs = |shard: &Shard| {
            // Twice over, since a walk goes on at the start of its shard.
            let lines = shard.lines.iter().chain(&shard.lines);
            let longest = |(run, most): (usize, usize), line: &Line| {
                let run = if line.was_passed() { run + 1 } else { 0 };
                (run, most.max(run))
            };
            lines.fold((0, 0), longest).1
        };
        self.shards.iter().map(runs).max().unwrap_or_default() + 1
    }

    fn shard(&self, tag: u64) -> &Shard {
        #[expect(
            clippy::indexing_slicing,
            reason = "`shard_of` is masked to the number of shards"
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
    /// Where the walk for `tag` begins: below the number of lines, or 0 if there are none.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the upper half of a product of 64-bit numbers fits 64 bits, and is below the number of lines"
    )]
    fn home(&self, tag: u64) -> usize {
        ((u128::from(tag & KEPT_MASK) * self.lines.len() as u128) >> u64::BITS) as usize
    }

    /// Adds an entry to this shard, the one with this `number`, and returns by how many lines it has grown.
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

    /// Returns by how many lines it has grown to hold `entries`.
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

    /// Puts an entry into the first line from its home on that has room; there is one.
    fn put(&mut self, tag: u64, value: u64) {
        let home = self.home(tag);
        let Some((head, tail)) = self.lines.split_at_mut_checked(home) else {
            return;
        };
        let placed = tail.iter_mut().chain(head).any(|line| line.put(tag, value));
        debug_assert!(placed, "a shard grows before it is full");
    }

    /// Moves to an array of so many lines, and says how many more they are. Homes keep their order, so this reads and
    /// writes memory from front to back.
    fn grow_to(&mut self, lines: usize) -> usize {
        let smaller = std::mem::replace(&mut self.lines, vec![Line::default(); lines]);
        for line in &smaller {
            for (tag, value) in line.entries() {
                self.put(tag, value);
            }
        }
        lines - smaller.len()
    }
}

// ===== impl Line =====

impl Line {
    const fn used(&self) -> u32 {
        self.more >> USED_SHIFT & 0b111
    }

    const fn was_passed(&self) -> bool {
        self.more & PASSED != 0
    }

    /// The bits that are kept of the tags in use, and the values.
    fn entries(&self) -> impl Iterator<Item = (u64, u64)> {
        let tags = self.tags.iter().zip(0_u32..).map(|(upper, place)| {
            u64::from(*upper) << u32::BITS | u64::from(self.extra(place)) << (u32::BITS - EXTRA_BITS)
        });
        tags.zip(self.values).take(self.used() as usize)
    }

    /// The value under `tag` that `is_it` recognises. All slots are compared at once, without a branch for each: where a walk
    /// over them ends can't be predicted, and after a wrong prediction the CPU waits for this line before it asks for others.
    fn find(&self, tag: u64, is_it: &mut impl FnMut(u64) -> bool) -> Option<u64> {
        let mut matches = self.matches(tag);
        while matches != 0 {
            let place = matches.trailing_zeros();
            matches &= matches - 1;
            let value = *self.values.get(place as usize)?;
            if self.extra(place) == extra_of(tag) && is_it(value) {
                return Some(value);
            }
        }
        None
    }

    /// A bit for each slot in use that has the upper 32 bits of `tag`.
    fn matches(&self, tag: u64) -> u32 {
        let upper = upper_of(tag);
        let used = (1 << self.used()) - 1;
        let same = |bits, (kept, place): (&u32, u32)| bits | u32::from(*kept == upper) << place;
        self.tags.iter().zip(0..).fold(0, same) & used
    }

    const fn extra(&self, place: u32) -> u32 {
        self.more >> (place * EXTRA_BITS) & EXTRA_MASK
    }

    /// Adds an entry, if there is room; otherwise remembers that one was turned away.
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

const fn upper_of(tag: u64) -> u32 {
    (tag >> u32::BITS) as u32
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the lowest bits are what is asked for"
)]
const fn extra_of(tag: u64) -> u32 {
    (tag >> (u32::BITS - EXTRA_BITS)) as u32 & EXTRA_MASK
}

/// Full at five sixths: beyond it, walks become long.
const fn is_full(entries: usize, lines: usize) -> bool {
    entries * 6 >= lines * LINE_SLOTS as usize * 5
}

/// How many lines come after so many in shard `number`: half as many more, and [`LINES_MIN`] or somewhat more at first.
fn next_lines(lines: usize, number: usize) -> usize {
    let mut next = LINE_FRACTIONS * LINES_MIN + LINE_FRACTIONS * LINES_MIN * number / (2 * SHARDS);
    while next / LINE_FRACTIONS <= lines {
        next += next / 2;
    }
    next / LINE_FRACTIONS
}

fn shard_of(tag: u64) -> usize {
    usize::try_from(tag & SHARD_MASK).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Few distinct tags, so that most of them are shared by several keys; some of them at the very end of a shard, so
        /// that walks go on at its start.
        #[test]
        fn finds_what_was_inserted_even_under_one_tag(keys in proptest::collection::hash_set(0..2000_u64, 0..600)) {
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

        /// Two tags are one to the index exactly if it says so; any value is kept whole.
        #[test]
        fn tells_tags_apart_as_it_says(tag: u64, bit in 0..u64::BITS, value: u64) {
            let mut index = TagIndex::new();
            index.insert(tag, value);
            let other = tag ^ 1 << bit;
            let same = TagIndex::takes_for_same(tag, other);
            prop_assert_eq!(same, (SHARD_MASK.count_ones()..u32::BITS - EXTRA_BITS).contains(&bit));
            prop_assert_eq!(index.first(other), same.then_some(value));
            prop_assert_eq!(index.first(tag), Some(value));
        }
    }

    #[test]
    fn a_line_is_a_cache_line() {
        assert_eq!((size_of::<Line>(), align_of::<Line>()), (64, 64));
    }

    #[test]
    fn room_that_was_made_before_changes_nothing_but_the_moves() {
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
            "few shards are fuller than others"
        );
        assert_eq!(reserved.memory_bytes() * 50 / grown.memory_bytes(), 50);
        // What is there stays.
        grown.reserve(3_000_000);
        grown.reserve(10);
        for key in (0..1_000_000_u64).step_by(997) {
            assert_eq!(grown.first(tag(&key.to_le_bytes(), 7)), Some(key));
        }
    }

    #[test]
    fn keeps_many_hashed_names_in_at_most_20_bytes_each() {
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
