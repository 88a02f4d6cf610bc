//! The errors of the journal: failed operations, rejected settings, and damage.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::{
    block::{DataId, HeaderDefect},
    disk::DiskError,
    position::Position,
    segment_file::segment_name,
};

/// An error of the journal. A retry in the same process can succeed only if [`JournalError::is_out_of_descriptors`]
/// returns true.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JournalError {
    /// A file operation failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Another process has the data directory open.
    #[error(
        "the data directory {} is in use by {}, which holds the lock on it: stop that process, or name another directory \
         (--data); one process at a time may serve a directory, or any number may verify it",
        path.display(), Holder(*holder)
    )]
    Locked {
        /// The data directory.
        path: PathBuf,
        /// The id of the process that holds the lock; `None` if the system does not say.
        holder: Option<u32>,
    },
    /// The path of the data directory is empty.
    #[error("the path of the data directory is empty; name a directory (--data)")]
    EmptyPath,
    /// The path of the data directory, or a part of it, is a file or a symbolic link that leads nowhere.
    #[error(
        "{} can't be a data directory, because it, or a directory in its path, is a file or a symbolic link that leads nowhere; \
         name another directory (--data)",
        path.display()
    )]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// The directory has a `FORMAT` file, but no directory of segments, or an empty one.
    #[error(
        "{} is a data directory without a journal: it has FORMAT, but no directory named journal, or an empty one. Its \
         transactions are lost: keep this directory for analysis, and restore a backup (docs/operations.md)",
        path.display()
    )]
    NoJournal {
        /// The data directory.
        path: PathBuf,
    },
    /// The segment note is missing, so it is unknown how many segments the journal had.
    #[error(
        "{} has no file SEGMENTS-<number>, which states the last segment of the journal. Without it, nobody can tell whether \
         the last segments are missing, too: keep this directory for analysis, and restore a backup (docs/operations.md)",
        journal.display()
    )]
    NoSegmentNote {
        /// The directory of the segments.
        journal: PathBuf,
    },
    /// A setting is out of bounds.
    #[error("{field} is {value}, it must be {bound}")]
    Config {
        /// Name of the setting.
        field: &'static str,
        /// The rejected value.
        value: u64,
        /// The allowed values.
        bound: String,
    },
    /// The file `FORMAT`, which describes the data directory, is missing or damaged.
    #[error("{}: {defect}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with the file.
        defect: FormatDefect,
    },
    /// The directory has no `FORMAT` file, so it is not a data directory.
    #[error("{} is not a Tally data directory (no FORMAT)", path.display())]
    NotADataDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// A new data directory can't be made here, because the directory has files that do not belong to a data directory.
    #[error(
        "{} is not a Tally data directory (no FORMAT), and it is not empty: it has {files}. Name an empty directory or one \
         that does not exist yet",
        path.display()
    )]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// The names of a few of its files.
        files: String,
    },
    /// The directory is a copy of a replicated log, so the embedded store must not append to it.
    #[error(
        "{} is a directory of a replicated ledger (FORMAT: store = replicated). The embedded store would make it differ from the \
         other replicas: set store.kind to replicated, or detach the directory first (tally replica detach)",
        path.display()
    )]
    Replicated {
        /// The directory.
        path: PathBuf,
    },
    /// The directory belongs to the embedded store, so the replicated store must not append to it.
    #[error(
        "{} is a directory of the embedded store (FORMAT: store = embedded): set store.kind to embedded, or make a replicated \
         ledger of it (tally replica init)",
        path.display()
    )]
    NotReplicated {
        /// The directory.
        path: PathBuf,
    },
    /// The directory belongs to another ledger than the replicated log.
    #[error(
        "{} belongs to the ledger {found}, but the replicated log to the ledger {expected}: name the directory or the topic of \
         the same ledger",
        path.display()
    )]
    OtherLedger {
        /// The directory.
        path: PathBuf,
        /// The id of the directory.
        found: DataId,
        /// The id in the first record of the log.
        expected: DataId,
    },
    /// The file has a format version that this program does not support.
    #[error(
        "{} has format version {found}, this program reads version {supported} only: use the release that wrote it",
        path.display()
    )]
    UnsupportedVersion {
        /// The file.
        path: PathBuf,
        /// The version of the file.
        found: u32,
        /// The version that this program supports.
        supported: u32,
    },
    /// The journal is damaged in a way that a crash cannot cause.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    /// The journal accepts no more blocks, because an earlier append failed or the journal was finished. After a failed
    /// append it is unknown which blocks are durable. Recovery at the next start determines which blocks are durable.
    #[error(
        "the journal accepts no more blocks, because a write or sync failed or the journal was closed; restart the process to \
         recover"
    )]
    Poisoned,
    /// A block's body is longer than `block_bytes_max`.
    #[error("a block's body has {body_bytes} bytes, at most {block_bytes_max} are allowed")]
    BlockTooLarge {
        /// Length of the body, in bytes.
        body_bytes: usize,
        /// Longest body that is allowed, in bytes.
        block_bytes_max: u32,
    },
    /// A read extends beyond the end of a segment.
    #[error("a read of {length} bytes at {position} of the journal extends beyond the end of the segment")]
    ReadPastEnd {
        /// Start of the read.
        position: Position,
        /// Length of the read, in bytes.
        length: usize,
    },
    /// A chunk is longer than a chunked file allows, or a chunked file would have too many chunks.
    #[error("{}: {field} would be {value}, at most {value_max} is allowed", path.display())]
    ChunkBound {
        /// The file that is being written.
        path: PathBuf,
        /// Name of the bounded quantity.
        field: &'static str,
        /// The rejected value.
        value: u64,
        /// The greatest value that is allowed.
        value_max: u64,
    },
    /// A chunked file (such as a checkpoint or an index) is damaged, or belongs to another data directory.
    #[error("{}: {defect}", path.display())]
    ChunkedFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with the file.
        defect: ChunkDefect,
    },
}

