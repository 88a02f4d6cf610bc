//! CSV, in three shapes that are told apart by their header.
//!
//! | shape | columns (in any order, `[optional]`) |
//! |---|---|
//! | native | `transaction_id, debit_account_id, credit_account_id, minor_units, [code], [effective_time]` |
//! | bank statement | `transaction_id, date, account_id, side, kind, amount, [rounding], [balance_after]` |
//! | transfer list | `i, source, target, amount_minor, [decision], [source_balance_after], [target_balance_after]` |
//!
//! A row of a transfer list is a transaction of its own, named `amlsim-<i>`, that moves money from `source` to `target`;
//! the expectations that some columns hold are not looked at. For bank statements see [`bank`](super::bank).

use std::{
    io::{self, BufRead},
    str::FromStr,
};

use thiserror::Error;

use super::{
    bank,
    fields::Record,
    lines::{Lines, ReadError},
    row::{Flaw, Row},
};
use crate::proto::{ProcessTransactionRequest, Transfer, transfer};

/// Longest header that an error shows.
const HEADER_CHARS_MAX: usize = 200;

/// What the columns of a file mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// A transfer, in the ledger's own words.
    Native,
    /// A bank's statement of its customers' accounts.
    BankStatement,
    /// Money from one account to another.
    TransferList,
}

/// Why the header could not be understood.
#[derive(Debug, Error)]
pub(super) enum HeaderError {
    /// It can't be read.
    #[error("can't read the header")]
    Read(#[from] io::Error),
    /// It is no text.
    #[error("the header: {flaw}")]
    Flaw {
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        flaw: Flaw,
    },
    /// It belongs to no shape.
    #[error(
        "the header {found:?} is not known; expected one of\n  {}\n  {}\n  {}",
        Shape::Native.describe(),
        Shape::BankStatement.describe(),
        Shape::TransferList.describe()
    )]
    Unknown {
        /// The line, from 1.
        line: u64,
        /// The header, shortened.
        found: String,
    },
}

/// The transactions of a file.
#[derive(Debug)]
pub(super) struct CsvRows<R> {
    lines: Lines<R>,
    header: Record,
    shape: Shape,
    record: Record,
}

/// One row, cells by the names of their columns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cells<'a> {
    header: &'a Record,
    record: &'a Record,
}

// ===== impl HeaderError =====

impl HeaderError {
    /// The line of the header, from 1.
    pub(super) const fn line(&self) -> u64 {
        match self {
            HeaderError::Read(_) => 1,
            HeaderError::Flaw { line, .. } | HeaderError::Unknown { line, .. } => *line,
        }
    }
}

// ===== impl Shape =====

impl Shape {
    const ALL: [Shape; 3] = [Shape::Native, Shape::BankStatement, Shape::TransferList];

    const fn required(self) -> &'static [&'static str] {
        match self {
            Shape::Native => &[
                "transaction_id",
                "debit_account_id",
                "credit_account_id",
                "minor_units",
            ],
            Shape::BankStatement => &["transaction_id", "date", "account_id", "side", "kind", "amount"],
            Shape::TransferList => &["i", "source", "target", "amount_minor"],
        }
    }

    const fn optional(self) -> &'static [&'static str] {
        match self {
            Shape::Native => &["code", "effective_time"],
            Shape::BankStatement => &["rounding", "balance_after"],
            Shape::TransferList => &["decision", "source_balance_after", "target_balance_after"],
        }
    }

    fn describe(self) -> String {
        let optional: String = self
            .optional()
            .iter()
            .map(|column| format!("[,{column}]"))
            .collect();
        format!("{}{optional}", self.required().join(","))
    }

    fn of(header: &Record) -> Option<Self> {
        Shape::ALL.into_iter().find(|shape| {
            let known =
                |column: &str| shape.required().contains(&column) || shape.optional().contains(&column);
            let has = |column: &&str| header.iter().any(|found| found == *column);
            let repeated = header
                .iter()
                .enumerate()
                .any(|(place, column)| header.iter().take(place).any(|earlier| earlier == column));
            shape.required().iter().all(has) && header.iter().all(known) && !repeated
        })
    }
}

