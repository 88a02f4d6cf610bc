//! Rule 6: what was known before a call began precedes the effects of the call. Batches and streams are in order and have
//! no holes.

use std::collections::BTreeMap;

use tally::engine::EngineError;
use tally_batch::BatchError;
use tally_ledger::{Reason, Timestamp};

use super::{
    Violation,
    accounts::Accounts,
    calls::Transaction,
    history::{Attempt, Effect, History, Invocation, NEVER, Tick},
    moments::{Floors, rejected_at},
    records::{Place, Records},
    reference::Reference,
    violation,
    window::Window,
};

/// A record or an account, with its place in time.
#[derive(Debug, Clone)]
struct Effected<'a> {
    kind: &'static str,
    id: &'a str,
    time: Timestamp,
    /// When the first attempt began that can have caused it.
    begun: Tick,
    /// When a client saw it first.
    known: Tick,
}

/// Checks that effects have the order of real time.
pub(super) fn check_real_time(
    history: &History,
    records: &Records<'_>,
    accounts: &Accounts<'_>,
    floors: &Floors,
) -> Result<(), Violation> {
    for found in records.in_order() {
        check_floor(history, found, floors)?;
    }
    let mut effects = Vec::new();
    for found in records.in_order() {
        let id = found.recorded.transaction.id.as_str();
        effects.push(Effected {
            kind: if found.place().is_commit {
                COMMIT
            } else {
                "rejection"
            },
            id,
            time: found.recorded.place.time,
            begun: found.begun,
            known: history.transactions_known.get(id).copied().unwrap_or(NEVER),
        });
    }
    for found in &accounts.all {
        let id = found.snapshot.account.id.as_str();
        effects.push(Effected {
            kind: "account",
            id,
            time: found.snapshot.create_time,
            begun: found.begun,
            known: history.accounts_known.get(id).copied().unwrap_or(NEVER),
        });
    }
    effects.sort_by_key(|effect| effect.time);
    check_times(&effects)
}

/// The kind of a committed transaction. The time of a rejection or an account can equal that of an effect in the next
/// block if the clock goes back: it is the time that the next commit of its own block would get.
const COMMIT: &str = "transaction";

/// An effect that was known before another one's first attempt began has the smaller time.
fn check_times(effects: &[Effected<'_>]) -> Result<(), Violation> {
    let mut youngest: Option<&Effected<'_>> = None;
    for same in effects.chunk_by(|one, other| one.time == other.time) {
        let before = youngest;
        youngest = same.iter().chain(youngest).max_by_key(|effect| effect.begun);
        for effect in same {
            let earlier = if effect.kind != COMMIT { before } else { youngest };
            if let Some(earlier) = earlier
                && effect.known < earlier.begun
            {
                return violation(
                    "order",
                    format!(
                        "{} {} with time {} was known before a call began that caused {} {}, but this has the time {}",
                        effect.kind, effect.id, effect.time, earlier.kind, earlier.id, earlier.time
                    ),
                );
            }
        }
    }
    Ok(())
}

/// A transaction comes after everything that a client had seen when the first attempt began.
fn check_floor(
    history: &History,
    found: &super::records::Found<'_>,
    floors: &Floors,
) -> Result<(), Violation> {
    let first = found
        .executors
        .iter()
        .filter_map(|attempt| history.calls.get(&attempt.call));
    let Some(first) = first.min_by_key(|invocation| invocation.begun) else {
        return Ok(());
    };
    let floor = floors.get(&first.id).copied().unwrap_or(0);
    let sequence = found.recorded.place.sequence;
    if sequence > floor {
        return Ok(());
    }
    violation(
        "order",
        format!(
            "transaction {} has sequence {sequence}, but sequence {floor} was known before call {} began, which is the first \
             that can have executed it",
            found.recorded.transaction.id, first.id
        ),
    )
}

/// One transaction of a stream or of a batch.
#[derive(Debug, Clone)]
struct Step<'a> {
    attempt: Attempt,
    invocation: &'a Invocation,
    sent: &'a Transaction,
}

/// Checks each batch and each stream.
pub(super) fn check_sequences(
    history: &History,
    records: &Records<'_>,
    reference: &Reference<'_>,
    floors: &Floors,
) -> Result<(), Violation> {
    for messages in history.streams.values() {
        check_answers_of_stream(history, messages)?;
        let calls = messages.values().filter_map(|call| history.calls.get(call));
        check_sequence(history, records, reference, floors, calls)?;
    }
    let alone = history
        .calls
        .values()
        .filter(|invocation| invocation.call.message.is_none() && invocation.transactions().len() > 1);
    for invocation in alone {
        check_sequence(history, records, reference, floors, std::iter::once(invocation))?;
    }
    Ok(())
}

