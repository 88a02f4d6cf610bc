//! The layouts of CSV files: which columns a file has, and which layout a header selects.

/// The columns of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CsvLayout {
    /// One transfer per row, with the field names of the API.
    Native,
    /// A bank statement.
    BankStatement,
    /// A list of transfers between two accounts.
    TransferList,
}

/// Fields of the API that CSV files can't contain.
const NDJSON_ONLY: [&str; 6] = [
    "phase",
    "pending_transaction_id",
    "pending_timeout",
    "keep_remaining",
    "reverses_transaction_id",
    "amount_rule",
];

// ===== impl CsvLayout =====

impl CsvLayout {
    pub(super) const ALL: [CsvLayout; 3] = [
        CsvLayout::Native,
        CsvLayout::BankStatement,
        CsvLayout::TransferList,
    ];

    const fn name(self) -> &'static str {
        match self {
            CsvLayout::Native => "a list of transfers",
            CsvLayout::BankStatement => "a bank statement",
            CsvLayout::TransferList => "a numbered transfer list",
        }
    }

    const fn required(self) -> &'static [&'static str] {
        match self {
            CsvLayout::Native => &[
                "transaction_id",
                "debit_account_id",
                "credit_account_id",
                "minor_units",
            ],
            CsvLayout::BankStatement => &["transaction_id", "date", "account_id", "side", "kind", "amount"],
            CsvLayout::TransferList => &["i", "source", "target", "amount_minor"],
        }
    }

    const fn optional(self) -> &'static [&'static str] {
        match self {
            CsvLayout::Native => &["code", "effective_time"],
            CsvLayout::BankStatement => &["rounding", "balance_after"],
            CsvLayout::TransferList => &["decision", "source_balance_after", "target_balance_after"],
        }
    }

    /// Returns the columns of all layouts, each once.
    pub(super) fn all_columns() -> Vec<&'static str> {
        let mut columns = Vec::new();
        for layout in CsvLayout::ALL {
            for column in layout.required().iter().chain(layout.optional()) {
                if !columns.contains(column) {
                    columns.push(column);
                }
            }
        }
        columns
    }

    /// Returns the columns as a header. Optional columns are in brackets.
    pub(super) fn describe(self) -> String {
        let optional: String = self
            .optional()
            .iter()
            .map(|column| format!("[,{column}]"))
            .collect();
        format!("{}{optional}", self.required().join(","))
    }

    /// Returns the layout that has these columns.
    ///
    /// # Errors
    /// The difference from the most similar layout, as text.
    pub(super) fn of_columns(columns: &[&str]) -> Result<Self, String> {
        if let Some(column) = repeated(columns) {
            return Err(format!("column {column:?} is repeated"));
        }
        let fits =
            |layout: &CsvLayout| layout.unknown(columns).is_empty() && layout.missing(columns).is_empty();
        if let Some(layout) = CsvLayout::ALL.into_iter().find(fits) {
            return Ok(layout);
        }
        let found = |layout: &CsvLayout| layout.required().len() - layout.missing(columns).len();
        match CsvLayout::ALL.into_iter().rev().max_by_key(found) {
            Some(layout) if found(&layout) > 0 => Err(layout.difference(columns)),
            Some(_) | None => Err("no layout has these columns".to_owned()),
        }
    }

    fn unknown<'a>(self, columns: &[&'a str]) -> Vec<&'a str> {
        let mut unknown = columns.to_vec();
        unknown.retain(|column| !self.required().contains(column) && !self.optional().contains(column));
        unknown
    }

    fn missing(self, columns: &[&str]) -> Vec<&'static str> {
        let mut missing = self.required().to_vec();
        missing.retain(|column| !columns.contains(column));
        missing
    }

    fn difference(self, columns: &[&str]) -> String {
        let unknown = self.unknown(columns).into_iter().map(|name| {
            if NDJSON_ONLY.contains(&name) {
                format!("column {name:?} is only for NDJSON, because CSV contains posted transactions only")
            } else {
                format!("column {name:?} is unknown")
            }
        });
        let missing = self
            .missing(columns)
            .into_iter()
            .map(|name| format!("column {name:?} is missing"));
        let problems: Vec<String> = unknown.chain(missing).collect();
        format!(
            "{}; the other columns are those of {}",
            problems.join(", "),
            self.name()
        )
    }
}

/// Returns the first name that equals an earlier one.
pub(super) fn repeated<T: AsRef<str>>(names: &[T]) -> Option<&str> {
    let is_repeated = |place: usize, name: &T| {
        names
            .iter()
            .take(place)
            .any(|earlier| earlier.as_ref() == name.as_ref())
    };
    let mut places = names.iter().enumerate();
    places.find_map(|(place, name)| is_repeated(place, name).then(|| name.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_from_the_most_similar_layout_is_named() {
        for (header, expected) in [
            ("i,source,target,amount_minor", Ok(CsvLayout::TransferList)),
            (
                "transaction_id,date,account_id,side,kind,amount,memo",
                Err("column \"memo\" is unknown; the other columns are those of a bank statement"),
            ),
            (
                "transaction_id,Datum,account_id,side,kind,amount",
                Err(
                    "column \"Datum\" is unknown, column \"date\" is missing; the other columns are those of a bank statement",
                ),
            ),
            (
                "transaction_id,debit_account_id",
                Err(
                    "column \"credit_account_id\" is missing, column \"minor_units\" is missing; the other columns are those of \
                     a list of transfers",
                ),
            ),
            (
                "transaction_id,debit_account_id,credit_account_id,minor_units,phase",
                Err(
                    "column \"phase\" is only for NDJSON, because CSV contains posted transactions only; the other columns are those \
                     of a list of transfers",
                ),
            ),
            ("i,source,target,amount_minor,i", Err("column \"i\" is repeated")),
            ("a,b", Err("no layout has these columns")),
        ] {
            let columns: Vec<_> = header.split(',').collect();
            assert_eq!(
                CsvLayout::of_columns(&columns),
                expected.map_err(str::to_owned),
                "{header}"
            );
        }
    }
}
