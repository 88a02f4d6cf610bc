//! Files, read on a thread of their own and cut into batches.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use clap::ValueEnum;
use prost::Message;
use thiserror::Error;
use tokio::sync::mpsc;

use super::{
    bank,
    csv::{CsvRows, HeaderError, Shape},
    lines::ReadError,
    ndjson::NdjsonRows,
    row::{Row, RowError},
};

/// A batch is closed early when its transactions take more than this: a message may have 16 MiB.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// Batches that are read ahead while one is under way.
const BATCHES_AHEAD: usize = 2;
/// Bytes that are read at once.
const READ_BYTES: usize = 256 << 10;

/// How a file is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// By the file's name: .csv, .ndjson, .jsonl.
    #[default]
    Auto,
    /// Comma-separated values; the header says what the columns mean.
    Csv,
    /// One ProcessTransactionRequest in each line, in its JSON form.
    Ndjson,
}

/// Why a file could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(super) enum SourceError {
    /// Its name does not tell its format.
    #[error("{}: can't tell the format from the name; give --format", file.display())]
    Format {
        /// The file.
        file: PathBuf,
    },
    /// The header is not known.
    #[error("{}:1", file.display())]
    Header {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        source: HeaderError,
    },
    /// A row can't be understood.
    #[error(transparent)]
    Row(#[from] RowError),
    /// It can't be opened or read.
    #[error("can't read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Rows of one file that are sent together.
#[derive(Debug)]
pub(super) struct Batch {
    /// The file.
    pub(super) file: Arc<Path>,
    /// In the file's order.
    pub(super) rows: Vec<Row>,
    /// The asset of the file's accounts if the format says so.
    pub(super) asset: Option<&'static str>,
    /// Bytes that have been read of all files so far.
    pub(super) bytes_read: u64,
}

/// An open file.
#[derive(Debug)]
pub(super) struct Source {
    file: Arc<Path>,
    rows: Rows,
    bytes_read: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Rows {
    Csv(Box<CsvRows<BufReader<Counted>>>),
    Ndjson(NdjsonRows<BufReader<Counted>>),
}

/// Counts what is read.
#[derive(Debug)]
struct Counted {
    file: File,
    /// Written here only; shared because the reader is inside others that do not give it back.
    bytes: Arc<AtomicU64>,
}

// ===== impl Format =====

impl Format {
    fn of(self, file: &Path) -> Option<Self> {
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

// ===== impl Source =====

impl Source {
    /// Opens `file`, and reads its header if it has one.
    ///
    /// # Errors
    /// [`SourceError`].
    pub(super) fn open(file: &Path, format: Format) -> Result<Self, SourceError> {
        let format = format.of(file).ok_or_else(|| SourceError::Format {
            file: file.to_owned(),
        })?;
        let bytes_read = Arc::new(AtomicU64::new(0));
        let opened = File::open(file).map_err(|source| SourceError::Read {
            file: file.to_owned(),
            source,
        })?;
        let counted = Counted {
            file: opened,
            bytes: Arc::clone(&bytes_read),
        };
        let reader = BufReader::with_capacity(READ_BYTES, counted);
        let rows = if format == Format::Ndjson {
            Rows::Ndjson(NdjsonRows::new(reader))
        } else {
            let rows = CsvRows::new(reader);
            Rows::Csv(Box::new(rows.map_err(|source| SourceError::Header {
                file: file.to_owned(),
                source,
            })?))
        };
        Ok(Source {
            file: file.into(),
            rows,
            bytes_read,
        })
    }

    /// What the columns mean, if there are columns.
    pub(super) fn shape(&self) -> Option<Shape> {
        match &self.rows {
            Rows::Csv(rows) => Some(rows.shape()),
            Rows::Ndjson(_) => None,
        }
    }

    /// The asset of the file's accounts if the format says so.
    pub(super) fn asset(&self) -> Option<&'static str> {
        self.shape()
            .filter(|shape| *shape == Shape::BankStatement)
            .map(|_| bank::ASSET)
    }

    fn next(&mut self) -> Result<Option<Row>, SourceError> {
        let row = match &mut self.rows {
            Rows::Csv(rows) => rows.next(),
            Rows::Ndjson(rows) => rows.next(),
        };
        let file = || self.file.to_path_buf();
        row.map_err(|error| match error {
            ReadError::Flaw { line, flaw } => SourceError::Row(RowError {
                file: file(),
                line,
                flaw,
            }),
            ReadError::Io(source) => SourceError::Read { file: file(), source },
        })
    }

    /// The next batch of up to `rows_max` rows; `None` at the end. A flaw takes its whole batch with it.
    ///
    /// # Errors
    /// [`SourceError`].
    pub(super) fn next_batch(&mut self, rows_max: usize) -> Result<Option<Batch>, SourceError> {
        let mut rows = Vec::with_capacity(rows_max);
        let mut bytes = 0;
        while rows.len() < rows_max && bytes < BATCH_BYTES_MAX {
            let Some(row) = self.next()? else { break };
            bytes += row.transaction.encoded_len();
            rows.push(row);
        }
        let bytes_read = self.bytes_read.load(Ordering::Relaxed);
        let batch = Batch {
            file: Arc::clone(&self.file),
            rows,
            asset: self.asset(),
            bytes_read,
        };
        Ok((!batch.rows.is_empty()).then_some(batch))
    }
}

// ===== impl Counted =====

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Reads `files` one after the other on a thread of their own, a few batches ahead of whoever takes them. An error is the
/// last thing that comes.
pub(super) fn read_ahead(
    files: Vec<PathBuf>,
    format: Format,
    rows_max: usize,
) -> mpsc::Receiver<Result<Batch, SourceError>> {
    let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut bytes_before = 0;
        for file in files {
            match read_file(&file, format, rows_max, bytes_before, &sender) {
                Ok(bytes) => bytes_before += bytes,
                Err(error) => {
                    // If nobody takes it, nobody wants to know.
                    let _ = sender.blocking_send(Err(error));
                    return;
                }
            }
        }
    });
    receiver
}

/// Says how many bytes the file had.
fn read_file(
    file: &Path,
    format: Format,
    rows_max: usize,
    bytes_before: u64,
    sender: &mpsc::Sender<Result<Batch, SourceError>>,
) -> Result<u64, SourceError> {
    let mut source = Source::open(file, format)?;
    while let Some(mut batch) = source.next_batch(rows_max)? {
        batch.bytes_read += bytes_before;
        if sender.blocking_send(Ok(batch)).is_err() {
            break;
        }
    }
    Ok(source.bytes_read.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn csv(dir: &Path, name: &str, ids: std::ops::Range<u32>, tail: &str) -> PathBuf {
        let rows: String = ids.map(|id| format!("t{id},a,b,1\n")).collect();
        let path = dir.join(name);
        fs::write(
            &path,
            format!("transaction_id,debit_account_id,credit_account_id,minor_units\n{rows}{tail}"),
        )
        .unwrap();
        path
    }

    #[test]
    fn the_name_tells_the_format_unless_it_is_given() {
        for (name, format, expected) in [
            ("a.csv", Format::Auto, Some(Format::Csv)),
            ("a.CSV", Format::Auto, Some(Format::Csv)),
            ("a.ndjson", Format::Auto, Some(Format::Ndjson)),
            ("a.jsonl", Format::Auto, Some(Format::Ndjson)),
            ("a.txt", Format::Auto, None),
            ("a", Format::Auto, None),
            ("a.txt", Format::Csv, Some(Format::Csv)),
            ("a.csv", Format::Ndjson, Some(Format::Ndjson)),
        ] {
            assert_eq!(format.of(Path::new(name)), expected, "{name} {format:?}");
        }
    }

    #[tokio::test]
    async fn files_come_in_order_and_a_batch_never_spans_two() {
        let dir = tempfile::tempdir().unwrap();
        let files = vec![
            csv(dir.path(), "a.csv", 0..5, ""),
            csv(dir.path(), "b.csv", 5..7, ""),
        ];
        let total: u64 = files.iter().map(|file| fs::metadata(file).unwrap().len()).sum();
        let mut batches = read_ahead(files, Format::Auto, 2);
        let mut sizes = Vec::new();
        let mut ids = Vec::new();
        let mut bytes = 0;
        while let Some(batch) = batches.recv().await {
            let batch = batch.unwrap();
            sizes.push(batch.rows.len());
            assert!(batch.bytes_read >= bytes);
            bytes = batch.bytes_read;
            ids.extend(batch.rows.into_iter().map(|row| row.transaction.transaction_id));
        }
        assert_eq!(sizes, [2, 2, 1, 2]);
        assert_eq!(ids, ["t0", "t1", "t2", "t3", "t4", "t5", "t6"]);
        assert_eq!(bytes, total);
    }

    #[tokio::test]
    async fn a_flaw_takes_its_batch_with_it_and_ends_the_reading() {
        let dir = tempfile::tempdir().unwrap();
        let bad = csv(dir.path(), "bad.csv", 0..5, "t5,a,b,none\nt6,a,b,1\n");
        let mut batches = read_ahead(vec![bad.clone(), bad.clone()], Format::Auto, 4);
        assert_eq!(batches.recv().await.unwrap().unwrap().rows.len(), 4);
        let error = batches.recv().await.unwrap().unwrap_err().to_string();
        let expected = format!(
            "{}:7: column \"minor_units\" is \"none\", expected whole minor units",
            bad.display()
        );
        assert!(error.starts_with(&expected), "{error}");
        assert!(batches.recv().await.is_none());
    }

    #[test]
    fn a_batch_is_closed_before_it_outgrows_a_message() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large.ndjson");
        let transfer = format!(
            r#"{{"debitAccountId":"{0}","creditAccountId":"{0}","minorUnits":"1"}}"#,
            "x".repeat(64)
        );
        let transfers = vec![transfer; 256].join(",");
        let lines: String = (0..300)
            .map(|id| format!("{{\"transactionId\":\"t{id}\",\"transfers\":[{transfers}]}}\n"))
            .collect();
        fs::write(&path, lines).unwrap();
        let mut source = Source::open(&path, Format::Auto).unwrap();
        let first = source.next_batch(8192).unwrap().expect("a batch");
        let bytes: usize = first.rows.iter().map(|row| row.transaction.encoded_len()).sum();
        assert!(
            (BATCH_BYTES_MAX..BATCH_BYTES_MAX + (64 << 10)).contains(&bytes),
            "{bytes}"
        );
        let second = source.next_batch(8192).unwrap().expect("the rest");
        assert_eq!(first.rows.len() + second.rows.len(), 300);
        assert!(source.next_batch(8192).unwrap().is_none());
    }

    #[test]
    fn only_a_bank_statement_says_its_asset() {
        let dir = tempfile::tempdir().unwrap();
        let native = Source::open(&csv(dir.path(), "a.csv", 0..1, ""), Format::Auto).unwrap();
        assert_eq!((native.shape(), native.asset()), (Some(Shape::Native), None));
        let path = dir.path().join("bank.csv");
        fs::write(
            &path,
            "transaction_id,date,account_id,side,kind,amount,rounding,balance_after\n",
        )
        .unwrap();
        let bank = Source::open(&path, Format::Auto).unwrap();
        assert_eq!(
            (bank.shape(), bank.asset()),
            (Some(Shape::BankStatement), Some("CZK"))
        );
    }
}
