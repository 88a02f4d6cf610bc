//! Reads the transactions of an export, as `tally export` and `tally transaction -o json` print them.
//!
//! The new ledger must get the same balances. So a transfer that moved less than its amount becomes a transfer of the moved amount, and the
//! expiry of a hold becomes a void. Holds get no timeout, because a hold could expire during the import, before the row that posts it.

use super::row::Flaw;
use crate::{
    cli::ledger_text::transfer_amount,
    proto::{
        AmountRule, ProcessTransactionRequest, Transaction, TransactionPhase, Transfer, transaction::Outcome,
    },
};

/// Maximum length of an id, in bytes.
const ID_BYTES_MAX: usize = 64;
/// The ending that is added to the id of a hold. The result is the id of the void that replaces the expiry of the hold.
const EXPIRED: &str = ":expired";

/// Returns the request that has the same effect as a committed transaction.
///
/// # Errors
/// [`Flaw`] if the transaction was not committed.
pub(super) fn request_of(transaction: Transaction) -> Result<ProcessTransactionRequest, Flaw> {
    let Some(Outcome::Committed(committed)) = &transaction.outcome else {
        let problem = "must be set: only committed transactions can be imported".to_owned();
        return Err(Flaw::of_problem("field committed", problem));
    };
    let (mut id, mut phase) = (transaction.transaction_id.clone(), transaction.phase());
    if phase == TransactionPhase::ExpirePending {
        id = id_of_expiry(&transaction.pending_transaction_id, committed.sequence);
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

/// Returns the id of the void. It begins with the id of the hold, so that it has the same prefix. It is unique, because a hold expires only
/// once.
fn id_of_expiry(hold: &str, sequence: i64) -> String {
    if hold.len() + EXPIRED.len() <= ID_BYTES_MAX {
        return format!("{hold}{EXPIRED}");
    }
    let ending = format!("{EXPIRED}:{sequence}");
    let kept = ID_BYTES_MAX.saturating_sub(ending.len());
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
        assert_eq!(request.transaction_id, "acme/h:expired");
        assert_eq!(request.pending_transaction_id, "acme/h");
        let long = request_of(expiry(&"h".repeat(64))).unwrap().transaction_id;
        assert_eq!(long, format!("{}:expired:17", "h".repeat(53)));
    }

    #[test]
    fn a_rejected_transaction_is_not_imported() {
        assert!(request_of(Transaction::default()).is_err());
    }
}
