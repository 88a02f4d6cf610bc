//! Reads NDJSON: one `tally.v1.ProcessTransactionRequest` in each line, in the JSON form that proto3 defines.
//!
//! Field names may be `transactionId` or `transaction_id`, 64-bit numbers may be strings or numbers, and times follow RFC 3339.
//! An unknown field is an error, because ignoring a misspelt field could lose money. A repeated field is an error at any depth
//! and in either spelling, because one of the two values would be lost.

use std::io::BufRead;

use super::{
    lines::{Lines, ReadError},
    row::{Flaw, Row},
};
use crate::{
    json::{self, JsonError},
    proto::ProcessTransactionRequest,
};

/// The message of a line.
const MESSAGE: &str = "ProcessTransactionRequest";

/// The transactions of a file.
#[derive(Debug)]
pub(super) struct NdjsonRows<R> {
    lines: Lines<R>,
}

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

    /// Reads the next transaction; `None` at the end of the file.
    ///
    /// # Errors
    /// [`ReadError`].
    pub(super) fn next(&mut self) -> Result<Option<Row>, ReadError> {
        let Some((line, text)) = self.lines.next()? else {
            return Ok(None);
        };
        match parse(text) {
            Ok(transaction) => Ok(Some(Row { line, transaction })),
            Err(flaw) => Err(ReadError::Flaw { line, flaw }),
        }
    }
}

fn parse(text: &str) -> Result<ProcessTransactionRequest, Flaw> {
    let transaction = json::from_json(MESSAGE, text).map_err(|error| match error {
        JsonError::Json(error) => not_json(text, &error),
        JsonError::UnknownMessage(_) | JsonError::Decode(_) => Flaw::new("the line", text, json_form()),
    })?;
    check_ids(&transaction)?;
    Ok(transaction)
}

fn not_json(text: &str, error: &serde_json::Error) -> Flaw {
    let mut library = error.to_string();
    // serde_json counts lines within the text. The text is a single line here, so remove a part such as "at line 1
    // column 17".
    if let Some(end) = library.rfind(" at line ") {
        library.truncate(end);
    }
    let unknown = library
        .strip_prefix("unrecognized field name '")
        .and_then(|rest| rest.strip_suffix('\''));
    if let Some(name) = unknown {
        return Flaw::new("a field name", name, format!("a field of {}", json_form()));
    }
    // The words of the libraries help only their authors, except for the text of a repeated key, which is ours.
    let words = if json::is_repeated_key(&library) {
        library.as_str()
    } else if error.is_syntax() {
        "the text from here on is not JSON"
    } else {
        "the value that ends here does not fit its field"
    };
    if error.is_data()
        && !json::is_repeated_key(&library)
        && let Some(misfit) = json::misfit(MESSAGE, text)
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
            format!("{} (the line ends too early)", json_form()),
        );
    }
    // The text from the column on, if the column is a character boundary.
    let rest = text.get(column.saturating_sub(1)..).unwrap_or(text);
    Flaw::new(
        format!("column {column}"),
        rest,
        format!("{} ({words})", json_form()),
    )
}

/// Describes the valid lines.
fn json_form() -> String {
    format!("the JSON form of tally.v1.{MESSAGE}")
}

/// Checks the ids, because the import may create accounts with them. The service checks everything else.
fn check_ids(transaction: &ProcessTransactionRequest) -> Result<(), Flaw> {
    if let Some(flaw) = Flaw::check_id("field transaction_id", &transaction.transaction_id) {
        return Err(flaw);
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
    use crate::proto::{Uint128, transfer};

    fn read(text: &str) -> Result<Vec<Row>, ReadError> {
        let mut rows = NdjsonRows::new(text.as_bytes());
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            all.push(row);
        }
        Ok(all)
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
        let good = r#"{"transactionId":"t1"}"#;
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
                r#"field effective_time is "yesterday", expected a time of RFC 3339, such as "2026-01-31T12:00:00Z""#,
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
