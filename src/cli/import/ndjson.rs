//! Reads NDJSON: one message in each line, in the JSON form that proto3 defines. The fields of a line tell which message it
//! is:
//!
//! - with `update_mask`: a `tally.v1.UpdateAccountRequest`;
//! - with `account` and without `update_mask`: a `tally.v1.CreateAccountRequest`;
//! - with `committed`: a `tally.v1.Transaction`, as `tally export` writes it;
//! - with none of these fields: a `tally.v1.ProcessTransactionRequest`.
//!
//! Field names may be `transactionId` or `transaction_id`, 64-bit numbers may be strings or numbers, and times follow RFC 3339.
//! An unknown field is an error, because ignoring a misspelt field could lose money. A repeated field is an error at any depth
//! and in either spelling, because one of the two values would be lost. The import checks the values with the checks of the service before it
//! sends a row. Otherwise, if the service rejected the row of a hold, the rows that post the hold would be rejected for ever.

use std::{fmt, io::BufRead};

use prost::Message;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use tally_ledger::TRANSFERS_MAX;

use super::{
    exported::request_of,
    lines::{Lines, ReadError},
    row::{AccountRow, FileRow, Flaw, Row, UpdateRow},
};
use crate::{
    grpc::{InvalidField, check_account, check_transaction, check_update},
    json::{self, JsonError},
    proto::{
        CreateAccountRequest, ProcessTransactionRequest, Transaction, TransactionPhase, UpdateAccountRequest,
        transfer::Amount,
    },
};

/// The message of a line with a transaction.
const TRANSACTION: &str = "ProcessTransactionRequest";
/// The message of a line with an update.
const UPDATE: &str = "UpdateAccountRequest";
/// The message of a line with an account.
const ACCOUNT: &str = "CreateAccountRequest";
/// The message of a line with a transaction of an export.
const EXPORTED: &str = "Transaction";

/// The transactions and updates of a file.
#[derive(Debug)]
pub(super) struct NdjsonRows<R> {
    lines: Lines<R>,
}

/// The fields that tell which message a line is.
#[derive(Default)]
struct Fields {
    account: bool,
    update_mask: bool,
    committed: bool,
}

/// Finds the fields of a JSON object, also the fields before a syntax error.
struct FindFields<'a>(&'a mut Fields);

// ===== impl NdjsonRows =====

impl<R: BufRead> NdjsonRows<R> {
    pub(super) const fn new(source: R) -> Self {
        NdjsonRows {
            lines: Lines::new(source),
        }
    }

    /// Returns the number of blank lines read so far.
    pub(super) const fn blank(&self) -> u64 {
        self.lines.blank()
    }

    /// Reads the next transaction or update; `None` at the end of the file.
    ///
    /// # Errors
    /// [`ReadError`].
    pub(super) fn next(&mut self) -> Result<Option<FileRow>, ReadError> {
        let Some((line, text)) = self.lines.next()? else {
            return Ok(None);
        };
        match parse(line, text) {
            Ok(row) => Ok(Some(row)),
            Err(flaw) => Err(ReadError::Flaw { line, flaw }),
        }
    }
}

// ===== impl FindFields =====

