//! Calls and replies in a few words, for the events of a run.

use tally_ledger::Outcome;

use crate::calls::{Answer, Call, Kind, Reply, Request, Transaction};

/// Describes a call in a few words.
pub(crate) fn brief_call(call: &Call) -> String {
    let mut words = match &call.request {
        Request::Transactions(transactions) => {
            let words: Vec<_> = transactions.iter().map(brief_transaction).collect();
            format!("process {}", words.join(" "))
        }
        Request::CreateAccounts(accounts) => {
            let ids: Vec<_> = accounts.iter().map(|account| &*account.id).collect();
            format!("create {}", ids.join(" "))
        }
        Request::CreateMissing(accounts) => {
            let ids: Vec<_> = accounts.iter().map(|account| &*account.id).collect();
            format!("create {} if missing", ids.join(" "))
        }
        Request::Account(id) => format!("read account {id}"),
        Request::Accounts { from, limit } => format!("list {limit} accounts from number {from} on"),
        Request::Transaction(id) => format!("read transaction {id}"),
        Request::Update(update) => format!("update {update:?}"),
        Request::Hold(id) => format!("read hold {id}"),
        Request::Holds => "list holds".to_owned(),
    };
    if let Some((stream, message)) = call.message {
        words.push_str(&format!(", message {message} of stream {stream}"));
    }
    if let Some(deadline) = call.deadline {
        words.push_str(&format!(", until {:.6} s", deadline.as_secs_f64()));
    }
    words
}

fn brief_transaction(transaction: &Transaction) -> String {
    let id = &transaction.id;
    match &transaction.kind {
        Kind::Move => id.clone(),
        Kind::Hold { timeout: None } => format!("{id}(hold)"),
        Kind::Hold { timeout: Some(nanos) } => format!("{id}(hold for {} ms)", nanos / 1_000_000),
        Kind::Post { hold, keep_remaining } => {
            format!(
                "{id}(posts {hold}{})",
                if *keep_remaining { ", keeps" } else { "" }
            )
        }
        Kind::Void { hold } => format!("{id}(voids {hold})"),
        Kind::Reverse { target } => format!("{id}(reverses {target})"),
    }
}

fn brief_outcome(outcome: &Outcome) -> String {
    let (text, replayed) = match outcome {
        Outcome::Committed { committed, replayed } => (format!("sequence {}", committed.sequence), *replayed),
        Outcome::Rejected { rejection, replayed } => (
            format!(
                "{} at leg {}, available {}",
                rejection.reason,
                rejection.transfer,
                rejection.available().minor_units()
            ),
            *replayed,
        ),
        Outcome::Reused { field } => (format!("id reused, {field:?} differs"), false),
    };
    text + if replayed { " (replayed)" } else { "" }
}

/// Describes a reply in a few words.
pub(crate) fn brief(reply: &Reply) -> String {
    match reply {
        Ok(Answer::Outcomes(outcomes, details)) => {
            let words: Vec<_> = outcomes.iter().map(brief_outcome).collect();
            let details = if details.is_empty() {
                String::new()
            } else {
                format!(", {details:?}")
            };
            words.join(", ") + &details
        }
        Ok(answer) => {
            let mut words = format!("{answer:?}");
            if words.len() > 300 {
                words.truncate(300);
                words.push('…');
            }
            words
        }
        Err(error) => format!("{error:?}"),
    }
}
