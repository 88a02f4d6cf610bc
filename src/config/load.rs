//! Loads the configuration, and lists the effective settings with their origins.

use std::path::Path;

use serde::Serialize;

use super::{
    error::ConfigError,
    keys::flatten,
    settings::{CheckedConfig, Config},
    sources::Sources,
    toml_file::TomlFile,
    variables::check_shapes,
};
use crate::settings::{Origin, SettingError, origin_note};

pub use super::sources::Override;

/// A configuration, and where its values come from.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    sources: Sources,
}

/// A setting that is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// The key with its section, such as `server.drain`.
    pub key: String,
    /// The value, as an operator would write it. `None` if the setting has no value.
    pub value: Option<String>,
    /// Where the value comes from.
    pub origin: Origin,
}

/// Loads the defaults, then `file`, then the environment variables, and then `overrides`. Does not check the bounds of the
/// values: the methods of [`Config`] and of the sections check them.
///
/// # Errors
/// [`ConfigError`], except [`ConfigError::UnknownVariables`].
pub fn load(file: Option<&Path>, overrides: &[Override]) -> Result<Config, ConfigError> {
    Loaded::load(file, overrides).map(|loaded| loaded.config)
}

// ===== impl Loaded =====

impl Loaded {
    /// Does the same as [`load`], and remembers where each value comes from.
    ///
    /// # Errors
    /// The same as [`load`].
    pub fn load(file: Option<&Path>, overrides: &[Override]) -> Result<Self, ConfigError> {
        let file = file.map(TomlFile::read).transpose()?;
        check_shapes(std::env::vars_os())?;
        let sources = Sources::new(file, overrides);
        let config = sources.extract()?;
        Ok(Loaded { config, sources })
    }

    /// Checks the bounds of every key.
    ///
    /// # Errors
    /// [`SettingError`] for the first key that is out of bounds. The error contains the origin of the value.
    pub fn check(&self) -> Result<CheckedConfig, SettingError> {
        self.config
            .check()
            .map_err(|error| self.sources.with_origin(error))
    }

    /// Returns the key and the origin of the setting in the section `security` whose value is `path`, for the error of a
    /// file. Returns `security` if no setting has this value.
    #[must_use]
    pub fn security_file(&self, path: &Path) -> String {
        let files = &self.config.security;
        let named = [
            ("security.tls_certificate", &files.tls_certificate),
            ("security.tls_key", &files.tls_key),
            ("security.client_ca", &files.client_ca),
            ("security.tokens_file", &files.tokens_file),
        ];
        let found = named.into_iter().find(|(_, file)| file.as_deref() == Some(path));
        found.map_or_else(
            || "security".to_owned(),
            |(key, _)| format!("{key}{}", origin_note(self.sources.origin(key).as_ref())),
        )
    }

    /// Returns all settings that are in force, in the order of their keys, without secrets.
    #[must_use]
    pub fn settings(&self) -> Vec<Setting> {
        let default = flatten(&Config::default().effective());
        let setting = |(key, value): (String, Option<String>)| {
            let is_of_preset = key.starts_with("breaker.") || key == "batch.latency_budget";
            let origin = self.sources.origin(&key).unwrap_or_else(|| {
                let is_default = default.get(&key) == Some(&value);
                if is_default || !is_of_preset {
                    Origin::Default
                } else if self.sources.origin("breaker.preset").is_some() {
                    Origin::Preset
                } else {
                    Origin::Default
                }
            });
            Setting { key, value, origin }
        };
        let settings = flatten(&self.config.effective());
        // A key of a single kind of call that is not set has the value of the key for all kinds.
        let is_set =
            |(key, value): &(String, Option<String>)| value.is_some() || !key.starts_with("breaker.methods.");
        settings.into_iter().filter(is_set).map(setting).collect()
    }
}
