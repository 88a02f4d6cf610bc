//! Types that all file formats share: a transaction with its line number, and an error in a line.

use std::{fmt, path::PathBuf};

use tally_ledger::id::check_id;
use thiserror::Error;

use crate::proto::ProcessTransactionRequest;

/// Maximum number of characters of a wrong value that an error shows.
const SHOWN_CHARS_MAX: usize = 80;

/// A transaction and its line.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    /// The line of the file, from 1.
    pub(super) line: u64,
    /// The transaction.
    pub(super) transaction: ProcessTransactionRequest,
}

/// A wrong value in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flaw {
    /// The column, field or byte with the value.
    pub(super) place: String,
    /// The wrong value, shortened.
    pub(super) value: String,
    /// The valid values.
    pub(super) expected: String,
}

/// A row that is not a valid transaction.
#[derive(Debug, Error)]
#[error("{}:{line}: {flaw}", file.display())]
pub(super) struct RowError {
    /// The file.
    pub(super) file: PathBuf,
    /// The line, from 1.
    pub(super) line: u64,
    /// The wrong value.
    pub(super) flaw: Flaw,
}

/// Numbers of lines by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LineCounts {
    /// Header lines.
    pub(super) headers: u64,
    /// Blank lines.
    pub(super) blank: u64,
    /// Lines whose transaction is in a batch.
    pub(super) rows: u64,
}

// ===== impl LineCounts =====

impl LineCounts {
    /// Returns the number of lines of all kinds.
    pub(super) const fn lines(&self) -> u64 {
        self.headers + self.blank + self.rows
    }
}

impl std::ops::AddAssign for LineCounts {
    fn add_assign(&mut self, other: Self) {
        self.headers += other.headers;
        self.blank += other.blank;
        self.rows += other.rows;
    }
}

// ===== impl Flaw =====

impl Flaw {
    /// Creates the error for `value` at `place`.
    pub(super) fn new(place: impl Into<String>, value: &str, expected: impl Into<String>) -> Self {
        let mut shown: String = value.chars().take(SHOWN_CHARS_MAX).collect();
        if shown.len() < value.len() {
            shown.push('…');
        }
        Flaw {
            place: place.into(),
            value: shown,
            expected: expected.into(),
        }
    }

    /// Returns an error if `value` in `place` is not a valid id.
    pub(super) fn check_id(place: impl Into<String>, value: &str) -> Option<Self> {
        let error = check_id(value).err()?;
        Some(Flaw::new(
            place,
            value,
            format!("an id of 1 to 64 characters of A-Z a-z 0-9 _ - . : / @ (it {error})"),
        ))
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Flaw {
            place,
            value,
            expected,
        } = self;
        write!(f, "{place} is {value:?}, expected {expected}")
    }
}
