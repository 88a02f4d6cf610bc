//! Describes the *events* that lists and watches show: committed transactions as they were recorded, and expiries of holds.

use std::collections::HashSet;

use tally_ledger::{AccountIndex, Changes, Record};
use tonic::Status;

use super::head::damaged;
use crate::{
    grpc::{
        fields::{from_amount, from_time},
        transactions::lookup::{AccountIds, Found, leave_out_foreign, text},
    },
    proto::{self, TransferEffect, transaction::Outcome},
    security::Scope,
    store::embedded::FoundRecord,
};

/// The memory that the description of an event takes is at most `EVENT_BYTES`, plus `EFFECT_BYTES` for each transfer.
const EVENT_BYTES: usize = 8 << 10;
const EFFECT_BYTES: usize = 1 << 10;
/// The memory that an encoded event takes is at most twice the memory of its record, plus `ENCODED_BYTES`, plus
/// `ENCODED_EFFECT_BYTES` for each transfer. A transfer and its effect have four account ids of up to 64 bytes, and six
/// amounts.
const ENCODED_BYTES: usize = 512;
const ENCODED_EFFECT_BYTES: usize = 768;

/// A record with a sequence.
#[derive(Debug)]
pub(super) enum Event {
    /// A committed transaction.
    Transaction(Found),
    /// A hold has expired.
    Expiry(FoundRecord),
}

// ===== impl Event =====

impl Event {
    /// Makes the event of a record.
    ///
    /// # Errors
    /// DATA_LOSS if the record is damaged, although its checksum is right.
    pub(super) fn of(record: FoundRecord) -> Result<Self, Status> {
        let is_expiry = match record.framed().map_err(|_| damaged(&record))?.record {
            Record::Committed { .. } => false,
            Record::HoldExpired { .. } => true,
            Record::Rejected { .. } | Record::AccountCreated { .. } | Record::AccountUpdated { .. } => {
                return Err(damaged(&record));
            }
        };
        Ok(if is_expiry {
            Event::Expiry(record)
        } else {
            Event::Transaction(Found::as_recorded(record))
        })
    }

    pub(super) fn record(&self) -> &FoundRecord {
        match self {
            Event::Transaction(found) => found.record(),
            Event::Expiry(record) => record,
        }
    }

    /// The memory of the description, in bytes.
    pub(super) fn memory_bytes(&self) -> Result<usize, Status> {
        Ok(EVENT_BYTES + self.changes()?.legs().len() * EFFECT_BYTES)
    }

    /// The accounts that the event changes.
    pub(super) fn accounts(&self) -> Result<HashSet<AccountIndex>, Status> {
        let changes = self.changes()?;
        let legs = changes.legs().iter();
        Ok(legs.flat_map(|leg| [leg.debit, leg.credit]).collect())
    }

    /// Describes the event. `ids` has the ids of its accounts. Ids outside of `scope` are left out.
    pub(super) fn describe(&self, ids: &AccountIds, scope: &Scope) -> Result<proto::Transaction, Status> {
        let mut described = match self {
            Event::Transaction(found) => found.describe(ids, &Scope::ALL)?,
            Event::Expiry(record) => describe_expiry(record)?,
        };
        let changes = self.changes()?;
        let effects = changes.iter().map(|(leg, change)| {
            let amount = |amount: tally_ledger::Amount| (!amount.is_zero()).then(|| from_amount(amount));
            TransferEffect {
                debit_account_id: ids.get(leg.debit).to_owned(),
                credit_account_id: ids.get(leg.credit).to_owned(),
                posted_amount: amount(change.posted),
                reserved_amount: amount(change.reserved),
                unreserved_amount: amount(change.unreserved),
                released_amount: amount(change.released),
            }
        });
        described.effects = effects.collect();
        restrict(&mut described, scope);
        Ok(described)
    }

    /// An upper bound of the memory that the event and its encoded description take, with the ids of the accounts.
    pub(super) fn encoded_bytes_max(&self) -> Result<usize, Status> {
        let changes = self.changes()?.legs().len();
        Ok(ENCODED_BYTES + 2 * self.record().memory_bytes() + changes * ENCODED_EFFECT_BYTES)
    }

    /// What the event does.
    fn changes(&self) -> Result<Changes, Status> {
        let record = self.record();
        let framed = record.framed().map_err(|_| damaged(record))?;
        let changes = Changes::of(&framed.record).map_err(|_| damaged(record))?;
        changes.ok_or_else(|| damaged(record))
    }
}

/// Leaves out the ids outside of `scope`.
pub(super) fn restrict(described: &mut proto::Transaction, scope: &Scope) {
    if scope.prefix().is_none() {
        return;
    }
    leave_out_foreign(described, scope);
    for effect in &mut described.effects {
        for id in [&mut effect.debit_account_id, &mut effect.credit_account_id] {
            if !scope.contains(id.as_bytes()) {
                id.clear();
            }
        }
    }
}

fn describe_expiry(record: &FoundRecord) -> Result<proto::Transaction, Status> {
    let framed = record.framed().map_err(|_| damaged(record))?;
    let Record::HoldExpired { hold_id, .. } = framed.record else {
        return Err(damaged(record));
    };
    let place = record.place();
    Ok(proto::Transaction {
        phase: proto::TransactionPhase::ExpirePending.into(),
        pending_transaction_id: text(hold_id),
        outcome: Some(Outcome::Committed(proto::ProcessTransactionResponse {
            sequence: i64::try_from(place.sequence).unwrap_or(i64::MAX),
            commit_time: Some(from_time(place.time)),
            ..proto::ProcessTransactionResponse::default()
        })),
        ..proto::Transaction::default()
    })
}
