//! Calls and replies in a few words, for the events of a run.

use tally_ledger::Outcome;

use crate::calls::{Answer, Call, Reply, Request};

/// Describes a call in a few words.
pub(crate) fn brief_call(call: &Call) -> String {
    let mut words = match &call.request {
        Request::Transactions(transactions) => {
            let ids: Vec<_> = transactions.iter().map(|transaction| &*transaction.id).collect();
            format!("process {}", ids.join(" "))
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
    };
    if let Some((stream, message)) = call.message {
        words.push_str(&format!(", message {message} of stream {stream}"));
    }
    if let Some(deadline) = call.deadline {
        words.push_str(&format!(", until {:.6} s", deadline.as_secs_f64()));
    }
    words
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
        Ok(Answer::Outcomes(outcomes)) => {
            let words: Vec<_> = outcomes.iter().map(brief_outcome).collect();
            words.join(", ")
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
