//! The statement of an account: the rows of its records, with the balances after each.

use std::collections::VecDeque;

use tally_ledger::{
    History,
    history::{Entry, Row},
};

use super::reader::HistoryReader;
use crate::store::embedded::{error::RecordError, record_reader::FoundRecord};

/// Maximum memory of the records of a page, in bytes. A page ends when its records have reached this size, so they can exceed it by
/// one record.
pub const STATEMENT_BYTES_MAX: usize = 1 << 20;

/// Maximum number of records that are followed for a page. Updates of the account have no rows, so a maximum number of rows does not
/// bound the number of records.
const RECORDS_MAX: usize = 8192;
/// Maximum number of records between two waypoints that are kept in memory.
const STRETCH_MAX: usize = 4096;

/// In which order a statement is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The newest row first.
    NewestFirst,
    /// The oldest row first.
    OldestFirst,
}

/// The place of a row: its record, and its index among the rows that the record has for the account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowPlace {
    /// The place of the record.
    pub record: u64,
    /// The index of the row.
    pub row: u32,
}

/// A record of an account, and some of its rows.
#[derive(Debug)]
pub struct StatementRow {
    /// The index of the row's record in [`Page::records`].
    pub record: usize,
    /// The row.
    pub row: Row,
}

/// Some rows of a statement.
#[derive(Debug, Default)]
pub struct Page {
    /// The records of the rows, each once, in the order of the page.
    pub records: Vec<FoundRecord>,
    /// The rows, in the order of the page.
    pub rows: Vec<StatementRow>,
    /// The first row that is not in the page, if the range has more.
    pub next: Option<RowPlace>,
}

/// Collects a page.
struct Collector<'a> {
    reader: &'a HistoryReader,
    page: Page,
    rows_max: usize,
    bytes: usize,
    records: usize,
}

// ===== impl HistoryReader =====

impl HistoryReader {
    /// Reads at most `rows_max` rows of an account (at least 1), with places from `from` (inclusive) to `to` (exclusive). The page
    /// contains the rows in `order`.
    ///
    /// # Errors
    /// [`RecordError`] if the journal can't be read, or is not the journal from which `history` comes.
    pub fn statement(
        &self,
        history: &History,
        (from, to): (RowPlace, RowPlace),
        order: Order,
        rows_max: usize,
    ) -> Result<Page, RecordError> {
        let mut collector = Collector {
            reader: self,
            page: Page::default(),
            rows_max,
            bytes: 0,
            records: 0,
        };
        match order {
            Order::NewestFirst => self.read_back(history, from, to, &mut collector)?,
            Order::OldestFirst => self.read_forward(history, from, to, &mut collector)?,
        }
        Ok(collector.page)
    }

    fn read_back(
        &self,
        history: &History,
        from: RowPlace,
        to: RowPlace,
        page: &mut Collector<'_>,
    ) -> Result<(), RecordError> {
        // The record that contains the upper end may have rows before this end.
        let bound = to.record.saturating_add(u64::from(to.row > 0));
        let mut step = Some(history.search(bound));
        let mut buffer = Vec::new();
        while let Some(at) = step
            && (at.place >= from.record)
        {
            let entry = self.entry(history, at, &mut buffer)?;
            if entry.place >= bound {
                step = entry.towards(bound);
                continue;
            }
            if !page.add(&entry, from, to, Order::NewestFirst)? {
                return Ok(());
            }
            step = entry.previous();
        }
        Ok(())
    }

    /// The chain leads only backwards. So this method reads the records from the next waypoint back to the lower end, then the records
    /// from the waypoint after it back to that waypoint, and so on.
    fn read_forward(
        &self,
        history: &History,
        from: RowPlace,
        to: RowPlace,
        page: &mut Collector<'_>,
    ) -> Result<(), RecordError> {
        let mut bound = from.record;
        loop {
            let stretch = self.stretch(history, bound)?;
            let Some(newest) = stretch.front().map(|entry| entry.place) else {
                return Ok(());
            };
            for entry in stretch.iter().rev() {
                if entry.place > to.record || !page.add(entry, from, to, Order::OldestFirst)? {
                    return Ok(());
                }
            }
            if newest >= history.newest.place {
                return Ok(());
            }
            bound = newest + 1;
        }
    }

    /// Reads the records of an account from `bound` to the next waypoint or to the newest record. Returns the newest record first.
    fn stretch(&self, history: &History, bound: u64) -> Result<VecDeque<Entry>, RecordError> {
        let mut stretch: VecDeque<Entry> = VecDeque::new();
        let mut step = Some(history.search(bound));
        let mut buffer = Vec::new();
        while let Some(at) = step
            && at.place >= bound
        {
            // The next stretch begins after this waypoint, so this stretch needs no newer record.
            let entry = self.entry(history, at, &mut buffer)?;
            if entry.is_waypoint() {
                stretch.clear();
            }
            step = entry.towards(bound);
            stretch.push_back(entry);
            // The oldest records are needed first. The next stretch contains the others.
            if stretch.len() > STRETCH_MAX {
                stretch.pop_front();
            }
        }
        Ok(stretch)
    }
}

// ===== impl Collector =====

impl Collector<'_> {
    /// Adds the rows of a record that are in the range. Returns `false` if the page is full.
    fn add(
        &mut self,
        entry: &Entry,
        from: RowPlace,
        to: RowPlace,
        order: Order,
    ) -> Result<bool, RecordError> {
        let mut rows: Vec<(RowPlace, Row)> = (0..)
            .zip(&entry.rows)
            .map(|(row, content)| {
                let record = entry.place;
                (RowPlace { record, row }, *content)
            })
            .filter(|(place, _)| from <= *place && *place < to)
            .collect();
        if order == Order::NewestFirst {
            rows.reverse();
        }
        self.records += 1;
        if rows.is_empty() && self.records >= RECORDS_MAX {
            // The next page reads this record again, and then continues with the record after it.
            self.page.next = Some(RowPlace {
                record: entry.place,
                row: 0,
            });
            return Ok(false);
        }
        let mut record = None;
        for (place, row) in rows {
            if self.page.rows.len() >= self.rows_max || self.bytes >= STATEMENT_BYTES_MAX {
                self.page.next = Some(place);
                return Ok(false);
            }
            let record = match record {
                Some(record) => record,
                None => {
                    let found = self.reader.found(entry.place)?;
                    self.bytes += found.memory_bytes();
                    self.page.records.push(found);
                    *record.insert(self.page.records.len() - 1)
                }
            };
            self.page.rows.push(StatementRow { record, row });
        }
        Ok(true)
    }
}
