//! The stamp of a block: who wrote it, and what it contains.

use std::fmt;

/// What a block contains. The numbers are those in the header.
///
/// A *control block* is a block of any other kind than [`BlockKind::Data`]. A control block has no records. Each kind has its own
/// format of the body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum BlockKind {
    /// Records of the caller.
    #[default]
    Data = 0,
    /// The first record of a replicated log: what the directories of all replicas have in common. Never in a journal.
    Genesis = 1,
    /// A writer begins a term. All blocks up to the next claim are from this writer.
    Claim = 2,
    /// The writer gives up its term, and names a successor.
    Resign = 3,
    /// The end of the replicated log. From here on, one directory continues the ledger in an embedded store.
    End = 4,
    /// A replica reports that the log has lost blocks. Outside the chain, and never in a journal.
    Halt = 5,
    /// The writer begins to use a newer format.
    Level = 6,
}

/// Who wrote a block, and what it contains. The default is a block of records that an embedded store wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct BlockStamp {
    /// The term in which the block was written. 0 stands for an embedded store, which has no terms.
    pub term: u64,
    /// The number of the process that wrote the block; 0 in term 0.
    pub writer: u32,
    /// What the block contains.
    pub kind: BlockKind,
}

// ===== impl BlockKind =====

impl BlockKind {
    /// Returns the kind with this number; `None` if no kind has it.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => BlockKind::Data,
            1 => BlockKind::Genesis,
            2 => BlockKind::Claim,
            3 => BlockKind::Resign,
            4 => BlockKind::End,
            5 => BlockKind::Halt,
            6 => BlockKind::Level,
            _ => return None,
        })
    }

    /// Returns the number of the kind in a header.
    #[must_use]
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// Returns whether the body of the block consists of records.
    #[inline]
    #[must_use]
    pub const fn is_data(self) -> bool {
        matches!(self, BlockKind::Data)
    }

    /// Returns whether a block of this kind occurs only in a replicated log, and never in a journal.
    #[must_use]
    pub const fn is_only_in_log(self) -> bool {
        matches!(self, BlockKind::Genesis | BlockKind::Halt)
    }

    /// Returns whether a block of this kind must have a term greater than 0.
    #[must_use]
    pub const fn needs_term(self) -> bool {
        match self {
            BlockKind::Claim | BlockKind::Resign | BlockKind::End | BlockKind::Level => true,
            BlockKind::Data | BlockKind::Genesis | BlockKind::Halt => false,
        }
    }
}

impl fmt::Display for BlockKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BlockKind::Data => "data",
            BlockKind::Genesis => "genesis",
            BlockKind::Claim => "claim",
            BlockKind::Resign => "resign",
            BlockKind::End => "end",
            BlockKind::Halt => "halt",
            BlockKind::Level => "level",
        })
    }
}

// ===== impl BlockStamp =====

impl BlockStamp {
    /// Returns the stamp of the next block of records by the writer of this block. After an end block, it is the stamp of an
    /// embedded store, which continues the ledger.
    #[must_use]
    pub const fn next_data(self) -> Self {
        let (term, writer) = match self.kind {
            BlockKind::End => (0, 0),
            BlockKind::Data
            | BlockKind::Genesis
            | BlockKind::Claim
            | BlockKind::Resign
            | BlockKind::Halt
            | BlockKind::Level => (self.term, self.writer),
        };
        BlockStamp {
            term,
            writer,
            kind: BlockKind::Data,
        }
    }

    /// Returns whether a block with the stamp `next` may follow a block with this stamp in a journal:
    ///
    /// - A claim begins a greater term.
    /// - Every other block has the term and the writer of the block before it.
    /// - After an end block, the next block is from an embedded store, in term 0.
    ///
    /// So terms never decrease, except to 0 at the end of a replicated log.
    #[must_use]
    pub const fn may_precede(self, next: BlockStamp) -> bool {
        let expected = self.next_data();
        match next.kind {
            BlockKind::Genesis | BlockKind::Halt => false,
            BlockKind::Claim => !matches!(self.kind, BlockKind::End) && next.term > self.term,
            BlockKind::Data | BlockKind::Resign | BlockKind::End | BlockKind::Level => {
                next.term == expected.term
                    && next.writer == expected.writer
                    && (next.term > 0 || !next.kind.needs_term())
            }
        }
    }
}

impl fmt::Display for BlockStamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of term {}, writer {}", self.kind, self.term, self.writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn stamp(term: u64, writer: u32, kind: BlockKind) -> BlockStamp {
        BlockStamp { term, writer, kind }
    }

    #[test]
    fn a_kind_decodes_from_its_number() {
        for number in 0..=6 {
            assert_eq!(BlockKind::from_number(number).unwrap().number(), number);
        }
        assert_eq!(BlockKind::from_number(7), None);
        assert_eq!(BlockKind::from_number(u32::MAX), None);
    }

    #[test]
    fn a_block_follows_its_own_writer_or_claims_a_greater_term() {
        use BlockKind::{Claim, Data, End, Genesis, Halt, Level, Resign};
        let embedded = BlockStamp::default();
        let (claim, data) = (stamp(3, 7, Claim), stamp(3, 7, Data));
        let accepted = [
            (embedded, embedded),
            (embedded, stamp(1, 9, Claim)),
            (claim, data),
            (data, stamp(3, 7, Resign)),
            (data, stamp(3, 7, Level)),
            (data, stamp(3, 7, End)),
            (stamp(3, 7, Resign), data),
            (data, stamp(4, 8, Claim)),
            (stamp(3, 7, End), embedded),
        ];
        for (last, next) in accepted {
            assert!(last.may_precede(next), "{last} -> {next}");
        }
        let refused = [
            (embedded, data),
            (embedded, stamp(0, 0, Level)),
            (data, embedded),
            (data, stamp(3, 8, Data)),
            (data, stamp(4, 7, Data)),
            (data, stamp(2, 7, Data)),
            (data, stamp(3, 8, Claim)),
            (data, stamp(2, 8, Claim)),
            (stamp(3, 7, End), data),
            (stamp(3, 7, End), stamp(4, 7, Claim)),
            (stamp(3, 7, End), stamp(3, 7, End)),
            (data, stamp(3, 7, Genesis)),
            (data, stamp(3, 7, Halt)),
        ];
        for (last, next) in refused {
            assert!(!last.may_precede(next), "{last} -> {next}");
        }
    }
}
