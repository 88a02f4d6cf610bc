//! Compares what the outstanding holds reserve with the pending columns of the accounts.

use std::collections::BTreeMap;

use tally_journal::Position;
use tally_ledger::{AccountIndex, Amount, Column, Ledger, Legs, Record, Side, effects::legs};

use super::{
    error::{OpenError, RecordError},
    record::not_a_transaction,
    record_reader::RecordReader,
};

/// Number of slots of the table of holds that are read in one step.
const STEP_HOLDS: usize = 4096;

/// Reads the newest record of each outstanding hold, and adds up what the holds reserve on each side of each account. Returns how the
/// sums differ from the pending columns, at most `most` differences.
///
/// # Errors
/// [`RecordError`] if a record cannot be read.
pub(super) fn pending_differences(
    ledger: &Ledger,
    records: &RecordReader,
    most: usize,
) -> Result<Vec<String>, OpenError> {
    let mut sums = BTreeMap::<(AccountIndex, u8), Amount>::new();
    let (mut next, mut decoded) = (Some(0), Legs::new());
    while let Some(from) = next {
        let (holds, after) = ledger.holds().page(from, STEP_HOLDS);
        next = after;
        for hold in holds {
            let position = Position::from_u64(hold.newest);
            let found = records.at(position)?;
            let Record::Committed { transaction, effects } = found.framed()?.record else {
                return Err(not_a_transaction(position).into());
            };
            legs(&transaction, effects, &mut decoded)
                .map_err(|source| RecordError::Malformed { position, source })?;
            for leg in &decoded {
                let reserved = if hold.newest == hold.place {
                    leg.moved
                } else {
                    leg.remaining
                };
                for (index, side) in [(leg.debit, Side::Debit), (leg.credit, Side::Credit)] {
                    let sum = sums.entry((index, side as u8)).or_default();
                    *sum = sum
                        .checked_add(reserved)
                        .ok_or_else(|| not_a_transaction(position))?;
                }
            }
        }
    }
    let accounts = ledger.accounts();
    let mut differences = Vec::new();
    for index in accounts.indexes_from(AccountIndex(0)) {
        let (Some(account), Some(id)) = (accounts.get(index), accounts.id(index)) else {
            panic!(
                "account number {} is in the list of accounts, but not in the table",
                index.0
            );
        };
        for (side, name) in [(Side::Debit, "debits_pending"), (Side::Credit, "credits_pending")] {
            let sum = sums.get(&(index, side as u8)).map_or(Amount::ZERO, |sum| *sum);
            let column = account.balances.column(side, Column::Pending);
            if sum != column && differences.len() < most {
                differences.push(format!(
                    "account {id:?} has {column} {name}, but the outstanding holds reserve {sum}"
                ));
            }
        }
    }
    Ok(differences)
}
