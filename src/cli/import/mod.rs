//! `tally import`: sends the transactions of files to a service, in the order of the files.
//!
//! The import sends each part of a file, a batch of transactions or an update of an account, after the previous part was answered. So
//! the service executes all rows in the order of the file. After a failure, all parts before the failed one are durable, and no later
//! part was sent. To continue, import the same files again: the service applies a transaction id only once, and answers committed
//! transactions as `replayed`. Updates have no ids; `resumption.rs` finds those that an earlier import has applied.
//!
//! `docs/import.md` describes the formats and options for users.

mod accounts;
mod bank;
mod cells;
mod closed;
mod csv;
mod encoding;
mod error;
mod exported;
mod fields;
mod format;
pub mod fuzzing;
mod input;
mod kinds;
mod layout;
mod lines;
mod mapping;
mod ndjson;
mod rejects;
mod resumption;
mod row;
mod sender;
mod source;
mod source_error;
mod summary;
#[cfg(test)]
mod tests;
mod unrecorded;
mod waits;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use indicatif::ProgressBar;
use tally_ledger::id::check_asset;

use self::{
    accounts::{AccountCreator, BalanceRule},
    error::ImportError,
    format::{Format, given_options},
    input::STDIN,
    layout::CsvLayout,
    mapping::{Mapping, Pair},
    rejects::Rejects,
    row::LineCounts,
    sender::Sender,
    source::{Pending, ReadOptions, Source},
    summary::Summary,
    waits::Waits,
};
use super::{
    client_args::ClientArgs,
    exit::Failure,
    output::OutputFormat,
    signals::{Stopped, until_signal},
    values::{batch, give_up_after},
};
use crate::{client::RetryPolicy, terminal::progress_bar};

/// Options of `tally import`.
#[derive(Debug, Clone, Args)]
pub struct ImportArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// CSV or NDJSON files. - reads standard input and requires --format.
    ///
    /// The header of a CSV file selects its layout. Columns in brackets are optional.
    ///
    /// Transfers: transaction_id, debit_account_id, credit_account_id, minor_units, [code], [effective_time].
    ///
    /// Bank statement: transaction_id, date, account_id, side, kind, amount, [rounding], [balance_after]. The kinds are
    /// cash-deposit, cash-withdrawal, card-withdrawal, transfer-in, transfer-out and interest.
    ///
    /// Transfer list: i, source, target, amount_minor, [decision], [source_balance_after], [target_balance_after].
    ///
    /// CSV files contain posted transactions only.
    ///
    /// NDJSON has one tally.v1.ProcessTransactionRequest per line, in the JSON form of proto3: a posted transaction, a hold, a
    /// transaction that posts or voids a hold, or a reversal. A line with the fields account and update_mask is a
    /// tally.v1.UpdateAccountRequest, and a line with account alone is a tally.v1.CreateAccountRequest. A line with committed is a
    /// tally.v1.Transaction of `tally export`.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Format of the files.
    #[arg(long, env = "TALLY_IMPORT_FORMAT", value_enum, default_value_t)]
    format: Format,
    /// Other names of columns in CSV files. NAME is the name in the layout, and NAME-IN-FILE the name in the header of the file.
    #[arg(
        long,
        env = "TALLY_IMPORT_COLUMNS",
        value_name = "NAME=NAME-IN-FILE,...",
        value_delimiter = ',',
        value_parser = Pair::of_column
    )]
    columns: Vec<Pair>,
    /// Columns of CSV files to leave out.
    #[arg(
        long,
        env = "TALLY_IMPORT_IGNORE_COLUMNS",
        value_name = "NAME-IN-FILE,...",
        value_delimiter = ','
    )]
    ignore_columns: Vec<String>,
    /// Other words for the kinds of rows in bank statements. Several words may stand for the same kind.
    #[arg(
        long,
        env = "TALLY_IMPORT_KINDS",
        value_name = "KIND=WORD-IN-FILE,...",
        value_delimiter = ',',
        value_parser = Pair::of_kind
    )]
    kinds: Vec<Pair>,
    /// Create missing accounts. Always on if all files are bank statements, because the import itself chooses the ids of the
    /// bank's own accounts.
    #[arg(long, env = "TALLY_IMPORT_CREATE_ACCOUNTS")]
    create_accounts: bool,
    /// Asset of created accounts. Required if the import creates accounts.
    #[arg(long, env = "TALLY_IMPORT_ASSET", value_parser = asset)]
    asset: Option<String>,
    /// Balance rule of created accounts. Accounts of bank statements are always unlimited.
    #[arg(long, env = "TALLY_IMPORT_BALANCE_RULE", value_enum, default_value_t)]
    balance_rule: BalanceRule,
    /// Transactions per call, 1 to 8192.
    #[arg(
        long,
        env = "TALLY_IMPORT_BATCH",
        default_value_t = 1000,
        value_parser = batch
    )]
    batch: u16,
    /// Exit with code 0 even if transactions were rejected.
    #[arg(long, env = "TALLY_IMPORT_ALLOW_REJECTED")]
    allow_rejected: bool,
    /// Write rejected transactions to this file, as one JSON object per line with the reason. Replaces an earlier file.
    #[arg(long, value_name = "FILE", env = "TALLY_IMPORT_REJECTS")]
    rejects: Option<PathBuf>,
    /// How long to try to connect, and how long to retry each call, when the service is unavailable or overloaded, 1ms to 30days.
    #[arg(long, env = "TALLY_IMPORT_GIVE_UP_AFTER", default_value = "60s", value_parser = give_up_after)]
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

