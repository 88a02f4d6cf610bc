//! The formats of exports.

use clap::ValueEnum;

/// The format of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ExportFormat {
    /// One message of the API on each line.
    Ndjson,
    /// Comma-separated values, with a header.
    Csv,
    /// Apache Parquet. Only in builds with the feature `parquet`.
    Parquet,
}
