//! Reads files on a separate thread and splits them into parts: batches of transactions, accounts, and updates of accounts.
//!
//! A transaction that names another transaction of its batch begins a new batch. So the import knows whether the service has recorded a hold
//! before it sends the transaction that posts the hold.

use std::{
    collections::HashSet,
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
    row::{AccountRow, FileRow, LineCounts, Row, RowError, UpdateRow},
    source_error::SourceError,
};

use crate::client::CREATE_ACCOUNTS_MAX;

/// A batch ends early when its transactions exceed this size in bytes, because a message has at most 16 MiB.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// Maximum number of parts that are read while another part is in flight.
const PARTS_AHEAD: usize = 2;
/// Size of the read buffer, in bytes.
const READ_BYTES: usize = 256 << 10;

/// How to read the files of an import.
#[derive(Debug, Clone, Default)]
pub(super) struct ReadOptions {
    /// The format of all files.
    pub(super) format: Format,
    /// The names of columns and kinds that the CSV files use instead of the usual names.
    pub(super) mapping: Arc<Mapping>,
    /// The options that the user gave. An error that suggests a command repeats them in this command.
    pub(super) given: Arc<str>,
}

/// Transactions of one file that are sent together.
#[derive(Debug)]
pub(super) struct Batch {
    /// The file.
    pub(super) file: Arc<Path>,
    /// In the order of the file, at least one.
    pub(super) rows: Vec<Row>,
}

/// An update of an account, which is sent alone.
#[derive(Debug)]
pub(super) struct Update {
    /// The file.
    pub(super) file: Arc<Path>,
    /// The update.
    pub(super) row: UpdateRow,
}

/// Accounts of one file that are created together.
#[derive(Debug)]
pub(super) struct Accounts {
    /// The file.
    pub(super) file: Arc<Path>,
    /// In the order of the file, at least one, at most [`CREATE_ACCOUNTS_MAX`].
    pub(super) rows: Vec<AccountRow>,
}

/// The content of a part: a batch that is sent with one call, an update of one account, or accounts that are created together.
#[derive(Debug)]
pub(super) enum Content {
    /// Transactions.
    Batch(Batch),
    /// An update.
    Update(Box<Update>),
    /// Accounts.
    Accounts(Accounts),
}

/// A part of a file.
#[derive(Debug)]
pub(super) struct Part {
    /// What is sent.
    pub(super) content: Content,
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
    /// A row that was read, but did not fit into the previous part.
    carried: Option<FileRow>,
    /// Number of rows in the parts that were read so far.
    handed_over: u64,
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

/// The parts of all files, and the task that reads them.
#[derive(Debug)]
pub(super) struct ReadAhead {
    /// The parts in order. After an error, no part follows.
    pub(super) parts: mpsc::Receiver<Result<Part, SourceError>>,
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
            carried: None,
            handed_over: 0,
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

    fn next(&mut self) -> Result<Option<FileRow>, SourceError> {
        if let Some(row) = self.carried.take() {
            return Ok(Some(row));
        }
        let row = match &mut self.rows {
            Rows::Csv(rows) => rows.next().map(|row| row.map(FileRow::Transaction)),
            Rows::Ndjson(rows) => rows.next(),
        };
        if let Ok(Some(row)) = &row {
            self.next_line = row.line() + 1;
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
            // A CSV file has a header that was read before, so this file is NDJSON.
            ReadError::Encoded(encoding) => SourceError::Encoded {
                file: file(),
                encoding,
                format: Format::Ndjson,
                given: Arc::clone(&self.options.given),
            },
            ReadError::Io(source) => SourceError::Read { file: file(), source },
        })
    }

    /// Reads the next part: an update, some accounts, or a batch of up to `rows_max` transactions; `None` at the end. An error in a row discards its
    /// whole batch.
    ///
    /// # Errors
    /// [`SourceError`].
    pub(super) fn next_part(&mut self, rows_max: usize) -> Result<Option<Part>, SourceError> {
        let first_line = self.carried.as_ref().map_or(self.next_line, FileRow::line);
        let (content, is_end) = self.read_part(rows_max)?;
        let (rows, unsent_from) = match &content {
            None => (0, first_line),
            Some(Content::Update(update)) => (1, update.row.line),
            Some(Content::Accounts(accounts)) => (
                accounts.rows.len() as u64,
                accounts.rows.first().map_or(first_line, |row| row.line),
            ),
            Some(Content::Batch(batch)) => (
                batch.rows.len() as u64,
                batch.rows.first().map_or(first_line, |row| row.line),
            ),
        };
        self.handed_over += rows;
        let intact = if is_end {
            self.watch.is_whole()
        } else {
            self.watch.is_unchanged()
        };
        let file = || self.file.to_path_buf();
        if !intact.map_err(|source| SourceError::Read { file: file(), source })? {
            return Err(SourceError::Changed {
                file: file(),
                unsent_from,
            });
        }
        let (lines, counts) = (self.watch.lines(), self.line_counts());
        if is_end && lines != counts.lines() {
            return Err(SourceError::Unaccounted {
                file: file(),
                lines,
                counts,
            });
        }
        let bytes_read = self.watch.bytes();
        Ok(content.map(|content| Part { content, bytes_read }))
    }