/// Imports and prints the summary. Returns the exit code.
pub(super) fn run(args: &ImportArgs) -> ExitCode {
    let mut summary = Summary::default();
    // The length is set when the sizes of the files are known.
    let progress = progress_bar(0, "{percent:>3} %  {msg}");
    let imported = until_signal(import(args, &mut summary, &progress));
    progress.finish_and_clear();
    summary.finish();
    let imported = match imported {
        Ok(imported) => imported,
        Err(Stopped::Signal(signal)) => Err(ImportError::Stopped {
            signal,
            connected: summary.is_started(),
            transactions: summary.transactions,
            through: summary.answered_through.clone(),
        }),
        Err(Stopped::Setup(error)) => Err(ImportError::Setup(error)),
    };
    let printed = if summary.has_answers() || imported.is_ok() {
        print(args, &summary)
    } else {
        Ok(())
    };
    match imported
        .and(printed)
        .and_then(|()| check_rejected(args, &summary))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(args, &error).report(),
    }
}

/// Returns the failure to report. For a failed call, the text says what to do.
fn failure(args: &ImportArgs, error: &ImportError) -> Failure {
    let (ImportError::Accounts { source, .. }
    | ImportError::Process { source, .. }
    | ImportError::Update { source, .. }) = error
    else {
        return Failure::new(error.exit_code(), error);
    };
    let attempts = match source.attempts() {
        1 => String::new(),
        attempts => format!(" ({attempts} attempts)"),
    };
    // The retries of a call end after this time, and so does the last attempt.
    let advice = args
        .client
        .config()
        .explain_within(source.status(), args.give_up_after);
    Failure::with_message(error.exit_code(), format!("{error}{attempts}: {advice}"))
}

/// Returns an error if transactions were rejected and the options do not allow that.
fn check_rejected(args: &ImportArgs, summary: &Summary) -> Result<(), ImportError> {
    let Summary {
        rejected,
        transactions,
        ..
    } = *summary;
    if rejected == 0 || args.allow_rejected {
        return Ok(());
    }
    Err(ImportError::Rejected {
        rejected,
        transactions,
    })
}

