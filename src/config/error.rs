//! The error of a configuration that can't be used.

use std::{io, path::PathBuf};

use thiserror::Error;

use crate::settings::SettingError;

/// Why a configuration can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file can't be read.
    #[error("config file {path:?} can't be read: {source}")]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A key is unknown, or a value has the wrong form. The text names the key, the value, and the file or environment
    /// variable.
    #[error("{}", describe(.0))]
    Form(Box<figment::Error>),
    /// A value is out of bounds.
    #[error(transparent)]
    Setting(#[from] SettingError),
}

/// Formats every error as `key: problem (from file or environment variable)`.
fn describe(errors: &figment::Error) -> String {
    let one = |error: figment::Error| {
        let from = error
            .metadata
            .as_ref()
            .map_or_else(String::new, |metadata| match &metadata.source {
                Some(source) => format!(" (from {source})"),
                None => format!(" (from {})", metadata.name),
            });
        format!("{}: {}{from}", error.path.join("."), error.kind)
    };
    errors.clone().into_iter().map(one).collect::<Vec<_>>().join("; ")
}
