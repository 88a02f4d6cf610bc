//! `tally account`: shows an account of a service.

use std::process::ExitCode;

use clap::Args;

use super::{
    client_args::ClientArgs,
    exit::{self, Failure, block_on, finish},
    ledger_client::LedgerClient,
    ledger_text::{difference, metadata_text, time_text, units},
    moment::{Moment, moment},
    output::{OutputFormat, json_document, named},
};
use crate::{
    proto::{
        Account, Amount, BalanceRule, Balances, GetAccountRequest, Side, VelocityLimit,
        get_account_request::AsOf,
    },
    terminal::{outln, units::proto_time},
};

/// Options of `tally account`.
#[derive(Debug, Args)]
pub struct AccountArgs {
    /// The id of the account.
    #[arg(value_name = "ID")]
    id: String,
    /// Show the account just after the transaction with this sequence, or just after the last transaction that was committed at this
    /// time or earlier. A time is like 2026-01-31T12:00:00Z, or a date, which means its midnight in UTC.
    #[arg(long, value_name = "SEQUENCE|TIME", value_parser = moment)]
    as_of: Option<Moment>,
    #[command(flatten)]
    client: ClientArgs,
    /// How to print the account.
    #[arg(short, long, env = "TALLY_OUTPUT", value_enum, default_value_t)]
    output: OutputFormat,
}

pub(super) fn run(args: &AccountArgs) -> ExitCode {
    block_on(async { finish(show(args).await) })
}

async fn show(args: &AccountArgs) -> Result<(), Failure> {
    let ledger = LedgerClient::connect(&args.client).await?;
    let request = GetAccountRequest {
        account_id: args.id.clone(),
        as_of: args.as_of.map(|moment| match moment {
            Moment::Sequence(sequence) => AsOf::AsOfSequence(sequence),
            Moment::Time(time) => AsOf::AsOfTime(time),
        }),
    };
    let found = ledger.client.get_account_as_of(request).await;
    let Some(account) = found.map_err(|error| ledger.failure(&error))? else {
        let message = match args.as_of {
            None => format!("no account has the id {:?}", args.id),
            Some(_) => format!("no account had the id {:?} at that moment", args.id),
        };
        return Err(Failure::with_message(exit::USAGE, message));
    };
    match args.output {
        OutputFormat::Json => outln!("{}", json_document("Account", &account)?),
        OutputFormat::Table => {
            for (name, text) in figures(&account, args.as_of) {
                outln!("{}", named(name, &text));
            }
        }
    }
    Ok(())
}

/// Returns the fields of an account, with their names.
fn figures(account: &Account, as_of: Option<Moment>) -> Vec<(&'static str, String)> {
    let balances = account.balances.as_ref();
    let column = |of: fn(&Balances) -> Option<&Amount>| units(balances.and_then(of));
    let debits = column(|balances| balances.debits_posted.as_ref());
    let credits = column(|balances| balances.credits_posted.as_ref());
    let debits_pending = column(|balances| balances.debits_pending.as_ref());
    let credits_pending = column(|balances| balances.credits_pending.as_ref());
    let rule = account.balance_rule();
    let (balance, of) = if rule == BalanceRule::DebitBalance {
        (difference(debits, credits), "debits minus credits")
    } else {
        (difference(credits, debits), "credits minus debits")
    };
    let overdraft = match rule {
        BalanceRule::Unlimited | BalanceRule::Unspecified => String::new(),
        BalanceRule::CreditBalance | BalanceRule::DebitBalance => {
            format!(", overdraft limit {}", units(account.overdraft_limit.as_ref()))
        }
    };
    let mut figures = vec![("account", account.id.clone())];
    match as_of {
        None => {}
        Some(Moment::Sequence(sequence)) => figures.push(("as of", format!("sequence {sequence}"))),
        Some(Moment::Time(time)) => figures.push(("as of", time.to_string())),
    }
    figures.extend([
        ("asset", account.asset.clone()),
        (
            "status",
            short(account.status().as_str_name(), "ACCOUNT_STATUS_").to_owned(),
        ),
        (
            "rule",
            format!("{}{overdraft}", short(rule.as_str_name(), "BALANCE_RULE_")),
        ),
        ("balance", format!("{balance} ({of})")),
    ]);
    if account.available.is_some() {
        figures.push(("available", units(account.available.as_ref()).to_string()));
    }
    figures.extend([
        ("debits", format!("{debits} posted, {debits_pending} pending")),
        ("credits", format!("{credits} posted, {credits_pending} pending")),
        ("created", time_text(account.create_time.as_ref())),
    ]);
    for limit in &account.velocity_limits {
        figures.push(("limit", limit_text(limit)));
    }
    if !account.metadata.is_empty() {
        figures.push(("metadata", metadata_text(&account.metadata)));
    }
    figures
}

/// Describes a velocity limit, for example `debits: at most 3 transfers, at most 500 in total within 1 h`.
fn limit_text(limit: &VelocityLimit) -> String {
    let side = match limit.side() {
        Side::Debit => "debits",
        Side::Credit => "credits",
        Side::Unspecified => "transfers",
    };
    let mut parts = Vec::new();
    let within = proto_time(limit.window);
    if limit.max_count > 0 {
        parts.push(format!("at most {} transfers within {within}", limit.max_count));
    }
    if limit.max_amount.is_some() {
        let amount = units(limit.max_amount.as_ref());
        parts.push(format!("at most {amount} in total within {within}"));
    }
    if limit.single_amount_max.is_some() {
        let amount = units(limit.single_amount_max.as_ref());
        parts.push(format!("at most {amount} in one transfer"));
    }
    format!("{side}: {}", parts.join(", "))
}

fn short<'a>(name: &'a str, prefix: &str) -> &'a str {
    name.trim_start_matches(prefix)
}
