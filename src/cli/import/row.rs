//! What the formats have in common: a transaction and where it came from, or what is wrong there.

use std::{fmt, path::PathBuf};

use thiserror::Error;

use crate::{id::check_id, proto::ProcessTransactionRequest};

/// Characters of a bad value that are shown.
const SHOWN_CHARS_MAX: usize = 80;

/// A transaction, and where it came from.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    /// The line of the file, from 1.
    pub(super) line: u64,
    /// The transaction.
    pub(super) transaction: ProcessTransactionRequest,
}

/// Something that a row should not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flaw {
    /// Which column, field or character.
    pub(super) place: String,
    /// What is there, shortened.
    pub(super) value: String,
    /// What should be.
    pub(super) expected: String,
}

/// A row that can't be read as a transaction.
#[derive(Debug, Error)]
#[error("{}:{line}: {flaw}", file.display())]
pub(super) struct RowError {
    /// The file.
    pub(super) file: PathBuf,
    /// The line, from 1.
    pub(super) line: u64,
    /// What is wrong there.
    pub(super) flaw: Flaw,
}

/// What was made of the lines of files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// Lines that are headers.
    pub(super) headers: u64,
    /// Lines that have nothing in them.
    pub(super) blank: u64,
    /// Lines that are transactions, which are in batches.
    pub(super) rows: u64,
}

// ===== impl Account =====

impl Account {
    /// All lines that are accounted for.
    pub(super) const fn lines(&self) -> u64 {
        self.headers + self.blank + self.rows
    }
}

impl std::ops::AddAssign for Account {
    fn add_assign(&mut self, other: Self) {
        self.headers += other.headers;
        self.blank += other.blank;
        self.rows += other.rows;
    }
}

// ===== impl Flaw =====

impl Flaw {
    /// `place` has `value`.
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

    /// `place` has `value`, which is not an id.
    pub(super) fn of_id(place: impl Into<String>, value: &str) -> Option<Self> {
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
