//! Loads the configuration, and lists the effective settings with their origins.

use std::{ffi::OsString, path::Path};

use serde::Serialize;

use tally_topology::{AffinityConfig, AffinityError};

use super::{
    environment::Environment,
    error::ConfigError,
    keys::flatten,
    settings::{CheckedConfig, Config},
    sources::Sources,
    toml_file::TomlFile,
};
use crate::{
    engine::breaker_settings::setting_error,
    settings::{Origin, SettingError, origin_note},
};

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
        Loaded::from_sources(file, std::env::vars_os(), overrides)
    }

    /// Loads the defaults, then the TOML `text`, and then `variables`, for tests that must not depend on files and on the
    /// environment of their process. The errors name the file `path`.
    ///
    /// # Errors
    /// The same as [`load`], except [`ConfigError::File`].
    pub fn from_text(
        path: &Path,
        text: Vec<u8>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        Loaded::from_sources(Some(TomlFile::parse(path, text)?), variables, &[])
    }

    fn from_sources(
        file: Option<TomlFile>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        overrides: &[Override],
    ) -> Result<Self, ConfigError> {
        let environment = Environment::read(variables)?;
        let sources = Sources::new(file, environment, overrides)?;
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

    /// Checks the section `affinity`, and returns the settings of the placement.
    ///
    /// # Errors
    /// [`SettingError`] for the first key of the section that is out of bounds, with the origin of the value.
    pub fn affinity(&self) -> Result<AffinityConfig, SettingError> {
        let config = self.config.affinity.config();
        config.map_err(|error| self.sources.with_origin(error))
    }

    /// Converts the error of a plan that the mode `strict` does not allow on this machine into the error of the setting,
    /// with the origin of the value. Returns any other error unchanged.
    ///
    /// # Errors
    /// `error`, if no setting is the cause.
    pub fn placement_error(&self, error: AffinityError) -> Result<SettingError, AffinityError> {
        let setting = match error {
            AffinityError::CpusNotAllowed {
                field,
                list,
                offending,
                allowed,
            } => {
                let bound = format!(
                    "within {allowed}, the CPUs that the process may use; {offending} are not in this list"
                );
                SettingError::new(field, list, bound)
            }
            AffinityError::InsufficientCpus { allowed, needed } => {
                let bound = format!(
                    "auto, off, fence or pin, because strict needs {needed} CPUs and the process may use {allowed}"
                );
                SettingError::new("affinity.mode", "strict", bound)
            }
            AffinityError::InvalidConfig { field, value, bound } => SettingError::new(field, value, bound),
            other @ (AffinityError::PinFailed { .. }
            | AffinityError::FifoFailed { .. }
            | AffinityError::SpawnFailed { .. }
            | AffinityError::RuntimeFailed { .. }
            | _) => return Err(other),
        };
        Ok(self.sources.with_origin(setting))
    }

    /// Converts the error of the breaker at the start: with `breaker.strict`, the service does not start if healthy calls
    /// are slow.
    #[must_use]
    pub fn strict_error(&self, error: tally_breaker::ConfigError) -> SettingError {
        let mut error = self.sources.with_origin(setting_error("breaker", error));
        let note = origin_note(self.sources.origin("breaker.strict").as_ref());
        error.bound = format!("{}, because breaker.strict is true{note}", error.bound);
        error
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
