//! Reads files on a separate thread and splits them into batches.

use std::{
    io::BufReader,
    path::{Path, PathBuf},
    sync::Arc,
};

use prost::Message;
use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    csv::{CsvRows, HeaderError},
    format::{Format, STDIN_NAME},
    input::{self, Input, STDIN, Version, Watch},
    layout::CsvLayout,
    lines::ReadError,
    mapping::Mapping,
    ndjson::NdjsonRows,
    row::{LineCounts, Row, RowError},
    source_error::SourceError,
};

/// A batch ends early when its transactions exceed this size in bytes, because a message has at most 16 MiB.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// Maximum number of batches that are read while another batch is in flight.
const BATCHES_AHEAD: usize = 2;
/// Size of the read buffer, in bytes.
const READ_BYTES: usize = 256 << 10;

/// How to read the files of an import.
#[derive(Debug, Clone, Default)]
pub(super) struct ReadOptions {
    /// The format of all files.
    pub(super) format: Format,
    /// The names that CSV files use.
    pub(super) mapping: Arc<Mapping>,
    /// The options that the user gave, for a command in an error.
    pub(super) given: Arc<str>,
}

/// Rows of one file that are sent together.
#[derive(Debug)]
pub(super) struct Batch {
    /// The file.
    pub(super) file: Arc<Path>,
    /// In the order of the file.
    pub(super) rows: Vec<Row>,
    /// Bytes read so far from all files.
    pub(super) bytes_read: u64,
}

/// An open file.
#[derive(Debug)]
pub(super) struct Source {
    /// The file name; for standard input, a name for messages.
    file: Arc<Path>,
    options: ReadOptions,
    rows: Rows,
    watch: Watch,
    /// Rows in batches so far.
    batched: u64,
    /// The line after the last row read.
    next_line: u64,
}

/// A file that was opened and checked, and that is not imported yet.
#[derive(Debug)]
pub(super) struct Pending {
    file: PathBuf,
    options: ReadOptions,
    state: PendingState,
}

#[derive(Debug)]
enum PendingState {
    /// The file is closed, to save file descriptors. It must have the same version when it is opened again.
    Closed(Version),
    /// A pipe stays open, because it can't be read twice.
    Open(Box<Source>),
}

/// The batches of all files, and the task that reads them.
#[derive(Debug)]
pub(super) struct ReadAhead {
    /// The batches in order. After an error, no batch follows.
    pub(super) batches: mpsc::Receiver<Result<Batch, SourceError>>,
    /// The task. Returns the line counts of all files.
    pub(super) reader: JoinHandle<LineCounts>,
}

#[derive(Debug)]
enum Rows {
    Csv(Box<CsvRows<BufReader<Input>>>),
    Ndjson(NdjsonRows<BufReader<Input>>),
}

// ===== impl Source =====

impl Source {
    /// Opens `file`, and reads its header if it has one. `-` is standard input.
    ///
    /// # Errors
    /// [`SourceError`].
    pub(super) fn open(path: &Path, options: &ReadOptions) -> Result<Self, SourceError> {
        let is_stdin = path == Path::new(STDIN);
        let file = if is_stdin { Path::new(STDIN_NAME) } else { path };
        if !is_stdin && path.is_dir() {
            return Err(SourceError::Directory(file.to_owned()));
        }
        let format = match options.format.resolve(path) {
            Some(format) => format,
            None if is_stdin => return Err(SourceError::StdinFormat),
            None => return Err(SourceError::of_unknown_format(file, &options.given)),
        };
        let (input, watch) = input::open(path).map_err(|source| SourceError::Read {
            file: file.to_owned(),
            source,
        })?;
        let reader = BufReader::with_capacity(READ_BYTES, input);
        let rows = if format == Format::Ndjson {
            Rows::Ndjson(NdjsonRows::new(reader))
        } else {
            let rows = CsvRows::new(reader, Arc::clone(&options.mapping));
            Rows::Csv(Box::new(rows.map_err(|source| {
                let file = file.to_owned();
                match source {
                    HeaderError::Encoded(encoding) => SourceError::Encoded {
                        file,
                        encoding,
                        format,
                        given: Arc::clone(&options.given),
                    },
                    HeaderError::Read(source) => SourceError::Read { file, source },
                    source @ (HeaderError::Empty
                    | HeaderError::Flaw { .. }
                    | HeaderError::Unknown { .. }
                    | HeaderError::NotInHeader { .. }) => SourceError::Header { file, source },
                }
            })?))
        };
        Ok(Source {
            file: file.into(),
            options: options.clone(),
            rows,
            watch,
            batched: 0,
            next_line: 1,
        })
    }

    /// Closes the file until it is imported. A pipe stays open.
    pub(super) fn set_aside(self) -> Pending {
        Pending {
            file: self.file.to_path_buf(),
            options: self.options.clone(),
            state: match self.watch.version() {
                Some(version) => PendingState::Closed(version),
                None => PendingState::Open(Box::new(self)),
            },
        }
    }

    /// Returns the size of the file; 0 if it is unknown.
    pub(super) fn bytes(&self) -> u64 {
        self.watch.version().map_or(0, Version::bytes)
    }

