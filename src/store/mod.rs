//! The store: makes transactions durable and recovers them after a start.
//!
//! - The crate [`tally_journal`] stores blocks of bytes in segments, with checksums and a hash chain, and recovers
//!   them. It does not interpret the bytes.
//! - [`block_log`] is the interface through which the engine makes blocks durable.
//! - [`embedded`] keeps the accounts in memory and records every change in a journal on the local disk.
//! - [`replicated`] is the replicated store, in which several processes hold the same ledger.
//! - [`settings`] is the section `store` of the configuration.

pub mod block_log;
pub mod embedded;
pub mod replicated;
pub mod settings;
