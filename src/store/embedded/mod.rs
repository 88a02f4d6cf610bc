//! The embedded store: the ledger in memory, and its history in a local journal.
//!
//! - [`JournaledLedger`] belongs to EXEC. It processes transactions, fills the open block, and finds earlier transactions by
//!   id.
//! - [`open`] makes a `JournaledLedger` from the newest checkpoint and the blocks after it.
//! - AUX writes [`checkpoint`]s and [id files](id_files), so that opening takes seconds instead of hours.
//! - [`verify`] checks a whole data directory.
//!
//! All other files can be made again from the journal.

pub mod checkpoint;
mod error;
pub mod id_files;
mod journaled_ledger;
mod open;
mod point;
mod record;
mod record_reader;
mod replay;
mod verify;

pub use error::{OpenError, RecordError};
pub use journaled_ledger::{Candidates, JournaledLedger};
pub use open::{BLOCK_BYTES_MIN, OpenStore, RecoveryReport, StoreConfig, open};
pub use point::{DurablePoint, OrderPoint, SealedBlock};
pub use record_reader::{FoundTransaction, RecordReader};
pub use verify::{AssetTotals, DIFFERENCES_MAX, DirectoryReport, verify};
