//! The keys under which an index finds records. A record has up to two keys: the id of its own transaction, and a key for its effect
//! on another transaction.

use smallvec::SmallVec;

use super::tag_index::{companion, tag};

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
        let (id, number) = match self {
            RecordKey::Transaction(id) => return tag(id, seed),
            // The hold's id was looked up just before the hold ends. So this line of the index is in the CPU's cache.
            RecordKey::HoldEnd(id) => return companion(tag(id, seed)),
            RecordKey::Reversal(id, number) => (id, number),
        };
        // No id contains a byte below 32, so these bytes are not those of any transaction id.
        let mut bytes = SmallVec::<[u8; 96]>::from_slice(&[2]);
        bytes.extend_from_slice(&number.to_le_bytes());
        bytes.extend_from_slice(id);
        tag(&bytes, seed)
    }
}
