//! Where transactions become durable.
//!
//! - [`journal`] keeps blocks of bytes: segments, checksums, the hash chain, recovery of a torn tail. It knows nothing
//!   of ledgers.
//! - [`block_log`] is the interface through which the engine makes blocks durable.
//! - [`embedded`] keeps a ledger in memory and its history in a journal.
//!
//! A store on another engine (PostgreSQL and its kin) would be a second consumer of the batch processor's intake, beside
//! the embedded one: it takes batches, commits them in one SQL transaction each, and answers.

pub mod block_log;
pub mod embedded;
pub use tally_journal as journal;
