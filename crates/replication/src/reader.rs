//! Reads the log in order and applies the rule of acceptance: [`LogReader`].
//!
//! A reader also finds out that the log lost data. A record that a reader sees may not be acknowledged yet: the set of
//! in-sync brokers can shrink to one, and records that only this broker holds can be lost. Then other records take the
//! same offsets. So after every new connection, a reader reads its last judged record again ([`LogReader::restart`]).
//! If the record now has another leader epoch or hash, the reader holds blocks that the log does not have, and halts.
//! An offset and the leader epoch of its record identify a record and all records before it; that is the guarantee of
//! the Kafka protocol by which brokers and consumers find where two logs diverge.

use crate::{
    acceptance::{Accepted, SkipReason, Verdict},
    block::{BlockFacts, BlockHash, BlockKind},
    halt::{HaltReason, WrongField},
    mutation::planted,
};

/// A record of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Record {
    /// The position in the log.
    pub offset: u64,
    /// The leader epoch of the record batch: it grows with every change of the partition's leading broker.
    pub epoch: i32,
    /// The facts of the block, or `None` for a record that is not a block of this data.
    pub block: Option<BlockFacts>,
}

/// The facts of a judged record by which a reader recognizes the record when it reads it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Seen {
    /// The position in the log.
    pub offset: u64,
    /// The leader epoch of the record batch, if the record was read. A leader does not learn the epoch from the answer
    /// to an append.
    pub epoch: Option<i32>,
    /// The hash of the block, or `None` for a record that is not a block of this data.
    pub hash: Option<BlockHash>,
}

/// What a reader did with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum Step {
    /// The block is accepted: apply it.
    Accepted,
    /// The block has a number that was accepted before.
    Known,
    /// The block is not part of the chain.
    Skipped(SkipReason),
    /// The record is not a block of this data.
    Foreign,
    /// The record was judged before.
    Again,
}

/// The place of a reader in the log, and the last block that it has accepted.
///
/// A resume point consists of the same values. Store a resume point directly after a block was accepted, when the
/// journal is synced up to this block. Then the last judged record is the accepted block, and its hash is
/// [`Accepted::hash`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogReader {
    accepted: Accepted,
    next_offset: u64,
    last: Option<Seen>,
    /// Whether the last record was found unchanged since the last restart.
    verified: bool,
    halted: Option<HaltReason>,
}

// ===== impl LogReader =====

impl LogReader {
    /// A reader that has judged all records before `next_offset`. `last` is the last of these records. Without `last`,
    /// the reader cannot find out that the log lost data.
    ///
    /// # Panics
    /// If `last` is not before `next_offset`.
    #[must_use]
    pub fn new(accepted: Accepted, next_offset: u64, last: Option<Seen>) -> Self {
        if let Some(last) = last {
            assert!(
                last.offset < next_offset,
                "the last record is before the next one"
            );
        }
        Self {
            accepted,
            next_offset,
            last,
            verified: last.is_none(),
            halted: None,
        }
    }

    /// The last accepted block.
    #[must_use]
    pub fn accepted(&self) -> &Accepted {
        &self.accepted
    }

    /// The offset of the next record to judge.
    #[must_use]
    pub fn next_offset(&self) -> u64 {
        self.next_offset
    }

    /// The last judged record, for a resume point.
    #[must_use]
    pub fn last(&self) -> Option<Seen> {
        self.last
    }

    /// Whether the last judged record was found unchanged since the last [`restart`](Self::restart).
    #[must_use]
    pub fn is_verified(&self) -> bool {
        self.verified
    }

    /// Why the reader has stopped, if it has.
    #[must_use]
    pub fn halted(&self) -> Option<HaltReason> {
        self.halted
    }

    /// Returns the offset from which to read after a new connection or a change of the leading broker: the offset of
    /// the last judged record, so that the reader compares it. Discard the records that still arrive from earlier
    /// reads.
    pub fn restart(&mut self) -> u64 {
        self.verified = self.last.is_none();
        self.last.map_or(self.next_offset, |last| last.offset)
    }

