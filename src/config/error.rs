//! The error of a configuration that can't be used.

use std::{io, path::PathBuf};

use thiserror::Error;

use crate::settings::{Origin, SettingError, origin_note};

/// Maximum number of unknown keys or variables that an error or a warning lists. Further ones are counted.
pub(super) const UNKNOWN_LISTED_MAX: usize = 10;

/// Why a configuration can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file can't be read.
    #[error("the configuration file {} can't be read: {source}", path.display())]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("the configuration file {} is not valid TOML: line {line}, column {column}: {reason}", path.display())]
    Syntax {
        /// The path of the file.
        path: PathBuf,
        /// The number of the line, from 1.
        line: usize,
        /// The number of the character in the line, from 1.
        column: usize,
        /// What is wrong.
        reason: String,
    },
    /// Keys are unknown. The list is not empty.
    #[error("{}{}", list(listed), and_more(*more))]
    UnknownKeys {
        /// The first `UNKNOWN_LISTED_MAX` keys.
        listed: Vec<UnknownKey>,
        /// Number of further keys.
        more: usize,
    },
    /// Environment variables are refused: see [`check_variables`](super::check_variables). The list is not empty.
    #[error("{}{}", list(listed), and_more(*more))]
    UnknownVariables {
        /// The first `UNKNOWN_LISTED_MAX` variables.
        listed: Vec<UnknownVariable>,
        /// Number of further variables.
        more: usize,
    },
    /// A value is out of bounds, or has the wrong form.
    #[error(transparent)]
    Setting(#[from] SettingError),
}

/// A key that no setting has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{key} is not a setting{}{}", suggestion(meant.as_deref()), origin_note(origin.as_deref()))]
pub struct UnknownKey {
    /// The key with its section.
    pub key: String,
    /// The key that the operator probably meant.
    pub meant: Option<String>,
    /// What sets the key.
    pub origin: Option<Box<Origin>>,
}

/// An environment variable that begins with `TALLY_`, and is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the environment variable {name} is not known{}", suggestion(meant.as_deref()))]
pub struct UnknownVariable {
    /// The name of the variable.
    pub name: String,
    /// The variable that the operator probably meant.
    pub meant: Option<String>,
}

fn suggestion(meant: Option<&str>) -> String {
    meant.map_or_else(String::new, |meant| format!("; did you mean {meant}?"))
}

/// Returns the end of a list that names the number of further items.
pub(super) fn and_more(more: usize) -> String {
    match more {
        0 => String::new(),
        more => format!("; and {more} more"),
    }
}

fn list(errors: &[impl ToString]) -> String {
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}
