//! Reads the history of the ledger from the journal: the balances of an account at an earlier time, its statement, and
//! all transactions in their order.
//!
//! The records of an account form a chain (`docs/history.md`). A read asks the thread EXEC where the chain of its
//! account begins. Everything else is read without EXEC.

mod block_index;
mod block_walk;
mod cancellation;
mod reader;
mod statement;
mod transactions;

pub use block_walk::CHUNK_BYTES;
pub use cancellation::{CancelOnDrop, Cancellation};
pub use reader::{Bound, HistoryReader};
pub use statement::{Order, Page, RowPlace, STATEMENT_BYTES_MAX, StatementRow};
pub use transactions::{TRANSACTIONS_BYTES_MAX, TransactionPage};
