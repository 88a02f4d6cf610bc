//! The values of one CSV row, by the names of their columns.

use std::str::FromStr;

use super::{fields::Record, row::Flaw};
use crate::json::parse_time;

/// One row of a CSV file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cells<'a> {
    /// The names of the columns in the file.
    pub(super) header: &'a Record,
    /// The names of the same columns in the layout.
    pub(super) columns: &'a [String],
    pub(super) record: &'a Record,
}

// ===== impl Cells =====

impl<'a> Cells<'a> {
    /// Returns the text of `column`. The text is empty if the column does not exist.
    pub(super) fn text(self, column: &str) -> &'a str {
        let place = self.place(column);
        place.and_then(|place| self.record.get(place)).unwrap_or_default()
    }

    /// Returns the text that names a column in an error: its name in the file and, if that differs, its name in the layout.
    pub(super) fn named(self, column: &str) -> String {
        match self.place(column).and_then(|place| self.header.get(place)) {
            Some(in_file) if in_file != column => format!("column {in_file:?} ({column})"),
            Some(_) | None => format!("column {column:?}"),
        }
    }

    fn place(self, column: &str) -> Option<usize> {
        self.columns.iter().position(|name| name == column)
    }

    /// Reads an id.
    pub(super) fn id(self, column: &str) -> Result<String, Flaw> {
        let text = self.text(column);
        Flaw::check_id(self.named(column), text).map_or_else(|| Ok(text.to_owned()), Err)
    }

    /// Reads an amount in minor units, more than zero.
    pub(super) fn minor_units(self, column: &str) -> Result<i64, Flaw> {
        let text = self.text(column);
        number(text).filter(|units| *units > 0).ok_or_else(|| {
            Flaw::new(
                self.named(column),
                text,
                "whole minor units, 1 to 9223372036854775807",
            )
        })
    }

    /// Reads a signed amount in minor units; 0 if the field is empty.
    pub(super) fn signed(self, column: &str) -> Result<i64, Flaw> {
        let text = self.text(column);
        if text.is_empty() {
            return Ok(0);
        }
        number(text).filter(|units| *units != i64::MIN).ok_or_else(|| {
            Flaw::new(
                self.named(column),
                text,
                "whole minor units, with a sign if negative",
            )
        })
    }

    /// Reads a date or time; `None` if the field is empty. A date means its midnight in UTC.
    pub(super) fn time(self, column: &str) -> Result<Option<prost_types::Timestamp>, Flaw> {
        let text = self.text(column);
        if text.is_empty() {
            return Ok(None);
        }
        parse_time(text).map(Some).map_err(|_| {
            Flaw::new(
                self.named(column),
                text,
                "a date like 1993-01-31 or a time like 1993-01-31T12:00:00Z, with seconds from 0 to 59",
            )
        })
    }

    /// Reads a transfer code; 0 if the field is empty.
    pub(super) fn code(self, column: &str) -> Result<i32, Flaw> {
        let text = self.text(column);
        if text.is_empty() {
            return Ok(0);
        }
        number(text)
            .filter(|code| *code >= 0)
            .ok_or_else(|| Flaw::new(self.named(column), text, "a whole number, 0 to 2147483647"))
    }
}

/// Parses digits with an optional minus sign. The parser of the standard library would accept a plus sign, too.
pub(super) fn number<T: FromStr>(text: &str) -> Option<T> {
    if text.starts_with('+') {
        None
    } else {
        text.parse().ok()
    }
}
