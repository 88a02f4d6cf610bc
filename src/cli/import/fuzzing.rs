//! Lets the fuzz targets (`tests/it/fuzz/import.rs`) call the readers of CSV and NDJSON. The command line does not use this
//! module.

use std::sync::Arc;

use super::{
    csv::CsvRows,
    lines::ReadError,
    mapping::{Mapping, Pair},
    ndjson::NdjsonRows,
    row::FileRow,
};
use crate::proto::{Account, ProcessTransactionRequest, UpdateAccountRequest};

/// The names of columns and kinds in a CSV file, each as on the command line: `NAME=NAME-IN-FILE`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// `--columns`.
    pub columns: Vec<String>,
    /// `--ignore-columns`.
    pub ignored: Vec<String>,
    /// `--kinds`.
    pub kinds: Vec<String>,
}

/// A file that was read to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadFile {
    /// The transactions with their lines, from 1.
    pub rows: Vec<(u64, ProcessTransactionRequest)>,
    /// The updates of accounts with their lines.
    pub updates: Vec<(u64, UpdateAccountRequest)>,
    /// The accounts to create with their lines.
    pub accounts: Vec<(u64, Account)>,
    /// Number of header lines.
    pub headers: u64,
    /// Number of blank lines.
    pub blank: u64,
}

/// Why a file was rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The line, from 1; 0 if an option or the whole file is the cause.
    pub line: u64,
    /// The message for the user.
    pub message: String,
}

/// Reads a CSV file.
///
/// # Errors
/// [`Rejected`].
pub fn read_csv(bytes: &[u8], names: &Names) -> Result<ReadFile, Rejected> {
    let option_error = |message: String| Rejected { line: 0, message };
    let pairs = |texts: &[String], parse: fn(&str) -> Result<Pair, String>| -> Result<Vec<Pair>, Rejected> {
        let parsed = texts.iter().map(|text| parse(text));
        parsed.collect::<Result<_, _>>().map_err(option_error)
    };
    let mapping = Mapping::new(
        pairs(&names.columns, Pair::of_column)?,
        names.ignored.clone(),
        pairs(&names.kinds, Pair::of_kind)?,
    )
    .map_err(|error| option_error(error.to_string()))?;
    let mut csv = CsvRows::new(bytes, Arc::new(mapping)).map_err(|error| Rejected {
        line: error.line(),
        message: error.to_string(),
    })?;
    let mut rows = Vec::new();
    while let Some(row) = csv.next().map_err(rejected)? {
        rows.push((row.line, row.transaction));
    }
    Ok(ReadFile {
        rows,
        updates: Vec::new(),
        accounts: Vec::new(),
        headers: 1,
        blank: csv.blank(),
    })
}

/// Reads an NDJSON file.
///
/// # Errors
/// [`Rejected`].
pub fn read_ndjson(bytes: &[u8]) -> Result<ReadFile, Rejected> {
    let mut ndjson = NdjsonRows::new(bytes);
    let (mut rows, mut updates, mut accounts) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(row) = ndjson.next().map_err(rejected)? {
        match row {
            FileRow::Transaction(row) => rows.push((row.line, row.transaction)),
            FileRow::Update(row) => updates.push((row.line, row.request)),
            FileRow::Account(row) => accounts.push((row.line, row.account)),
        }
    }
    Ok(ReadFile {
        rows,
        updates,
        accounts,
        headers: 0,
        blank: ndjson.blank(),
    })
}

fn rejected(error: ReadError) -> Rejected {
    match error {
        ReadError::Flaw { line, flaw } => Rejected {
            line,
            message: flaw.to_string(),
        },
        ReadError::Encoded(encoding) => Rejected {
            line: 0,
            message: encoding.words().to_owned(),
        },
        ReadError::Io(error) => Rejected {
            line: 0,
            message: error.to_string(),
        },
    }
}
