//! The error of a configuration that can't be used.

use std::{io, path::PathBuf};

use thiserror::Error;

use crate::settings::{Origin, SettingError, origin_note};

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
    #[error("{}", list(.0))]
    UnknownKeys(Vec<UnknownKey>),
    /// Environment variables begin with `TALLY_`, but no setting and no option has their names. The list is not empty.
    #[error("{}", list(.0))]
    UnknownVariables(Vec<UnknownVariable>),
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

/// An environment variable that begins with `TALLY_`, but belongs to no setting and no option.
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

fn list(errors: &[impl ToString]) -> String {
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}
