//! What can go wrong in the embedded store.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::{block::HeaderDefect, disk::DiskError, position::Position, segment_file::segment_name};

/// A fault of the embedded store. None of them is worth a retry in the same process.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JournalError {
    /// A file operation failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Another process has the data directory.
    #[error(
        "the data directory {} is in use by another process, which holds the lock on it; one process at a time may \
         serve it, or any number may verify it",
        path.display()
    )]
    Locked {
        /// The data directory.
        path: PathBuf,
    },
    /// A setting is out of bounds.
    #[error("{field} is {value}, it must be {bound}")]
    Config {
        /// Which setting.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What would be allowed.
        bound: String,
    },
    /// The file that describes the data directory is missing or damaged.
    #[error("{}: {defect}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        defect: FormatDefect,
    },
    /// The data was written by a program of another format version.
    #[error(
        "{} has format version {found}, this program reads version {supported} only: use the release that wrote it",
        path.display()
    )]
    UnsupportedVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The one that is known here.
        supported: u32,
    },
    /// The journal is damaged where a crash cannot have damaged it.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    /// An earlier append failed: what is durable is unknown until the store is opened anew.
    #[error("the journal takes no more blocks since a write or sync failed; restart to recover")]
    Poisoned,
    /// A block's body is longer than `block_bytes_max`.
    #[error("a block's body has {body_bytes} bytes, at most {block_bytes_max} are allowed")]
    BlockTooLarge {
        /// Its bytes.
        body_bytes: usize,
        /// The bound.
        block_bytes_max: u32,
    },
    /// A read across the end of a segment.
    #[error("there are no {length} bytes at {position} of the journal")]
    ReadPastEnd {
        /// From where.
        position: Position,
        /// How many bytes were asked for.
        length: usize,
    },
    /// A chunk, or a chunked file, is longer than its format allows.
    #[error("{}: {field} would be {value}, at most {value_max} is allowed", path.display())]
    ChunkBound {
        /// The file being written.
        path: PathBuf,
        /// Which bound.
        field: &'static str,
        /// The value that was refused.
        value: u64,
        /// The bound.
        value_max: u64,
    },
    /// A chunked file (a checkpoint, an index) is damaged or not ours.
    #[error("{}: {defect}", path.display())]
    ChunkedFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        defect: ChunkDefect,
    },
}

/// What is wrong with the file that describes a data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FormatDefect {
    /// It is not there, though there is a journal.
    #[error("missing, though there is a journal beside it; bring it back from a backup of this directory")]
    Missing,
    /// It is not there, and there is no journal either.
    #[error("missing, and there is no journal: this is not a data directory")]
    NoDirectory,
    /// It cannot be read as what it should be.
    #[error(
        "not the description of a data directory, or damaged; bring it back from a backup of this directory"
    )]
    Malformed,
}

/// What is wrong with a chunked file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ChunkDefect {
    /// Its header is not one.
    #[error("the header is damaged")]
    Header,
    /// It was made for another data directory or under another number.
    #[error("it belongs to another data directory or has another number")]
    Foreign,
    /// Its trailer is not one: it was never finished, or is cut short.
    #[error("the trailer is damaged or missing")]
    Trailer,
    /// Its table of chunks does not fit its trailer.
    #[error("the table of chunks is damaged")]
    Table,
    /// A chunk's checksum is wrong.
    #[error("chunk {index} is damaged")]
    Chunk {
        /// Which one, from 0.
        index: u32,
    },
    /// The hash over everything is wrong.
    #[error("the hash over the file is wrong")]
    Hash,
    /// It has no chunk of that index.
    #[error("there is no chunk {index}")]
    NoChunk {
        /// The index asked for.
        index: u32,
    },
    /// Its chunks are whole, but do not hold what they should.
    #[error("its content is not {expected}")]
    Content {
        /// What was expected.
        expected: &'static str,
    },
}

