//! Why a file of an import can't be read.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use thiserror::Error;

use super::{
    csv::HeaderError,
    encoding::Encoding,
    format::{Format, converting},
    row::{LineCounts, RowError},
};
use crate::terminal::file_advice;

/// Why a file could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(super) enum SourceError {
    /// The file name has no known extension.
    #[error("{}: the file name does not end in .csv, .ndjson or .jsonl; set --format csv or --format ndjson", file.display())]
    Format {
        /// The file.
        file: PathBuf,
    },
    /// The file is compressed, or its text is not UTF-8.
    #[error("{} {}, for example: {}", file.display(), encoding.words(), converting(file, *format, *encoding, given))]
    Encoded {
        /// The file.
        file: PathBuf,
        /// The encoding of the file.
        encoding: Encoding,
        /// The format of the file after the conversion; `Format::default()` if the file name does not show it.
        format: Format,
        /// The options that the user gave.
        given: Arc<str>,
    },
    /// The path is a directory.
    #[error("{} is a directory; name its files", .0.display())]
    Directory(PathBuf),
    /// Standard input has no file name.
    #[error("standard input has no file name that shows its format; set --format csv or --format ndjson")]
    StdinFormat,
    /// The header is not accepted.
    #[error("{}:{}", file.display(), source.line())]
    Header {
        /// The file.
        file: PathBuf,
        /// The error.
        source: HeaderError,
    },
    /// A row is not a valid transaction.
    #[error("{row}; rows from line {unsent_from} on were not imported")]
    Row {
        /// The row.
        row: RowError,
        /// The first line of the batch of this row.
        unsent_from: u64,
    },
    /// The file can't be opened or read.
    #[error("can't read {}: {source}{}", file.display(), file_advice(file, source))]
    Read {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file was modified or replaced during the import.
    #[error("{}: the file changed during the import; rows from line {unsent_from} on were not imported", file.display())]
    Changed {
        /// The file.
        file: PathBuf,
        /// The first line of the batch in which the change was detected.
        unsent_from: u64,
    },
    /// The parsers lost a row: a bug.
    #[error(
        "{}: the file has {lines} lines, but the parser counted {}: {} header lines, {} blank lines and {} rows; this is a bug of tally",
        file.display(), counts.lines(), counts.headers, counts.blank, counts.rows
    )]
    Unaccounted {
        /// The file.
        file: PathBuf,
        /// Lines of the file.
        lines: u64,
        /// Lines that the parser found.
        counts: LineCounts,
    },
}

// ===== impl SourceError =====

impl SourceError {
    /// Returns the error for a file whose name shows no format. `given` are the options that the user gave.
    pub(super) fn of_unknown_format(file: &Path, given: &Arc<str>) -> Self {
        let file = file.to_owned();
        match Encoding::of_file(&file) {
            Some(encoding) => SourceError::Encoded {
                encoding,
                // `statement.csv.gz` is a compressed file in the format `csv`.
                format: Format::Auto.resolve(&file.with_extension("")).unwrap_or_default(),
                given: Arc::clone(given),
                file,
            },
            None => SourceError::Format { file },
        }
    }

    /// Sets the first line of the batch in an error about a row.
    pub(super) fn unsent_from(self, first: Option<u64>) -> Self {
        match (self, first) {
            (SourceError::Row { row, .. }, Some(unsent_from)) => SourceError::Row { row, unsent_from },
            (other, _) => other,
        }
    }
}
