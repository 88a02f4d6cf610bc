//! The rule by which every reader accepts or skips a block: [`Accepted::judge`].
//!
//! All readers see the same records in the same order, and the rule depends on nothing else. So all readers accept the
//! same chain, and a leader needs neither a lock nor a clock.

use crate::{
    block::{BlockFacts, BlockHash, BlockKind},
    halt::{HaltReason, WrongField},
    mutation::planted,
};

/// The last accepted block. The rule needs to know nothing else about the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Accepted {
    /// The number of the block; 0 for genesis.
    pub number: u64,
    /// The hash of the block.
    pub hash: BlockHash,
    /// The term of the block.
    pub term: u64,
    /// The writer of the block.
    pub writer: u32,
    /// Whether the block is the *end* of the log. Nothing is accepted after it.
    pub ended: bool,
}

/// What a reader does with a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum Verdict {
    /// The block is the next one of the chain.
    Accept,
    /// A block with this number was accepted before. This block is a copy of the accepted block, or it lost against
    /// that block. The reader ignores it.
    Known,
    /// The block is not part of the chain. The reader ignores and counts it.
    Skip(SkipReason),
    /// The reader stops.
    Halt(HaltReason),
}

/// Why a block is not part of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SkipReason {
    /// The log has ended.
    AfterEnd,
    /// A genesis block after the first record.
    Genesis,
    /// The block before this one is missing: an earlier request of the leader failed.
    Gap,
    /// The previous hash in the block is not the hash of the last accepted block.
    OtherPrevious,
    /// The term of the block is over: a higher term was accepted.
    OldTerm,
    /// The block has the current term, but another writer has claimed this term.
    OtherWriter,
    /// The block has a new term, but is not a claim. A term must begin with a claim.
    NoClaim,
}

// ===== impl Accepted =====

impl Accepted {
    /// The state after the first record of the log.
    ///
    /// # Errors
    /// [`HaltReason::NoGenesis`] if the record is not a genesis block with number, term and writer 0.
    pub fn from_genesis(block: &BlockFacts) -> Result<Self, HaltReason> {
        if block.kind != BlockKind::Genesis || block.number != 0 || block.term != 0 || block.writer != 0 {
            return Err(HaltReason::NoGenesis);
        }
        Ok(Self {
            number: 0,
            hash: block.hash,
            term: 0,
            writer: 0,
            ended: false,
        })
    }

    /// Decides what a reader does with the next block of the log.
    pub fn judge(&self, block: &BlockFacts) -> Verdict {
        match block.kind {
            // A halt block is outside the chain. A reader that has lost its place in the chain must obey it, too.
            BlockKind::Halt => return Verdict::Halt(HaltReason::HaltRecord),
            // A later version may define a kind of block that, like the halt block, is outside the chain. So this
            // reader stops whether or not the block continues the chain.
            BlockKind::Unknown(code) => return Verdict::Halt(HaltReason::UnknownKind(code)),
            BlockKind::Genesis => return Verdict::Skip(SkipReason::Genesis),
            BlockKind::Data | BlockKind::Claim | BlockKind::Resign | BlockKind::End | BlockKind::Level => {}
        }
        if block.number <= self.number {
            return Verdict::Known;
        }
        if self.ended && !planted("accept_after_end") {
            return Verdict::Skip(SkipReason::AfterEnd);
        }
        if block.number - self.number > 1 {
            return Verdict::Skip(SkipReason::Gap);
        }
        if block.previous != self.hash && !planted("no_hash_check") {
            return Verdict::Skip(SkipReason::OtherPrevious);
        }
        self.judge_writer(block)
    }

    /// Decides on a block that continues the chain by its number and hash.
    fn judge_writer(&self, block: &BlockFacts) -> Verdict {
        let is_claim = block.kind == BlockKind::Claim;
        if block.term == self.term && block.writer == self.writer {
            if is_claim {
                return Verdict::Halt(HaltReason::RepeatedClaim {
                    number: block.number,
                    term: block.term,
                });
            }
            return Verdict::Accept;
        }
        if block.term < self.term {
            Verdict::Skip(SkipReason::OldTerm)
        } else if block.term == self.term {
            Verdict::Skip(SkipReason::OtherWriter)
        } else if is_claim {
            Verdict::Accept
        } else {
            Verdict::Skip(SkipReason::NoClaim)
        }
    }

    /// Makes `block` the last accepted block. `fields` is the result of the checks that need more than the chain: the
    /// position, the first entry, the sequence, the time and the size of the block. A block that continues the chain
    /// but fails one of these checks must stop every reader. If readers skipped the block, another block could take its
    /// place.
    ///
    /// # Errors
    /// [`HaltReason::WrongField`] if `fields` is an error. Nothing has changed in this case.
    ///
    /// # Panics
    /// If [`judge`](Self::judge) does not accept the block.
    pub fn accept(&mut self, block: &BlockFacts, fields: Result<(), WrongField>) -> Result<(), HaltReason> {
        assert_eq!(
            self.judge(block),
            Verdict::Accept,
            "only an accepted block continues the chain"
        );
        fields.map_err(|WrongField(field)| HaltReason::WrongField {
            number: block.number,
            field,
        })?;
        *self = Self {
            number: block.number,
            hash: block.hash,
            term: block.term,
            writer: block.writer,
            ended: block.kind == BlockKind::End,
        };
        Ok(())
    }
}
