//! Writes the rejected transactions of an import to a file (`--rejects`).
//!
//! The file has one JSON object per line: `file`, `line`, `transaction_id`, `reason`, `message`, and `transaction` in the form that
//! `tally import` reads. The import writes the rejections of a batch before it sends the next batch.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::Value;

use super::{
    error::ImportError,
    row::Row,
    source::Batch,
    summary::{OTHER, reason_of},
};
use crate::{
    json,
    proto::{TransactionResult, transaction_result},
};

/// The file of rejected transactions.
#[derive(Debug)]
pub(super) struct Rejects {
    out: BufWriter<File>,
}

/// One line of the file.
#[derive(Serialize)]
struct Reject<'a> {
    file: String,
    line: u64,
    transaction_id: &'a str,
    reason: String,
    message: &'a str,
    transaction: Value,
}

// ===== impl Rejects =====

impl Rejects {
    /// Creates the file, and replaces an earlier file of this name.
    ///
    /// # Errors
    /// If the file is one of `inputs`, or can't be created.
    pub(super) fn create(path: &Path, inputs: &[PathBuf]) -> Result<Self, ImportError> {
        let same = |input: &PathBuf| match (fs::metadata(path), fs::metadata(input)) {
            (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
            (Err(_), _) | (_, Err(_)) => false,
        };
        let file = path.to_owned();
        if inputs.iter().any(same) {
            return Err(ImportError::RejectsInput { file });
        }
        match File::create(path) {
            Ok(created) => Ok(Rejects {
                out: BufWriter::new(created),
            }),
            Err(source) => Err(ImportError::Rejects { file, source }),
        }
    }

    /// Writes the rejected transactions of a batch. `results` has one result for each row.
    ///
    /// # Errors
    /// If the file can't be written.
    pub(super) fn write(&mut self, batch: &Batch, results: &[TransactionResult]) -> io::Result<()> {
        for (row, result) in batch.rows.iter().zip(results) {
            let (reason, message) = match &result.outcome {
                Some(transaction_result::Outcome::Committed(_)) => continue,
                Some(transaction_result::Outcome::Error(status)) => {
                    (reason_of(status), status.message.as_str())
                }
                None => (OTHER.to_owned(), "the answer has no outcome"),
            };
            let reject = Reject {
                file: batch.file.display().to_string(),
                line: row.line,
                transaction_id: &row.transaction.transaction_id,
                reason,
                message,
                transaction: transaction(row)?,
            };
            serde_json::to_writer(&mut self.out, &reject)?;
            self.out.write_all(b"\n")?;
        }
        self.out.flush()
    }
}

/// Returns the transaction of a row in JSON.
fn transaction(row: &Row) -> io::Result<Value> {
    let text = json::to_json("ProcessTransactionRequest", &row.transaction).map_err(io::Error::other)?;
    Ok(serde_json::from_str(&text)?)
}
