//! `tally import`: files of transactions into a service, in their order.
//!
//! One batch goes after the other, and the next is sent when the one before is answered: so a file's transactions come in
//! its order, and after a failure everything up to some batch is durable and nothing after it was sent. To go on, import
//! the same files again: what is there is answered as `replayed`, for ids are idempotent.

mod accounts;
mod bank;
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
use indicatif::{ProgressBar, ProgressStyle};
use thiserror::Error;
use tokio::time::Instant;

use self::{
    accounts::{AccountCreator, BalanceRule},
    csv::Shape,
    source::{Account, Batch, Format, Pending, ReadAhead, Source, SourceError, read_ahead},
    summary::{Summary, WrongAnswer},
};
use super::{ClientArgs, OutputFormat, block_on, exit, fail};
use crate::{
    client::{CallError, Client, ConnectError, RetryPolicy},
    id::check_asset,
};

/// Import files of transactions, in their order. Importing again applies nothing twice.
#[derive(Debug, Clone, Args)]
pub struct ImportArgs {
    /// Which service.
    #[command(flatten)]
    client: ClientArgs,
    /// CSV or NDJSON files.
    ///
    /// CSV is recognised by its header: transaction_id, debit_account_id, credit_account_id, minor_units, [code],
    /// [effective_time]; or a bank statement: transaction_id, date, account_id, side, kind, amount, [rounding],
    /// [balance_after]; or a transfer list: i, source, target, amount_minor, and what follows. NDJSON has one
    /// tally.v1.ProcessTransactionRequest in each line, in the JSON form of proto3.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// How the files are written.
    #[arg(long, env = "TALLY_IMPORT_FORMAT", value_enum, default_value_t)]
    format: Format,
    /// Create the accounts that are missing. Bank statements alone imply it: the accounts of the bank's side are derived
    /// here, so nobody else could create them.
    #[arg(long, env = "TALLY_IMPORT_CREATE_ACCOUNTS")]
    create_accounts: bool,
    /// The asset of the accounts that are created; bank statements have CZK if it is not given.
    #[arg(long, env = "TALLY_IMPORT_ASSET", requires = "create_accounts", value_parser = asset)]
    asset: Option<String>,
    /// The rule of the accounts that are created; those of bank statements are always unlimited.
    #[arg(long, env = "TALLY_IMPORT_BALANCE_RULE", value_enum, default_value_t)]
    balance_rule: BalanceRule,
    /// Transactions that are sent together, 1 to 8192.
    #[arg(
        long,
        env = "TALLY_IMPORT_BATCH",
        default_value_t = 1000,
        value_parser = clap::value_parser!(u16).range(1..=8192)
    )]
    batch: u16,
    /// Exit with 0 even if transactions were refused.
    #[arg(long, env = "TALLY_IMPORT_ALLOW_REJECTED")]
    allow_rejected: bool,
    /// How long a call is tried again when the service is not there or turns it away.
    #[arg(long, env = "TALLY_IMPORT_GIVE_UP_AFTER", default_value = "60s", value_parser = humantime::parse_duration)]
    give_up_after: Duration,
    /// How the summary is printed.
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

