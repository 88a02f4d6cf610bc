//! Rule 4: the reference ledger accepts each record at its place, rejects each rejected transaction for the same reason, and
//! is equal to the ledger of the service at the end. Holds expire at their deadlines, and not before.

use std::collections::BTreeMap;

use tally_ledger::{AccountSnapshot, Amount, Balances, Hold, Side, Timestamp};

use super::{
    Violation,
    answers::shown_rejection,
    calls::{Entry, Moved, Recorded, State},
    history::History,
    holds::At,
    moments::is_shown,
    records::{Found, Records},
    reference::{Reference, Version},
    updates, violation,
};

/// A sum of 128-bit columns, which needs more than 128 bits.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sum {
    carries: u64,
    low: u128,
}

/// When holds must expire.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expiry {
    /// Whether every hold must expire as soon as it can, because nothing on the disk is damaged and no read fails.
    pub(super) is_prompt: bool,
    /// If set: the time of the ledger clock. All holds that are due at this time must have expired.
    pub(super) now: Option<Timestamp>,
}

/// Maximum number of blocks before the open block that are not durable: one in flight and one waiting. A hold whose newest record is in a
/// block that is not durable may be unable to expire.
const BLOCKS_NOT_DURABLE: u64 = 2;
/// If a block has fewer records than this before its first transaction, due holds expire in the same block.
const RECORDS_BEFORE_EXPIRY: u64 = 10;
/// Maximum number of holds that expire before the first transaction of a block: the bound of EXEC in the simulation.
const EXPIRIES_MAX: u64 = 4;

/// Replays all records in their order, and compares the accounts and the holds.
pub(super) fn check<'a>(
    history: &History,
    records: &Records<'a>,
    state: &State,
    holds_max: usize,
    expiry: Expiry,
) -> Result<Reference<'a>, Violation> {
    let mut reference = Reference::new(holds_max);
    let mut block = 0;
    // Records in the block before its first transaction, and how many of them are expiries.
    let (mut before, mut expiries) = (0, 0);
    for found in records.in_order() {
        if found.logged.block != block {
            (block, before, expiries) = (found.logged.block, 0, 0);
        }
        match found.logged.entry {
            Entry::Transaction(_) => {
                if expiry.is_prompt && before < RECORDS_BEFORE_EXPIRY && expiries < EXPIRIES_MAX {
                    check_expired(found, &reference)?;
                }
                // Only the first transaction of a block matters.
                before = RECORDS_BEFORE_EXPIRY;
            }
            Entry::Expired { .. } => (before, expiries) = (before + 1, expiries + 1),
            Entry::Created { .. } | Entry::Updated { .. } => before += 1,
        }
        check_record(history, found, &mut reference)?;
        reference.end_record();
    }
    for snapshot in &state.accounts {
        check_account(snapshot, &reference)?;
    }
    if state.accounts.len() != reference.accounts().count() {
        let (found, expected) = (state.accounts.len(), reference.accounts().count());
        return whole_or_absent(format!("there are {found} accounts, but {expected} were created"));
    }
    check_sums(&state.accounts)?;
    if let Some(holds) = &state.holds {
        check_holds(holds, &reference)?;
    }
    if let Some(now) = expiry.now.filter(|_| expiry.is_prompt) {
        check_no_hold_is_due(now, &reference)?;
    }
    Ok(reference)
}

fn whole_or_absent<T>(text: String) -> Result<T, Violation> {
    violation("whole or absent", text)
}