/// After a message that was certainly not executed, no message is answered as executed. A message is interrupted only if
/// an earlier one has no result.
fn check_answers_of_stream(history: &History, messages: &BTreeMap<u64, u64>) -> Result<(), Violation> {
    let mut refused = None;
    let mut all_have_results = true;
    for invocation in messages.values().filter_map(|call| history.calls.get(call)) {
        if all_have_results && is_interrupted(invocation) {
            return violation(
                "streams",
                format!(
                    "call {} was answered as interrupted, but all earlier messages of its stream were executed",
                    invocation.id
                ),
            );
        }
        all_have_results &= matches!(invocation.reply, Some(Ok(_)));
        match (&invocation.reply, refused) {
            (Some(Ok(_)), Some((before, error))) => {
                return violation(
                    "streams",
                    format!(
                        "call {} was executed, but call {before}, which is an earlier message of its stream, was not: {error}",
                        invocation.id
                    ),
                );
            }
            (Some(Err(error)), None) if error.is_not_executed() => refused = Some((invocation.id, error)),
            _ => {}
        }
    }
    Ok(())
}

fn is_interrupted(invocation: &Invocation) -> bool {
    matches!(
        invocation.reply,
        Some(Err(EngineError::Batch(BatchError::Interrupted)))
    )
}

/// The effects of a sequence of transactions are in its order, and none is missing before a later one.
fn check_sequence<'a>(
    history: &History,
    records: &Records<'_>,
    reference: &Reference<'_>,
    floors: &Floors,
    calls: impl Iterator<Item = &'a Invocation>,
) -> Result<(), Violation> {
    let steps: Vec<Step<'_>> = calls
        .flat_map(|invocation| {
            let call = invocation.id;
            let sent = invocation.transactions().iter().enumerate();
            sent.map(move |(place, sent)| Step {
                attempt: Attempt { call, place },
                invocation,
                sent,
            })
        })
        .collect();
    let mut later: Option<(Place, &Step<'_>)> = None;
    for step in steps.iter().rev() {
        let found = records.get(&step.sent.id);
        let own = found.filter(|found| found.is_made_by(step.attempt));
        if let Some((limit, by)) = later {
            let precedes = found.is_some_and(|found| found.place() <= limit);
            let is_answered = history.outcome(step.attempt).is_some();
            let excused = (own.is_none() && is_answered)
                || records.is_unreadable(&step.sent.id)
                || (own.is_none() && can_be_unrecorded(history, reference, floors, step, limit));
            if !precedes && !excused {
                return violation(
                    "streams",
                    format!(
                        "transaction {} of call {} was executed at sequence {}, but transaction {} of call {}, which \
                         precedes it in the same batch or stream, {}",
                        by.sent.id,
                        by.attempt.call,
                        limit.sequence,
                        step.sent.id,
                        step.attempt.call,
                        found.map_or("was not executed".to_owned(), |found| format!(
                            "has sequence {}",
                            found.place().sequence
                        ))
                    ),
                );
            }
        }
        if let Some(own) = own {
            later = Some((own.place(), step));
        }
    }
    Ok(())
}

/// Whether the rules can have rejected the transaction before the place `limit` without a record.
fn can_be_unrecorded(
    history: &History,
    reference: &Reference<'_>,
    floors: &Floors,
    step: &Step<'_>,
    limit: Place,
) -> bool {
    let is_new = |id: &str| {
        let known = history.accounts_known.get(id);
        known.is_none_or(|known| *known >= step.invocation.begun)
    };
    let refused = history.unanswered_effect(step.invocation, 0, None);
    if matches!(refused, Effect::Impossible(_)) {
        return false;
    }
    let can_miss_account = step
        .sent
        .legs
        .iter()
        .any(|leg| is_new(&leg.debit) || is_new(&leg.credit));
    let window = Window {
        from: floors.get(&step.attempt.call).copied().unwrap_or(0),
        to: limit.sequence - 1,
    };
    can_miss_account
        || rejected_at(reference, &step.sent.legs, window, |rejection| {
            rejection.reason != Reason::AccountNotFound
        })
        .is_some()
}
