//! Files, read on a thread of their own and cut into batches.

use std::{
    io::{self, BufReader},
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::ValueEnum;
use prost::Message;
use thiserror::Error;
use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    bank,
    csv::{CsvRows, HeaderError, Shape},
    input::{self, Input, Version, Watch},
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
    #[error("{}:{}", file.display(), source.line())]
    Header {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        source: HeaderError,
    },
    /// A row can't be understood.
    #[error("{row}; no row from line {unsent_from} on was imported")]
    Row {
        /// The row.
        row: RowError,
        /// The first line of the batch that the row would have been in.
        unsent_from: u64,
    },
    /// It can't be opened or read.
    #[error("can't read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Somebody wrote to it, or put another file into its place.
    #[error("{}: the file changed while it was imported; no row from line {unsent_from} on was imported", file.display())]
    Changed {
        /// The file.
        file: PathBuf,
        /// The first line of the batch in which that was noticed.
        unsent_from: u64,
    },
    /// A row vanished between the file and the batches: a bug.
    #[error("{}: of {lines} lines, {} are accounted for: {account:?}", file.display(), account.lines())]
    Unaccounted {
        /// The file.
        file: PathBuf,
        /// The lines that the file has.
        lines: u64,
        /// What was made of them.
        account: Account,
    },
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
    format: Format,
    rows: Rows,
    watch: Watch,
    /// Rows that were put into batches.
    batched: u64,
    /// The line behind the last row that was read.
    next_line: u64,
}

/// A file that was opened, looked at, and put aside until its turn comes.
#[derive(Debug)]
pub(super) struct Pending {
    file: PathBuf,
    format: Format,
    state: PendingState,
}

#[derive(Debug)]
enum PendingState {
    /// Closed, so that many files do not take many descriptors. It must be the same when it is opened again.
    Closed(Version),
    /// A pipe: what was read of it can't be read again.
    Open(Box<Source>),
}

/// The batches of all files, and who reads them.
#[derive(Debug)]
pub(super) struct ReadAhead {
    /// In order; an error is the last thing that comes.
    pub(super) batches: mpsc::Receiver<Result<Batch, SourceError>>,
    /// Says at its end what was made of all lines.
    pub(super) reader: JoinHandle<Account>,
}

