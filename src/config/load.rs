//! Puts the layers of the configuration together.

use std::{fmt, path::Path};

use figment::{
    Figment,
    providers::{Env, Format, Serialized, Toml},
};
use thiserror::Error;

use super::Config;

/// What separates the parts of a key in an environment variable.
const ENV_SEPARATOR: &str = "__";
/// What such variables begin with.
const ENV_PREFIX: &str = "TALLY__";

/// Why a configuration can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file is not there.
    #[error("config file {path:?} can't be read: {source}")]
    File {
        /// Its path.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A key is unknown, or a value has the wrong form. The text names both, and the source.
    #[error("{}", describe(.0))]
    Form(Box<figment::Error>),
    /// A value is out of bounds.
    #[error("{key} = {value}: must be {bound}")]
    Bound {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What would be accepted.
        bound: String,
    },
    /// A value is out of the bounds of the part that uses it. The text names key, value and bound.
    #[error("{0}")]
    Part(String),
}

// ===== impl ConfigError =====

impl ConfigError {
    pub(super) fn bound(key: &str, value: impl fmt::Display, bound: &str) -> Self {
        ConfigError::Bound {
            key: key.to_owned(),
            value: value.to_string(),
            bound: bound.to_owned(),
        }
    }
}

/// Every error as `key: what is wrong (from where)`.
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

/// Loads defaults, then `file`, then the environment, then `overrides` (pairs of key and value, from flags).
///
/// # Errors
/// [`ConfigError`], which names what is wrong and where it came from.
pub fn load(file: Option<&Path>, overrides: &[(&str, String)]) -> Result<Config, ConfigError> {
    let mut figment = Figment::from(Serialized::defaults(Config::default()));
    if let Some(path) = file {
        // figment takes a missing file for an empty one.
        std::fs::metadata(path).map_err(|source| ConfigError::File {
            path: path.display().to_string(),
            source,
        })?;
        figment = figment.merge(Toml::file_exact(path));
    }
    figment = figment.merge(Env::prefixed(ENV_PREFIX).split(ENV_SEPARATOR));
    for (key, value) in overrides {
        figment = figment.merge(Serialized::global(key, value));
    }
    figment
        .extract()
        .map_err(|error| ConfigError::Form(Box::new(error)))
}
