//! Reads the past of accounts.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tally_journal::{BlockHash, ChainPoint, JournalReader, Position};
use tally_ledger::{
    AccountTerms, Balances, History, Malformed, Record, RecordKey, Timestamp,
    history::{Entry, LastUpdate, Step},
};

use super::{
    block_index::{BlockIndex, Target},
    block_walk::{BlockSource, BlockWalk},
    cancellation::Cancellation,
};
use crate::store::embedded::{
    error::RecordError,
    record::parse_record,
    record_reader::{FoundRecord, RecordReader},
};

/// Reads the history. Clones share what they know about the places of blocks. Any thread may use a reader.
#[derive(Debug, Clone)]
pub struct HistoryReader {
    pub(super) records: RecordReader,
    pub(super) journal: JournalReader,
    pub(super) blocks: Arc<BlockIndex>,
    pub(super) source: BlockSource,
    records_read: Arc<AtomicU64>,
}

/// A moment of the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Just after the record with this sequence; 0 stands for the beginning.
    Sequence(u64),
    /// Just after the last record whose commit time is at most this one.
    Time(Timestamp),
}

// ===== impl HistoryReader =====

impl HistoryReader {
    /// Makes a reader of the journal that `records` reads.
    #[must_use]
    pub fn new(records: RecordReader) -> Self {
        let journal = records.journal().clone();
        HistoryReader {
            records,
            blocks: Arc::new(BlockIndex::new(journal.clone())),
            source: BlockSource::new(journal.clone()),
            journal,
            records_read: Arc::default(),
        }
    }

    /// Returns a reader for one read, which ends with [`RecordError::Cancelled`] after `cancellation`.
    #[must_use]
    pub fn until(&self, cancellation: &Cancellation) -> Self {
        let mut reader = self.clone();
        reader.source.cancellation = cancellation.clone();
        reader
    }

    /// Checks that the read may continue.
    ///
    /// # Errors
    /// [`RecordError::Cancelled`] if nobody waits for the read any more.
    pub fn check(&self) -> Result<(), RecordError> {
        self.source.cancellation.check()
    }

    /// The number of records of chains that were read so far.
    #[must_use]
    pub fn records_read(&self) -> u64 {
        self.records_read.load(Ordering::Relaxed)
    }

    /// The number of bytes of blocks that were read so far to look at all of their records.
    #[must_use]
    pub fn bytes_scanned(&self) -> u64 {
        self.source.bytes_read()
    }

    /// Returns the place that separates the records up to `bound` from the later ones: the place after the last record up to `bound`. All
    /// blocks before `end` must be durable.
    ///
    /// # Errors
    /// [`RecordError`] if the journal can't be read.
    pub fn place_after(&self, bound: Bound, end: Position) -> Result<u64, RecordError> {
        let target = match bound {
            Bound::Sequence(0) => return Ok(0),
            Bound::Sequence(sequence) => Target::Sequence(sequence),
            Bound::Time(time) => Target::Time(time.as_nanos()),
        };
        let Some(header) = self.blocks.find(target, end, &self.source.cancellation)? else {
            return Ok(0);
        };
        // A record without a sequence has the ordinal of the next record with a sequence, so it counts as just before that record.
        let last = match bound {
            Bound::Sequence(last) => last.saturating_sub(header.first_sequence),
            Bound::Time(last) => last.as_nanos().saturating_sub(header.base_time_ns),
        };
        let mut walk = BlockWalk::begin(&self.source, header.position, |_| last)?;
        while let Some(record) = walk.next()? {
            if u64::from(record.framed.ordinal) > last {
                return Ok(record.position.as_u64());
            }
        }
        Ok(self.journal.position_after(&header).as_u64())
    }

    /// Returns the balances that an account had just before `bound`, which is a place. `None` if the account did not exist at that place.
    ///
    /// # Errors
    /// [`RecordError`] if the journal can't be read, or is not the journal from which `history` comes.
    pub fn balances_before(&self, history: &History, bound: u64) -> Result<Option<Balances>, RecordError> {
        let mut step = history.search(bound);
        let mut buffer = Vec::new();
        loop {
            if step.place < bound
                && let Some(balances) = step.balances
            {
                return Ok(Some(balances));
            }
            let entry = self.entry(history, step, &mut buffer)?;
            match entry.towards(bound) {
                Some(next) => step = next,
                None => return Ok(None),
            }
        }
    }

    /// Returns the balances that accounts had directly after the record with this key. `candidates` are the positions where the record may
    /// be. The record must exist, and have changed all of the accounts.
    ///
    /// # Errors
    /// [`RecordError`] if the journal can't be read, or is not the journal from which the histories come.
    pub fn balances_after<T>(
        &self,
        key: RecordKey<'_>,
        candidates: &[Position],
        accounts: Vec<(T, History)>,
    ) -> Result<Vec<(T, Balances)>, RecordError> {
        let mut record = None;
        for position in candidates {
            record = self.records.find(*position, key)?;
            if record.is_some() {
                break;
            }
        }
        let first = candidates.first().copied();
        let position = match record {
            Some(record) => record.position(),
            None => return Err(unexpected(first.unwrap_or_else(|| Position::new(0, 0)))),
        };
        let balances = |(account, history): (T, History)| {
            let balances = self.balances_before(&history, position.as_u64() + 1)?;
            Ok((account, balances.ok_or_else(|| unexpected(position))?))
        };
        accounts.into_iter().map(balances).collect()
    }

