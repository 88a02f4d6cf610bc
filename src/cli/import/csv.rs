//! Reads CSV files. The header selects one of three layouts:
//!
//! | layout | columns (in any order, `[optional]`) |
//! |---|---|
//! | native | `transaction_id, debit_account_id, credit_account_id, minor_units, [code], [effective_time]` |
//! | bank statement | `transaction_id, date, account_id, side, kind, amount, [rounding], [balance_after]` |
//! | transfer list | `i, source, target, amount_minor, [decision], [source_balance_after], [target_balance_after]` |
//!
//! Each row of a transfer list is one transaction with the id `amlsim-<i>`, which moves money from `source` to
//! `target`. The import ignores the optional columns of a transfer list. For bank statements see [`bank`](super::bank).
//! A file can use other names for columns ([`mapping`](super::mapping)). `docs/import.md` describes the formats for
//! users.

use std::{
    io::{self, BufRead},
    sync::Arc,
};

use thiserror::Error;

use super::{
    bank,
    cells::{Cells, number},
    encoding::Encoding,
    fields::Record,
    layout::CsvLayout,
    lines::{Lines, ReadError},
    mapping::Mapping,
    row::{Flaw, Row},
};
use crate::proto::{ProcessTransactionRequest, Transfer, transfer};

/// Maximum number of characters of the header that an error shows.
const HEADER_CHARS_MAX: usize = 200;

/// Why the header is not accepted.
#[derive(Debug, Error)]
pub(super) enum HeaderError {
    /// The file can't be read.
    #[error("can't read the header")]
    Read(#[from] io::Error),
    /// The file is compressed, or has another encoding of text.
    #[error("the file {}", .0.words())]
    Encoded(Encoding),
    /// The file has no line, or only blank lines.
    #[error("the file is empty; a CSV file begins with a header")]
    Empty,
    /// The header is not a line of CSV.
    #[error("the header: {flaw}")]
    Flaw {
        /// The line, from 1.
        line: u64,
        /// The error.
        flaw: Flaw,
    },
    /// The columns belong to no layout.
    #[error(
        "unknown header {found:?}: {problem}; rename columns with --columns, leave columns out with --ignore-columns, or use \
         one of these headers: {}; or {}; or {}",
        CsvLayout::Native.describe(),
        CsvLayout::BankStatement.describe(),
        CsvLayout::TransferList.describe()
    )]
    Unknown {
        /// The line, from 1.
        line: u64,
        /// The header, shortened.
        found: String,
        /// The difference from the most similar layout.
        problem: String,
    },
    /// The header has no column that an option names.
    #[error("the header {found:?} has no column {column:?}, which --columns or --ignore-columns names")]
    NotInHeader {
        /// The line, from 1.
        line: u64,
        /// The header, shortened.
        found: String,
        /// The column.
        column: String,
    },
}

/// The transactions of a file.
#[derive(Debug)]
pub(super) struct CsvRows<R> {
    lines: Lines<R>,
    header: Record,
    /// The layout's name of each column; empty for a column that is ignored.
    columns: Vec<String>,
    mapping: Arc<Mapping>,
    layout: CsvLayout,
    record: Record,
}

// ===== impl HeaderError =====

impl HeaderError {
    /// Returns the line of the header, from 1.
    pub(super) const fn line(&self) -> u64 {
        match self {
            HeaderError::Read(_) | HeaderError::Encoded(_) | HeaderError::Empty => 1,
            HeaderError::Flaw { line, .. }
            | HeaderError::Unknown { line, .. }
            | HeaderError::NotInHeader { line, .. } => *line,
        }
    }
}

// ===== impl CsvRows =====

impl<R: BufRead> CsvRows<R> {
    /// Reads the header, whose names `mapping` translates.
    ///
    /// # Errors
    /// [`HeaderError`].
    pub(super) fn new(source: R, mapping: Arc<Mapping>) -> Result<Self, HeaderError> {
        let mut lines = Lines::new(source);
        let first = lines.next().map_err(|error| match error {
            ReadError::Flaw { line, flaw } => HeaderError::Flaw { line, flaw },
            ReadError::Encoded(encoding) => HeaderError::Encoded(encoding),
            ReadError::Io(error) => HeaderError::Read(error),
        })?;
        let (line, text) = first.ok_or(HeaderError::Empty)?;
        let mut header = Record::default();
        header
            .split(text)
            .map_err(|flaw| HeaderError::Flaw { line, flaw })?;
        let found = || text.chars().take(HEADER_CHARS_MAX).collect();
        let is_missing = |column: &&str| !header.iter().any(|name| name == *column);
        if let Some(column) = mapping.columns_in_file().find(is_missing) {
            return Err(HeaderError::NotInHeader {
                line,
                found: found(),
                column: column.to_owned(),
            });
        }
        let used: Vec<&str> = header.iter().filter_map(|name| mapping.column(name)).collect();
        let layout = CsvLayout::of_columns(&used).map_err(|problem| HeaderError::Unknown {
            line,
            found: found(),
            problem,
        })?;
        let columns = header
            .iter()
            .map(|name| mapping.column(name).unwrap_or_default().to_owned())
            .collect();
        Ok(CsvRows {
            lines,
            header,
            columns,
            mapping,
            layout,
            record: Record::default(),
        })
    }