/// Why an import ended early, or is not called a success.
#[derive(Debug, Error)]
#[non_exhaustive]
enum ImportError {
    /// A file.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Accounts are to be created, and nobody says of which asset.
    #[error("{}: --create-accounts needs --asset for this format", file.display())]
    AssetMissing {
        /// The file.
        file: PathBuf,
    },
    /// A rule was given that the format's accounts can't have.
    #[error("{}: accounts of a bank statement are unlimited (overdrafts are real); leave --balance-rule out", file.display())]
    BalanceRule {
        /// The file.
        file: PathBuf,
    },
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Accounts could not be looked up or created.
    #[error("{}:{line}: the accounts of the batch from this line on can't be created", file.display())]
    Accounts {
        /// The file.
        file: PathBuf,
        /// The batch's first line.
        line: u64,
        /// Why not.
        source: CallError,
    },
    /// A batch was not answered, or as a whole with an error.
    #[error("{}:{line}: the batch from this line on was not processed", file.display())]
    Process {
        /// The file.
        file: PathBuf,
        /// The batch's first line.
        line: u64,
        /// Why not.
        source: CallError,
    },
    /// An answer is about another transaction than the one that was sent in its place.
    #[error(transparent)]
    WrongAnswer(#[from] WrongAnswer),
    /// The thread that reads the files did not come to its end: a bug.
    #[error("the files were not read to their end")]
    Reader(#[from] tokio::task::JoinError),
    /// Rows were read and not answered, or answered and not counted: a bug.
    #[error(
        "of {rows} rows, {answered} were answered ({committed} committed, {replayed} replayed, {refused} refused)"
    )]
    Unaccounted {
        /// Rows in the files.
        rows: u64,
        /// Answers.
        answered: u64,
        /// Of them, committed now.
        committed: u64,
        /// Of them, committed earlier.
        replayed: u64,
        /// Of them, refused.
        refused: u64,
    },
    /// Some transactions were refused, each for its own reason; the others are durable.
    #[error("{refused} of {transactions} transactions were refused")]
    Refused {
        /// How many.
        refused: u64,
        /// Of how many.
        transactions: u64,
    },
    /// The summary could not be printed.
    #[error("can't write the summary")]
    Output(#[source] io::Error),
}

/// `EX_DATAERR` of `sysexits.h`: a file is not what it should be.
const EXIT_DATA: u8 = 65;

// ===== impl ImportError =====

impl ImportError {
    /// The code to exit with.
    fn exit_code(&self) -> u8 {
        match self {
            ImportError::Source(SourceError::Row { .. } | SourceError::Header { .. }) => EXIT_DATA,
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

/// Imports, prints the summary, and says with which code to exit.
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

/// Imports, and counts into `summary`, which is right even after an error.
///
/// # Errors
/// [`ImportError`], but not [`ImportError::Refused`]: refused transactions are only counted.
async fn import(args: &ImportArgs, summary: &mut Summary) -> Result<(), ImportError> {
    let Checked {
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
    let progress = progress_bar(bytes);
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

/// What is known of the files before anything is sent.
struct Checked {
    /// In the order in which they were named.
    files: Vec<Pending>,
    /// How much there is to read, in bytes.
    bytes: u64,
    /// Every file is a bank statement. The accounts of the bank's side are the import's own invention, so nobody else could
    /// have created them.
    only_statements: bool,
}

/// Everything that can be known to be wrong before anything is sent.
fn check_files(args: &ImportArgs) -> Result<Checked, ImportError> {
    let mut checked = Checked {
        files: Vec::with_capacity(args.files.len()),
        bytes: 0,
        only_statements: true,
    };
    for file in &args.files {
        let source = Source::open(file, args.format)?;
        if args.create_accounts && args.asset.is_none() && source.asset().is_none() {
            return Err(ImportError::AssetMissing { file: file.clone() });
        }
        if args.balance_rule != BalanceRule::Unlimited && source.shape() == Some(Shape::BankStatement) {
            return Err(ImportError::BalanceRule { file: file.clone() });
        }
        checked.only_statements &= source.shape() == Some(Shape::BankStatement);
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
            "{} committed, {} replayed, {} refused",
            summary.committed, summary.replayed, summary.refused
        ));
    }
    settle(reader.await?, summary)
}

/// Compares what was read with what was answered.
fn settle(read: Account, summary: &mut Summary) -> Result<(), ImportError> {
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

/// On standard error, and only if that is a terminal: indicatif hides itself from files and pipes.
fn progress_bar(bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {percent:>3} %  {msg}  {eta} left");
    ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn print(args: &ImportArgs, summary: &Summary) -> Result<(), ImportError> {
    let mut out = io::stdout().lock();
    let written = match args.output {
        OutputFormat::Table => summary.write_table(&mut out),
        OutputFormat::Json => summary.write_json(&mut out),
    };
    match written.and_then(|()| out.flush()) {
        // Whoever reads it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(ImportError::Output),
    }
}

fn asset(text: &str) -> Result<String, String> {
    check_asset(text)
        .map(|()| text.to_owned())
        .map_err(|error| format!("an asset {error}"))
}
