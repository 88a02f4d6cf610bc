//! The formats of files, and files that are compressed.

use std::{fs::File, io::Read, path::Path};

use clap::ValueEnum;

use super::lines::GZIP;

/// The format of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Chosen by the file name: .csv, .ndjson, .jsonl.
    #[default]
    Auto,
    /// Comma-separated values with a header.
    Csv,
    /// One tally.v1.ProcessTransactionRequest per line, as JSON.
    Ndjson,
}

/// The name of standard input in messages.
pub(super) const STDIN_NAME: &str = "standard input";

// ===== impl Format =====

impl Format {
    /// Returns the format: the chosen one, or the one that the name of the file shows. `None` if it shows none.
    pub(super) fn resolve(self, file: &Path) -> Option<Self> {
        match self {
            Format::Csv | Format::Ndjson => Some(self),
            Format::Auto => match file.extension()?.to_str()?.to_ascii_lowercase().as_str() {
                "csv" => Some(Format::Csv),
                "ndjson" | "jsonl" => Some(Format::Ndjson),
                _ => None,
            },
        }
    }
}

/// Returns whether a regular file begins as a gzip file. A pipe is not read, because its content can't be read again.
pub(super) fn is_gzip(file: &Path) -> bool {
    let mut start = [0; GZIP.len()];
    file.is_file()
        && File::open(file).is_ok_and(|mut file| file.read_exact(&mut start).is_ok())
        && start == GZIP
}

/// Returns a command that unpacks a file and imports it.
pub(super) fn unpacking(file: &Path, format: Format) -> String {
    let format = match format {
        Format::Auto => "FORMAT",
        Format::Csv => "csv",
        Format::Ndjson => "ndjson",
    };
    if file == Path::new(STDIN_NAME) {
        format!("gzip -dc | tally import --format {format} -")
    } else {
        format!("zcat {} | tally import --format {format} -", file.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_to_unpack_names_the_file_and_the_format() {
        for (file, format, expected) in [
            (
                "a.csv.gz",
                Format::Csv,
                "zcat a.csv.gz | tally import --format csv -",
            ),
            ("a", Format::Auto, "zcat a | tally import --format FORMAT -"),
            (
                STDIN_NAME,
                Format::Ndjson,
                "gzip -dc | tally import --format ndjson -",
            ),
        ] {
            assert_eq!(unpacking(Path::new(file), format), expected);
        }
    }
}