/// What is wrong with the file that describes a data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FormatDefect {
    /// The file does not exist, but segments of a journal do.
    #[error(
        "missing, although the directory has a journal; restore this file from a backup of the directory"
    )]
    Missing,
    /// The file is not a valid description of a data directory.
    #[error(
        "damaged, or not the description of a data directory; restore this file from a backup of the directory"
    )]
    Malformed,
}

/// What is wrong with a chunked file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ChunkDefect {
    /// The header is damaged.
    #[error("the header is damaged")]
    Header,
    /// The file was written for another data directory or under another number.
    #[error("the file belongs to another data directory or has another number")]
    Foreign,
    /// The trailer is damaged: the file was never finished, or was truncated.
    #[error("the trailer is damaged or missing")]
    Trailer,
    /// The table of chunks does not match the trailer.
    #[error("the table of chunks is damaged")]
    Table,
    /// The checksum of a chunk is wrong.
    #[error("chunk {index} is damaged")]
    Chunk {
        /// Index of the chunk, from 0.
        index: u32,
    },
    /// The hash over the file is wrong.
    #[error("the hash over the file is wrong")]
    Hash,
    /// The file has no chunk with this index.
    #[error("there is no chunk {index}")]
    NoChunk {
        /// The requested index, from 0.
        index: u32,
    },
    /// The chunks are undamaged, but do not contain what the caller expects.
    #[error("the content is not {expected}")]
    Content {
        /// The expected content.
        expected: &'static str,
    },
}

/// Damage in the journal that a crash cannot cause.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "journal {}: {kind}. Nothing was changed. `tally verify` lists the extent of the damage; restore the directory from a \
     backup (docs/operations.md)",
    self.place()
)]
pub struct Corruption {
    /// Where the damage is.
    pub position: Position,
    /// The segment file.
    pub path: PathBuf,
    /// The sequence of the block that should be at `position`; 0 if the reader does not know its sequence.
    pub block_sequence: u64,
    /// What is wrong.
    pub kind: CorruptionKind,
}

/// What is wrong in a damaged journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CorruptionKind {
    /// A block is damaged and a later block exists. The damaged block was complete and durable, because the journal
    /// writes a block only after the block before it is durable.
    DamagedBlock {
        /// What is wrong with the block.
        defect: BlockDefect,
        /// Where the later block starts.
        later: Position,
        /// The sequence of the later block.
        later_sequence: u64,
    },
    /// No block is at a position where a block must be.
    NoBlock {
        /// Why the bytes at the position are not that block.
        defect: BlockDefect,
    },
    /// The block is undamaged, but does not contain the hash of the block before it: one of the two blocks was
    /// replaced.
    ChainBroken,
    /// Bytes that are not zero follow the end of the journal, and cannot be the remains of one incomplete write.
    StrayBytes {
        /// Position of the first of these bytes.
        first: Position,
    },
    /// The journal ends before a block that was durable, according to the caller of the scan or the marker of a clean
    /// stop.
    TooShort {
        /// Sequence of the last block that was durable.
        durable_through: u64,
        /// Why the bytes at the end of the journal are not the next block.
        defect: BlockDefect,
    },
    /// The segment in which the next block belongs is missing, but a later segment exists.
    SegmentMissing {
        /// The number of the later segment.
        later: u32,
    },
    /// A segment is missing that exists according to the segment note.
    SegmentLost {
        /// The number of the last segment that was made.
        last: u32,
    },
    /// The chain of blocks ends too early: a segment exists that the journal makes only after a later block is durable.
    EndsEarly {
        /// The number of that segment.
        later: u32,
    },
    /// A segment file does not have the length that every segment of this data directory has.
    SegmentLength {
        /// Length of the file, in bytes.
        found: u64,
        /// Length of every segment, in bytes.
        expected: u64,
    },
    /// The journal does not contain the last block that a checkpoint includes.
    CheckpointMismatch,
    /// The marker of a clean stop names a block that the journal does not contain.
    CleanStopMismatch,
    /// The journal was stopped cleanly, so no write was interrupted. But bytes that are not zero follow its end.
    WrittenAfterStop {
        /// Why these bytes are not a block.
        defect: BlockDefect,
    },
}

