//! Where transactions become durable.
//!
//! - [`tally_journal`] stores blocks of bytes: segments, checksums, the hash chain and recovery. It knows nothing of ledgers.
//! - [`block_log`] is the interface through which the engine makes blocks durable.
//! - [`embedded`] stores a ledger in memory and its history in a journal.

pub mod block_log;
pub mod embedded;
pub mod settings;