/// Damage in the journal that no crash can explain: where, and what.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "journal segment {} ({}), offset {}, block {block_sequence}: {kind}. Nothing was changed. `tally verify` lists the \
     extent of the damage; restore the directory from a backup (docs/operations.md)",
    position.segment(), path.display(), position.offset()
)]
pub struct Corruption {
    /// Where.
    pub position: Position,
    /// In which file.
    pub path: PathBuf,
    /// The block that should be there.
    pub block_sequence: u64,
    /// What is wrong.
    pub kind: CorruptionKind,
}

/// What is wrong in a damaged journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CorruptionKind {
    /// A block is damaged, and a later one is there: it was complete once.
    DamagedBlock {
        /// What is wrong with it.
        defect: BlockDefect,
        /// Where the later block stands.
        later: Position,
        /// Its sequence.
        later_sequence: u64,
    },
    /// There is no block where a reader was told that there is one.
    NoBlock {
        /// Why there is none.
        defect: BlockDefect,
    },
    /// The block is whole, but does not follow from the one before: one of the two was replaced.
    ChainBroken,
    /// Behind the end of the journal stand bytes that one write cannot have left.
    StrayBytes {
        /// The first of them.
        first: Position,
    },
    /// The journal ends although a later block is known to have been durable.
    TooShort {
        /// The highest block known to have been durable.
        durable_through: u64,
        /// Why there is no block here.
        defect: BlockDefect,
    },
    /// The segment in which the journal would go on does not exist, but one that was made after it does.
    SegmentMissing {
        /// The number of the later segment.
        later: u32,
    },
    /// A segment file is shorter or longer than it was made: something cut it.
    SegmentLength {
        /// Its length, in bytes.
        found: u64,
        /// The length of every segment, in bytes.
        expected: u64,
    },
    /// The block that a checkpoint builds on is not the one in the journal.
    CheckpointMismatch,
    /// The marker of a clean stop tells of another block than the one in the journal.
    CleanStopMismatch,
    /// Behind the place where the journal was stopped cleanly stand bytes, although nothing was being written.
    WrittenAfterStop {
        /// Why these bytes are not a block.
        defect: BlockDefect,
    },
}

/// Why there is no block at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlockDefect {
    /// The segment file does not exist.
    NoSegment,
    /// The header is not one.
    Header(HeaderDefect),
    /// The header is that of another block.
    Sequence {
        /// The sequence it has.
        found: u64,
    },
    /// The body does not have the checksum that the header tells.
    BodyChecksum,
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
                write!(f, "{defect}, but the later block {later_sequence} is at {later}")
            }
            CorruptionKind::NoBlock { defect } => write!(f, "there is no block: {defect}"),
            CorruptionKind::ChainBroken => {
                f.write_str("the block is whole, but carries another hash of its predecessor")
            }
            CorruptionKind::StrayBytes { first } => {
                write!(
                    f,
                    "the journal ends here, but from {first} on stand bytes that no crash leaves behind"
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
                "the segment file is missing, but segment {later}, which was made after it, is there"
            ),
            CorruptionKind::SegmentLength { found, expected } => write!(
                f,
                "the segment file has {found} bytes, and was made with {expected}"
            ),
            CorruptionKind::CheckpointMismatch => f.write_str(
                "this is not the block that the checkpoint builds on: the block is damaged, or the journal and the \
                 checkpoint are of different backups",
            ),
            CorruptionKind::CleanStopMismatch => f.write_str(
                "the journal was stopped cleanly at another block (journal/CLEAN): the two are of different backups",
            ),
            CorruptionKind::WrittenAfterStop { defect } => write!(
                f,
                "the journal was stopped cleanly (journal/CLEAN), so nothing was being written, but behind its end is \
                 no free space: {defect}"
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
            BlockDefect::Sequence { found } => write!(f, "the header is that of block {found}"),
            BlockDefect::BodyChecksum => f.write_str("the checksum of the body is wrong"),
        }
    }
}