    /// Returns the layout of a CSV file; `None` for NDJSON.
    pub(super) fn layout(&self) -> Option<CsvLayout> {
        match &self.rows {
            Rows::Csv(rows) => Some(rows.layout()),
            Rows::Ndjson(_) => None,
        }
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
            // A CSV file has a header, so this file has the other format.
            ReadError::Encoded(encoding) => SourceError::Encoded {
                file: file(),
                encoding,
                format: Format::Ndjson,
                given: Arc::clone(&self.options.given),
            },
            ReadError::Io(source) => SourceError::Read { file: file(), source },
        })
    }

    /// Reads the next batch of up to `rows_max` rows; `None` at the end. An error in a row discards its whole batch.
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
        let (lines, counts) = (self.watch.lines(), self.line_counts());
        if ended && lines != counts.lines() {
            return Err(SourceError::Unaccounted {
                file: file(),
                lines,
                counts,
            });
        }
        let batch = Batch {
            file: Arc::clone(&self.file),
            rows,
            bytes_read: self.watch.bytes(),
        };
        Ok((!batch.rows.is_empty()).then_some(batch))
    }

    /// Returns the line counts so far.
    pub(super) fn line_counts(&self) -> LineCounts {
        let (headers, blank) = match &self.rows {
            Rows::Csv(rows) => (1, rows.blank()),
            Rows::Ndjson(rows) => (0, rows.blank()),
        };
        LineCounts {
            headers,
            blank,
            rows: self.batched,
        }
    }
}

// ===== impl Pending =====

impl Pending {
    /// Opens the file again if it was closed.
    ///
    /// # Errors
    /// [`SourceError`], also if the file changed since it was checked.
    fn open(self) -> Result<Source, SourceError> {
        let Pending { file, options, state } = self;
        match state {
            PendingState::Open(source) => Ok(*source),
            PendingState::Closed(version) => {
                let source = Source::open(&file, &options)?;
                if source.watch.version() == Some(version) {
                    Ok(source)
                } else {
                    Err(SourceError::Changed { file, unsent_from: 1 })
                }
            }
        }
    }
}

/// Reads `files` one after the other on a separate thread, a few batches ahead of the receiver.
pub(super) fn read_ahead(files: Vec<Pending>, rows_max: usize) -> ReadAhead {
    let (sender, batches) = mpsc::channel(BATCHES_AHEAD);
    let reader = tokio::task::spawn_blocking(move || {
        let (mut counts, mut bytes_before) = (LineCounts::default(), 0);
        for file in files {
            match read_file(file, rows_max, bytes_before, &sender) {
                Ok(source) => {
                    counts += source.line_counts();
                    bytes_before += source.watch.bytes();
                }
                Err(error) => {
                    // Sending fails only if the import has already failed and dropped the receiver.
                    let _ = sender.blocking_send(Err(error));
                    break;
                }
            }
        }
        counts
    });
    ReadAhead { batches, reader }
}

/// Reads a file to its end, or until the receiver is dropped, and returns the source.
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
    fn the_file_name_selects_the_format_unless_the_format_is_given() {
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
            assert_eq!(format.resolve(Path::new(name)), expected, "{name} {format:?}");
        }
    }

    fn pending(files: &[PathBuf]) -> Vec<Pending> {
        let source = |file: &PathBuf| Source::open(file, &ReadOptions::default()).unwrap().set_aside();
        files.iter().map(source).collect()
    }

    fn append(file: &Path, text: &str) {
        let mut file = fs::OpenOptions::new().append(true).open(file).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[tokio::test]
    async fn files_come_in_order_and_a_batch_never_contains_rows_of_two_files() {
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
        let counts = reader.await.unwrap();
        assert_eq!((counts.headers, counts.blank, counts.rows), (2, 0, 7));
    }

    #[tokio::test]
    async fn a_malformed_row_discards_its_batch_and_ends_the_reading() {
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
        assert!(
            error.ends_with("; rows from line 6 on were not imported"),
            "{error}"
        );
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
        let mut source = Source::open(&path, &ReadOptions::default()).unwrap();
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
    fn the_header_selects_the_layout() {
        let dir = tempfile::tempdir().unwrap();
        let native = Source::open(&csv(dir.path(), "a.csv", 0..1, ""), &ReadOptions::default()).unwrap();
        assert_eq!(native.layout(), Some(CsvLayout::Native));
        let path = dir.path().join("bank.csv");
        fs::write(
            &path,
            "transaction_id,date,account_id,side,kind,amount,rounding,balance_after\n",
        )
        .unwrap();
        let bank = Source::open(&path, &ReadOptions::default()).unwrap();
        assert_eq!(bank.layout(), Some(CsvLayout::BankStatement));
    }

    #[test]
    fn a_file_that_changes_between_its_check_and_its_import_is_an_error() {
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
        // The file is replaced by another file of the same length.
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
    fn a_file_that_grows_or_shrinks_while_it_is_read_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = csv(dir.path(), "a.csv", 0..5, "");
        let length = fs::metadata(&file).unwrap().len();
        let changes: [&dyn Fn(); 2] = [&|| append(&file, "t6,a,b,1\n"), &|| {
            let file = fs::OpenOptions::new().write(true).open(&file).unwrap();
            file.set_len(length - 1).unwrap();
        }];
        for change in changes {
            let mut source = Source::open(&file, &ReadOptions::default()).unwrap();
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
    fn a_row_that_the_parser_loses_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut source =
            Source::open(&csv(dir.path(), "a.csv", 0..5, "\n"), &ReadOptions::default()).unwrap();
        assert!(source.next().unwrap().is_some());
        let error = source.next_batch(100).unwrap_err().to_string();
        assert!(error.contains("has 7 lines, but the parser counted 6"), "{error}");
    }
}
