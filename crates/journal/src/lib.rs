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
mod calibrate;
mod checkpoint;
mod clean_stop;
mod directory;
mod disk;
mod error;
mod layout;
mod open;
mod prepare;
mod read_only;
mod reader;
mod recover;
mod scrub;
mod segment;
mod stopwatch;
mod verify;
mod window;
mod writer;

pub use block::{
    BLOCK_ALIGNMENT, BLOCK_FORMAT_VERSION, BlockBuffer, BlockHash, BlockHeader, BlockMeta, DataId,
    HEADER_BYTES, HeaderDefect,
};
pub use calibrate::{CommitTimes, CommitTrial, time_commits};
pub use checkpoint::{
    CHUNK_BYTES_MAX, CHUNK_FORMAT_VERSION, CHUNKS_MAX, ChunkedFiles, ChunkedReader, ChunkedWriter,
};
pub use directory::{DIRECTORY_FORMAT_VERSION, DataDirectory};
pub use disk::{Access, Disk, DiskError, DiskFile, DiskLock, LockKind, Operation, RealDisk};
pub use error::{BlockDefect, ChunkDefect, Corruption, CorruptionKind, FormatDefect, StoreError};
pub use open::{Journal, OpenJournal};
pub use prepare::SegmentPreparer;
pub use reader::{JournalReader, OPEN_SEGMENTS_MAX};
pub use recover::{CHAIN_POINT_BYTES, ChainPoint, ScanError, Tail, TornTail};
pub use scrub::{Scrub, ScrubStep};
pub use segment::{
    BLOCK_BYTES_MAX_DEFAULT, BLOCK_BYTES_MAX_LOWEST, BLOCKS_PER_SEGMENT_MIN, Geometry, JournalConfig,
    Placement, Position, SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MAX, SEGMENT_GRANULE_BYTES,
};
pub use verify::{FURTHER_DAMAGES_MAX, VerifyReport, verify};
pub use writer::{AppendReceipt, JournalWriter};
