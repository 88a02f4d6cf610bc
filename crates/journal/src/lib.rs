//! A journal: a sequence of blocks of bytes in files. Each block is durable before the next block is written, and
//! contains the hash of the block before it.
//!
//! This crate is the storage layer of a database or a message log that must not lose an acknowledged write. The caller
//! encodes records into the body of a block; the crate never interprets them. It provides:
//!
//! - [`JournalWriter::append`]: one write and one sync (`fdatasync`) per block. After a failed write or sync, the
//!   writer accepts no more blocks, because it is unknown which blocks are durable.
//! - [`Journal::scan`]: reads all blocks when the process starts, and finds the end of the journal. The remains of an
//!   interrupted write are normal after a crash. Everything else that breaks the chain is damage, which the scan
//!   reports as an error with the position of the damage.
//! - [`JournalReader`]: reads blocks and records at their positions, from any thread. The position of a record is known
//!   before its block is written ([`BlockPlacement`]).
//! - [`Scrub`]: checks every block again while the journal is in use, one block per call.
//! - [`Journal::verify`]: checks all blocks in one call.
//! - [`ChunkedFiles`]: files of checksummed chunks in the same directory, for checkpoints and indexes.
//! - [`Disk`]: the trait for all file operations, so that tests can use a simulated disk that fails.
//!
//! ```text
//! <data directory>    locked by one process that reads and writes, or by any number of processes that only read
//! ├── FORMAT          version, store, sizes and random id
//! ├── journal/        0000000000.segment …  files of a fixed length that contain the blocks
//! │                   SEGMENTS-0000000000   segment note: states the number of the last segment that was made
//! │                   CLEAN                 marker of a clean stop: states where the journal ended
//! └── <family>/       chunked files, such as checkpoints and indexes, which the caller can make again from the journal
//! ```
//!
//! # Errors and panics
//!
//! A damaged file or a failed operation is a [`JournalError`]. A panic means that this crate or its caller broke an
//! invariant: for example, the caller passed a block whose position is not the end of the journal. The assertions also
//! run in release builds, because a write at a wrong position would destroy data.
//!
//! # Example
//!
//! ```
//! use std::{convert::Infallible, sync::Arc};
//! use tally_journal::{BlockBuffer, BlockMeta, Journal, JournalConfig, OpenJournal, RealDisk};
//!
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("data");
//! let journal = Journal::open(Arc::new(RealDisk), &path, &JournalConfig::default())?;
//! let tail = journal.scan(journal.start(), 0, |_, _, body| -> Result<(), Infallible> {
//!     println!("block of {} bytes", body.len());
//!     Ok(())
//! })?;
//! let OpenJournal { directory, mut placement, mut writer, reader, .. } = journal.resume(tail)?;
//!
//! let mut block = BlockBuffer::default();
//! block.push(b"a record");
//! let position = placement.advance(8);
//! let meta = BlockMeta { position, first_entry: 0, first_sequence: 0, base_time_ns: 0, record_count: 1 };
//! writer.append(&meta, &mut block)?; // Now the block is durable.
//!
//! let mut body = Vec::new();
//! reader.read_block(position, &mut body)?;
//! assert_eq!(body, b"a record");
//! writer.finish()?;
//! drop(directory); // Unlocks the data directory.
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod block;
mod chain_point;
mod chunked_file;
mod clean_stop;
mod commit_times;
mod directory;
mod disk;
mod error;
mod foreign;
mod format;
mod genesis;
mod geometry;
mod journal;
mod layout;
#[cfg(not(feature = "mutations"))]
mod mutation;
#[cfg(feature = "mutations")]
pub mod mutation;
mod position;
mod positioned_io;
mod prepare;
mod raw_block;
mod read_only;
mod reader;
mod regular_file;
mod repair;
mod scan;
mod scrub;
mod sealer;
mod segment_file;
mod segment_note;
mod stamp;
mod stopwatch;
mod unfinished;
mod verify;
mod window;
mod writer;

pub use block::{
    BLOCK_ALIGNMENT, BLOCK_FORMAT_VERSION, BlockBuffer, BlockHash, BlockHeader, BlockMeta, DataId,
    HEADER_BYTES, HeaderDefect,
};
pub use chain_point::{CHAIN_POINT_BYTES, ChainPoint};
pub use chunked_file::{
    CHUNK_BYTES_MAX, CHUNK_FORMAT_VERSION, CHUNKS_MAX, ChunkedFileReader, ChunkedFileWriter, ChunkedFiles,
};
pub use commit_times::{CommitTimes, CommitTrial, time_commits};
pub use directory::DataDirectory;
pub use disk::{Disk, DiskError, DiskFile, DiskLock, FileAccess, LockKind, Operation, RealDisk};
pub use error::{BlockDefect, ChunkDefect, Corruption, CorruptionKind, FormatDefect, JournalError};
pub use foreign::{FileFamily, foreign_files};
pub use format::{DIRECTORY_FORMAT_VERSION, StoreKind};
pub use genesis::{Genesis, GenesisDefect, Halt};
pub use geometry::{
    BLOCK_BYTES_MAX_DEFAULT, BLOCK_BYTES_MAX_LOWEST, BLOCKS_PER_SEGMENT_MIN, BlockPlacement, Geometry,
    JournalConfig, SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MAX, SEGMENT_GRANULE_BYTES,
};
pub use journal::{Journal, OpenJournal};
pub use position::Position;
pub use prepare::{SegmentPreparer, SegmentSpace};
pub use raw_block::{RawBlockDefect, parse_block};
pub use reader::{JournalReader, OPEN_SEGMENTS_MAX};
pub use scan::{ScanError, Tail, TornTail};
pub use scrub::{Scrub, ScrubStep};
pub use sealer::BlockSealer;
pub use stamp::{BlockKind, BlockStamp};
pub use verify::{BlockRun, FURTHER_DAMAGES_MAX, JournalReport};
pub use writer::{AppendReceipt, JournalWriter};
