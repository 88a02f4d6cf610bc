//! The keys under which an index finds records. A record has up to two keys: the id of its own transaction, and a key for what it did
//! to another transaction.

use smallvec::SmallVec;

use super::tag_index::tag;

/// A key under which a record is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKey<'a> {
    /// The record of the transaction with this id.
    Transaction(&'a [u8]),
    /// The record that ended the hold with this id.
    HoldEnd(&'a [u8]),
    /// The record of the n-th reversal of the transaction with this id; n counts from 1.
    Reversal(&'a [u8], u64),
}

// ===== impl RecordKey =====

impl RecordKey<'_> {
    /// The key's [tag], for an index. `seed` is the seed of the account table.
    #[must_use]
    pub fn tag(&self, seed: u64) -> u64 {
        // No id contains a byte below 32, so the keys of different kinds differ.
        let (kind, id, number) = match self {
            RecordKey::Transaction(id) => return tag(id, seed),
            RecordKey::HoldEnd(id) => (1, id, 0),
            RecordKey::Reversal(id, number) => (2, id, *number),
        };
        let mut bytes = SmallVec::<[u8; 96]>::from_slice(&[kind]);
        bytes.extend_from_slice(&number.to_le_bytes());
        bytes.extend_from_slice(id);
        tag(&bytes, seed)
    }
}