// ===== impl CsvRows =====

impl<R: BufRead> CsvRows<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`HeaderError`].
    pub(super) fn new(source: R) -> Result<Self, HeaderError> {
        let mut lines = Lines::new(source);
        let first = lines.next().map_err(|error| match error {
            ReadError::Flaw { line, flaw } => HeaderError::Flaw { line, flaw },
            ReadError::Io(error) => HeaderError::Read(error),
        })?;
        let (line, text) = first.unwrap_or((1, ""));
        let mut header = Record::default();
        header
            .split(text)
            .map_err(|flaw| HeaderError::Flaw { line, flaw })?;
        let shape = Shape::of(&header).ok_or_else(|| HeaderError::Unknown {
            line,
            found: text.chars().take(HEADER_CHARS_MAX).collect(),
        })?;
        Ok(CsvRows {
            lines,
            header,
            shape,
            record: Record::default(),
        })
    }

    /// What the columns mean.
    pub(super) const fn shape(&self) -> Shape {
        self.shape
    }

    /// Lines that were read so far and had nothing in them.
    pub(super) const fn blank(&self) -> u64 {
        self.lines.blank()
    }

    /// The next transaction; `None` at the end.
    ///
    /// # Errors
    /// [`ReadError`].
    pub(super) fn next(&mut self) -> Result<Option<Row>, ReadError> {
        let Some((line, text)) = self.lines.next()? else {
            return Ok(None);
        };
        self.record
            .split(text)
            .map_err(|flaw| ReadError::Flaw { line, flaw })?;
        if self.record.len() != self.header.len() {
            let (found, expected) = (self.record.len(), self.header.len());
            let expected = format!("{expected} fields, as the header has");
            let flaw = Flaw::new("the row", &format!("{found} fields"), expected);
            return Err(ReadError::Flaw { line, flaw });
        }
        let cells = Cells {
            header: &self.header,
            record: &self.record,
        };
        let transaction = match self.shape {
            Shape::Native => native(cells),
            Shape::BankStatement => bank::transaction(cells),
            Shape::TransferList => transfer_list(cells),
        };
        match transaction {
            Ok(transaction) => Ok(Some(Row { line, transaction })),
            Err(flaw) => Err(ReadError::Flaw { line, flaw }),
        }
    }
}

// ===== impl Cells =====

impl<'a> Cells<'a> {
    /// The text of `column`, empty if there is no such column.
    pub(super) fn text(self, column: &str) -> &'a str {
        let place = self.header.iter().position(|name| name == column);
        place.and_then(|place| self.record.get(place)).unwrap_or_default()
    }

    /// An id.
    pub(super) fn id(self, column: &str) -> Result<String, Flaw> {
        let text = self.text(column);
        Flaw::of_id(named(column), text).map_or_else(|| Ok(text.to_owned()), Err)
    }

    /// A number of minor units, more than zero.
    pub(super) fn minor_units(self, column: &str) -> Result<i64, Flaw> {
        let text = self.text(column);
        number(text)
            .filter(|units| *units > 0)
            .ok_or_else(|| Flaw::new(named(column), text, "whole minor units, 1 to 9223372036854775807"))
    }

    /// A whole number with a sign; zero if there is none.
    pub(super) fn signed(self, column: &str) -> Result<i64, Flaw> {
        let text = self.text(column);
        if text.is_empty() {
            return Ok(0);
        }
        number(text)
            .filter(|units| *units != i64::MIN)
            .ok_or_else(|| Flaw::new(named(column), text, "whole minor units, with a sign if negative"))
    }

    /// A business date or time; a date is its midnight, UTC.
    pub(super) fn time(self, column: &str) -> Result<Option<prost_types::Timestamp>, Flaw> {
        let text = self.text(column);
        if text.is_empty() {
            return Ok(None);
        }
        prost_types::Timestamp::from_str(text).map(Some).map_err(|_| {
            Flaw::new(
                named(column),
                text,
                "a date like 1993-01-31 or a time like 1993-01-31T12:00:00Z",
            )
        })
    }

    fn code(self, column: &str) -> Result<i32, Flaw> {
        let text = self.text(column);
        if text.is_empty() {
            return Ok(0);
        }
        number(text)
            .filter(|code| *code >= 0)
            .ok_or_else(|| Flaw::new(named(column), text, "a whole number, 0 to 2147483647"))
    }
}

