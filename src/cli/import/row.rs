//! Types that all file formats share: a transaction, an account or an update of an account with its line number, and an error in a line.

use std::{fmt, path::PathBuf};

use tally_ledger::id::check_id;
use thiserror::Error;

use crate::proto::{Account, ProcessTransactionRequest, UpdateAccountRequest};

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

/// An update of an account and its line.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct UpdateRow {
    /// The line of the file, from 1.
    pub(super) line: u64,
    /// The update.
    pub(super) request: UpdateAccountRequest,
}

/// An account to create and its line.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct AccountRow {
    /// The line of the file, from 1.
    pub(super) line: u64,
    /// The account.
    pub(super) account: Account,
}

/// A line of a file that is not blank and not a header.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum FileRow {
    /// A transaction.
    Transaction(Row),
    /// An update of an account.
    Update(UpdateRow),
    /// An account to create.
    Account(AccountRow),
}

/// A wrong value in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flaw {
    /// The column, field or byte with the value.
    place: String,
    /// The value and its bound, as the predicate of `place`.
    problem: String,
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
    /// Lines with a transaction, an account or an update that was handed over to be sent.
    pub(super) rows: u64,
}

// ===== impl Row =====

impl Row {
    /// Returns the transaction that this row posts, voids or reverses.
    pub(super) fn named(&self) -> Option<&str> {
        let ProcessTransactionRequest {
            pending_transaction_id,
            reverses_transaction_id,
            ..
        } = &self.transaction;
        [pending_transaction_id, reverses_transaction_id]
            .into_iter()
            .find(|id| !id.is_empty())
            .map(String::as_str)
    }
}

// ===== impl UpdateRow =====

impl UpdateRow {
    /// Returns the id of the account; empty if the update names none.
    pub(super) fn account_id(&self) -> &str {
        let account = self.request.account.as_ref();
        account.map_or("", |account| &account.id)
    }
}

// ===== impl FileRow =====

impl FileRow {
    /// Returns the line, from 1.
    pub(super) const fn line(&self) -> u64 {
        match self {
            FileRow::Transaction(row) => row.line,
            FileRow::Update(row) => row.line,
            FileRow::Account(row) => row.line,
        }
    }
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
            problem: format!("is {shown:?}, expected {}", expected.into()),
        }
    }

    /// Creates the error for `place` whose value and bound are in `problem`.
    pub(super) fn of_problem(place: impl Into<String>, problem: String) -> Self {
        Flaw {
            place: place.into(),
            problem,
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
        let Flaw { place, problem } = self;
        write!(f, "{place} {problem}")
    }
}
