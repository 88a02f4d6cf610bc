//! The TOML file: its text, and the line of every key.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use toml_edit::{ImDocument, Item, TableLike};

use super::error::ConfigError;

/// A TOML file without syntax errors.
#[derive(Debug)]
pub(super) struct TomlFile {
    /// The path of the file.
    pub(super) path: PathBuf,
    /// The content of the file.
    pub(super) text: String,
    /// The number of the line, from 1, of each key and each table, by the full key.
    pub(super) lines: BTreeMap<String, usize>,
}

// ===== impl TomlFile =====

impl TomlFile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError::File`] if the file can't be read, and [`ConfigError::Syntax`] if it is not TOML.
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::File {
            path: path.to_owned(),
            source,
        })?;
        let document = ImDocument::parse(&*text).map_err(|error| {
            let (line, column) = position(&text, error.span().map_or(0, |span| span.start));
            ConfigError::Syntax {
                path: path.to_owned(),
                line,
                column,
                reason: error.message().trim_end().replace('\n', ", "),
            }
        })?;
        let mut lines = BTreeMap::new();
        add_lines(&text, document.as_table(), "", &mut lines);
        Ok(TomlFile {
            path: path.to_owned(),
            lines,
            text,
        })
    }
}

/// Adds the lines of the keys in `table`, and of the keys in the tables within. `prefix` is the key of the table, with a
/// dot at its end. The depth is at most the depth that the parser accepts.
fn add_lines(text: &str, table: &dyn TableLike, prefix: &str, lines: &mut BTreeMap<String, usize>) {
    for (name, item) in table.iter() {
        let key = format!("{prefix}{name}");
        let span = table
            .key(name)
            .and_then(toml_edit::Key::span)
            .or_else(|| item.span());
        if let Some(span) = span {
            lines.insert(key.clone(), position(text, span.start).0);
        }
        if let Some(inner) = Item::as_table_like(item) {
            add_lines(text, inner, &format!("{key}."), lines);
        }
    }
}

/// Returns the line and the column, both from 1, of the byte at `offset`.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.matches('\n').count() + 1;
    let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
    (line, column)
}
