//! Why an import ended without success, and its exit code.

use std::{io, path::PathBuf};

use thiserror::Error;

use super::{
    mapping::MappingError,
    source_error::SourceError,
    summary::{Place, WrongAnswer},
};
use crate::{
    cli::{exit, signals::StopSignal},
    client::{CallError, ConnectError},
    terminal::file_advice,
};

/// The reasons of the service for an update that it does not apply.
const UPDATE_REJECTIONS: [&str; 5] = [
    "ACCOUNT_NOT_FOUND",
    "ACCOUNT_CHANGED",
    "ACCOUNT_CLOSED",
    "ACCOUNT_NOT_EMPTY",
    "INVALID_FIELD",
];

/// Why an import failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(super) enum ImportError {
    /// A file can't be read or is malformed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The asset of accounts to create is unknown.
    #[error("the import creates accounts, so it needs their asset: set --asset, for example --asset EUR")]
    AssetMissing,
    /// A name in a mapping is wrong.
    #[error(transparent)]
    Mapping(#[from] MappingError),
    /// Standard input can be read only once.
    #[error("standard input (-) is named twice, but can be read only once")]
    StdinTwice,
    /// The file of rejected transactions is also a file to import.
    #[error("{} is a file to import, so --rejects can't replace it; choose another name", file.display())]
    RejectsInput {
        /// The file.
        file: PathBuf,
    },
    /// The file of rejected transactions can't be written.
    #[error("can't write the rejected transactions to {}: {source}{}", file.display(), file_advice(file, source))]
    Rejects {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The rejections of a batch can't be written, although the batch was applied.
    #[error(
        "can't write the rejected transactions to {}: {source}{}; {transactions} transactions were answered{}, and the file lacks \
         rejections of the last of them; then import the same files again: transactions that are already applied are answered as \
         replayed, and the file is written anew",
        file.display(), file_advice(file, source), answered_through(through.as_ref())
    )]
    RejectsCut {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: io::Error,
        /// Number of answered transactions.
        transactions: u64,
        /// The last answered row.
        through: Option<Place>,
    },
    /// A signal stopped the import.
    #[error("{}: {}; to go on, import the same files again: transactions that are already applied are answered as \
             replayed", signal.as_str(), progress(*connected, *transactions, through.as_ref()))]
    Stopped {
        /// The signal.
        signal: StopSignal,
        /// Whether the import was ever connected to the service.
        connected: bool,
        /// Number of answered transactions.
        transactions: u64,
        /// The last answered row.
        through: Option<Place>,
    },
    /// The runtime or the signal handlers can't be set up.
    #[error("can't set up the import")]
    Setup(#[source] io::Error),
    /// The format does not allow the balance rule.
    #[error("{}: accounts of a bank statement are always unlimited, because the data has overdrafts; remove --balance-rule", file.display())]
    BalanceRule {
        /// The file.
        file: PathBuf,
    },
    /// The service can't be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Accounts can't be read or created.
    #[error("{}:{line}: can't create the accounts of the batch that starts at this line", file.display())]
    Accounts {
        /// The file.
        file: PathBuf,
        /// The batch's first line.
        line: u64,
        /// The cause.
        source: CallError,
    },
    /// The call for a batch failed.
    #[error("{}:{line}: the batch that starts at this line failed", file.display())]
    Process {
        /// The file.
        file: PathBuf,
        /// The batch's first line.
        line: u64,
        /// The cause.
        source: CallError,
    },
    /// An update failed. Later transactions may depend on it, and their rejections would be final, so nothing after the update is sent.
    #[error("{}:{line}: the update of account {account_id:?} failed, so the rows after it were not imported", file.display())]
    Update {
        /// The file.
        file: PathBuf,
        /// The line of the update.
        line: u64,
        /// The account.
        account_id: String,
        /// The cause.
        source: CallError,
    },
    /// The service answered with the id of another transaction: a bug.
    #[error(transparent)]
    WrongAnswer(#[from] WrongAnswer),
    /// The thread that reads the files panicked: a bug.
    #[error("the thread that reads the files panicked")]
    Reader,
    /// The number of rows and the number of answers differ: a bug.
    #[error(
        "the files have {rows} rows, but {transactions} transactions ({committed} committed, {replayed} replayed, {rejected} rejected) \
         and {updates} updates and accounts were counted; this is a bug of tally"
    )]
    Unaccounted {
        /// Rows in the files.
        rows: u64,
        /// Answered transactions.
        transactions: u64,
        /// Committed by this import.
        committed: u64,
        /// Committed before this import.
        replayed: u64,
        /// Rejected.
        rejected: u64,
        /// Applied and skipped updates, and accounts.
        updates: u64,
    },
    /// Some transactions were rejected. The others are durable.
    #[error("{rejected} of {transactions} transactions were rejected")]
    Rejected {
        /// Rejected transactions.
        rejected: u64,
        /// All transactions.
        transactions: u64,
    },
    /// The summary could not be printed.
    #[error("can't print the summary")]
    Output(#[source] io::Error),
}

// ===== impl ImportError =====

impl ImportError {
    /// Returns the exit code.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            ImportError::Source(
                SourceError::Row { .. } | SourceError::Header { .. } | SourceError::Encoded { .. },
            ) => exit::DATA,
            ImportError::Source(
                SourceError::Format { .. } | SourceError::StdinFormat | SourceError::Directory(_),
            )
            | ImportError::AssetMissing
            | ImportError::StdinTwice => exit::USAGE,
            ImportError::RejectsInput { .. } => exit::option_code(&["--rejects"]),
            ImportError::BalanceRule { .. } => exit::option_code(&["--balance-rule"]),
            ImportError::Mapping(MappingError::Repeated { options, .. }) => exit::option_code(options),
            ImportError::Source(SourceError::Read { .. } | SourceError::Changed { .. })
            | ImportError::Rejects { .. }
            | ImportError::RejectsCut { .. }
            | ImportError::Output(_) => exit::IO,
            ImportError::Source(SourceError::Unaccounted { .. })
            | ImportError::WrongAnswer(_)
            | ImportError::Reader
            | ImportError::Setup(_)
            | ImportError::Unaccounted { .. } => exit::SOFTWARE,
            ImportError::Stopped { signal, .. } => signal.exit_code(),
            ImportError::Connect(error) => exit::connect_code(error),
            ImportError::Accounts { source, .. } | ImportError::Process { source, .. } => {
                exit::call_code(source.status())
            }
            ImportError::Update { source, .. } => match source.reason().as_deref() {
                Some(reason) if UPDATE_REJECTIONS.contains(&reason) => exit::FAILED,
                Some(_) | None => exit::call_code(source.status()),
            },
            ImportError::Rejected { .. } => exit::FAILED,
        }
    }
}

/// Returns the last answered row as text.
fn answered_through(through: Option<&Place>) -> String {
    through.map_or_else(String::new, |Place { file, line }| {
        format!(", through {file}:{line}")
    })
}

/// Returns how far a stopped import came.
fn progress(connected: bool, transactions: u64, through: Option<&Place>) -> String {
    match through {
        None if !connected => "there was no connection to the service, so nothing was sent".to_owned(),
        Some(Place { file, line }) => format!(
            "{transactions} transactions were answered, through {file}:{line}, and the next batch may have been applied"
        ),
        None => "no transaction was answered, and the first batch may have been applied".to_owned(),
    }
}
