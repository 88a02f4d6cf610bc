//! `tally import`: sends the transactions of files to a service, in the order of the files.
//!
//! The import sends each batch after the previous batch was answered, so transactions keep the order of the file. After a failure,
//! all batches before the failed one are durable, and no later batch was sent. To continue, import the same files again: the
//! service applies a transaction id only once, and answers committed transactions as `replayed`.

mod accounts;
mod bank;
mod cells;
mod csv;
mod fields;
mod input;
mod lines;
mod ndjson;
mod row;
mod source;
mod summary;
#[cfg(test)]
mod tests;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use indicatif::ProgressBar;
use tally_ledger::id::check_asset;
use thiserror::Error;
use tokio::time::Instant;

use self::{
    accounts::{AccountCreator, BalanceRule},
    csv::CsvLayout,
    row::LineCounts,
    source::{Batch, Format, Pending, ReadAhead, Source, SourceError, read_ahead},
    summary::{Summary, WrongAnswer},
};
use super::{
    client_args::ClientArgs,
    exit::{self, block_on, fail},
    output::OutputFormat,
};
use crate::{
    client::{CallError, Client, ConnectError, RetryPolicy},
    terminal::progress_bar,
};

/// Options of `tally import`.
#[derive(Debug, Clone, Args)]
pub struct ImportArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// CSV or NDJSON files.
    ///
    /// The header of a CSV file selects its layout. Columns in brackets are optional.
    ///
    /// Transfers: transaction_id, debit_account_id, credit_account_id, minor_units, [code], [effective_time].
    ///
    /// Bank statement: transaction_id, date, account_id, side, kind, amount, [rounding], [balance_after].
    ///
    /// Transfer list: i, source, target, amount_minor, [decision], [source_balance_after], [target_balance_after].
    ///
    /// NDJSON has one tally.v1.ProcessTransactionRequest per line, in the JSON form of proto3.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Format of the files.
    #[arg(long, env = "TALLY_IMPORT_FORMAT", value_enum, default_value_t)]
    format: Format,
    /// Create missing accounts. Always on if all files are bank statements, because the import itself chooses the ids of the
    /// bank's own accounts.
    #[arg(long, env = "TALLY_IMPORT_CREATE_ACCOUNTS")]
    create_accounts: bool,
    /// Asset of created accounts. [default for bank statements: CZK]
    #[arg(long, env = "TALLY_IMPORT_ASSET", requires = "create_accounts", value_parser = asset)]
    asset: Option<String>,
    /// Balance rule of created accounts. Accounts of bank statements are always unlimited.
    #[arg(long, env = "TALLY_IMPORT_BALANCE_RULE", value_enum, default_value_t)]
    balance_rule: BalanceRule,
    /// Transactions per call, 1 to 8192.
    #[arg(
        long,
        env = "TALLY_IMPORT_BATCH",
        default_value_t = 1000,
        value_parser = clap::value_parser!(u16).range(1..=8192)
    )]
    batch: u16,
    /// Exit with code 0 even if transactions were rejected.
    #[arg(long, env = "TALLY_IMPORT_ALLOW_REJECTED")]
    allow_rejected: bool,
    /// How long to retry a call when the service is unavailable or overloaded.
    #[arg(long, env = "TALLY_IMPORT_GIVE_UP_AFTER", default_value = "60s", value_parser = humantime::parse_duration)]
    give_up_after: Duration,
    /// How to print the summary.
    #[arg(
        short,
        long,
        alias = "output-format",
        env = "TALLY_OUTPUT",
        value_enum,
        default_value_t
    )]
    output: OutputFormat,
}

/// Why an import failed.
#[derive(Debug, Error)]
#[non_exhaustive]
enum ImportError {
    /// A file can't be read or is malformed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The asset of accounts to create is unknown.
    #[error("{}: --create-accounts requires --asset for this format", file.display())]
    AssetMissing {
        /// The file.
        file: PathBuf,
    },
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
    /// The service answered with the id of another transaction: a bug.
    #[error(transparent)]
    WrongAnswer(#[from] WrongAnswer),
    /// The thread that reads the files panicked: a bug.
    #[error("the thread that reads the files panicked")]
    Reader(#[from] tokio::task::JoinError),
    /// The number of rows and the number of answers differ: a bug.
    #[error(
        "the files have {rows} rows, but {answered} were answered ({committed} committed, {replayed} replayed, {refused} rejected)"
    )]
    Unaccounted {
        /// Rows in the files.
        rows: u64,
        /// Answered rows.
        answered: u64,
        /// Committed by this import.
        committed: u64,
        /// Committed before this import.
        replayed: u64,
        /// Rejected.
        refused: u64,
    },
    /// Some transactions were rejected. The others are durable.
    #[error("{refused} of {transactions} transactions were rejected")]
    Refused {
        /// Rejected transactions.
        refused: u64,
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
    fn exit_code(&self) -> u8 {
        match self {
            ImportError::Source(SourceError::Row { .. } | SourceError::Header { .. }) => exit::DATA,
            ImportError::Source(SourceError::Format { .. })
            | ImportError::AssetMissing { .. }
            | ImportError::BalanceRule { .. } => exit::USAGE,
            ImportError::Source(SourceError::Read { .. } | SourceError::Changed { .. })
            | ImportError::Output(_) => exit::IO,
            ImportError::Source(SourceError::Unaccounted { .. })
            | ImportError::WrongAnswer(_)
            | ImportError::Reader(_)
            | ImportError::Unaccounted { .. } => exit::SOFTWARE,
            ImportError::Connect(_) | ImportError::Accounts { .. } | ImportError::Process { .. } => {
                exit::UNAVAILABLE
            }
            ImportError::Refused { .. } => exit::FAILED,
        }
    }
}

/// Imports and prints the summary. Returns the exit code.
pub(super) fn run(args: &ImportArgs) -> ExitCode {
    block_on(async {
        let mut summary = Summary::default();
        let result = import(args, &mut summary).await;
        let printed = if summary.transactions > 0 || result.is_ok() {
            print(args, &summary)
        } else {
            Ok(())
        };
        let result = result.and(printed).and_then(|()| {
            let Summary {
                refused,
                transactions,
                ..
            } = summary;
            let accepted = refused == 0 || args.allow_rejected;
            if accepted {
                Ok(())
            } else {
                Err(ImportError::Refused {
                    refused,
                    transactions,
                })
            }
        });
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(error.exit_code(), &error),
        }
    })
}