impl<'de> Visitor<'de> for FindFields<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(key) = members.next_key::<String>()? {
            match key.as_str() {
                "account" => self.0.account = true,
                "update_mask" | "updateMask" => self.0.update_mask = true,
                "committed" => self.0.committed = true,
                _ => {}
            }
            members.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

fn parse(line: u64, text: &str) -> Result<FileRow, Flaw> {
    match message(TRANSACTION, text) {
        Ok(transaction) => {
            check_ids(&transaction)?;
            if !is_plain(&transaction) {
                check_transaction(&transaction).map_err(invalid)?;
            }
            Ok(FileRow::Transaction(Row { line, transaction }))
        }
        // Only a line that is not a transaction is read a second time, so lines with transactions take no more time.
        Err(flaw) => match fields(text) {
            Fields {
                update_mask: true, ..
            } => update(line, text),
            Fields { account: true, .. } => account(line, text),
            Fields { committed: true, .. } => exported(line, text),
            Fields { .. } => Err(flaw),
        },
    }
}

fn update(line: u64, text: &str) -> Result<FileRow, Flaw> {
    let request: UpdateAccountRequest = message(UPDATE, text)?;
    let id = request.account.as_ref().map_or("", |account| &account.id);
    if let Some(flaw) = Flaw::check_id("field account.id", id) {
        return Err(flaw);
    }
    check_update(&request).map_err(invalid)?;
    Ok(FileRow::Update(UpdateRow { line, request }))
}

fn account(line: u64, text: &str) -> Result<FileRow, Flaw> {
    let request: CreateAccountRequest = message(ACCOUNT, text)?;
    let id = request.account.as_ref().map_or("", |account| &account.id);
    if let Some(flaw) = Flaw::check_id("field account.id", id) {
        return Err(flaw);
    }
    check_account(&request).map_err(invalid)?;
    let account = request.account.unwrap_or_default();
    Ok(FileRow::Account(AccountRow { line, account }))
}

fn exported(line: u64, text: &str) -> Result<FileRow, Flaw> {
    let transaction: Transaction = message(EXPORTED, text)?;
    let transaction = request_of(transaction)?;
    check_ids(&transaction)?;
    check_transaction(&transaction).map_err(invalid)?;
    Ok(FileRow::Transaction(Row { line, transaction }))
}

fn fields(text: &str) -> Fields {
    let mut fields = Fields::default();
    let mut json = serde_json::Deserializer::from_str(text);
    // The result does not matter, because the text is read again.
    let _ = json.deserialize_map(FindFields(&mut fields));
    fields
}

fn message<M: Message + Default>(name: &str, text: &str) -> Result<M, Flaw> {
    json::from_json(name, text).map_err(|error| match error {
        JsonError::Json(error) => not_json(name, text, &error),
        JsonError::UnknownMessage(_) | JsonError::Decode(_) => Flaw::new("the line", text, json_form(name)),
    })
}

/// Describes a field that the service would reject.
fn invalid(InvalidField { field, problem }: InvalidField) -> Flaw {
    let place = match field.as_str() {
        "" => "the line:".to_owned(),
        field => format!("field {field}:"),
    };
    Flaw::of_problem(place, problem)
}

fn not_json(name: &str, text: &str, error: &serde_json::Error) -> Flaw {
    let mut library = error.to_string();
    // serde_json counts lines within the text. The text is a single line here, so remove a part such as "at line 1
    // column 17".
    if let Some(end) = library.rfind(" at line ") {
        library.truncate(end);
    }
    let unknown = library
        .strip_prefix("unrecognized field name '")
        .and_then(|rest| rest.strip_suffix('\''));
    if let Some(field) = unknown {
        return Flaw::new("a field name", field, format!("a field of {}", json_form(name)));
    }
    // The texts of the libraries do not help a user. The text for a repeated key is our own, and is kept.
    let words = if json::is_repeated_key(&library) {
        library.as_str()
    } else if error.is_syntax() {
        "the text from here on is not JSON"
    } else {
        "the value that ends here does not fit its field"
    };
    if error.is_data()
        && !json::is_repeated_key(&library)
        && let Some(misfit) = json::misfit(name, text)
    {
        let place = match misfit.field.as_str() {
            "the line" => misfit.field,
            field => format!("field {field}"),
        };
        return Flaw::new(place, &misfit.value, misfit.expected);
    }
    let column = error.column();
    if error.is_eof() {
        return Flaw::new(
            "the line",
            text,
            format!("{} (the line ends too early)", json_form(name)),
        );
    }
    // The text from the column on, if the column is a character boundary.
    let rest = text.get(column.saturating_sub(1)..).unwrap_or(text);
    Flaw::new(
        format!("column {column}"),
        rest,
        format!("{} ({words})", json_form(name)),
    )
}

/// Describes the valid lines with message `name`.
fn json_form(name: &str) -> String {
    format!("the JSON form of tally.v1.{name}")
}

/// Returns whether a transaction with valid ids has no other field that could be invalid: it only has transfers, which
/// it posts at once, and their amounts have at most 63 bits. This is true for most transactions, and this check takes
/// less time than the check of the service.
fn is_plain(transaction: &ProcessTransactionRequest) -> bool {
    let ProcessTransactionRequest {
        phase,
        transfers,
        pending_transaction_id,
        pending_timeout,
        effective_time,
        metadata,
        keep_remaining,
        reverses_transaction_id,
        transaction_id: _,
        return_balances: _,
    } = transaction;
    let is_posted = [TransactionPhase::Unspecified, TransactionPhase::Posted]
        .map(i32::from)
        .contains(phase);
    is_posted
        && pending_transaction_id.is_empty()
        && reverses_transaction_id.is_empty()
        && pending_timeout.is_none()
        && effective_time.is_none()
        && metadata.is_empty()
        && !keep_remaining
        && (1..=TRANSFERS_MAX).contains(&transfers.len())
        && transfers.iter().all(|transfer| {
            matches!(transfer.amount, Some(Amount::MinorUnits(1..)))
                && transfer.code >= 0
                && transfer.amount_rule == 0
        })
}

/// Checks the ids, so that the error shows the wrong value.
fn check_ids(transaction: &ProcessTransactionRequest) -> Result<(), Flaw> {
    if let Some(flaw) = Flaw::check_id("field transaction_id", &transaction.transaction_id) {
        return Err(flaw);
    }
    for (field, id) in [
        ("pending_transaction_id", &transaction.pending_transaction_id),
        ("reverses_transaction_id", &transaction.reverses_transaction_id),
    ] {
        if !id.is_empty()
            && let Some(flaw) = Flaw::check_id(format!("field {field}"), id)
        {
            return Err(flaw);
        }
    }
    for (place, transfer) in transaction.transfers.iter().enumerate() {
        for (field, id) in [
            ("debit_account_id", &transfer.debit_account_id),
            ("credit_account_id", &transfer.credit_account_id),
        ] {
            if let Some(flaw) = Flaw::check_id(format!("field transfers[{place}].{field}"), id) {
                return Err(flaw);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{AccountStatus, Uint128, transfer};

    fn read_all(text: &str) -> Result<Vec<FileRow>, ReadError> {
        let mut rows = NdjsonRows::new(text.as_bytes());
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            all.push(row);
        }
        Ok(all)
    }

    /// Reads lines that are transactions.
    fn read(text: &str) -> Result<Vec<Row>, ReadError> {
        let transaction = |row| match row {
            FileRow::Transaction(row) => row,
            other @ (FileRow::Update(_) | FileRow::Account(_)) => panic!("{other:?}"),
        };
        Ok(read_all(text)?.into_iter().map(transaction).collect())
    }

    fn flaw(line: &str) -> String {
        match read_all(line) {
            Err(ReadError::Flaw { flaw, .. }) => flaw.to_string(),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn a_line_with_a_field_of_an_update_is_an_update() {
        let rows = read_all(concat!(
            r#"{"account":{"id":"a","status":"ACCOUNT_STATUS_FROZEN","etag":"r0"},"updateMask":"status,overdraftLimit"}"#,
            "\n\n",
            r#"{"update_mask":"velocityLimits","account":{"id":"b","velocity_limits":[{"side":2,"window":"3600s","maxCount":"3"}]}}"#,
        ))
        .unwrap();
        let [FileRow::Update(first), FileRow::Update(second)] = rows.as_slice() else {
            panic!("{rows:?}")
        };
        assert_eq!((first.line, second.line), (1, 3));
        assert_eq!((first.account_id(), second.account_id()), ("a", "b"));
        let mask = |row: &UpdateRow| row.request.update_mask.clone().unwrap().paths;
        assert_eq!(mask(first), ["status", "overdraft_limit"]);
        assert_eq!(mask(second), ["velocity_limits"]);
        let account = first.request.account.as_ref().unwrap();
        assert_eq!(
            (account.status(), account.etag.as_str()),
            (AccountStatus::Frozen, "r0")
        );
        let limits = &second.request.account.as_ref().unwrap().velocity_limits;
        assert_eq!(
            (limits[0].max_count, limits[0].window.unwrap().seconds),
            (3, 3600)
        );
    }

    #[test]
    fn an_error_in_an_update_names_the_field() {
        let account = r#""account":{"id":"a","status":"ACCOUNT_STATUS_OPEN"}"#;
        for (line, expected) in [
            (
                format!(r#"{{{account},"transactionId":"t1"}}"#),
                r#"a field name is "transactionId", expected a field of the JSON form of tally.v1.CreateAccountRequest"#,
            ),
            // A line without a mask is an account to create.
            (format!("{{{account}}}"), "field account.asset: "),
            (
                format!(r#"{{{account},"updateMask":"status,balance"}}"#),
                r#"field update_mask: "balance" can't be updated, possible are "#,
            ),
            (
                format!(r#"{{{account},"updateMask":"overdraft_limit"}}"#),
                r#"field update_mask is "overdraft_limit", expected names of fields in lowerCamelCase, separated by commas"#,
            ),
            (
                r#"{"account":{"id":"a b"},"updateMask":"metadata"}"#.to_owned(),
                r#"field account.id is "a b", expected an id"#,
            ),
            (
                r#"{"account":{"id":"a","overdraftLimit":{"minorUnits":"-1"}},"updateMask":"overdraftLimit"}"#.to_owned(),
                "field account.overdraft_limit.minor_units: is -1, must be 0 to 2^63 - 1",
            ),
            (
                r#"{"updateMask":"metadata"}"#.to_owned(),
                r#"field account.id is "", expected an id"#,
            ),
            (
                format!(r#"{{{account},"updateMask":"status",}}"#),
                "column 76 is \"}\", expected the JSON form of tally.v1.UpdateAccountRequest (the text from here on is not JSON)",
            ),
        ] {
            let flaw = flaw(&line);
            assert!(flaw.starts_with(expected), "{line}: {flaw}");
        }
    }

    #[test]
    fn a_field_that_the_service_would_reject_is_named_with_its_value_and_bound() {
        let hold = r#""transactionId":"h","phase":"TRANSACTION_PHASE_PENDING""#;
        let transfer = r#""transfers":[{"debitAccountId":"a","creditAccountId":"b","minorUnits":"5"}]"#;
        for (line, expected) in [
            (
                format!("{{{hold},\"transfers\":[]}}"),
                "field transfers: has 0 transfers, 1 to 256 are allowed",
            ),
            (
                format!("{{{hold},{transfer},\"pendingTimeout\":\"0.0005s\"}}"),
                "field pending_timeout: is 0 s and 500000 ns, must be 1 ms to 3650 days",
            ),
            (
                format!("{{{hold},{transfer},\"pendingTimeout\":5}}"),
                r#"field pending_timeout is "5", expected a number of seconds with the unit s, such as "3600s""#,
            ),
            (
                format!("{{{hold},{transfer},\"keepRemaining\":true}}"),
                "field keep_remaining: must be unset unless the phase is TRANSACTION_PHASE_POST_PENDING",
            ),
            (
                r#"{"transactionId":"p","phase":"TRANSACTION_PHASE_POST_PENDING","pendingTransactionId":"h h"}"#.to_owned(),
                r#"field pending_transaction_id is "h h", expected an id"#,
            ),
            (
                r#"{"transactionId":"e","phase":"TRANSACTION_PHASE_EXPIRE_PENDING","pendingTransactionId":"h"}"#.to_owned(),
                "field phase: TRANSACTION_PHASE_EXPIRE_PENDING is output only",
            ),
        ] {
            let flaw = flaw(&line);
            assert!(flaw.starts_with(expected), "{line}: {flaw}");
        }
    }

    #[test]
    fn lines_become_transactions() {
        let rows = read(concat!(
            r#"{"transactionId":"t1","transfers":[{"debitAccountId":"a","creditAccountId":"b","minorUnits":"5","code":2},"#,
            r#"{"debitAccountId":"b","creditAccountId":"c","wideMinorUnits":{"high":"1","low":2}}],"#,
            r#""effectiveTime":"1993-01-31T00:00:00Z","metadata":{"note":"\u010d"},"phase":"TRANSACTION_PHASE_POSTED"}"#,
            "\n\n",
            r#"{"transaction_id":"t2","transfers":[{"debit_account_id":"a","credit_account_id":"b","minor_units":7}]}"#,
        ))
        .unwrap();
        let [first, second] = rows.as_slice() else {
            panic!("{rows:?}")
        };
        assert_eq!((first.line, second.line), (1, 3));
        let ProcessTransactionRequest {
            transfers,
            effective_time,
            metadata,
            phase,
            ..
        } = &first.transaction;
        assert_eq!(transfers[0].amount, Some(transfer::Amount::MinorUnits(5)));
        assert_eq!(transfers[0].code, 2);
        assert_eq!(
            transfers[1].amount,
            Some(transfer::Amount::WideMinorUnits(Uint128 { high: 1, low: 2 }))
        );
        assert_eq!(effective_time.map(|time| time.seconds), Some(728_438_400));
        assert_eq!(metadata.get("note").map(String::as_str), Some("č"));
        assert_eq!(*phase, 1);
        assert_eq!(
            second.transaction.transfers[0].amount,
            Some(transfer::Amount::MinorUnits(7))
        );
    }

    #[test]
    fn an_error_names_the_place_and_the_value() {
        let good = r#"{"transactionId":"t0","transfers":[{"debitAccountId":"a","creditAccountId":"b","minorUnits":"1"}]}"#;
        for (line, expected) in [
            (
                "{",
                "the line is \"{\", expected the JSON form of tally.v1.ProcessTransactionRequest (the line ends too early)",
            ),
            (
                r#"{"transactionId":"t1"} x"#,
                "column 24 is \"x\", expected the JSON form",
            ),
            (
                r#"{"transactionId":"t1","amount":5}"#,
                "a field name is \"amount\", expected a field of the JSON form of tally.v1.ProcessTransactionRequest",
            ),
            (
                "no JSON",
                r#"column 2 is "o JSON", expected the JSON form of tally.v1.ProcessTransactionRequest (the text from here on is not JSON)"#,
            ),
            (
                r#"{"transactionId":"t1","transfers":[],"transfers":[]}"#,
                r#"column 48 is "\":[]}", expected the JSON form of tally.v1.ProcessTransactionRequest (the key "transfers" is repeated"#,
            ),
            (
                r#"{"transactionId":"t 1"}"#,
                "field transaction_id is \"t 1\", expected an id",
            ),
            (
                r#"{"transactionId":"t1","transfers":[{"debitAccountId":"a"}]}"#,
                "field transfers[0].credit_account_id is \"\", expected an id",
            ),
        ] {
            let Err(ReadError::Flaw { line: number, flaw }) = read(&format!("{good}\n{line}\n")) else {
                panic!("{line} was accepted")
            };
            assert_eq!(number, 2);
            assert!(flaw.to_string().starts_with(expected), "{flaw}");
        }
    }

    #[test]
    fn a_value_of_a_wrong_type_is_named_with_its_field() {
        for (line, expected) in [
            (
                r#"{"transactionId":7}"#,
                "field transaction_id is \"7\", expected a string in double quotes",
            ),
            (
                r#"{"transactionId":"t1","transfers":[{"minorUnits":"5x"}]}"#,
                r#"field transfers[0].minor_units is "5x", expected a whole number of at most 9223372036854775807"#,
            ),
            (
                r#"{"transactionId":"t1","transfers":[{},{"minorUnits":1.5}]}"#,
                "field transfers[1].minor_units is \"1.5\", expected a whole number of at most",
            ),
            (
                r#"{"transactionId":"t1","transfers":[{},{"wideMinorUnits":{"high":"x"}}]}"#,
                r#"field transfers[1].wide_minor_units.high is "x", expected a whole number from 0 to 18446744073709551615"#,
            ),
            (
                r#"{"transactionId":"t1","transfers":7}"#,
                "field transfers is \"7\", expected a list, such as []",
            ),
            (
                r#"{"transactionId":"t1","transfers":[5]}"#,
                "field transfers[0] is \"5\", expected an object, such as {}",
            ),
            (
                r#"{"transactionId":"t1","effectiveTime":"yesterday"}"#,
                r#"field effective_time is "yesterday", expected a time of RFC 3339 with seconds from 0 to 59, such as "2026-01-31T12:00:00Z""#,
            ),
            (
                r#"{"transactionId":"t1","phase":"SOON"}"#,
                r#"field phase is "SOON", expected one of TRANSACTION_PHASE_UNSPECIFIED, "#,
            ),
            (
                r#"{"transactionId":"t1","metadata":{"note":5}}"#,
                r#"field metadata is "{\"note\":5}", expected an object whose values are strings"#,
            ),
            ("[]", "the line is \"[]\", expected an object, such as {}"),
        ] {
            let Err(ReadError::Flaw { flaw, .. }) = read(line) else {
                panic!("{line} was accepted")
            };
            assert!(flaw.to_string().starts_with(expected), "{flaw}");
        }
    }
}
