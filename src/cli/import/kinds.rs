//! The kinds of rows of a bank statement.

/// Kind of the row, counter account, code. Journals contain the codes, so they must never change.
const KINDS: [(&str, &str, i32); 6] = [
    ("cash-deposit", "bank:cash-deposit", 1),
    ("cash-withdrawal", "bank:cash-withdrawal", 2),
    ("card-withdrawal", "bank:card-withdrawal", 3),
    ("transfer-in", "bank:transfer-in", 4),
    ("transfer-out", "bank:transfer-out", 5),
    ("interest", "bank:interest", 6),
];

/// Returns the counter account and the code of a kind.
pub(super) fn find(kind: &str) -> Option<(&'static str, i32)> {
    let (_, counter, code) = KINDS.into_iter().find(|(known, ..)| *known == kind)?;
    Some((counter, code))
}

/// Returns whether `word` is the name of a kind.
pub(super) fn is_kind(word: &str) -> bool {
    find(word).is_some()
}

/// Returns all kinds, for messages.
pub(super) fn list() -> String {
    KINDS.map(|(kind, ..)| kind).join(", ")
}