/// Checks that all due holds have expired before the first transaction of a block.
fn check_expired(found: &Found<'_>, reference: &Reference<'_>) -> Result<(), Violation> {
    let due = reference
        .holds
        .iter()
        .filter(|(_, hold)| hold.is_outstanding() && hold.is_due(found.logged.block_time));
    // Holds expire one after the other, so a hold that can't expire yet delays the others.
    if due
        .clone()
        .any(|(_, hold)| hold.newest_block + BLOCKS_NOT_DURABLE >= found.logged.block)
    {
        return Ok(());
    }
    let Some((id, hold)) = due.min_by_key(|(id, _)| **id) else {
        return Ok(());
    };
    violation(
        "expiry",
        format!(
            "{} is record {} in a block with the time {}, but hold {id} with the deadline {:?} has not expired before",
            found.name(),
            found.number,
            found.logged.block_time,
            hold.deadline
        ),
    )
}

/// Checks that no due hold is outstanding, although there were no calls.
fn check_no_hold_is_due(now: Timestamp, reference: &Reference<'_>) -> Result<(), Violation> {
    let mut due = reference
        .holds
        .iter()
        .filter(|(_, hold)| hold.is_outstanding() && hold.is_due(now));
    let Some((id, hold)) = due.next() else {
        return Ok(());
    };
    violation(
        "expiry",
        format!(
            "hold {id} with the deadline {:?} is outstanding, although the clock of the ledger shows {now} and the service \
             has nothing else to do",
            hold.deadline
        ),
    )
}

/// Checks that the reference ledger decides at the record's place as the service has decided.
fn check_record<'a>(
    history: &History,
    found: &Found<'a>,
    reference: &mut Reference<'a>,
) -> Result<(), Violation> {
    let mut at = At {
        time: found.logged.time(),
        block: found.logged.block,
        block_time: found.logged.block_time,
    };
    match &found.logged.entry {
        Entry::Created { account, time } => {
            reference.create(account, *time);
            Ok(())
        }
        Entry::Updated { id, terms } => {
            if !updates::is_allowed(history, reference, found) || !reference.update(id, terms) {
                let text = format!(
                    "record {} gives account {id} {terms:?}, which no update can have done",
                    found.number
                );
                return violation("updates", text);
            }
            Ok(())
        }
        Entry::Expired {
            hold,
            moved,
            position,
            ..
        } => match reference.expire(hold, *position, at) {
            Ok(released) if released == *moved => Ok(()),
            Ok(released) => whole_or_absent(format!(
                "the expiry of hold {hold} has released {moved:?}, but the hold reserved {released:?}"
            )),
            Err(why) => violation(
                "expiry",
                format!("record {} is the expiry of hold {hold}, but {why}", found.number),
            ),
        },
        Entry::Transaction(recorded) => {
            at.time = recorded.place.time;
            check_transaction(recorded, at, reference)
        }
    }
}

fn check_transaction<'a>(
    recorded: &'a Recorded,
    at: At,
    reference: &mut Reference<'a>,
) -> Result<(), Violation> {
    let transaction = &recorded.transaction;
    let decided = reference.judge(transaction, at);
    let is_same = match (&decided, recorded.rejection) {
        (Ok(effects), None) => effects.moved == recorded.moved,
        (Err(rejection), Some(recorded)) => *rejection == recorded,
        (Ok(_), Some(_)) | (Err(_), None) => false,
    };
    let is_expired = expired_before(recorded, at, reference);
    if !is_same || !is_expired {
        let shown = |rejection: Option<_>, moved: &[Moved]| {
            rejection.map_or_else(|| format!("a commit of {moved:?}"), shown_rejection)
        };
        let expected = match &decided {
            Ok(effects) => shown(None, &effects.moved),
            Err(rejection) => shown(Some(*rejection), &[]),
        };
        return whole_or_absent(format!(
            "transaction {} is recorded at sequence {} as {}, but the reference expects {expected}{}",
            transaction.id,
            recorded.place.sequence,
            shown(recorded.rejection, &recorded.moved),
            if is_expired {
                ""
            } else {
                " after the record of the expiry"
            }
        ));
    }
    match decided {
        Ok(effects) => reference.commit(recorded, effects, at),
        Err(_) => reference.reject(transaction),
    }
    Ok(())
}

