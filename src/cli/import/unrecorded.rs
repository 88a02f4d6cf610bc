//! Holds back the transactions that name a transaction which the service has rejected without recording the rejection.
//!
//! Such a rejection is not final: for example, the id of a hold whose account did not exist can be sent again when the account exists. A
//! transaction that posts the hold would be rejected as well, but with `PENDING_NOT_FOUND`, which is final for its id. If the import sent this
//! transaction, the same file could never be imported completely. So the import does not send it, and counts it as rejected with [`NOT_SENT`].

use std::collections::HashSet;

use prost::Message;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::{row::Row, summary::error_info};
use crate::proto::{TransactionResult, transaction_result::Outcome};

/// The reason for a transaction that was not sent.
pub(super) const NOT_SENT: &str = "NOT_SENT";

/// Maximum number of ids to remember, which take about 100 MB.
const IDS_MAX: usize = 1 << 20;

/// The ids of the transactions whose last answer is a rejection that was not recorded, or that were not sent.
#[derive(Debug, Default)]
pub(super) struct Unrecorded {
    ids: HashSet<String>,
    /// Whether there were more than [`IDS_MAX`] ids. Then no transaction that names another transaction is sent.
    is_full: bool,
}

// ===== impl Unrecorded =====

impl Unrecorded {
    /// Returns the result of a transaction that must not be sent; `None` if it may be sent.
    pub(super) fn hold_back(&self, row: &Row) -> Option<TransactionResult> {
        let named = row.named()?;
        let message = if self.ids.contains(named) {
            format!(
                "names transaction {named:?}, whose rejection is not final, so it was not sent; correct the cause, and import the same \
                 files again"
            )
        } else if self.is_full {
            format!(
                "names transaction {named:?}, and more than {IDS_MAX} transactions have rejections that are not final, so it was not \
                 sent; correct their causes, and import the same files again"
            )
        } else {
            return None;
        };
        let details = ErrorDetails::with_error_info(NOT_SENT, "tally.v1", []);
        let status = Status::with_error_details(Code::FailedPrecondition, message, details);
        let error = tonic_types::Status::decode(status.details()).unwrap_or_default();
        Some(TransactionResult {
            transaction_id: row.transaction.transaction_id.clone(),
            outcome: Some(Outcome::Error(error)),
        })
    }

    /// Notes the result of a transaction.
    pub(super) fn note(&mut self, result: &TransactionResult) {
        let id = &result.transaction_id;
        if is_recorded(result) {
            // This check avoids a hash for each transaction while the set is empty, which it nearly always is.
            if !self.ids.is_empty() {
                self.ids.remove(id);
            }
        } else if self.ids.len() < IDS_MAX {
            self.ids.insert(id.clone());
        } else {
            self.is_full = true;
        }
    }
}

/// Returns whether the service has recorded the id of a transaction.
fn is_recorded(result: &TransactionResult) -> bool {
    match &result.outcome {
        Some(Outcome::Committed(_)) => true,
        Some(Outcome::Error(status)) => error_info(status).is_some_and(|info| {
            // With the second reason, the id belongs to another transaction.
            info.metadata.get("retry").is_some_and(|retry| retry == "new_id")
                || info.reason == "TRANSACTION_ID_REUSED"
        }),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{ProcessTransactionRequest, ProcessTransactionResponse};

    fn row(id: &str, hold: &str) -> Row {
        Row {
            line: 1,
            transaction: ProcessTransactionRequest {
                transaction_id: id.to_owned(),
                pending_transaction_id: hold.to_owned(),
                ..ProcessTransactionRequest::default()
            },
        }
    }

    fn committed(id: &str) -> TransactionResult {
        TransactionResult {
            transaction_id: id.to_owned(),
            outcome: Some(Outcome::Committed(ProcessTransactionResponse::default())),
        }
    }

    fn rejected(id: &str, reason: &str, retry: &str) -> TransactionResult {
        let metadata = [("retry".to_owned(), retry.to_owned())];
        let details = ErrorDetails::with_error_info(reason, "tally.v1", metadata);
        let status = Status::with_error_details(Code::FailedPrecondition, "no", details);
        TransactionResult {
            outcome: Some(Outcome::Error(
                tonic_types::Status::decode(status.details()).unwrap(),
            )),
            ..committed(id)
        }
    }

    #[test]
    fn what_names_an_unrecorded_transaction_is_not_sent_and_is_unrecorded_itself() {
        let mut unrecorded = Unrecorded::default();
        for (result, is_sent) in [
            (committed("h"), true),
            (rejected("h", "INSUFFICIENT_FUNDS", "new_id"), true),
            (rejected("h", "TRANSACTION_ID_REUSED", "no"), true),
            (rejected("h", "ACCOUNT_NOT_FOUND", "no"), false),
            (rejected("h", "HOLDS_FULL", "same_id"), false),
        ] {
            unrecorded.note(&result);
            assert_eq!(
                unrecorded.hold_back(&row("p", "h")).is_none(),
                is_sent,
                "{result:?}"
            );
        }
        assert!(unrecorded.hold_back(&row("p", "")).is_none());
        let held_back = unrecorded.hold_back(&row("p", "h")).unwrap();
        unrecorded.note(&held_back);
        assert!(unrecorded.hold_back(&row("r", "p")).is_some());
        // A later row of the file corrects the hold.
        unrecorded.note(&committed("h"));
        assert!(unrecorded.hold_back(&row("p", "h")).is_none());
    }
}
