//! Why a process stops for good.

use thiserror::Error;

/// Why a process must stop and must not serve again until an operator has found the cause.
///
/// A halt is always safe: nothing is acknowledged or accepted after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum HaltReason {
    /// A replica has written a halt record, because it holds blocks that the log has lost.
    #[error(
        "the log contains a halt record; find out which replica wrote it, and why, before you start any replica"
    )]
    HaltRecord,
    /// The kind of a block is unknown.
    #[error("a block has the unknown kind {0}; this version is too old for the log, so update the program")]
    UnknownKind(u32),
    /// A block continues the chain, but one of its other fields is wrong.
    #[error(
        "block {number} continues the chain, but its field {field} is wrong; the leader that wrote it has a bug"
    )]
    WrongField {
        /// The number of the block.
        number: u64,
        /// The name of the field.
        field: &'static str,
    },
    /// A writer has claimed a term that it already has.
    #[error("block {number} claims term {term} again; the leader that wrote it has a bug")]
    RepeatedClaim {
        /// The number of the block.
        number: u64,
        /// The term.
        term: u64,
    },
    /// The chain contains a block of this process's own term that this process did not write.
    #[error(
        "block {number} of the own term was not written by this process; two processes use the same term and writer"
    )]
    ForeignBlockOfOwnTerm {
        /// The number of the block.
        number: u64,
    },
    /// The record at offset 0 is not a genesis block, so the log holds something else.
    #[error("the first record of the log is not a genesis block; check the topic's name")]
    NoGenesis,
    /// A record that was read before is missing, or was replaced by another record.
    #[error(
        "the log lost data: the record at offset {offset} is missing or was replaced; see the runbook before you start any replica"
    )]
    LogLostData {
        /// The offset of the record.
        offset: u64,
    },
    /// The log was trimmed beyond the next record to read.
    #[error(
        "the log was trimmed: its first offset is {start}, but offset {next} is needed; clone another replica"
    )]
    Trimmed {
        /// The first offset of the log.
        start: u64,
        /// The next offset that the reader needs.
        next: u64,
    },
    /// Another replica holds a block that the log does not hold, or another block with the same number.
    #[error("a replica holds block {number}, which the log does not hold; the log lost data")]
    ReplicaAheadOfLog {
        /// The number of the last block of that replica.
        number: u64,
    },
}

/// A field of a block that is wrong although the block continues the chain: a position, sequence, time or size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[error("the field {0} is wrong")]
pub struct WrongField(
    /// The name of the field.
    pub &'static str,
);
