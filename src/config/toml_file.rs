//! The TOML file: its text, and the line of every key.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use toml_edit::{ImDocument, Item, TableLike};

use super::{
    bounds::accepted,
    error::ConfigError,
    keys::{general_key, known_keys},
};
use crate::settings::{Origin, SettingError, bytes_text, in_one_line};

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
            if let Some(error) = too_large(path, &text, offset) {
                return error.into();
            }
            let is_repeated = error.message().starts_with("duplicate key");
            syntax_error(&text, offset, reason(&text, offset, is_repeated))
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

/// Returns what is wrong at `offset`, in words for operators. The parser has words for other programmers, and for some errors no
/// words. `is_repeated` says whether a key or a table is in the file twice.
fn reason(text: &str, offset: usize, is_repeated: bool) -> String {
    let lines = Lines::of(text);
    let line = lines.line(lines.position(offset).0);
    if is_repeated {
        return "this key or table is in the file already; leave out one of the two".to_owned();
    }
    if line.trim_start().starts_with('[') {
        return "a table must be in brackets, such as [server], with nothing after it".to_owned();
    }
    match assigned(line) {
        Some((key, _)) => format!(
            "the value of {} is not TOML; write a text, a time or a size in quotes, or a number of at most {}, or true or false",
            in_one_line(key),
            i64::MAX
        ),
        None => "this is not TOML; write KEY = VALUE, such as drain = \"10s\", or a table, such as [server]"
            .to_owned(),
    }
}

/// Returns the error of a setting whose value is a whole number beyond 64 bits, which TOML does not have.
fn too_large(path: &Path, text: &str, offset: usize) -> Option<SettingError> {
    let lines = Lines::of(text);
    let number = lines.position(offset).0;
    let (name, value) = assigned(lines.line(number))?;
    let digits = value.strip_prefix(['+', '-']).unwrap_or(value).replace('_', "");
    let is_whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_whole || value.replace('_', "").parse::<i64>().is_ok() {
        return None;
    }
    let header = |line: &str| {
        Some(
            line.trim()
                .strip_prefix('[')?
                .split_once(']')?
                .0
                .trim()
                .to_owned(),
        )
    };
    let table = (1..number).rev().find_map(|before| header(lines.line(before)));
    let key = table.map_or_else(|| name.to_owned(), |table| format!("{table}.{name}"));
    if !known_keys().contains(&general_key(&key)) {
        return None;
    }
    let origin = Origin::File {
        path: path.to_owned(),
        line: Some(number),
    };
    Some(SettingError {
        origin: Some(Box::new(origin)),
        ..SettingError::new(&key, value, accepted(&key))
    })
}

/// Returns the key and the value in a line of the form `KEY = VALUE`, without a comment after the value.
fn assigned(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once('=')?;
    let value = value.split('#').next().unwrap_or_default();
    let key = key.trim();
    (!key.is_empty() && !key.starts_with('#')).then_some((key, value.trim()))
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

    /// Returns the text of line `number`, from 1.
    fn line(&self, number: usize) -> &'a str {
        let start = number.checked_sub(1).and_then(|index| self.starts.get(index));
        let end = self.starts.get(number).copied().unwrap_or(self.text.len());
        let line = start.and_then(|start| self.text.get(*start..end));
        line.unwrap_or_default().trim_end()
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