#[derive(Debug)]
enum Rows {
    Csv(Box<CsvRows<BufReader<Input>>>),
    Ndjson(NdjsonRows<BufReader<Input>>),
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
        let (input, watch) = input::open(file).map_err(|source| SourceError::Read {
            file: file.to_owned(),
            source,
        })?;
        let reader = BufReader::with_capacity(READ_BYTES, input);
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
            format,
            rows,
            watch,
            batched: 0,
            next_line: 1,
        })
    }

    /// Puts the file aside until its turn comes.
    pub(super) fn set_aside(self) -> Pending {
        Pending {
            file: self.file.to_path_buf(),
            format: self.format,
            state: match self.watch.version() {
                Some(version) => PendingState::Closed(version),
                None => PendingState::Open(Box::new(self)),
            },
        }
    }

    /// How much there is to read, in bytes; 0 if that is not known.
    pub(super) fn bytes(&self) -> u64 {
        self.watch.version().map_or(0, Version::bytes)
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
        if let Ok(Some(row)) = &row {
            self.next_line = row.line + 1;
        }
        let file = || self.file.to_path_buf();
        row.map_err(|error| match error {
            ReadError::Flaw { line, flaw } => SourceError::Row {
                row: RowError {
                    file: file(),
                    line,
                    flaw,
                },
                unsent_from: line,
            },
            ReadError::Io(source) => SourceError::Read { file: file(), source },
        })
    }

    /// The next batch of up to `rows_max` rows; `None` at the end. A flaw takes its whole batch with it.
    ///
    /// # Errors
    /// [`SourceError`].
    pub(super) fn next_batch(&mut self, rows_max: usize) -> Result<Option<Batch>, SourceError> {
        let first_line = self.next_line;
        let mut rows: Vec<Row> = Vec::with_capacity(rows_max);
        let mut bytes = 0;
        let mut ended = false;
        while rows.len() < rows_max && bytes < BATCH_BYTES_MAX {
            let unsent_from = rows.first().map(|row| row.line);
            let next = self.next().map_err(|error| error.unsent_from(unsent_from))?;
            let Some(row) = next else {
                ended = true;
                break;
            };
            bytes += row.transaction.encoded_len();
            rows.push(row);
        }
        self.batched += rows.len() as u64;
        let intact = if ended {
            self.watch.is_whole()
        } else {
            self.watch.is_unchanged()
        };
        let file = || self.file.to_path_buf();
        if !intact.map_err(|source| SourceError::Read { file: file(), source })? {
            let unsent_from = rows.first().map_or(first_line, |row| row.line);
            return Err(SourceError::Changed {
                file: file(),
                unsent_from,
            });
        }
        let (lines, account) = (self.watch.lines(), self.account());
        if ended && lines != account.lines() {
            return Err(SourceError::Unaccounted {
                file: file(),
                lines,
                account,
            });
        }
        let batch = Batch {
            file: Arc::clone(&self.file),
            rows,
            asset: self.asset(),
            bytes_read: self.watch.bytes(),
        };
        Ok((!batch.rows.is_empty()).then_some(batch))
    }

    /// What was made of the lines so far.
    pub(super) fn account(&self) -> Account {
        let (headers, blank) = match &self.rows {
            Rows::Csv(rows) => (1, rows.blank()),
            Rows::Ndjson(rows) => (0, rows.blank()),
        };
        Account {
            headers,
            blank,
            rows: self.batched,
        }
    }
}

// ===== impl SourceError =====

impl SourceError {
    /// The same, of a row whose batch begins with line `first`, if that is an earlier one.
    fn unsent_from(self, first: Option<u64>) -> Self {
        match (self, first) {
            (SourceError::Row { row, .. }, Some(unsent_from)) => SourceError::Row { row, unsent_from },
            (other, _) => other,
        }
    }
}

// ===== impl Pending =====

impl Pending {
    /// Opens it again, if it was closed.
    ///
    /// # Errors
    /// [`SourceError`], also if it is not the file any more that it was.
    fn open(self) -> Result<Source, SourceError> {
        let Pending { file, format, state } = self;
        match state {
            PendingState::Open(source) => Ok(*source),
            PendingState::Closed(version) => {
                let source = Source::open(&file, format)?;
                if source.watch.version() == Some(version) {
                    Ok(source)
                } else {
                    Err(SourceError::Changed { file, unsent_from: 1 })
                }
            }
        }
    }
}

/// Reads `files` one after the other on a thread of their own, a few batches ahead of whoever takes them.
pub(super) fn read_ahead(files: Vec<Pending>, rows_max: usize) -> ReadAhead {
    let (sender, batches) = mpsc::channel(BATCHES_AHEAD);
    let reader = tokio::task::spawn_blocking(move || {
        let (mut account, mut bytes_before) = (Account::default(), 0);
        for file in files {
            match read_file(file, rows_max, bytes_before, &sender) {
                Ok(source) => {
                    account += source.account();
                    bytes_before += source.watch.bytes();
                }
                Err(error) => {
                    // If the receiver is gone, the import has failed already.
                    let _ = sender.blocking_send(Err(error));
                    break;
                }
            }
        }
        account
    });
    ReadAhead { batches, reader }
}

