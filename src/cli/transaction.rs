//! `tally transaction`: shows a transaction of a service and its outcome.

use std::process::ExitCode;

use clap::Args;

use super::{
    client_args::ClientArgs,
    exit::{self, Failure, block_on, finish},
    ledger_client::LedgerClient,
    ledger_text::{all_units, metadata_text, phase_name, time_text, transfer_units, units},
    output::{OutputFormat, json_document, named},
};
use crate::{
    proto::{AmountRule, HoldState, Transaction, transaction::Outcome},
    terminal::{outln, table},
};

/// Options of `tally transaction`.
#[derive(Debug, Args)]
pub struct TransactionArgs {
    /// The id of the transaction.
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    client: ClientArgs,
    /// How to print the transaction.
    #[arg(short, long, env = "TALLY_OUTPUT", value_enum, default_value_t)]
    output: OutputFormat,
}

pub(super) fn run(args: &TransactionArgs) -> ExitCode {
    block_on(async { finish(show(args).await) })
}

async fn show(args: &TransactionArgs) -> Result<(), Failure> {
    let ledger = LedgerClient::connect(&args.client).await?;
    let found = ledger.client.get_transaction(&args.id).await;
    let Some(transaction) = found.map_err(|error| ledger.failure(&error))? else {
        let message = format!("no transaction has the id {:?}", args.id);
        return Err(Failure::with_message(exit::USAGE, message));
    };
    match args.output {
        OutputFormat::Json => outln!("{}", json_document("Transaction", &transaction)?),
        OutputFormat::Table => print(&transaction),
    }
    Ok(())
}

fn print(transaction: &Transaction) {
    for (name, text) in figures(transaction) {
        outln!("{}", named(name, &text));
    }
    if transaction.transfers.is_empty() {
        return;
    }
    let is_hold = transaction.hold_state() != HoldState::Unspecified;
    let moved = match &transaction.outcome {
        Some(Outcome::Committed(committed)) => committed.moved_amounts.as_slice(),
        Some(Outcome::Error(_)) | None => &[],
    };
    let mut header = vec!["debit", "credit", "amount", "code"];
    if !moved.is_empty() {
        header.push("moved");
    }
    if is_hold {
        header.extend(["posted", "remaining"]);
    }
    let mut transfers = table(&header);
    for (place, transfer) in transaction.transfers.iter().enumerate() {
        let bound = match transfer.amount_rule() {
            AmountRule::Unspecified | AmountRule::Exact => "",
            AmountRule::UpToDebitAvailable
            | AmountRule::UpToCreditAvailable
            | AmountRule::UpToBothAvailable => "up to ",
        };
        let mut row = vec![
            transfer.debit_account_id.clone(),
            transfer.credit_account_id.clone(),
            format!("{bound}{}", transfer_units(transfer)),
            transfer.code.to_string(),
        ];
        if !moved.is_empty() {
            row.push(units(moved.get(place)).to_string());
        }
        if is_hold {
            row.push(units(transaction.posted_amounts.get(place)).to_string());
            row.push(units(transaction.remaining_amounts.get(place)).to_string());
        }
        transfers.add_row(row);
    }
    outln!("{transfers}");
}

/// Returns the fields of a transaction except its transfers, with their names.
fn figures(transaction: &Transaction) -> Vec<(&'static str, String)> {
    let mut figures = vec![
        ("transaction", transaction.transaction_id.clone()),
        ("phase", phase_name(transaction.phase()).to_owned()),
    ];
    match &transaction.outcome {
        Some(Outcome::Committed(committed)) => {
            figures.push((
                "committed",
                format!(
                    "sequence {}, {}",
                    committed.sequence,
                    time_text(committed.commit_time.as_ref())
                ),
            ));
            if transaction.transfers.is_empty() && !committed.moved_amounts.is_empty() {
                figures.push(("moved", all_units(&committed.moved_amounts)));
            }
        }
        Some(Outcome::Error(error)) => figures.push(("rejected", error.message.clone())),
        None => {}
    }
    let state = transaction.hold_state();
    if state != HoldState::Unspecified {
        let name = state.as_str_name().trim_start_matches("HOLD_STATE_");
        let ended = match transaction.ended_by.as_str() {
            "" => String::new(),
            id => format!(", ended by {id}"),
        };
        let expiry = match &transaction.expire_time {
            Some(time) if state == HoldState::Pending => format!(", expires {time}"),
            Some(_) | None => String::new(),
        };
        figures.push(("hold", format!("{name}{ended}{expiry}")));
    }
    let keeps = if transaction.keep_remaining {
        ", keeps the rest"
    } else {
        ""
    };
    for (name, value) in [
        (
            "of the hold",
            format!("{}{keeps}", transaction.pending_transaction_id),
        ),
        ("reverses", transaction.reverses_transaction_id.clone()),
        ("reversed by", transaction.reversed_by.join(", ")),
        ("effective", time_text(transaction.effective_time.as_ref())),
        ("principal", transaction.principal.clone()),
        ("metadata", metadata_text(&transaction.metadata)),
    ] {
        if !value.is_empty() {
            figures.push((name, value));
        }
    }
    figures
}
