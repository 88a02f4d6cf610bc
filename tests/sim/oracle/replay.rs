//! Rule 4: the reference ledger accepts each transaction at its place, rejects each rejected one for the same reason, and
//! has the same balances at the end.

use std::collections::BTreeMap;

use tally_ledger::{AccountSnapshot, Amount};

use super::{
    Violation,
    answers::shown_rejection,
    records::{Found, Records},
    reference::Reference,
    violation,
};

/// A sum of 128-bit columns, which needs more than 128 bits.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sum {
    carries: u64,
    low: u128,
}

/// Replays all records in their order, and compares the accounts.
pub(super) fn check<'a>(
    records: &Records<'_>,
    state: &'a [AccountSnapshot],
) -> Result<Reference<'a>, Violation> {
    let mut reference = Reference::default();
    for snapshot in state {
        reference.create(snapshot);
    }
    for found in records.in_order() {
        check_accounts(found, &reference)?;
        check_record(found, &mut reference)?;
    }
    for snapshot in state {
        check_columns(snapshot, &reference)?;
    }
    check_sums(state)?;
    Ok(reference)
}

/// A recorded transaction names accounts that existed at its time.
fn check_accounts(found: &Found<'_>, reference: &Reference<'_>) -> Result<(), Violation> {
    let place = found.recorded.place;
    for leg in &found.recorded.transaction.legs {
        for id in [&leg.debit, &leg.credit] {
            let account = reference.account(id);
            if account.is_none_or(|account| account.created > place.time) {
                return violation(
                    "whole or absent",
                    format!(
                        "transaction {} with time {} names account {id}, which {}",
                        found.recorded.transaction.id,
                        place.time,
                        account.map_or("does not exist".to_owned(), |account| format!(
                            "was created later, at {}",
                            account.created
                        ))
                    ),
                );
            }
        }
    }
    Ok(())
}

/// The rules decide at the record's place as the service has decided.
fn check_record(found: &Found<'_>, reference: &mut Reference<'_>) -> Result<(), Violation> {
    let transaction = &found.recorded.transaction;
    let decided = match found.recorded.rejection {
        None => reference.commit(&transaction.legs),
        Some(_) => reference
            .judge(&transaction.legs, reference.committed())
            .map(drop),
    };
    if decided.err() == found.recorded.rejection {
        return Ok(());
    }
    let shown = |rejection: Option<_>| rejection.map_or("a commit".to_owned(), shown_rejection);
    violation(
        "whole or absent",
        format!(
            "transaction {} is recorded at sequence {} as {}, but the reference expects {}",
            transaction.id,
            found.recorded.place.sequence,
            shown(found.recorded.rejection),
            shown(decided.err())
        ),
    )
}

/// The columns of an account equal those of the reference. No amount is pending.
fn check_columns(snapshot: &AccountSnapshot, reference: &Reference<'_>) -> Result<(), Violation> {
    let id = &snapshot.account.id;
    let Some(account) = reference.account(id) else {
        return Ok(());
    };
    let expected = account.at(reference.committed());
    let balances = snapshot.balances;
    let found = (
        balances.debits_posted.minor_units(),
        balances.credits_posted.minor_units(),
    );
    if found != (expected.debits, expected.credits) {
        return violation(
            "whole or absent",
            format!(
                "account {id} has debits {} and credits {}, but the reference has debits {} and credits {} after sequence {}",
                found.0,
                found.1,
                expected.debits,
                expected.credits,
                reference.committed()
            ),
        );
    }
    if balances.debits_pending != Amount::ZERO || balances.credits_pending != Amount::ZERO {
        return violation(
            "whole or absent",
            format!(
                "account {id} has pending debits {} and pending credits {}, but no transaction is pending",
                balances.debits_pending, balances.credits_pending
            ),
        );
    }
    Ok(())
}

/// For each asset, the debits equal the credits.
fn check_sums(state: &[AccountSnapshot]) -> Result<(), Violation> {
    let mut sums: BTreeMap<&str, (Sum, Sum)> = BTreeMap::new();
    for snapshot in state {
        let (debits, credits) = sums.entry(&snapshot.account.asset).or_default();
        debits.add(snapshot.balances.debits_posted);
        credits.add(snapshot.balances.credits_posted);
    }
    match sums.iter().find(|(_, (debits, credits))| debits != credits) {
        Some((asset, (debits, credits))) => violation(
            "whole or absent",
            format!("asset {asset} has debits {debits:?}, but credits {credits:?}"),
        ),
        None => Ok(()),
    }
}

// ===== impl Sum =====

impl Sum {
    fn add(&mut self, amount: Amount) {
        let (low, carried) = self.low.overflowing_add(amount.minor_units());
        self.low = low;
        self.carries += u64::from(carried);
    }
}
