//! Rule 6: records that a client has seen before a call began precede the effects of the call. Batches and streams are in order and have
//! no holes.

use std::collections::BTreeMap;

use tally::engine::EngineError;
use tally_batch::BatchError;

use super::{
    Violation,
    calls::Transaction,
    history::{Attempt, Effect, History, Invocation},
    moments::{Floors, refused_at},
    records::Records,
    reference::Reference,
    violation,
    window::Window,
};

/// Checks that each record comes after all records that a client had seen when the first attempt to make it began.
pub(super) fn check_real_time(
    history: &History,
    records: &Records<'_>,
    floors: &Floors,
) -> Result<(), Violation> {
    for found in records.in_order() {
        let first = found
            .executors
            .iter()
            .filter_map(|attempt| history.calls.get(&attempt.call));
        let Some(first) = first.min_by_key(|invocation| invocation.begun) else {
            continue;
        };
        let floor = floors.get(&first.id).copied().unwrap_or(0);
        if found.number <= floor {
            return violation(
                "order",
                format!(
                    "{} is record {}, but record {floor} was known before call {} began, which is the first that can have \
                     executed it",
                    found.name(),
                    found.number,
                    first.id
                ),
            );
        }
    }
    Ok(())
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

/// Checks the answers of a stream. After a message that was certainly not executed, no message is executed. A message is interrupted only if
/// an earlier message has no result.
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

/// Checks that the effects of a sequence of transactions are in the order of the sequence, and that no effect is missing before a later one.
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
    let mut later: Option<(u64, &Step<'_>)> = None;
    for step in steps.iter().rev() {
        let found = records.get(&step.sent.id);
        let own = found.filter(|found| found.is_made_by(step.attempt));
        if let Some((limit, by)) = later {
            let precedes = found.is_some_and(|found| found.number <= limit);
            let is_answered = history.outcome(step.attempt).is_some();
            let excused =
                own.is_none() && (is_answered || can_be_unrecorded(history, reference, floors, step, limit));
            if !precedes && !excused {
                return violation(
                    "streams",
                    format!(
                        "transaction {} of call {} is record {limit}, but transaction {} of call {}, which precedes it in \
                         the same batch or stream, {}",
                        by.sent.id,
                        by.attempt.call,
                        step.sent.id,
                        step.attempt.call,
                        found.map_or("was not executed".to_owned(), |found| format!(
                            "is record {}",
                            found.number
                        ))
                    ),
                );
            }
        }
        if let Some(own) = own {
            later = Some((own.number, step));
        }
    }
    Ok(())
}

/// Whether the service can have refused the transaction without a record, before the record `limit`.
fn can_be_unrecorded(
    history: &History,
    reference: &Reference<'_>,
    floors: &Floors,
    step: &Step<'_>,
    limit: u64,
) -> bool {
    let refused = history.unanswered_effect(step.invocation, 0, None);
    if matches!(refused, Effect::Impossible(_)) {
        return false;
    }
    let window = Window {
        from: floors.get(&step.attempt.call).copied().unwrap_or(0),
        to: limit - 1,
    };
    refused_at(reference, step.sent, window, |_| true).is_some()
}
