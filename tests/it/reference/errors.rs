//! Tests that the table of `docs/errors.md` agrees with `src/grpc/error_kind.rs`.
//!
//! `service::statuses` checks that the service gives each error with the values of its kind.

use tally::grpc::error_kind::{ERROR_KINDS, Executed, Retry};
use tonic::Code;

use super::check_page;

/// The codes of gRPC, in the order of their numbers.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The text in the column `code` for an error that can have any code.
const ANY_OTHER: &str = "any other";

fn code_name(code: Code) -> &'static str {
    CODES[usize::try_from(i32::from(code)).unwrap()]
}

fn table() -> String {
    let mut text = "| reason | code | executed | retry | meaning |\n|---|---|---|---|---|\n".to_owned();
    for kind in ERROR_KINDS {
        let codes: Vec<&str> = kind.codes.iter().map(|code| code_name(*code)).collect();
        let codes = match kind.reason {
            "LIBRARY_ERROR" => ANY_OTHER.to_owned(),
            _ => codes.join(", "),
        };
        let executed = match kind.executed.as_str() {
            Some(value) => format!("`{value}`"),
            None => "`false`, `unknown`".to_owned(),
        };
        let (retry, meaning) = (kind.retry.as_str(), kind.meaning);
        let delay = if kind.retry == Retry::SameIdAfterDelay {
            " *Delay.*"
        } else {
            ""
        };
        text += &format!(
            "| `{}` | {codes} | {executed} | `{retry}` | {meaning}{delay} |\n",
            kind.reason
        );
    }
    text
}

#[test]
fn the_page_of_the_errors_agrees_with_the_code() {
    check_page("docs/errors.md", &table());
}

#[test]
fn the_retry_advice_is_safe() {
    for kind in ERROR_KINDS {
        // If the outcome of a transaction is unknown, a repetition with a new id could apply the transaction twice.
        if kind.executed != Executed::No {
            assert_ne!(kind.retry, Retry::NewId, "{}", kind.reason);
        }
        // Client libraries repeat a call with this code, so the repetition must be safe.
        if kind.codes.contains(&Code::Unavailable) {
            assert_eq!(kind.retry.as_str(), "same_id", "{}", kind.reason);
        }
    }
}
