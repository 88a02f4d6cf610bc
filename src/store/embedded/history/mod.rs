//! Reads the history of the ledger from the journal: what an account had at an earlier time, its statement, and all transactions in
//! their order. No read needs EXEC, except for the place where the chain of an account begins.

mod block_index;
mod block_walk;
mod cancellation;
mod reader;
mod statement;
mod transactions;

pub use block_walk::CHUNK_BYTES;
pub use cancellation::{CancelOnDrop, Cancellation};
pub(crate) use reader::unexpected;
pub use reader::{Bound, HistoryReader};
pub use statement::{Order, Page, RowPlace, STATEMENT_BYTES_MAX, StatementRow};
pub use transactions::{TRANSACTIONS_BYTES_MAX, TransactionPage};