/// Imports the files and updates `summary`. After an error, `summary` describes what was imported before the error.
///
/// # Errors
/// [`ImportError`] except [`ImportError::Refused`]: rejected transactions are only counted.
async fn import(args: &ImportArgs, summary: &mut Summary) -> Result<(), ImportError> {
    let CheckedFiles {
        files,
        bytes,
        only_statements,
    } = check_files(args)?;
    let retry = RetryPolicy {
        attempts_max: u32::MAX,
        total_max: args.give_up_after,
        ..RetryPolicy::default()
    };
    let client = Client::connect_with(&args.client.config())
        .await?
        .with_retry(retry);
    let progress = progress_bar(bytes, "{percent:>3} %  {msg}");
    let begin = Instant::now();
    let result = send_all(
        args,
        files,
        args.create_accounts || only_statements,
        &client,
        summary,
        &progress,
    )
    .await;
    summary.finish(begin.elapsed());
    progress.finish_and_clear();
    result
}

/// The files, checked before anything is sent.
struct CheckedFiles {
    /// In the order of the command line.
    files: Vec<Pending>,
    /// Size of all files.
    bytes: u64,
    /// Whether every file is a bank statement. If so, the import creates accounts, because it chooses the ids of the bank's own
    /// accounts.
    only_statements: bool,
}

/// Opens and checks every file before anything is sent.
fn check_files(args: &ImportArgs) -> Result<CheckedFiles, ImportError> {
    let mut checked = CheckedFiles {
        files: Vec::with_capacity(args.files.len()),
        bytes: 0,
        only_statements: true,
    };
    for file in &args.files {
        let source = Source::open(file, args.format)?;
        if args.create_accounts && args.asset.is_none() && source.asset().is_none() {
            return Err(ImportError::AssetMissing { file: file.clone() });
        }
        if args.balance_rule != BalanceRule::Unlimited && source.layout() == Some(CsvLayout::BankStatement) {
            return Err(ImportError::BalanceRule { file: file.clone() });
        }
        checked.only_statements &= source.layout() == Some(CsvLayout::BankStatement);
        checked.bytes += source.bytes();
        checked.files.push(source.set_aside());
    }
    Ok(checked)
}

async fn send_all(
    args: &ImportArgs,
    files: Vec<Pending>,
    create_accounts: bool,
    client: &Client,
    summary: &mut Summary,
    progress: &ProgressBar,
) -> Result<(), ImportError> {
    let mut creator = create_accounts.then(|| AccountCreator::new(args.balance_rule, args.asset.clone()));
    let ReadAhead { mut batches, reader } = read_ahead(files, usize::from(args.batch));
    while let Some(batch) = batches.recv().await {
        let batch = batch?;
        let (file, line) = (
            batch.file.to_path_buf(),
            batch.rows.first().map_or(0, |row| row.line),
        );
        if let Some(creator) = &mut creator {
            let created = creator.ensure(client, &batch).await;
            summary.accounts_created = creator.created();
            created.map_err(|source| ImportError::Accounts {
                file: file.clone(),
                line,
                source,
            })?;
        }
        let results = send(client, &batch)
            .await
            .map_err(|source| ImportError::Process { file, line, source })?;
        summary.count(&batch, results)?;
        progress.set_position(batch.bytes_read);
        progress.set_message(format!(
            "{} committed, {} replayed, {} rejected",
            summary.committed, summary.replayed, summary.refused
        ));
    }
    settle(reader.await?, summary)
}

/// Checks that every row was answered.
fn settle(read: LineCounts, summary: &mut Summary) -> Result<(), ImportError> {
    if summary.settle(read) {
        return Ok(());
    }
    Err(ImportError::Unaccounted {
        rows: read.rows,
        answered: summary.transactions,
        committed: summary.committed,
        replayed: summary.replayed,
        refused: summary.refused,
    })
}

async fn send(client: &Client, batch: &Batch) -> Result<Vec<crate::proto::TransactionResult>, CallError> {
    let transactions = batch.rows.iter().map(|row| row.transaction.clone()).collect();
    client.process_transactions(transactions).await
}

fn print(args: &ImportArgs, summary: &Summary) -> Result<(), ImportError> {
    let mut out = io::stdout().lock();
    let written = match args.output {
        OutputFormat::Table => summary.write_table(&mut out),
        OutputFormat::Json => summary.write_json(&mut out),
    };
    match written.and_then(|()| out.flush()) {
        // A closed pipe is not an error: the reader needs no more output.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(ImportError::Output),
    }
}

fn asset(text: &str) -> Result<String, String> {
    check_asset(text)
        .map(|()| text.to_owned())
        .map_err(|error| format!("an asset {error}"))
}
