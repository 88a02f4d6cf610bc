//! Tests that the service rejects every invalid field with its name, its value and its bound, and that such a request
//! changes nothing.

mod accounts;
mod phases;
mod sizes;
mod transactions;

use tally::proto::ProcessTransactionRequest;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{expected, summary};

fn violation(status: &Status) -> (String, String) {
    assert_eq!(
        summary(status),
        expected(Code::InvalidArgument, "INVALID_FIELD", "false")
    );
    let details = status.get_details_bad_request().expect("BadRequest");
    assert_eq!(details.field_violations.len(), 1, "{details:?}");
    let violation = details.field_violations.into_iter().next().unwrap();
    (violation.field, violation.description)
}

/// Makes a field of a valid transaction invalid.
type Change = fn(&mut ProcessTransactionRequest);

fn timeout(seconds: i64, nanos: i32) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos })
}
