//! The calls that read the past: statements, the ledger in its order, accounts as they were, and the end of the journal.

mod batch;
mod describe;
mod entries;
mod event;
mod feed;
mod head;
mod id_cache;
mod past;
mod range;
mod transactions;
mod watch;

pub use describe::{Described, Describer};
pub(crate) use entries::{entries_page, list_entries};
pub(crate) use feed::Feed;
pub(crate) use head::{Blocks, chain_head};
pub(crate) use past::account_as_of;
pub(crate) use transactions::{list_transactions, transactions_page};
pub(crate) use watch::watch;
