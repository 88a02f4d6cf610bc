//! A hash index from a 64-bit tag to a 64-bit value that never stops the world to grow.
//!
//! The caller keeps the keys (an account table, the journal) and the index keeps only their hashes: 16 bytes a key. It
//! is exact all the same, because the caller compares the real key of every candidate. It is split into shards, each
//! of which grows by itself, so that no insertion pays for moving all of it: with 50 million keys a shard moves about
//! two megabytes.

use hashbrown::HashTable;

/// Shards; a power of two. Chosen so that an empty index is small (16 KiB) and a large one grows in small steps.
const SHARDS: usize = 512;

/// From tag to values. Several keys may share a tag.
#[derive(Debug)]
pub struct TagIndex {
    shards: Box<[HashTable<Slot>]>,
    len: usize,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    tag: u64,
    value: u64,
}

// ===== impl TagIndex =====

impl TagIndex {
    /// Without entries.
    #[must_use]
    pub fn new() -> Self {
        TagIndex {
            shards: (0..SHARDS).map(|_| HashTable::new()).collect(),
            len: 0,
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
        self.shard(tag)
            .find(tag, |slot| slot.tag == tag && is_it(slot.value))
            .map(|slot| slot.value)
    }

    /// Adds an entry. The caller has made sure that its key is not there yet.
    pub fn insert(&mut self, tag: u64, value: u64) {
        if let Some(shard) = self.shards.get_mut(shard_of(tag)) {
            shard.insert_unique(tag, Slot { tag, value }, |slot| slot.tag);
            self.len += 1;
        }
    }

    /// Memory taken, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let shards: usize = self.shards.iter().map(HashTable::allocation_size).sum();
        shards + SHARDS * size_of::<HashTable<Slot>>()
    }

    fn shard(&self, tag: u64) -> &HashTable<Slot> {
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

/// The shard is taken from the middle of the tag: the table inside uses the lowest and the highest bits.
fn shard_of(tag: u64) -> usize {
    usize::try_from(tag >> 40).unwrap_or_default() & (SHARDS - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Few distinct tags, so that most of them are shared by several keys.
        #[test]
        fn finds_what_was_inserted_even_under_one_tag(keys in proptest::collection::hash_set(0..2000_u64, 0..600)) {
            let tag = |key: u64| (key % 7) << 40 | (key % 3);
            let mut index = TagIndex::new();
            for key in &keys {
                index.insert(tag(*key), *key);
            }
            prop_assert_eq!(index.len(), keys.len());
            for key in 0..2000 {
                let found = index.find(tag(key), |value| value == key);
                prop_assert_eq!(found.is_some(), keys.contains(&key));
            }
        }
    }
}
