//! All records with a sequence, in their order.

use tally_journal::Position;

use super::{
    block_index::Target,
    block_walk::{BlockWalk, walk_back},
    reader::HistoryReader,
    statement::Order,
};
use crate::store::embedded::{error::RecordError, record_reader::FoundRecord};

/// Maximum memory of the records of a page, in bytes. A page ends when its records have reached this size, so they can exceed it by one
/// record.
pub const TRANSACTIONS_BYTES_MAX: usize = 1 << 20;
/// Maximum number of bytes of the journal that are read for a page. A filter can leave out almost all records, so the size of the page is
/// no bound.
const SCAN_BYTES_MAX: u64 = 16 << 20;
/// Number of bytes that a block counts in addition to its own bytes, because its header is read separately.
const SCAN_BYTES_OF_BLOCK: u64 = 1 << 10;

/// Some records, in the order of the page.
#[derive(Debug, Default)]
pub struct TransactionPage {
    /// The records that the filter has accepted.
    pub records: Vec<FoundRecord>,
    /// The sequence of the first record that was not looked at, if the range has more.
    pub next: Option<u64>,
}

/// Collects a page.
struct Collector<'a, F> {
    page: TransactionPage,
    filter: &'a F,
    limit: usize,
    bytes_max: usize,
    bytes: usize,
}

// ===== impl HistoryReader =====

impl HistoryReader {
    /// Reads at most `limit` records (at least 1) that `filter` accepts, with sequences from `from` (inclusive) to `to` (exclusive). A
    /// page can be short, even empty, although the range has more: it ends after a bounded number of bytes. All blocks before `end`
    /// must be durable.
    ///
    /// # Errors
    /// [`RecordError`] if the journal can't be read.
    pub fn transactions(
        &self,
        (from, to): (u64, u64),
        order: Order,
        limit: usize,
        end: Position,
        filter: &impl Fn(&FoundRecord) -> bool,
    ) -> Result<TransactionPage, RecordError> {
        let mut collector = Collector {
            page: TransactionPage::default(),
            filter,
            limit,
            bytes_max: TRANSACTIONS_BYTES_MAX,
            bytes: 0,
        };
        if from < to {
            match order {
                Order::OldestFirst => self.scan_forward(from, to, end, &mut collector)?,
                Order::NewestFirst => self.scan_back(from, to, end, &mut collector)?,
            }
        }
        Ok(collector.page)
    }

    /// Does the same as [`HistoryReader::transactions`] with [`Order::OldestFirst`], but limits the memory of the records instead of
    /// their number: to `bytes_max`, which one record may exceed.
    ///
    /// # Errors
    /// [`RecordError`] if the journal can't be read.
    pub fn transactions_within(
        &self,
        (from, to): (u64, u64),
        bytes_max: usize,
        end: Position,
        filter: &impl Fn(&FoundRecord) -> bool,
    ) -> Result<TransactionPage, RecordError> {
        let mut collector = Collector {
            page: TransactionPage::default(),
            filter,
            limit: usize::MAX,
            bytes_max,
            bytes: 0,
        };
        if from < to {
            self.scan_forward(from, to, end, &mut collector)?;
        }
        Ok(collector.page)
    }

    /// Reads the records with a sequence of the blocks from `position` up to `end`. Stops after the block with which it has read
    /// `bytes_max` bytes. Returns the records, and the position of the next block. All blocks before `end` must be durable.
    ///
    /// # Errors
    /// [`RecordError`] if the journal can't be read.
    pub fn blocks_from(
        &self,
        position: Position,
        end: Position,
        bytes_max: u64,
    ) -> Result<(Vec<FoundRecord>, Position), RecordError> {
        let (mut next, mut bytes) = (position, 0);
        let mut records = Vec::new();
        while next < end && bytes < bytes_max {
            let mut walk = BlockWalk::begin(&self.source, next, |_| 0)?;
            while let Some(record) = walk.next()? {
                if record.framed.record.has_sequence() {
                    records.push(record.to_found()?);
                }
            }
            bytes += u64::from(walk.header().body_bytes);
            next = self.journal.position_after(walk.header());
        }
        Ok((records, next))
    }

    fn scan_forward<F: Fn(&FoundRecord) -> bool>(
        &self,
        from: u64,
        to: u64,
        end: Position,
        page: &mut Collector<'_, F>,
    ) -> Result<(), RecordError> {
        let first = self
            .blocks
            .find(Target::Sequence(from), end, &self.source.cancellation)?;
        let mut next = first.map_or(Position::new(0, 0), |header| header.position);
        let mut scanned = 0;
        while next < end {
            let mut walk = BlockWalk::begin(&self.source, next, |block| {
                from.saturating_sub(block.first_sequence)
            })?;
            let first_sequence = walk.header().first_sequence;
            if first_sequence >= to {
                return Ok(());
            }
            if scanned >= SCAN_BYTES_MAX {
                page.page.next = Some(first_sequence.max(from));
                return Ok(());
            }
            while let Some(record) = walk.next()? {
                let sequence = first_sequence.saturating_add(u64::from(record.framed.ordinal));
                if sequence >= to {
                    return Ok(());
                }
                if record.framed.record.has_sequence()
                    && sequence >= from
                    && !page.add(record.to_found()?, from, to)
                {
                    return Ok(());
                }
            }
            scanned += u64::from(walk.header().body_bytes) + SCAN_BYTES_OF_BLOCK;
            next = self.journal.position_after(walk.header());
        }
        Ok(())
    }

    fn scan_back<F: Fn(&FoundRecord) -> bool>(
        &self,
        from: u64,
        to: u64,
        end: Position,
        page: &mut Collector<'_, F>,
    ) -> Result<(), RecordError> {
        let last = self
            .blocks
            .find(Target::Sequence(to - 1), end, &self.source.cancellation)?;
        let Some(last) = last else {
            return Ok(());
        };
        let mut upper = self.journal.position_after(&last);
        let mut scanned = 0;
        loop {
            let blocks = self.blocks.before(upper, &self.source.cancellation)?;
            let Some(lowest) = blocks.first().copied() else {
                return Ok(());
            };
            for position in blocks.into_iter().rev() {
                let (block, is_complete) = walk_back(&self.source, position, to, |record| {
                    record.place().sequence >= from && page.add(record, from, to)
                })?;
                scanned += u64::from(block.body_bytes) + SCAN_BYTES_OF_BLOCK;
                if !is_complete || block.first_sequence <= from {
                    return Ok(());
                }
                if scanned >= SCAN_BYTES_MAX {
                    page.page.next = Some(block.first_sequence - 1);
                    return Ok(());
                }
            }
            upper = lowest;
        }
    }
}

// ===== impl Collector =====

impl<F: Fn(&FoundRecord) -> bool> Collector<'_, F> {
    /// Adds a record if it is in the range and the filter accepts it. Returns `false` if the page is full.
    fn add(&mut self, found: FoundRecord, from: u64, to: u64) -> bool {
        let sequence = found.place().sequence;
        if !(from..to).contains(&sequence) || !(self.filter)(&found) {
            return true;
        }
        if self.page.records.len() >= self.limit || self.bytes >= self.bytes_max {
            self.page.next = Some(sequence);
            return false;
        }
        self.bytes += found.memory_bytes();
        self.page.records.push(found);
        true
    }
}
