//! The calls that read the past: statements, the ledger in its order, accounts as they were, and the end of the journal.

mod describe;
mod entries;
mod event;
mod head;
mod past;
mod range;
mod transactions;

pub use describe::{Described, Describer};
pub(crate) use entries::list_entries;
pub(crate) use head::{Blocks, chain_head};
pub(crate) use past::account_as_of;
pub(crate) use transactions::list_transactions;