/// Whether the hold that the transaction names has expired, if it is due.
fn expired_before(recorded: &Recorded, at: At, reference: &Reference<'_>) -> bool {
    let named = recorded.transaction.kind.names();
    let hold = named.and_then(|id| reference.holds.get(id.as_str()));
    hold.is_none_or(|hold| !hold.is_outstanding() || !hold.is_due(at.block_time))
}

/// Checks that an account equals that of the reference.
fn check_account(snapshot: &AccountSnapshot, reference: &Reference<'_>) -> Result<(), Violation> {
    let id = &snapshot.account.id;
    let last = reference.records();
    let found = reference
        .account(id)
        .and_then(|account| Some((account, account.at(last)?)));
    let Some((account, version)) = found else {
        return whole_or_absent(format!("account {id} exists, but was never created"));
    };
    check_columns(snapshot, version, last)?;
    if !is_shown(account, version, snapshot) {
        return whole_or_absent(format!(
            "account {id} is {snapshot:?} after record {last}, but the reference has {:?} of {}, revision {}, available {:?}",
            account.shown(version),
            account.created,
            version.revision,
            account.available(version)
        ));
    }
    let Balances {
        debits_pending,
        credits_pending,
        ..
    } = snapshot.balances;
    for (pending, side) in [(debits_pending, Side::Debit), (credits_pending, Side::Credit)] {
        let reserved = reference.reserved(id, side);
        if pending.minor_units() != reserved {
            return whole_or_absent(format!(
                "account {id} has {pending} pending on side {side:?}, but the outstanding holds reserve {reserved}"
            ));
        }
    }
    Ok(())
}

fn check_columns(snapshot: &AccountSnapshot, version: &Version, last: u64) -> Result<(), Violation> {
    let (found, expected) = (snapshot.balances, version.columns.balances());
    if found == expected {
        return Ok(());
    }
    let shown = |balances: &Balances| {
        format!(
            "debits {} (pending {}) and credits {} (pending {})",
            balances.debits_posted,
            balances.debits_pending,
            balances.credits_posted,
            balances.credits_pending
        )
    };
    whole_or_absent(format!(
        "account {} has {}, but the reference has {} after record {last}",
        snapshot.account.id,
        shown(&found),
        shown(&expected)
    ))
}

/// Checks that the outstanding holds are those of the reference.
fn check_holds(holds: &[Hold], reference: &Reference<'_>) -> Result<(), Violation> {
    let mut holds = holds.to_vec();
    holds.sort_unstable_by_key(|hold| hold.place);
    let expected = reference.holds_at(reference.records());
    if holds == expected {
        return Ok(());
    }
    whole_or_absent(format!(
        "the outstanding holds are {holds:?}, but the reference has {expected:?}"
    ))
}

/// Checks that the debits equal the credits for each asset, posted and pending.
fn check_sums(state: &[AccountSnapshot]) -> Result<(), Violation> {
    let mut sums: BTreeMap<&str, [(Sum, Sum); 2]> = BTreeMap::new();
    for snapshot in state {
        let balances = &snapshot.balances;
        let [posted, pending] = sums.entry(&snapshot.account.asset).or_default();
        posted.0.add(balances.debits_posted);
        posted.1.add(balances.credits_posted);
        pending.0.add(balances.debits_pending);
        pending.1.add(balances.credits_pending);
    }
    for (asset, [posted, pending]) in &sums {
        for (kind, (debits, credits)) in [("posted", posted), ("pending", pending)] {
            if debits != credits {
                return whole_or_absent(format!(
                    "asset {asset} has {kind} debits {debits:?}, but {kind} credits {credits:?}"
                ));
            }
        }
    }
    Ok(())
}

// ===== impl Sum =====

impl Sum {
    fn add(&mut self, amount: Amount) {
        let (low, carried) = self.low.overflowing_add(amount.minor_units());
        self.low = low;
        self.carries += u64::from(carried);
    }
}
