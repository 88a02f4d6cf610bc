//! The names that a CSV file uses instead of the names of a layout: `--columns`, `--ignore-columns` and `--kinds`.

use thiserror::Error;

use super::{
    kinds,
    layout::{CsvLayout, repeated},
};
use crate::settings::in_one_line;

/// A name in a layout, and the name that the file uses instead. Parsed from `NAME=NAME-IN-FILE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pair {
    name: String,
    in_file: String,
}

/// The names of columns and kinds in the files of one import.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mapping {
    columns: Vec<Pair>,
    ignored: Vec<String>,
    kinds: Vec<Pair>,
}

/// A mapping that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum MappingError {
    /// A name is used twice.
    #[error("{name:?} is named twice in {}; name it once", sources(options))]
    Repeated {
        /// The options.
        options: &'static [&'static str],
        /// The name.
        name: String,
    },
}

// ===== impl Pair =====

impl Pair {
    /// Parses a pair of `--columns`: the name must be that of a column in a layout.
    pub(super) fn of_column(text: &str) -> Result<Self, String> {
        let pair = Pair::parse(text)?;
        let known = CsvLayout::all_columns();
        if known.contains(&pair.name.as_str()) {
            return Ok(pair);
        }
        let (name, columns) = (in_one_line(&pair.name), known.join(", "));
        Err(format!(
            "must be NAME=NAME-IN-FILE, and no layout has a column {name}; the columns are {columns}"
        ))
    }

    /// Parses a pair of `--kinds`: the name must be that of a kind in bank statements.
    pub(super) fn of_kind(text: &str) -> Result<Self, String> {
        let pair = Pair::parse(text)?;
        if kinds::is_kind(&pair.name) {
            return Ok(pair);
        }
        let (name, kinds) = (in_one_line(&pair.name), kinds::list());
        Err(format!(
            "must be KIND=WORD-IN-FILE, and a bank statement has no kind {name}; the kinds are {kinds}"
        ))
    }

    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        match text
            .split_once('=')
            .map(|(name, in_file)| (name.trim(), in_file.trim()))
        {
            Some((name, in_file)) if !name.is_empty() && !in_file.is_empty() => Ok(Pair {
                name: name.to_owned(),
                in_file: in_file.to_owned(),
            }),
            Some(_) | None => Err("must be NAME=NAME-IN-FILE, for example date=Datum"),
        }
    }
}

// ===== impl Mapping =====

impl Mapping {
    /// Creates a mapping.
    ///
    /// # Errors
    /// [`MappingError`] if a name occurs twice. Several words of a file may mean
    /// the same kind.
    pub(super) fn new(
        columns: Vec<Pair>,
        ignored: Vec<String>,
        kinds: Vec<Pair>,
    ) -> Result<Self, MappingError> {
        let in_file = |pairs: &[Pair]| pairs.iter().map(|pair| pair.in_file.clone()).collect::<Vec<_>>();
        let names = columns.iter().map(|pair| pair.name.clone()).collect::<Vec<_>>();
        let lists: [(&[&str], Vec<String>); 3] = [
            (&["--columns"], names),
            (
                &["--columns", "--ignore-columns"],
                [in_file(&columns), ignored.clone()].concat(),
            ),
            (&["--kinds"], in_file(&kinds)),
        ];
        for (options, names) in lists {
            if let Some(name) = repeated(&names) {
                let name = name.to_owned();
                return Err(MappingError::Repeated { options, name });
            }
        }
        Ok(Mapping {
            columns,
            ignored,
            kinds,
        })
    }

    /// Returns the layout's name of a column of the file; `None` if the column is to be ignored.
    pub(super) fn column<'a>(&'a self, in_file: &'a str) -> Option<&'a str> {
        if self.ignored.iter().any(|name| name == in_file) {
            return None;
        }
        Some(name_of(&self.columns, in_file))
    }

    /// Returns the kind that a word of the file means.
    pub(super) fn kind<'a>(&'a self, in_file: &'a str) -> &'a str {
        name_of(&self.kinds, in_file)
    }

    /// Returns the columns that the header of the file must have, because an option names them.
    pub(super) fn columns_in_file(&self) -> impl Iterator<Item = &str> {
        let mapped = self.columns.iter().map(|pair| pair.in_file.as_str());
        mapped.chain(self.ignored.iter().map(String::as_str))
    }
}

/// Returns the names of the options and of their environment variables.
fn sources(options: &[&str]) -> String {
    let source = |option: &&str| {
        let variable = option.trim_start_matches('-').replace('-', "_").to_uppercase();
        format!("{option} (TALLY_IMPORT_{variable})")
    };
    options.iter().map(source).collect::<Vec<_>>().join(" and ")
}

/// Returns the layout's name for `in_file`: `in_file` itself if no pair contains `in_file`.
fn name_of<'a>(pairs: &'a [Pair], in_file: &'a str) -> &'a str {
    let pair = pairs.iter().find(|pair| pair.in_file == in_file);
    pair.map_or(in_file, |pair| pair.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<Pair> {
        text.split_terminator(',')
            .map(|pair| Pair::parse(pair).unwrap())
            .collect()
    }

    #[test]
    fn names_are_mapped_and_other_names_stay_unchanged() {
        let mapping = Mapping::new(
            pairs("date=Datum,amount=Betrag"),
            vec!["Notiz".to_owned()],
            pairs("interest=Zins,interest=Habenzins"),
        )
        .unwrap();
        assert_eq!(mapping.column("Datum"), Some("date"));
        assert_eq!(mapping.column("side"), Some("side"));
        assert_eq!(mapping.column("Notiz"), None);
        assert_eq!(mapping.kind("Habenzins"), "interest");
        assert_eq!(mapping.kind("transfer-in"), "transfer-in");
        let columns: Vec<_> = mapping.columns_in_file().collect();
        assert_eq!(columns, ["Datum", "Betrag", "Notiz"]);
    }

    #[test]
    fn a_wrong_mapping_is_an_error_that_names_the_word() {
        for text in ["date", "=Datum", "date=", " = "] {
            assert!(Pair::of_column(text).is_err(), "{text}");
        }
        assert!(Pair::of_column("date=Datum").is_ok() && Pair::of_kind("interest=Zins").is_ok());
        let error = Pair::of_column("day=Datum").unwrap_err();
        assert!(
            error.contains("no layout has a column day; the columns are transaction_id, debit"),
            "{error}"
        );
        let error = Pair::of_kind("gift=Geschenk").unwrap_err();
        assert!(
            error.contains("no kind gift; the kinds are cash-deposit, "),
            "{error}"
        );
        for (columns, kinds, expected) in [
            (
                "date=Datum,date=Tag",
                "",
                "\"date\" is named twice in --columns (TALLY_IMPORT_COLUMNS); name it once",
            ),
            (
                "date=Datum,side=Datum",
                "",
                "\"Datum\" is named twice in --columns (TALLY_IMPORT_COLUMNS) and --ignore-columns \
                 (TALLY_IMPORT_IGNORE_COLUMNS); name it once",
            ),
            (
                "",
                "interest=Zins,transfer-in=Zins",
                "\"Zins\" is named twice in --kinds (TALLY_IMPORT_KINDS); name it once",
            ),
        ] {
            let error = Mapping::new(pairs(columns), Vec::new(), pairs(kinds))
                .unwrap_err()
                .to_string();
            assert_eq!(error, expected);
        }
    }
}
