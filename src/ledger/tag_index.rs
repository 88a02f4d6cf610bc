//! A hash index from a 64-bit tag to a 64-bit value that never stops the world to grow.
//!
//! The caller keeps the keys (an account table, the journal) and the index keeps only their hashes: 16 bytes a key. It
//! is exact all the same, because the caller compares the real key of every candidate. It is split into shards, each
//! of which grows by itself, so that no insertion pays for moving all of it: with 50 million keys a shard moves about
//! two megabytes.
//!
//! A shard is one array of slots with linear probing, so that a look-up costs about one cache line, which can be asked for
//! ahead of time ([`TagIndex::prefetch`]). A tag's place is its share of the array (its upper bits times the capacity),
//! so that the capacity need not be a power of two: once a shard is large, it grows by a quarter at a time, and at least three
//! fifths of it are in use.

use crate::sys::prefetch::prefetch_read;

/// Shards; a power of two. Chosen so that an empty index is small and a large one grows in small steps.
const SHARDS: usize = 512;
/// The shard is taken from the lowest bits of the tag; the place in it from the highest.
const SHARD_MASK: u64 = SHARDS as u64 - 1;
/// Slots of a shard that has its first entry; up to twice as many, so that shards, which fill alike, do not all grow at the
/// same time: memory then is taken evenly, and no moment is slower than others.
const SLOTS_MIN: usize = 16;
/// A shard of fewer slots is doubled when it is full, which moves each slot less often. What it may leave unused until then
/// is 32 MiB for all shards together.
const DOUBLING_SLOTS_MAX: usize = 8192;
/// Slots of a cache line.
const LINE_SLOTS: usize = 4;
/// No value: marks an empty slot.
const EMPTY: u64 = u64::MAX;

/// From tag to values. Several keys may share a tag.
#[derive(Debug)]
pub struct TagIndex {
    shards: Box<[Shard]>,
    len: usize,
    /// Of all shards.
    slots: usize,
}

#[derive(Debug, Default)]
struct Shard {
    slots: Vec<Slot>,
    len: usize,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    tag: u64,
    value: u64,
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
            slots: 0,
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

    /// The value of the entry with this `tag` that `is_it` recognises.
    #[must_use]
    pub fn find(&self, tag: u64, mut is_it: impl FnMut(u64) -> bool) -> Option<u64> {
        let shard = self.shard(tag);
        let place = shard.place(tag);
        let (head, tail) = shard.slots.split_at_checked(place)?;
        // Some slots are always empty, so both halves together end the walk.
        for slot in tail.iter().chain(head) {
            if slot.value == EMPTY {
                return None;
            }
            if slot.tag == tag && is_it(slot.value) {
                return Some(slot.value);
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
        let place = shard.place(tag);
        // A walk takes several steps, and ends in the next line as often as not.
        for place in [place, place + LINE_SLOTS] {
            if let Some(slot) = shard.slots.get(place) {
                prefetch_read(slot);
            }
        }
    }

    /// Adds an entry. The caller has made sure that its key is not there yet, and that the value is not `u64::MAX`.
    pub fn insert(&mut self, tag: u64, value: u64) {
        debug_assert_ne!(value, EMPTY, "this value marks an empty slot");
        let number = shard_of(tag);
        if let Some(shard) = self.shards.get_mut(number) {
            self.slots += shard.insert(Slot { tag, value }, first_slots(number));
            self.len += 1;
        }
    }

    /// Takes the memory for so many entries in all, which so are not moved from one array to the next as they come.
    pub fn reserve(&mut self, entries: usize) {
        for (number, shard) in self.shards.iter_mut().enumerate() {
            self.slots += shard.reserve(entries / SHARDS, first_slots(number));
        }
    }

    /// Memory taken, in bytes.
    #[must_use]
    pub const fn memory_bytes(&self) -> usize {
        self.slots * size_of::<Slot>() + SHARDS * size_of::<Shard>()
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
    /// Where the walk for `tag` begins: below the number of slots, or 0 if there are none.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the upper half of a product of 64-bit numbers fits 64 bits, and is below the number of slots"
    )]
    fn place(&self, tag: u64) -> usize {
        ((u128::from(tag) * self.slots.len() as u128) >> u64::BITS) as usize
    }

    /// Returns by how many slots it has grown; to `first` if it had none.
    fn insert(&mut self, slot: Slot, first: usize) -> usize {
        let more = if is_full(self.len, self.slots.len()) {
            self.grow_to(next_slots(self.slots.len(), first))
        } else {
            0
        };
        self.put(slot);
        self.len += 1;
        more
    }

    /// Returns by how many slots it has grown to hold `entries`.
    fn reserve(&mut self, entries: usize, first: usize) -> usize {
        let mut slots = self.slots.len();
        while entries > 0 && is_full(entries, slots) {
            slots = next_slots(slots, first);
        }
        if slots > self.slots.len() {
            self.grow_to(slots)
        } else {
            0
        }
    }

    /// Puts a slot into the first empty one from its place on; there is one.
    fn put(&mut self, slot: Slot) {
        let place = self.place(slot.tag);
        let Some((head, tail)) = self.slots.split_at_mut_checked(place) else {
            return;
        };
        if let Some(empty) = tail.iter_mut().chain(head).find(|slot| slot.value == EMPTY) {
            *empty = slot;
        }
    }

    /// Moves to an array of so many slots, and says how many more they are. Places keep their order, so this reads and
    /// writes memory from front to back.
    fn grow_to(&mut self, slots: usize) -> usize {
        let empty = Slot { tag: 0, value: EMPTY };
        let smaller = std::mem::replace(&mut self.slots, vec![empty; slots]);
        let more = slots - smaller.len();
        for slot in smaller {
            if slot.value != EMPTY {
                self.put(slot);
            }
        }
        more
    }
}

/// Full at four fifths: beyond it, walks become long.
const fn is_full(entries: usize, slots: usize) -> bool {
    entries * 5 >= slots * 4
}

/// The slots of a shard that has its first entry.
const fn first_slots(number: usize) -> usize {
    SLOTS_MIN + SLOTS_MIN * number / SHARDS
}

/// How many slots come after so many.
const fn next_slots(slots: usize, first: usize) -> usize {
    match slots {
        0 => first,
        few @ ..DOUBLING_SLOTS_MAX => few * 2,
        many => many + many / 4,
    }
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
    fn keeps_many_hashed_names_in_at_most_24_bytes_each() {
        let mut index = TagIndex::new();
        let mut checked = 0;
        for key in 0..8_000_000_u64 {
            index.insert(tag(&key.to_le_bytes(), 7), key);
            if key > 6_000_000 && key % 250_000 == 0 {
                assert!(
                    index.memory_bytes() as u64 <= key * 24,
                    "{} bytes for {key} keys",
                    index.memory_bytes()
                );
                checked += 1;
            }
        }
        assert!(checked > 5);
        for key in (0..8_000_000_u64).step_by(9973) {
            assert_eq!(index.first(tag(&key.to_le_bytes(), 7)), Some(key));
        }
    }
}