    /// Returns the layout of the file.
    pub(super) const fn layout(&self) -> CsvLayout {
        self.layout
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
        self.record
            .split(text)
            .map_err(|flaw| ReadError::Flaw { line, flaw })?;
        if self.record.len() != self.header.len() {
            let (found, expected) = (self.record.len(), self.header.len());
            let expected = format!("{expected} fields, like the header");
            let flaw = Flaw::new("the row", &format!("{found} fields"), expected);
            return Err(ReadError::Flaw { line, flaw });
        }
        let cells = Cells {
            header: &self.header,
            columns: &self.columns,
            record: &self.record,
        };
        let transaction = match self.layout {
            CsvLayout::Native => native(cells),
            CsvLayout::BankStatement => bank::transaction(cells, &self.mapping),
            CsvLayout::TransferList => transfer_list(cells),
        };
        match transaction {
            Ok(transaction) => Ok(Some(Row { line, transaction })),
            Err(flaw) => Err(ReadError::Flaw { line, flaw }),
        }
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
            ..Transfer::default()
        }],
        effective_time: cells.time("effective_time")?,
        ..ProcessTransactionRequest::default()
    })
}

fn transfer_list(cells: Cells<'_>) -> Result<ProcessTransactionRequest, Flaw> {
    let text = cells.text("i");
    let index: u64 =
        // Only one spelling is accepted, because `7` and `07` would get the same transaction id.
        number(text)
            .filter(|index: &u64| index.to_string() == text)
            .ok_or_else(|| Flaw::new(cells.named("i"), text, "the number of the row, 0 or more, without leading zeros"))?;
    Ok(ProcessTransactionRequest {
        transaction_id: format!("amlsim-{index}"),
        transfers: vec![Transfer {
            debit_account_id: cells.id("source")?,
            credit_account_id: cells.id("target")?,
            amount: Some(transfer::Amount::MinorUnits(cells.minor_units("amount_minor")?)),
            ..Transfer::default()
        }],
        ..ProcessTransactionRequest::default()
    })
}

#[cfg(test)]
mod tests {
    use super::{super::mapping::Pair, *};

    const NATIVE: &str = "transaction_id,debit_account_id,credit_account_id,minor_units";

    fn read(text: &str) -> Result<Vec<Row>, ReadError> {
        read_with(text, Mapping::default())
    }

    fn read_with(text: &str, mapping: Mapping) -> Result<Vec<Row>, ReadError> {
        let mut rows = CsvRows::new(text.as_bytes(), Arc::new(mapping)).expect("a known header");
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
    fn the_error_of_an_unknown_header_lists_the_known_headers() {
        for header in [
            "a,b,c",
            "transaction_id,debit_account_id,credit_account_id",
            &format!("{NATIVE},note"),
            &format!("{NATIVE},minor_units"),
        ] {
            let error = CsvRows::new(format!("{header}\n").as_bytes(), Arc::default())
                .expect_err(header)
                .to_string();
            assert!(error.contains(header), "{error}");
            for layout in CsvLayout::ALL {
                assert!(error.contains(&layout.describe()), "{error}");
            }
        }
        for empty in ["", "\n\n"] {
            let error = CsvRows::new(empty.as_bytes(), Arc::default()).expect_err(empty);
            assert!(matches!(error, HeaderError::Empty), "{error}");
        }
    }

    #[test]
    fn other_names_of_columns_are_translated_and_appear_in_errors() {
        let pair = |text: &str| Pair::parse(text).unwrap();
        let mapping = || {
            let columns = vec![pair("debit_account_id=Von"), pair("minor_units=Cents")];
            Mapping::new(columns, vec!["Notiz".to_owned()], Vec::new()).unwrap()
        };
        let header = "Notiz,transaction_id,Von,credit_account_id,Cents";
        let rows = read_with(&format!("{header}\nx,t1,a,b,5\n"), mapping()).unwrap();
        let transfer = &rows[0].transaction.transfers[0];
        assert_eq!(
            (
                transfer.debit_account_id.as_str(),
                transfer.credit_account_id.as_str()
            ),
            ("a", "b")
        );
        assert_eq!(transfer.amount, Some(transfer::Amount::MinorUnits(5)));
        let error = read_with(&format!("{header}\nx,t1,a,b,0\n"), mapping()).unwrap_err();
        let ReadError::Flaw { line: 2, flaw } = error else {
            panic!("{error:?}")
        };
        let expected = "column \"Cents\" (minor_units) is \"0\", expected whole minor units";
        assert!(flaw.to_string().starts_with(expected), "{flaw}");
        let without = format!("{NATIVE}\n");
        let error = CsvRows::new(without.as_bytes(), Arc::new(mapping())).unwrap_err();
        assert!(error.to_string().contains("has no column \"Von\""), "{error}");
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
