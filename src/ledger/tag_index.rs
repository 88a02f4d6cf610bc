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
/// Slots of a shard that has its first entry.
const SLOTS_MIN: usize = 8;
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
        if let Some(shard) = self.shards.get_mut(shard_of(tag)) {
            self.slots += shard.insert(Slot { tag, value });
            self.len += 1;
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

    /// Returns by how many slots it has grown.
    fn insert(&mut self, slot: Slot) -> usize {
        let more = if self.is_full() { self.grow() } else { 0 };
        self.put(slot);
        self.len += 1;
        more
    }

    /// Full at four fifths: beyond it, walks become long.
    const fn is_full(&self) -> bool {
        self.len * 5 >= self.slots.len() * 4
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

    /// Adds slots, and says how many. Places keep their order, so this reads and writes memory from front to back.
    fn grow(&mut self) -> usize {
        let more = match self.slots.len() {
            0 => SLOTS_MIN,
            few @ ..DOUBLING_SLOTS_MAX => few,
            many => many / 4,
        };
        let empty = Slot { tag: 0, value: EMPTY };
        let larger = vec![empty; self.slots.len() + more];
        let smaller = std::mem::replace(&mut self.slots, larger);
        for slot in smaller {
            if slot.value != EMPTY {
                self.put(slot);
            }
        }
        more
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
    fn keeps_many_hashed_names_in_at_most_27_bytes_each() {
        let mut index = TagIndex::new();
        let mut checked = 0;
        for key in 0..8_000_000_u64 {
            index.insert(tag(&key.to_le_bytes(), 7), key);
            if key > 5_000_000 && key % 250_000 == 0 {
                assert!(
                    index.memory_bytes() as u64 <= key * 27,
                    "{} bytes for {key} keys",
                    index.memory_bytes()
                );
                checked += 1;
            }
        }
        assert!(checked > 10);
        for key in (0..8_000_000_u64).step_by(9973) {
            assert_eq!(index.first(tag(&key.to_le_bytes(), 7)), Some(key));
        }
    }
}
