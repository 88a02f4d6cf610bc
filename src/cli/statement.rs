//! `tally statement`: shows the statement of an account of a service.

use std::process::ExitCode;

use clap::Args;

use super::{
    client_args::ClientArgs,
    exit::{self, Failure, block_on, finish},
    ledger_client::LedgerClient,
    ledger_text::{phase_name, time_text, units},
    moment::{Ends, Moment, bound},
    output::{OutputFormat, json_line},
};
use crate::{
    proto::{AccountEntry, ListAccountEntriesRequest, Side},
    terminal::{errln, outln, stdout_failure, table},
};

/// Maximum number of rows of a page, and of a table.
const PAGE_ROWS_MAX: usize = 1000;

/// Options of `tally statement`.
#[derive(Debug, Args)]
pub struct StatementArgs {
    /// The id of the account.
    #[arg(value_name = "ACCOUNT")]
    account: String,
    /// Only rows from this sequence or this time on. A time is like 2026-01-31T12:00:00Z, or a date, which means its midnight in UTC.
    #[arg(long, value_name = "SEQUENCE|TIME", value_parser = bound)]
    from: Option<Moment>,
    /// Only rows before this sequence or this time.
    #[arg(long, value_name = "SEQUENCE|TIME", value_parser = bound)]
    to: Option<Moment>,
    /// Show the newest row first.
    #[arg(long)]
    newest_first: bool,
    /// Maximum number of rows.
    #[arg(long, value_name = "ROWS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Show all rows.
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    #[command(flatten)]
    client: ClientArgs,
    /// How to print the rows. JSON has one row on each line.
    #[arg(short, long, env = "TALLY_OUTPUT", value_enum, default_value_t)]
    output: OutputFormat,
}

pub(super) fn run(args: &StatementArgs) -> ExitCode {
    block_on(async { finish(show(args).await) })
}

/// Returns the failure for a range that mixes sequences and times.
pub(super) fn mixed_ends() -> Failure {
    let message = "--from and --to must both be sequences, or both be times";
    Failure::with_message(exit::USAGE, message.to_owned())
}

async fn show(args: &StatementArgs) -> Result<(), Failure> {
    let ends = Ends::of(args.from, args.to).ok_or_else(mixed_ends)?;
    let ledger = LedgerClient::connect(&args.client).await?;
    let mut left = if args.all { u64::MAX } else { args.limit };
    let mut request = ListAccountEntriesRequest {
        account_id: args.account.clone(),
        from_sequence: ends.from_sequence,
        to_sequence: ends.to_sequence,
        from_time: ends.from_time,
        to_time: ends.to_time,
        newest_first: args.newest_first,
        ..ListAccountEntriesRequest::default()
    };
    let mut rows: Vec<AccountEntry> = Vec::new();
    let mut printed = false;
    loop {
        let size = (PAGE_ROWS_MAX - rows.len()).min(usize::try_from(left).unwrap_or(PAGE_ROWS_MAX));
        request.page_size = i32::try_from(size).unwrap_or(i32::MAX);
        let page = ledger.client.list_account_entries(request.clone()).await;
        let page = page.map_err(|error| ledger.failure(&error))?;
        left -= page.entries.len() as u64;
        rows.extend(page.entries);
        let is_last = page.next_page_token.is_empty();
        let is_end = is_last || left == 0;
        if is_end || rows.len() >= PAGE_ROWS_MAX {
            if !rows.is_empty() || !printed {
                print(&rows, args.output)?;
            }
            printed = true;
            rows.clear();
        }
        if is_end {
            if !is_last {
                errln!("tally: the statement has more rows; use --all or a larger --limit");
            }
            return Ok(());
        }
        if stdout_failure().is_some() {
            return Ok(());
        }
        request.page_token = page.next_page_token;
    }
}

fn print(rows: &[AccountEntry], output: OutputFormat) -> Result<(), Failure> {
    if output == OutputFormat::Json {
        for row in rows {
            outln!("{}", json_line("AccountEntry", row)?);
        }
        return Ok(());
    }
    let mut shown = table(&[
        "sequence",
        "commit time",
        "transaction",
        "phase",
        "counterparty",
        "debit",
        "credit",
        "debits",
        "credits",
        "pending debits",
        "pending credits",
    ]);
    for row in rows {
        shown.add_row(cells(row));
    }
    outln!("{shown}");
    Ok(())
}

fn cells(row: &AccountEntry) -> [String; 11] {
    let amount = amount_text(row);
    let (debit, credit) = match row.side() {
        Side::Debit => (amount, String::new()),
        Side::Credit => (String::new(), amount),
        Side::Unspecified => (String::new(), String::new()),
    };
    let balances = row.balances.as_ref();
    // An expiry is a transaction without an id.
    let id = if row.transaction_id.is_empty() {
        &row.pending_transaction_id
    } else {
        &row.transaction_id
    };
    [
        row.sequence.to_string(),
        time_text(row.commit_time.as_ref()),
        id.clone(),
        phase_name(row.phase()).to_owned(),
        row.counterparty_account_id.clone(),
        debit,
        credit,
        units(balances.and_then(|balances| balances.debits_posted.as_ref())).to_string(),
        units(balances.and_then(|balances| balances.credits_posted.as_ref())).to_string(),
        units(balances.and_then(|balances| balances.debits_pending.as_ref())).to_string(),
        units(balances.and_then(|balances| balances.credits_pending.as_ref())).to_string(),
    ]
}

/// Returns the amount of a row, and what was released.
fn amount_text(row: &AccountEntry) -> String {
    let amount = units(row.amount.as_ref());
    match units(row.released_amount.as_ref()) {
        0 => amount.to_string(),
        released if amount == 0 => format!("{released} released"),
        released => format!("{amount}, {released} released"),
    }
}
