//! The journal: blocks of bytes on disk, each durable before the next, chained by hash; and the files beside it.
//!
//! This layer knows nothing of ledgers: a block's body is opaque to it.
//!
//! ```text
//! <data directory>
//! │                   the directory itself is locked by the one process that writes, or by those that only read
//! ├── FORMAT          version, sizes and random id, decided for ever when the directory is made
//! ├── journal/        0000000000.segment …  blocks, each synced before the next is written
//! │                   CLEAN                 where the journal ended, if its process stopped in order
//! └── <family>/       chunked files: checkpoints, indexes; all can be made anew from the journal
//! ```

mod block;
mod chain_point;
mod chunked_file;
mod clean_stop;
mod commit_times;
mod directory;
mod disk;
mod error;
mod geometry;
mod journal;
mod layout;
mod position;
mod prepare;
mod read_only;
mod reader;
mod repair;
mod scan;
mod scrub;
mod segment_file;
mod stopwatch;
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
pub use directory::{DIRECTORY_FORMAT_VERSION, DataDirectory};
pub use disk::{Disk, DiskError, DiskFile, DiskLock, FileAccess, LockKind, Operation, RealDisk};
pub use error::{BlockDefect, ChunkDefect, Corruption, CorruptionKind, FormatDefect, JournalError};
pub use geometry::{
    BLOCK_BYTES_MAX_DEFAULT, BLOCK_BYTES_MAX_LOWEST, BLOCKS_PER_SEGMENT_MIN, BlockPlacement, Geometry,
    JournalConfig, SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MAX, SEGMENT_GRANULE_BYTES,
};
pub use journal::{Journal, OpenJournal};
pub use position::Position;
pub use prepare::SegmentPreparer;
pub use reader::{JournalReader, OPEN_SEGMENTS_MAX};
pub use scan::{ScanError, Tail, TornTail};
pub use scrub::{Scrub, ScrubStep};
pub use verify::{FURTHER_DAMAGES_MAX, JournalReport};
pub use writer::{AppendReceipt, JournalWriter};