/// Imports the files and updates `summary`. After an error, and if the future is dropped, `summary` describes what was imported.
///
/// # Errors
/// [`ImportError`] except [`ImportError::Rejected`]: rejected transactions are only counted.
async fn import(args: &ImportArgs, summary: &mut Summary, progress: &ProgressBar) -> Result<(), ImportError> {
    let CheckedFiles {
        files,
        bytes,
        only_statements,
    } = checked_files(args).await?;
    let accounts = match (&args.asset, args.create_accounts || only_statements) {
        (Some(asset), true) => Some(AccountCreator::new(args.balance_rule, asset.clone())),
        (None, true) => return Err(ImportError::AssetMissing),
        (_, false) => None,
    };
    let rejects = rejects(args)?;
    summary.rejects_file = args.rejects.as_ref().map(|file| file.display().to_string());
    progress.set_length(bytes);
    let retry = RetryPolicy {
        attempts_max: u32::MAX,
        total_max: args.give_up_after,
        ..RetryPolicy::default()
    };
    let waits = Waits::new(progress.clone());
    let observer = waits.clone();
    let client = waits
        .connect(&args.client.config(), args.give_up_after)
        .await?
        .with_retry(retry)
        .on_retry(move |status, delay| observer.call_failed(status, delay));
    summary.start();
    let sender = Sender::new(client, waits, args.give_up_after)
        .creating(accounts)
        .writing(rejects);
    let read = sender
        .send_all(files, usize::from(args.batch), summary, progress)
        .await?;
    settle(read, summary)
}

/// Creates the file of rejected transactions, if the options ask for one.
fn rejects(args: &ImportArgs) -> Result<Option<(&Path, Rejects)>, ImportError> {
    let Some(file) = &args.rejects else {
        return Ok(None);
    };
    let rejects = Rejects::create(file, &args.files)?;
    Ok(Some((file, rejects)))
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

/// Opens and checks every file on a separate thread, because a signal can't stop this thread while it waits for the header of
/// a pipe.
async fn checked_files(args: &ImportArgs) -> Result<CheckedFiles, ImportError> {
    let args = args.clone();
    let checked = tokio::task::spawn_blocking(move || check_files(&args));
    checked.await.map_err(|_| ImportError::Reader)?
}

/// Opens and checks every file before anything is sent.
fn check_files(args: &ImportArgs) -> Result<CheckedFiles, ImportError> {
    let mapping = Mapping::new(
        args.columns.clone(),
        args.ignore_columns.clone(),
        args.kinds.clone(),
    )?;
    let options = ReadOptions {
        format: args.format,
        mapping: Arc::new(mapping),
        given: given(&args.files).into(),
    };
    if args.files.iter().filter(|file| *file == Path::new(STDIN)).count() > 1 {
        return Err(ImportError::StdinTwice);
    }
    let mut checked = CheckedFiles {
        files: Vec::with_capacity(args.files.len()),
        bytes: 0,
        only_statements: true,
    };
    for file in &args.files {
        let source = Source::open(file, &options)?;
        if args.balance_rule != BalanceRule::Unlimited && source.layout() == Some(CsvLayout::BankStatement) {
            return Err(ImportError::BalanceRule { file: file.clone() });
        }
        checked.only_statements &= source.layout() == Some(CsvLayout::BankStatement);
        checked.bytes += source.bytes();
        checked.files.push(source.set_aside());
    }
    Ok(checked)
}

/// Returns the options of the command line after `import`.
fn given(files: &[PathBuf]) -> String {
    let arguments = std::env::args_os()
        .skip_while(|argument| argument != "import")
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned());
    given_options(arguments, files)
}

/// Checks that every row was answered.
fn settle(read: LineCounts, summary: &mut Summary) -> Result<(), ImportError> {
    if summary.settle(read) {
        return Ok(());
    }
    Err(ImportError::Unaccounted {
        rows: read.rows,
        transactions: summary.transactions,
        committed: summary.committed,
        replayed: summary.replayed,
        rejected: summary.rejected,
        updates: summary.updates() + summary.accounts,
    })
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