fn named(column: &str) -> String {
    format!("column {column:?}")
}

/// Digits with an optional minus. Rust's own parser would take a plus, too.
fn number<T: FromStr>(text: &str) -> Option<T> {
    if text.starts_with('+') {
        None
    } else {
        text.parse().ok()
    }
}

fn native(cells: Cells<'_>) -> Result<ProcessTransactionRequest, Flaw> {
    Ok(ProcessTransactionRequest {
        transaction_id: cells.id("transaction_id")?,
        transfers: vec![Transfer {
            debit_account_id: cells.id("debit_account_id")?,
            credit_account_id: cells.id("credit_account_id")?,
            amount: Some(transfer::Amount::MinorUnits(cells.minor_units("minor_units")?)),
            code: cells.code("code")?,
        }],
        effective_time: cells.time("effective_time")?,
        ..ProcessTransactionRequest::default()
    })
}

fn transfer_list(cells: Cells<'_>) -> Result<ProcessTransactionRequest, Flaw> {
    let text = cells.text("i");
    let index: u64 =
        // Written in one way only: `7` and `07` would be one transaction.
        number(text)
            .filter(|index: &u64| index.to_string() == text)
            .ok_or_else(|| Flaw::new(named("i"), text, "the number of the row, 0 or more, without leading zeros"))?;
    Ok(ProcessTransactionRequest {
        transaction_id: format!("amlsim-{index}"),
        transfers: vec![Transfer {
            debit_account_id: cells.id("source")?,
            credit_account_id: cells.id("target")?,
            amount: Some(transfer::Amount::MinorUnits(cells.minor_units("amount_minor")?)),
            code: 0,
        }],
        ..ProcessTransactionRequest::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NATIVE: &str = "transaction_id,debit_account_id,credit_account_id,minor_units";

    fn read(text: &str) -> Result<Vec<Row>, ReadError> {
        let mut rows = CsvRows::new(text.as_bytes()).expect("a known header");
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            all.push(row);
        }
        Ok(all)
    }

    fn flaw(text: &str) -> (u64, String) {
        match read(text) {
            Err(ReadError::Flaw { line, flaw }) => (line, flaw.to_string()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn native_rows_become_transactions() {
        let rows = read(&format!(
            "{NATIVE},code,effective_time\nt1,a,b,5,7,1993-01-31\n\nt2, b ,a,9223372036854775807,,1993-01-31T01:00:00+01:00\n"
        ))
        .unwrap();
        let midnight = Some(prost_types::Timestamp {
            seconds: 728_438_400,
            nanos: 0,
        });
        let [first, second] = rows.as_slice() else {
            panic!("{rows:?}")
        };
        assert_eq!((first.line, second.line), (2, 4));
        assert_eq!(first.transaction.transaction_id, "t1");
        assert_eq!(first.transaction.effective_time, midnight);
        let transfer = &first.transaction.transfers[0];
        assert_eq!(
            (
                transfer.debit_account_id.as_str(),
                transfer.credit_account_id.as_str()
            ),
            ("a", "b")
        );
        assert_eq!(
            (transfer.amount, transfer.code),
            (Some(transfer::Amount::MinorUnits(5)), 7)
        );
        assert_eq!(
            second.transaction.transfers[0].amount,
            Some(transfer::Amount::MinorUnits(i64::MAX))
        );
        assert_eq!(second.transaction.effective_time, midnight);
        assert_eq!(
            second.transaction.transfers[0].debit_account_id, "b",
            "spaces are trimmed"
        );
    }

    #[test]
    fn columns_may_come_in_any_order_and_after_a_byte_order_mark() {
        let rows = read("\u{feff}minor_units,credit_account_id,debit_account_id,transaction_id\n3,b,a,t1\n")
            .unwrap();
        let transfer = &rows[0].transaction.transfers[0];
        assert_eq!(
            (
                transfer.debit_account_id.as_str(),
                transfer.credit_account_id.as_str()
            ),
            ("a", "b")
        );
        assert_eq!(rows[0].transaction.effective_time, None);
    }

    #[test]
    fn a_transfer_list_moves_money_from_source_to_target() {
        let rows = read(
            "i,source,target,amount_minor,decision,source_balance_after,target_balance_after\n17,360,18984,10355,OK,0,63709\n",
        )
        .unwrap();
        let transfer = &rows[0].transaction.transfers[0];
        assert_eq!(rows[0].transaction.transaction_id, "amlsim-17");
        assert_eq!(
            (
                transfer.debit_account_id.as_str(),
                transfer.credit_account_id.as_str()
            ),
            ("360", "18984")
        );
        assert_eq!(transfer.amount, Some(transfer::Amount::MinorUnits(10355)));
    }

    #[test]
    fn an_unknown_header_is_told_what_is_known() {
        for header in [
            "a,b,c",
            "transaction_id,debit_account_id,credit_account_id",
            "",
            &format!("{NATIVE},note"),
            &format!("{NATIVE},minor_units"),
        ] {
            let error = CsvRows::new(format!("{header}\n").as_bytes())
                .expect_err(header)
                .to_string();
            assert!(error.contains(header), "{error}");
            for shape in Shape::ALL {
                assert!(error.contains(&shape.describe()), "{error}");
            }
        }
    }

    #[test]
    fn a_bad_cell_is_named_with_its_line_and_value() {
        for (row, expected) in [
            (
                "t1,a,b,0,,",
                r#"column "minor_units" is "0", expected whole minor units"#,
            ),
            ("t1,a,b,-5,,", r#"column "minor_units" is "-5", expected"#),
            ("t1,a,b,+5,,", r#"column "minor_units" is "+5", expected"#),
            ("t1,a,b,5.00,,", r#"column "minor_units" is "5.00", expected"#),
            (
                "t1,a,b,9223372036854775808,,",
                r#"column "minor_units" is "9223372036854775808", expected"#,
            ),
            ("t1,a,b,,,", r#"column "minor_units" is "", expected"#),
            (
                "t 1,a,b,5,,",
                r#"column "transaction_id" is "t 1", expected an id"#,
            ),
            ("t1,,b,5,,", r#"column "debit_account_id" is "", expected an id"#),
            (
                "t1,a,č,5,,",
                r#"column "credit_account_id" is "č", expected an id"#,
            ),
            (
                "t1,a,b,5,-1,",
                r#"column "code" is "-1", expected a whole number"#,
            ),
            (
                "t1,a,b,5,,31.1.1993",
                r#"column "effective_time" is "31.1.1993", expected a date"#,
            ),
            (
                "t1,a,b,5,,1993-02-30",
                r#"column "effective_time" is "1993-02-30", expected a date"#,
            ),
            (
                "t1,\"a,b,5,,",
                r#"field 2 is "\"a,b,5,,", expected a closing quote"#,
            ),
            ("t1,a,b,5,,,", r#"the row is "7 fields", expected 6 fields"#),
            (
                "#t1,a,b,5,,",
                r##"column "transaction_id" is "#t1", expected an id"##,
            ),
            ("t1,a,b,5", r#"the row is "4 fields", expected 6 fields"#),
        ] {
            let (line, message) = flaw(&format!("{NATIVE},code,effective_time\nt0,a,b,1,,\n{row}\n"));
            assert_eq!(line, 3, "{message}");
            assert!(message.starts_with(expected), "{message}");
        }
    }
}