/// The process that holds a lock, as text.
struct Holder(Option<u32>);

/// Why bytes are not the expected block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlockDefect {
    /// The segment file does not exist.
    NoSegment,
    /// The header is damaged or does not belong at this position.
    Header(HeaderDefect),
    /// The header belongs to a block with another sequence.
    Sequence {
        /// The sequence in the header.
        found: u64,
    },
    /// The body does not have the checksum that its header states.
    BodyChecksum,
}

// ===== impl JournalError =====

impl JournalError {
    /// Returns whether the operation failed because the process or the system has no file descriptor left. In that
    /// case, no data is damaged, and a retry of the operation can succeed.
    #[must_use]
    pub fn is_out_of_descriptors(&self) -> bool {
        matches!(self, JournalError::Disk(error) if error.is_out_of_descriptors())
    }
}

// ===== impl Corruption =====

impl Corruption {
    pub(super) fn new(journal: &Path, position: Position, block_sequence: u64, kind: CorruptionKind) -> Self {
        Corruption {
            position,
            path: journal.join(segment_name(position.segment())),
            block_sequence,
            kind,
        }
    }

    /// Returns the place of the damage as text: the segment, and the offset and the block if the damage has such a place
    /// and they are known.
    #[must_use]
    pub fn place(&self) -> String {
        let Corruption {
            position,
            path,
            block_sequence,
            kind,
        } = self;
        let mut place = format!("segment {} ({})", position.segment(), path.display());
        // The offset means nothing if the whole segment has a wrong length or does not exist.
        if !matches!(
            kind,
            CorruptionKind::SegmentLength { .. } | CorruptionKind::SegmentLost { .. }
        ) {
            place.push_str(&format!(", offset {}", position.offset()));
            if *block_sequence > 0 {
                place.push_str(&format!(", block {block_sequence}"));
            }
        }
        place
    }
}

// ===== impl Holder =====

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(id) => write!(f, "process {id}"),
            None => f.write_str("another process"),
        }
    }
}

// ===== impl CorruptionKind =====

impl fmt::Display for CorruptionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CorruptionKind::DamagedBlock {
                defect,
                later,
                later_sequence,
            } => {
                let (segment, offset) = (later.segment(), later.offset());
                write!(
                    f,
                    "{defect}, but the later block {later_sequence} is at segment {segment}, offset {offset}"
                )
            }
            CorruptionKind::NoBlock { defect } => write!(f, "there is no block: {defect}"),
            CorruptionKind::ChainBroken => {
                f.write_str("the block is undamaged, but does not contain the hash of the block before it")
            }
            CorruptionKind::StrayBytes { first } => {
                write!(
                    f,
                    "the journal ends here, but the bytes at {first} and later cannot be the remains of a crash"
                )
            }
            CorruptionKind::TooShort {
                durable_through,
                defect,
            } => {
                write!(
                    f,
                    "the journal ends here ({defect}), but block {durable_through} was durable"
                )
            }
            CorruptionKind::SegmentMissing { later } => write!(
                f,
                "the segment file is missing, but the later segment {later} exists"
            ),
            CorruptionKind::SegmentLost { last } => write!(
                f,
                "the segment file is missing, but the journal had segments up to number {last} (journal/SEGMENTS-{last:010})"
            ),
            CorruptionKind::EndsEarly { later } => write!(
                f,
                "the journal ends here, but segment {later} exists, which is made only when the segment before it is in use"
            ),
            CorruptionKind::SegmentLength { found, expected } => write!(
                f,
                "the segment file has {found} bytes, but must have {expected}"
            ),
            CorruptionKind::CheckpointMismatch => f.write_str(
                "this is not the block on which the checkpoint builds: the block is damaged, or the journal and the \
                 checkpoint come from different backups",
            ),
            CorruptionKind::CleanStopMismatch => f.write_str(
                "the journal was stopped cleanly at another block (journal/CLEAN): the marker and the journal come from \
                 different backups",
            ),
            CorruptionKind::WrittenAfterStop { defect } => write!(
                f,
                "the journal was stopped cleanly (journal/CLEAN), so nothing was being written, but bytes that are not a \
                 block follow its end (at the end itself: {defect})"
            ),
        }
    }
}

// ===== impl BlockDefect =====

impl fmt::Display for BlockDefect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BlockDefect::NoSegment => f.write_str("the segment file is missing"),
            BlockDefect::Header(defect) => defect.fmt(f),
            BlockDefect::Sequence { found } => write!(f, "the header belongs to block {found}"),
            BlockDefect::BodyChecksum => f.write_str("the checksum of the body is wrong"),
        }
    }
}
