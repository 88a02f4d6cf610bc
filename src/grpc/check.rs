//! The checks of the service for the fields of requests, for a program that sends requests. `tally import` uses them to find an invalid
//! line before it sends a part of its file.

use prost::Message;
use tonic_types::{FieldViolation, StatusExt};

use super::{
    accounts::decode::{to_new_account, to_update},
    fields::Violations,
    limits::TRANSACTION_BYTES_MAX,
    transactions::{
        decode::{self, Refusal},
        wire,
    },
};
use crate::{
    proto::{CreateAccountRequest, ProcessTransactionRequest, UpdateAccountRequest},
    security::Scope,
};

/// A field that the service would reject with `INVALID_FIELD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidField {
    /// The field, such as `transfers[0].minor_units`. Empty if the whole request is the problem.
    pub field: String,
    /// The value and its bound, for example `is 0, must be 1 to 100`.
    pub problem: String,
}

// ===== impl InvalidField =====

impl From<FieldViolation> for InvalidField {
    fn from(violation: FieldViolation) -> Self {
        InvalidField {
            field: violation.field,
            problem: violation.description,
        }
    }
}

/// Checks the fields of a transaction. Conditions that depend on the ledger, for example whether its accounts exist, are not checked.
///
/// # Errors
/// The first [`InvalidField`].
pub fn check_transaction(request: &ProcessTransactionRequest) -> Result<(), InvalidField> {
    let whole = |problem: String| InvalidField {
        field: String::new(),
        problem,
    };
    let bytes = request.encode_to_vec();
    if bytes.len() > TRANSACTION_BYTES_MAX {
        let length = bytes.len();
        return Err(whole(format!(
            "has {length} bytes as a message, at most {TRANSACTION_BYTES_MAX} are allowed"
        )));
    }
    let transaction = wire::transaction(&bytes).map_err(|error| whole(error.to_string()))?;
    match decode::check(&transaction, &Scope::default(), |_, _| ()) {
        Ok(()) => Ok(()),
        Err(Refusal::Invalid(violations)) => Err(first(violations)),
        // The default scope contains every id.
        Err(refusal @ Refusal::Foreign(_)) => Err(whole(tonic::Status::from(refusal).message().to_owned())),
    }
}

/// Checks the fields of an account to create.
///
/// # Errors
/// As [`check_transaction`].
pub fn check_account(request: &CreateAccountRequest) -> Result<(), InvalidField> {
    let mut violations = Violations::default();
    let _account = to_new_account(&mut violations, "account", request.account.clone());
    violations.finish().map_err(first)
}

/// Checks the fields of an update of an account.
///
/// # Errors
/// As [`check_transaction`].
pub fn check_update(request: &UpdateAccountRequest) -> Result<(), InvalidField> {
    let Err(status) = to_update(request.clone()) else {
        return Ok(());
    };
    let violations = status.get_details_bad_request();
    Err(first(
        violations.map_or_else(Vec::new, |request| request.field_violations),
    ))
}

/// Returns the first violation. An invalid request has at least one.
fn first(violations: Vec<FieldViolation>) -> InvalidField {
    let first = violations.into_iter().next().map(InvalidField::from);
    first.unwrap_or_else(|| InvalidField {
        field: String::new(),
        problem: "is not valid".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Account, TransactionPhase, Transfer, transfer};

    #[test]
    fn the_first_invalid_field_is_named_with_its_value_and_bound() {
        let transfer = |units| Transfer {
            debit_account_id: "a".to_owned(),
            credit_account_id: "b".to_owned(),
            amount: Some(transfer::Amount::MinorUnits(units)),
            ..Transfer::default()
        };
        let good = ProcessTransactionRequest {
            transaction_id: "t".to_owned(),
            transfers: vec![transfer(1)],
            ..ProcessTransactionRequest::default()
        };
        assert_eq!(check_transaction(&good), Ok(()));
        let zero = ProcessTransactionRequest {
            transfers: vec![transfer(1), transfer(0)],
            ..good.clone()
        };
        let timeout = ProcessTransactionRequest {
            phase: TransactionPhase::Pending.into(),
            pending_timeout: Some(prost_types::Duration { seconds: 0, nanos: 5 }),
            ..good.clone()
        };
        let long = ProcessTransactionRequest {
            metadata: [("k".to_owned(), "v".repeat(1 << 20))].into(),
            ..good
        };
        for (request, field, problem) in [
            (zero, "transfers[1].minor_units", "is 0, must be 1 to "),
            (
                timeout,
                "pending_timeout",
                "is 0 s and 5 ns, must be 1 ms to 3650 days",
            ),
            (long, "", "has 1048"),
        ] {
            let invalid = check_transaction(&request).unwrap_err();
            assert_eq!(invalid.field, field, "{invalid:?}");
            assert!(invalid.problem.starts_with(problem), "{invalid:?}");
        }
    }

    #[test]
    fn an_update_needs_a_mask() {
        let mut request = UpdateAccountRequest {
            account: Some(Account {
                id: "a".to_owned(),
                ..Account::default()
            }),
            update_mask: None,
        };
        let invalid = check_update(&request).unwrap_err();
        assert_eq!(invalid.field, "update_mask");
        let paths = vec!["metadata".to_owned()];
        request.update_mask = Some(prost_types::FieldMask { paths });
        assert_eq!(check_update(&request), Ok(()));
    }
}