/// Returns the source, which was read to its end unless the receiver is gone.
fn read_file(
    file: Pending,
    rows_max: usize,
    bytes_before: u64,
    sender: &mpsc::Sender<Result<Batch, SourceError>>,
) -> Result<Source, SourceError> {
    let mut source = file.open()?;
    while let Some(mut batch) = source.next_batch(rows_max)? {
        batch.bytes_read += bytes_before;
        if sender.blocking_send(Ok(batch)).is_err() {
            break;
        }
    }
    Ok(source)
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

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

    fn pending(files: &[PathBuf]) -> Vec<Pending> {
        let source = |file: &PathBuf| Source::open(file, Format::Auto).unwrap().set_aside();
        files.iter().map(source).collect()
    }

    fn append(file: &Path, text: &str) {
        let mut file = fs::OpenOptions::new().append(true).open(file).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[tokio::test]
    async fn files_come_in_order_and_a_batch_never_spans_two() {
        let dir = tempfile::tempdir().unwrap();
        let files = vec![
            csv(dir.path(), "a.csv", 0..5, ""),
            csv(dir.path(), "b.csv", 5..7, ""),
        ];
        let total: u64 = files.iter().map(|file| fs::metadata(file).unwrap().len()).sum();
        let ReadAhead { mut batches, reader } = read_ahead(pending(&files), 2);
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
        let account = reader.await.unwrap();
        assert_eq!((account.headers, account.blank, account.rows), (2, 0, 7));
    }

    #[tokio::test]
    async fn a_flaw_takes_its_batch_with_it_and_ends_the_reading() {
        let dir = tempfile::tempdir().unwrap();
        let bad = csv(dir.path(), "bad.csv", 0..5, "t5,a,b,none\nt6,a,b,1\n");
        let mut batches = read_ahead(pending(&[bad.clone(), bad.clone()]), 4).batches;
        assert_eq!(batches.recv().await.unwrap().unwrap().rows.len(), 4);
        let error = batches.recv().await.unwrap().unwrap_err().to_string();
        let expected = format!(
            "{}:7: column \"minor_units\" is \"none\", expected whole minor units",
            bad.display()
        );
        assert!(error.starts_with(&expected), "{error}");
        assert!(error.ends_with("; no row from line 6 on was imported"), "{error}");
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

    #[test]
    fn a_file_that_changes_before_its_turn_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = csv(dir.path(), "a.csv", 0..5, "");
        let put_aside = |file: &PathBuf| pending(std::slice::from_ref(file)).remove(0);
        let before = put_aside(&file);
        append(&file, "t5,a,b,1\n");
        let error = before.open().unwrap_err();
        assert!(
            matches!(error, SourceError::Changed { unsent_from: 1, .. }),
            "{error}"
        );
        // Another file of the same length in its place.
        let before = put_aside(&file);
        fs::rename(csv(dir.path(), "b.csv", 0..6, ""), &file).unwrap();
        let error = before.open().unwrap_err();
        assert!(
            matches!(error, SourceError::Changed { unsent_from: 1, .. }),
            "{error}"
        );
        put_aside(&file).open().unwrap();
    }

    #[test]
    fn a_file_that_grows_or_shrinks_while_it_is_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = csv(dir.path(), "a.csv", 0..5, "");
        let length = fs::metadata(&file).unwrap().len();
        let changes: [&dyn Fn(); 2] = [&|| append(&file, "t6,a,b,1\n"), &|| {
            let file = fs::OpenOptions::new().write(true).open(&file).unwrap();
            file.set_len(length - 1).unwrap();
        }];
        for change in changes {
            let mut source = Source::open(&file, Format::Auto).unwrap();
            assert_eq!(source.next_batch(3).unwrap().unwrap().rows.len(), 3);
            change();
            let error = source.next_batch(3).unwrap_err();
            assert!(
                matches!(error, SourceError::Changed { unsent_from: 5, .. }),
                "{error}"
            );
        }
    }

    #[test]
    fn a_row_that_vanishes_between_the_file_and_the_batches_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let mut source = Source::open(&csv(dir.path(), "a.csv", 0..5, "\n"), Format::Auto).unwrap();
        assert!(source.next().unwrap().is_some());
        let error = source.next_batch(100).unwrap_err().to_string();
        assert!(error.contains("of 7 lines, 6 are accounted for"), "{error}");
    }
}
