//! Where transactions become durable.
//!
//! - [`journal`] stores blocks of bytes: segments, checksums, the hash chain and recovery. It knows nothing of ledgers.
//! - [`embedded`] stores a ledger in memory and its history in a journal.

pub mod embedded;
pub mod settings;

pub use tally_journal as journal;
