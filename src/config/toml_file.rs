//! The TOML file: its text, and the line of every key.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use toml_edit::{ImDocument, Item, TableLike};

use super::error::ConfigError;
use crate::settings::{SettingError, bytes_text};

/// Maximum length of a configuration file in bytes. A file with every setting and its description has about 30 KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;

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
    /// [`ConfigError::File`] if the file can't be read, [`ConfigError::Setting`] if it is longer than
    /// [`FILE_BYTES_MAX`], and [`ConfigError::Syntax`] if it is not TOML.
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let bytes = read_bounded(path).map_err(|source| ConfigError::File {
            path: path.to_owned(),
            source,
        })?;
        let bytes = bytes.ok_or_else(|| {
            let bound = format!("a file of at most {}", bytes_text(FILE_BYTES_MAX));
            SettingError::new("--config", path.display(), bound)
        })?;
        TomlFile::parse(path, bytes)
    }

    /// Parses the content of the file `path`.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`] if the content is not TOML.
    pub(super) fn parse(path: &Path, bytes: Vec<u8>) -> Result<Self, ConfigError> {
        let syntax_error = |text: &str, offset, reason| {
            let (line, column) = Lines::of(text).position(offset);
            ConfigError::Syntax {
                path: path.to_owned(),
                line,
                column,
                reason,
            }
        };
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes());
            syntax_error(&text, valid, "the file is not UTF-8 text".to_owned())
        })?;
        let document = ImDocument::parse(&*text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            // The parser has no words for some errors, such as a control character in a comment.
            let reason = match error.message().trim_end() {
                "" => "the text from here on is not TOML".to_owned(),
                reason => reason.replace('\n', ", "),
            };
            syntax_error(&text, offset, reason)
        })?;
        let mut lines = BTreeMap::new();
        add_lines(&Lines::of(&text), document.as_table(), "", &mut lines);
        Ok(TomlFile {
            path: path.to_owned(),
            lines,
            text,
        })
    }
}

/// Reads a file. Returns `None` if the file is longer than [`FILE_BYTES_MAX`].
fn read_bounded(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let read = File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)?;
    Ok((read as u64 <= FILE_BYTES_MAX).then_some(bytes))
}

/// Adds the lines of the keys in `table`, and of the keys in the tables within. `prefix` is the key of the table, with a
/// dot at its end. The depth is at most the depth that the parser accepts.
fn add_lines(text: &Lines<'_>, table: &dyn TableLike, prefix: &str, lines: &mut BTreeMap<String, usize>) {
    for (name, item) in table.iter() {
        let key = format!("{prefix}{name}");
        let span = table
            .key(name)
            .and_then(toml_edit::Key::span)
            .or_else(|| item.span());
        if let Some(span) = span {
            lines.insert(key.clone(), text.position(span.start).0);
        }
        if let Some(inner) = Item::as_table_like(item) {
            add_lines(text, inner, &format!("{key}."), lines);
        }
    }
}

/// A text, and where its lines begin. A file can have many keys, so the lines are found only once.
struct Lines<'a> {
    text: &'a str,
    /// The offset of the first byte of each line.
    starts: Vec<usize>,
}

// ===== impl Lines =====

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        let after_newlines = text.match_indices('\n').map(|(newline, _)| newline + 1);
        Lines {
            text,
            starts: std::iter::once(0).chain(after_newlines).collect(),
        }
    }

    /// Returns the line and the column, both from 1, of the byte at `offset`.
    fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = line
            .checked_sub(1)
            .and_then(|index| self.starts.get(index))
            .copied()
            .unwrap_or_default();
        let before = self.text.get(start..offset).unwrap_or_default();
        (line.max(1), before.chars().count() + 1)
    }
}