    /// Reads the rows of the next part. Returns them, if there are any, and whether the file has ended.
    fn read_part(&mut self, rows_max: usize) -> Result<(Option<Content>, bool), SourceError> {
        let file = Arc::clone(&self.file);
        let mut rows: Vec<Row> = Vec::new();
        let (mut ids, mut bytes, mut is_end) = (None, 0, false);
        while rows.len() < rows_max && bytes < BATCH_BYTES_MAX {
            let unsent_from = rows.first().map(|row| row.line);
            let row = match self.next().map_err(|error| error.unsent_from(unsent_from))? {
                None => {
                    is_end = true;
                    break;
                }
                Some(FileRow::Update(row)) if rows.is_empty() => {
                    return Ok((Some(Content::Update(Box::new(Update { file, row }))), false));
                }
                Some(FileRow::Account(row)) if rows.is_empty() => return self.read_accounts(row),
                Some(other @ (FileRow::Update(_) | FileRow::Account(_))) => {
                    self.carried = Some(other);
                    break;
                }
                Some(FileRow::Transaction(row)) => row,
            };
            if names_one_of(&row, &rows, &mut ids) {
                self.carried = Some(FileRow::Transaction(row));
                break;
            }
            bytes += row.transaction.encoded_len();
            rows.push(row);
        }
        let batch = (!rows.is_empty()).then_some(Content::Batch(Batch { file, rows }));
        Ok((batch, is_end))
    }

    /// Reads the accounts that follow the account `first`. Returns them all, and whether the file has ended.
    fn read_accounts(&mut self, first: AccountRow) -> Result<(Option<Content>, bool), SourceError> {
        let unsent_from = Some(first.line);
        let (file, mut rows, mut is_end) = (Arc::clone(&self.file), vec![first], false);
        while rows.len() < CREATE_ACCOUNTS_MAX {
            match self.next().map_err(|error| error.unsent_from(unsent_from))? {
                None => {
                    is_end = true;
                    break;
                }
                Some(FileRow::Account(row)) => rows.push(row),
                Some(other @ (FileRow::Update(_) | FileRow::Transaction(_))) => {
                    self.carried = Some(other);
                    break;
                }
            }
        }
        Ok((Some(Content::Accounts(Accounts { file, rows })), is_end))
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
            rows: self.handed_over,
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

/// Returns whether `row` names one of the transactions `rows`. `ids` are the ids of `rows`, or `None` while no row names another
/// transaction, so that most files cost nothing.
fn names_one_of(row: &Row, rows: &[Row], ids: &mut Option<HashSet<String>>) -> bool {
    let own = &row.transaction.transaction_id;
    let Some(named) = row.named() else {
        if let Some(ids) = ids {
            ids.insert(own.clone());
        }
        return false;
    };
    let all = || {
        rows.iter()
            .map(|row| row.transaction.transaction_id.clone())
            .collect()
    };
    let ids = ids.get_or_insert_with(all);
    let is_named = ids.contains(named);
    if !is_named {
        ids.insert(own.clone());
    }
    is_named
}

/// Reads `files` one after the other on a separate thread, a few parts ahead of the receiver.
pub(super) fn read_ahead(files: Vec<Pending>, rows_max: usize) -> ReadAhead {
    let (sender, parts) = mpsc::channel(PARTS_AHEAD);
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
    ReadAhead { parts, reader }
}

/// Reads a file to its end, or until the receiver is dropped, and returns the source.
fn read_file(
    file: Pending,
    rows_max: usize,
    bytes_before: u64,
    sender: &mpsc::Sender<Result<Part, SourceError>>,
) -> Result<Source, SourceError> {
    let mut source = file.open()?;
    while let Some(mut part) = source.next_part(rows_max)? {
        part.bytes_read += bytes_before;
        if sender.blocking_send(Ok(part)).is_err() {
            break;
        }
    }
    Ok(source)
}

#[cfg(test)]
mod tests;