    /// Returns the terms that an account had just before `bound`, or `None` if it still had the terms with which it was created. The
    /// account must have existed at that place.
    ///
    /// # Errors
    /// [`RecordError`] if the journal can't be read.
    pub fn terms_before(&self, history: &History, bound: u64) -> Result<Option<AccountTerms>, RecordError> {
        let mut buffer = Vec::new();
        let mut step = match history.last_update {
            None => return Ok(None),
            Some(place) if place < bound => return self.terms(history, place, &mut buffer).map(Some),
            // The updates are linked, too, but the search can't follow these links: an account can have any number of updates after the
            // bound.
            Some(_) => history.search(bound),
        };
        loop {
            let entry = self.entry(history, step, &mut buffer)?;
            let next = if entry.place >= bound {
                entry.towards(bound)
            } else {
                match entry.last_update() {
                    LastUpdate::At(place) => return self.terms(history, place, &mut buffer).map(Some),
                    LastUpdate::Never => return Ok(None),
                    LastUpdate::AskPrevious => entry.previous(),
                }
            };
            match next {
                Some(next) => step = next,
                None => return Ok(None),
            }
        }
    }

    /// Reads the terms that the update at `place` gave the account.
    fn terms(
        &self,
        history: &History,
        place: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<AccountTerms, RecordError> {
        let position = Position::from_u64(place);
        self.records_read.fetch_add(1, Ordering::Relaxed);
        let bytes = self.records.read(position, buffer)?;
        match parse_record(position, bytes)?.record {
            Record::AccountUpdated { index, terms, .. } if index == history.account => Ok(terms),
            Record::AccountUpdated { .. }
            | Record::AccountCreated { .. }
            | Record::Committed { .. }
            | Record::HoldExpired { .. }
            | Record::Rejected { .. } => Err(unexpected(position)),
        }
    }

    /// Reads and decodes a record of an account's chain.
    pub(super) fn entry(
        &self,
        history: &History,
        step: Step,
        buffer: &mut Vec<u8>,
    ) -> Result<Entry, RecordError> {
        self.check()?;
        let position = Position::from_u64(step.place);
        self.records_read.fetch_add(1, Ordering::Relaxed);
        let bytes = self.records.read(position, buffer)?;
        let framed = parse_record(position, bytes)?;
        history
            .entry(step, &framed)
            .map_err(|source| RecordError::Malformed { position, source })
    }

    /// Reads a record with its place in the order.
    pub(super) fn found(&self, place: u64) -> Result<FoundRecord, RecordError> {
        self.records.at(Position::from_u64(place))
    }

    /// Returns the number and the hash of the block at `position`. `head` is the end of the durable blocks.
    ///
    /// # Errors
    /// [`RecordError`] if the journal can't be read.
    pub fn block(&self, position: Position, head: &ChainPoint) -> Result<(u64, BlockHash), RecordError> {
        let header = self.journal.read_header(position)?;
        let next = self.journal.position_after(&header);
        // The next block contains the hash of this one.
        let hash = if next >= head.position {
            head.previous_hash
        } else {
            self.journal.read_header(next)?.previous_hash
        };
        Ok((header.block_sequence, hash))
    }

    /// Returns the sequence of the first record that comes after `bound`. `next` is the sequence after the newest durable sequence, and
    /// all blocks before `end` must be durable.
    ///
    /// # Errors
    /// [`RecordError`] if the journal can't be read.
    pub fn sequence_after(&self, bound: Bound, next: u64, end: Position) -> Result<u64, RecordError> {
        let time = match bound {
            Bound::Sequence(sequence) => return Ok(next.min(sequence.saturating_add(1))),
            Bound::Time(time) => time.as_nanos(),
        };
        let Some(block) = self
            .blocks
            .find(Target::Time(time), end, &self.source.cancellation)?
        else {
            return Ok(next.min(1));
        };
        let after = self.journal.position_after(&block);
        let limit = if after < end {
            self.journal.read_header(after)?.first_sequence
        } else {
            next
        };
        // The first sequence of a block has the time of the block, and each further sequence has a time that is 1 ns later.
        let within = (time - block.base_time_ns).saturating_add(1);
        Ok(limit.min(block.first_sequence.saturating_add(within)))
    }
}

pub(super) const fn unexpected(position: Position) -> RecordError {
    RecordError::Malformed {
        position,
        source: Malformed {
            what: "the record to which a later record links",
        },
    }
}