    /// The offset from which the next read begins. Until the last judged record was found unchanged since the last
    /// [`restart`](Self::restart), this is the offset of that record; afterwards, it is the offset of the next record.
    #[must_use]
    pub fn read_from(&self) -> u64 {
        match self.last {
            Some(last) if !self.verified => last.offset,
            Some(_) | None => self.next_offset,
        }
    }

    /// Judges the next record. `fields` checks the other fields of a block that continues the chain.
    ///
    /// # Errors
    /// The reason to halt. Each further call returns the same reason.
    ///
    /// # Panics
    /// If a read after a restart does not begin at the offset that [`restart`](Self::restart) returned.
    pub fn next(
        &mut self,
        record: &Record,
        fields: impl FnOnce(&BlockFacts) -> Result<(), WrongField>,
    ) -> Result<Step, HaltReason> {
        if let Some(reason) = self.halted {
            return Err(reason);
        }
        let step = self.step(record, fields);
        if let Err(reason) = step {
            self.halted = Some(reason);
        }
        step
    }

    fn step(
        &mut self,
        record: &Record,
        fields: impl FnOnce(&BlockFacts) -> Result<(), WrongField>,
    ) -> Result<Step, HaltReason> {
        if !self.verified {
            self.verify(record)?;
        }
        if record.offset < self.next_offset {
            return Ok(Step::Again);
        }
        let step = match &record.block {
            None => Step::Foreign,
            Some(block) => match self.accepted.judge(block) {
                Verdict::Accept => {
                    self.accepted.accept(block, fields(block))?;
                    Step::Accepted
                }
                Verdict::Known => Step::Known,
                Verdict::Skip(reason) => Step::Skipped(reason),
                Verdict::Halt(reason) => return Err(reason),
            },
        };
        self.next_offset = record.offset + 1;
        self.last = Some(Seen {
            offset: record.offset,
            epoch: Some(record.epoch),
            hash: record.block.map(|block| block.hash),
        });
        Ok(step)
    }

    /// Compares a record with the last judged record.
    fn verify(&mut self, record: &Record) -> Result<(), HaltReason> {
        let Some(last) = self.last else { return Ok(()) };
        // A batch of the log contains several records, so a read can begin before the offset that was asked for.
        if record.offset < last.offset {
            return Ok(());
        }
        let is_same = record.offset == last.offset
            && last.epoch.is_none_or(|epoch| epoch == record.epoch)
            && last.hash == record.block.map(|block| block.hash);
        if !is_same && !planted("keep_lost_records") {
            return Err(HaltReason::LogLostData { offset: last.offset });
        }
        self.verified = true;
        self.last = Some(Seen {
            epoch: Some(record.epoch),
            ..last
        });
        // A resume point does not say that the log has ended.
        let is_end = |block: &BlockFacts| block.kind == BlockKind::End && block.hash == self.accepted.hash;
        if record.block.as_ref().is_some_and(is_end) && !planted("forget_end_at_start") {
            self.accepted.ended = true;
        }
        Ok(())
    }

    /// Reports that all records before `next_offset` were delivered. The broker itself uses the offsets that have no
    /// record. If `next_offset` is smaller than the offset of the next record, nothing changes.
    ///
    /// # Errors
    /// [`HaltReason::LogLostData`] if the read has passed the last judged record without finding it.
    pub fn passed(&mut self, next_offset: u64) -> Result<(), HaltReason> {
        if let Some(reason) = self.halted {
            return Err(reason);
        }
        if let (false, Some(last)) = (self.verified, self.last) {
            if next_offset > last.offset {
                let reason = HaltReason::LogLostData { offset: last.offset };
                self.halted = Some(reason);
                return Err(reason);
            }
            return Ok(());
        }
        self.next_offset = self.next_offset.max(next_offset);
        Ok(())
    }

    /// Reports that the leading broker, in its current epoch, does not have the offset that was to be read. `start` and
    /// `end` are the bounds of the offsets that it has. Halts, because a reset to another offset would lose or repeat
    /// blocks.
    pub fn out_of_range(&mut self, start: u64, end: u64) -> HaltReason {
        let reason = if end < self.next_offset {
            HaltReason::LogLostData { offset: end }
        } else {
            HaltReason::Trimmed {
                start,
                next: self.next_offset,
            }
        };
        *self.halted.get_or_insert(reason)
    }
}
