//! `docs/errors.md`: the table of the errors, as data for tests.

use std::collections::{BTreeMap, BTreeSet};

use tonic::Status;
use tonic_types::StatusExt;

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Documented {
    /// The gRPC codes, in capitals.
    codes: BTreeSet<String>,
    /// The values of the metadata entry `executed`.
    executed: BTreeSet<String>,
    /// The value of the metadata entry `retry`.
    retry: String,
}

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

/// The cell of an error that can have any code.
const ANY_OTHER: &str = "any other";

/// Returns the rows of the table by their reasons.
pub(crate) fn documented() -> BTreeMap<String, Documented> {
    let words = |cell: &str| -> BTreeSet<String> {
        let cell = cell.replace('`', "");
        cell.split(", ").map(|word| word.trim().to_owned()).collect()
    };
    let mut found = BTreeMap::new();
    for line in include_str!("../../../docs/errors.md").lines() {
        // A reason is in capitals. The page has other tables, too.
        let Some(cells) = line
            .strip_prefix("| `")
            .filter(|rest| rest.starts_with(|first: char| first.is_ascii_uppercase()))
        else {
            continue;
        };
        let cells: Vec<&str> = cells.split(" | ").collect();
        assert_eq!(cells.len(), 5, "a row has five cells: {line}");
        for reason in words(cells[0]) {
            let row = Documented {
                codes: words(cells[1]),
                executed: words(cells[2]),
                retry: cells[3].replace('`', ""),
            };
            assert!(
                found.insert(reason, row).is_none(),
                "a reason stands twice: {line}"
            );
        }
    }
    assert!(found.len() > 30, "the table of docs/errors.md was not found");
    found
}

/// Checks that `docs/errors.md` has the reason of this error with its code, `executed` and `retry`.
pub(crate) fn check_documented(status: &Status) {
    let info = status.get_details_error_info().expect("ErrorInfo");
    let rows = documented();
    let row = rows
        .get(&info.reason)
        .unwrap_or_else(|| panic!("docs/errors.md lacks {}", info.reason));
    let code = CODES[usize::try_from(i32::from(status.code())).unwrap()];
    assert!(
        row.codes.contains(code) || row.codes.contains(ANY_OTHER),
        "docs/errors.md: {} with {code}",
        info.reason
    );
    let executed = &info.metadata["executed"];
    assert!(
        row.executed.contains(executed),
        "docs/errors.md: {} with executed = {executed}",
        info.reason
    );
    if let Some(retry) = info.metadata.get("retry") {
        assert_eq!(&row.retry, retry, "docs/errors.md: {}", info.reason);
    }
}

#[test]
fn the_rows_follow_the_rules_of_the_page() {
    for (reason, row) in documented() {
        for code in row.codes.iter().filter(|code| *code != ANY_OTHER) {
            assert!(CODES.contains(&code.as_str()), "{reason}: {code}");
        }
        for executed in &row.executed {
            assert!(
                ["false", "unknown"].contains(&executed.as_str()),
                "{reason}: {executed}"
            );
        }
        assert!(
            ["same_id", "new_id", "no"].contains(&row.retry.as_str()),
            "{reason}: {row:?}"
        );
        // A new id could execute a transaction twice whose outcome is unknown.
        if row.executed.contains("unknown") {
            assert_ne!(row.retry, "new_id", "{reason}");
        }
        // Libraries retry this code.
        if row.codes.contains("UNAVAILABLE") {
            assert_eq!(row.retry, "same_id", "{reason}");
        }
    }
}

#[test]
fn recorded_rejections_need_a_new_id() {
    use tally_ledger::Reason;
    let rows = documented();
    for reason in [
        Reason::AccountNotFound,
        Reason::SameAccount,
        Reason::AssetMismatch,
        Reason::AccountFrozen,
        Reason::AccountClosed,
        Reason::InsufficientFunds,
        Reason::BalanceOverflow,
    ] {
        let expected = if reason.is_recorded() { "new_id" } else { "no" };
        assert_eq!(rows[reason.as_str()].retry, expected, "{reason:?}");
    }
}
