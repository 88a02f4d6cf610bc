//! Records as the clients and the oracle see them: with the ids of accounts instead of their numbers.

use tally_ledger::{
    AccountIndex, Committed, Legs, Names, Phase, Record, TransactionView, Transfer, effects::legs,
};

use crate::calls::{Kind, Leg, Moved, Note, Recorded, Transaction};

/// The numbers of all accounts that a record of a transaction or of an expiry names.
pub(crate) fn accounts_of(record: &Record<'_>) -> Vec<AccountIndex> {
    let mut indexes = Vec::new();
    if let Some((transaction, _)) = record.transaction() {
        for transfer in transfers(&transaction) {
            indexes.extend([transfer.debit, transfer.credit]);
        }
    }
    for leg in decoded_legs(record) {
        indexes.extend([leg.debit, leg.credit]);
    }
    indexes
}

/// Translates the record of a transaction. `id_of` is the id of an account.
pub(crate) fn recorded(
    record: &Record<'_>,
    place: Committed,
    position: u64,
    id_of: impl Fn(AccountIndex) -> String,
) -> Recorded {
    let (view, rejection) = record.transaction().unwrap();
    let id = view.id().to_owned();
    let metadata = view.metadata().unwrap();
    let note = Note::from_metadata(&id, &metadata);
    let note = note.unwrap_or_else(|| panic!("no client has sent transaction {id} with {metadata:?}"));
    let legs = transfers(&view).into_iter().map(|transfer| Leg {
        debit: id_of(transfer.debit),
        credit: id_of(transfer.credit),
        amount: transfer.amount.minor_units(),
        code: transfer.code,
        rule: transfer.rule,
    });
    Recorded {
        transaction: Transaction {
            id,
            kind: kind_of(&view),
            legs: legs.collect(),
            effective_time: view.effective_time(),
            note,
            wants_balances: false,
        },
        rejection,
        place,
        position,
        moved: moved(record, id_of),
    }
}

/// The amounts that were moved, according to the record of a transaction or of an expiry.
pub(crate) fn moved(record: &Record<'_>, id_of: impl Fn(AccountIndex) -> String) -> Vec<Moved> {
    let moved = decoded_legs(record).into_iter().map(|leg| Moved {
        debit: id_of(leg.debit),
        credit: id_of(leg.credit),
        amount: leg.moved.minor_units(),
        released: leg.released.minor_units(),
        remaining: leg.remaining.minor_units(),
    });
    moved.collect()
}

fn decoded_legs(record: &Record<'_>) -> Legs {
    let mut decoded = Legs::new();
    match record {
        Record::Committed { transaction, effects } => legs(transaction, *effects, &mut decoded).unwrap(),
        Record::HoldExpired { legs, .. } => decoded.clone_from(legs),
        Record::Rejected { .. } | Record::AccountCreated { .. } | Record::AccountUpdated { .. } => {}
    }
    decoded
}

fn transfers(view: &TransactionView<'_, AccountIndex>) -> Vec<Transfer<AccountIndex>> {
    view.transfers().map(Result::unwrap).collect()
}

fn kind_of(view: &TransactionView<'_, AccountIndex>) -> Kind {
    let text = |id: &[u8]| String::from_utf8(id.to_vec()).unwrap();
    match (view.phase(), view.names()) {
        (Phase::Posted, Names::Nothing) => Kind::Move,
        (Phase::Posted, Names::Reversed(target)) => Kind::Reverse { target: text(target) },
        (Phase::Pending, Names::Nothing) => Kind::Hold {
            timeout: view.pending_timeout(),
        },
        (Phase::PostPending, Names::Hold(hold)) => Kind::Post {
            hold: text(hold),
            keep_remaining: view.keep_remaining(),
        },
        (Phase::VoidPending, Names::Hold(hold)) => Kind::Void { hold: text(hold) },
        (phase, names) => panic!("no client has sent a transaction of phase {phase:?} that names {names:?}"),
    }
}
