//! The embedded store: keeps the accounts in memory and records every change in a journal on the local disk.
//!
//! - [`JournaledLedger`] belongs to the thread EXEC, which executes batches. It processes transactions, appends their
//!   records to the open block, and finds earlier transactions by id.
//! - [`open`] makes a `JournaledLedger` from the newest checkpoint and the blocks after the checkpoint.
//! - The thread AUX, which does maintenance, writes [`checkpoint`]s and [id files](id_files). With them, [`open`] need
//!   not read the whole journal, and takes seconds instead of hours.
//! - [`verify`] checks a whole data directory, and [`StoppedDirectory`] reads all of its records.
//!
//! Checkpoints and id files can be made again from the journal.

mod apply;
pub mod checkpoint;
mod error;
mod foreign;
pub mod history;
pub mod id_files;
mod journaled_ledger;
mod open;
mod pending_check;
mod point;
mod recent_records;
mod record;
mod record_log;
mod record_reader;
mod replay;
mod sent_blocks;
mod stopped;
mod verify;

pub use error::{FollowError, OpenError, RecordError};
pub use foreign::{check_directory, foreign_files, is_data_directory};
pub use history::HistoryReader;
pub use journaled_ledger::{Candidates, JournaledLedger};
pub use open::{BLOCK_BYTES_MIN, OpenStore, RecoveryReport, StoreConfig, open, open_journal};
pub use point::{AcceptedBlock, DurablePoint, LedgerEnd, OrderPoint, SealedBlock};
pub use record_reader::{FoundRecord, RecordReader};
pub use stopped::StoppedDirectory;
pub use verify::{AssetTotals, DIFFERENCES_MAX, DirectoryReport, verify, verify_blocks};
