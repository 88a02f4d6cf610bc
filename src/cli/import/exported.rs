//! Reads the transactions of an export, as `tally export` and `tally transaction -o json` print them.
//!
//! The new ledger must get the same balances. So a transfer that moved less than its amount becomes a transfer of the moved amount, and the
//! expiry of a hold becomes a void. Holds get no timeout, because a hold could expire during the import, before the row that posts it.

use prost_types::Timestamp;

use super::row::Flaw;
use crate::{
    cli::ledger_text::transfer_amount,
    proto::{
        AmountRule, ProcessTransactionRequest, Transaction, TransactionPhase, Transfer, transaction::Outcome,
    },
};

/// Maximum length of an id, in bytes.
const ID_BYTES_MAX: usize = 64;
/// What is added to the id of a hold, before the time of its expiry, for the id of the void that stands for the expiry.
const EXPIRED: &str = ":expired@";

/// Returns the request that has the same effect as a committed transaction.
///
/// # Errors
/// [`Flaw`] if the transaction was not committed, or if it is an expiry without a time.
pub(super) fn request_of(transaction: Transaction) -> Result<ProcessTransactionRequest, Flaw> {
    let Some(Outcome::Committed(committed)) = &transaction.outcome else {
        let problem = "must be set: only committed transactions can be imported".to_owned();
        return Err(Flaw::of_problem("field committed", problem));
    };
    let (mut id, mut phase) = (transaction.transaction_id.clone(), transaction.phase());
    if phase == TransactionPhase::ExpirePending {
        let Some(time) = &committed.commit_time else {
            let problem = "must be set: the void that stands for an expiry is named by it".to_owned();
            return Err(Flaw::of_problem("field committed.commit_time", problem));
        };
        id = id_of_expiry(&transaction.pending_transaction_id, time);
        phase = TransactionPhase::VoidPending;
    }
    let moved = &committed.moved_amounts;
    let transfers = transaction.transfers.iter().enumerate();
    let transfers = transfers.map(|(place, transfer)| match transfer.amount_rule() {
        AmountRule::Unspecified | AmountRule::Exact => transfer.clone(),
        AmountRule::UpToDebitAvailable | AmountRule::UpToCreditAvailable | AmountRule::UpToBothAvailable => {
            Transfer {
                amount: Some(transfer_amount(moved.get(place))),
                amount_rule: AmountRule::Unspecified.into(),
                ..transfer.clone()
            }
        }
    });
    Ok(ProcessTransactionRequest {
        transaction_id: id,
        phase: phase.into(),
        transfers: transfers.collect(),
        pending_transaction_id: transaction.pending_transaction_id,
        effective_time: transaction.effective_time,
        metadata: transaction.metadata,
        keep_remaining: transaction.keep_remaining,
        reverses_transaction_id: transaction.reverses_transaction_id,
        ..ProcessTransactionRequest::default()
    })
}

/// Returns the id of the void that stands for an expiry at `time`. It begins as the id of the hold, so it has the same prefix.
///
/// Without the time, a client's transaction could have the same id: `HOLD:expired` is a name that a client itself can choose. A client
/// can't know the time of an expiry before it happens, to the nanosecond, and no two transactions have the same time.
fn id_of_expiry(hold: &str, time: &Timestamp) -> String {
    let Timestamp { seconds, nanos } = time;
    let ending = format!("{EXPIRED}{seconds}.{nanos:09}");
    let kept = hold.len().min(ID_BYTES_MAX.saturating_sub(ending.len()));
    // Ids are ASCII, and another text fails the check of ids.
    format!("{}{ending}", hold.get(..kept).unwrap_or(hold))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Amount, ProcessTransactionResponse, amount, transfer};

    fn committed(moved: &[i64]) -> Option<Outcome> {
        let amount = |units: &i64| Amount {
            value: Some(amount::Value::MinorUnits(*units)),
        };
        Some(Outcome::Committed(ProcessTransactionResponse {
            sequence: 17,
            commit_time: Some(Timestamp {
                seconds: 1_764_504_000,
                nanos: 1_000,
            }),
            moved_amounts: moved.iter().map(amount).collect(),
            ..ProcessTransactionResponse::default()
        }))
    }

    #[test]
    fn a_clamped_transfer_moves_exactly_what_it_moved() {
        let transfer = |rule: AmountRule, units| Transfer {
            amount: Some(transfer::Amount::MinorUnits(units)),
            amount_rule: rule.into(),
            code: 3,
            ..Transfer::default()
        };
        let transaction = Transaction {
            transaction_id: "t".to_owned(),
            phase: TransactionPhase::Pending.into(),
            transfers: vec![
                transfer(AmountRule::Exact, 5),
                transfer(AmountRule::UpToDebitAvailable, 100),
            ],
            outcome: committed(&[5, 60]),
            ..Transaction::default()
        };
        let request = request_of(transaction).unwrap();
        assert_eq!(request.transfers[0], transfer(AmountRule::Exact, 5));
        assert_eq!(request.transfers[1], transfer(AmountRule::Unspecified, 60));
        assert_eq!(request.phase(), TransactionPhase::Pending);
    }

    #[test]
    fn an_expiry_is_a_void_with_an_id_of_its_own() {
        let expiry = |hold: &str| Transaction {
            phase: TransactionPhase::ExpirePending.into(),
            pending_transaction_id: hold.to_owned(),
            outcome: committed(&[]),
            ..Transaction::default()
        };
        let request = request_of(expiry("acme/h")).unwrap();
        assert_eq!(request.phase(), TransactionPhase::VoidPending);
        assert_eq!(request.transaction_id, "acme/h:expired@1764504000.000001000");
        assert_eq!(request.pending_transaction_id, "acme/h");
        let long = request_of(expiry(&"h".repeat(64))).unwrap().transaction_id;
        assert_eq!(long, format!("{}:expired@1764504000.000001000", "h".repeat(35)));
        let mut without_time = expiry("h");
        without_time.outcome = Some(Outcome::Committed(ProcessTransactionResponse::default()));
        let flaw = request_of(without_time).unwrap_err().to_string();
        assert!(flaw.contains("committed.commit_time"), "{flaw}");
    }

    #[test]
    fn a_rejected_transaction_is_not_imported() {
        assert!(request_of(Transaction::default()).is_err());
    }
}
