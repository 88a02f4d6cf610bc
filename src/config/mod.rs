//! Loads the configuration from four sources: the defaults, one TOML file, environment variables
//! (`TALLY__SECTION__KEY`), and command-line flags. Each source overrides the sources before it.
//!
//! Times and sizes have units (`"2ms"`, `"64MiB"`). Unknown keys are errors. An error names the key, the value, and the
//! file or environment variable of the value. Each section is defined in the module that it configures.

mod error;

use std::path::Path;

use figment::{
    Figment,
    providers::{Env, Format, Serialized, Toml},
};
use serde::{Deserialize, Serialize};

pub use self::error::ConfigError;
use crate::{
    admin::settings::AdminSettings,
    engine::{
        CheckpointInterval, EngineConfig, ScrubRate,
        breaker_settings::BreakerSettings,
        settings::{AffinitySettings, BatchSettings},
    },
    grpc::settings::NetConfig,
    security::settings::{SecurityConfig, SecuritySettings},
    settings::SettingError,
    store::settings::StoreSettings,
    telemetry::settings::TelemetrySettings,
};

/// All sections of the configuration.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The gRPC server.
    pub server: NetConfig,
    /// The data directory.
    pub store: StoreSettings,
    /// The queue and the batches.
    pub batch: BatchSettings,
    /// The latency circuit breaker.
    pub breaker: BreakerSettings,
    /// The CPUs of the threads.
    pub affinity: AffinitySettings,
    /// Logs, traces and metrics.
    pub telemetry: TelemetrySettings,
    /// Certificates and tokens.
    pub security: SecuritySettings,
    /// The HTTP port for operators.
    pub admin: AdminSettings,
}

/// The prefix of the environment variables.
const ENV_PREFIX: &str = "TALLY__";
/// The separator between the parts of a key in an environment variable.
const ENV_SEPARATOR: &str = "__";

/// Loads the defaults, then `file`, then the environment variables, and then `overrides`, which are pairs of key and
/// value from command-line flags. The bounds of values are not checked here, but in the methods of the sections and of
/// [`Config`].
///
/// # Errors
/// [`ConfigError::File`] if `file` can't be read. [`ConfigError::Form`] if a key is unknown or a value has the wrong
/// form.
pub fn load(file: Option<&Path>, overrides: &[(&str, String)]) -> Result<Config, ConfigError> {
    let mut figment = Figment::from(Serialized::defaults(Config::default()));
    if let Some(path) = file {
        // Checks that the file exists, because figment treats a missing file like an empty file.
        std::fs::metadata(path).map_err(|source| ConfigError::File {
            path: path.to_owned(),
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

// ===== impl Config =====

impl Config {
    /// Returns the settings of the engine, from the sections `batch`, `breaker` and `store`.
    ///
    /// # Errors
    /// [`SettingError`] for the first key that is out of bounds.
    pub fn engine(&self) -> Result<EngineConfig, SettingError> {
        let breaker = self.breaker.config()?;
        Ok(EngineConfig {
            batch: self.batch.config(self.breaker.preset)?,
            circuits: self.breaker.circuits(&breaker)?,
            breaker,
            store: self.store.config()?,
            checkpoint: CheckpointInterval(self.store.checkpoint_bytes.0),
            scrub: ScrubRate(self.store.scrub_bytes_per_second.0),
        })
    }

    /// Returns the paths of the certificates and tokens. Without TLS and tokens, the gRPC server may listen only on an
    /// address of this machine, unless the operator allows an insecure server.
    ///
    /// # Errors
    /// [`SettingError`] if only one of two keys that belong together is set, or if the address of the server is not
    /// allowed.
    pub fn security(&self) -> Result<SecurityConfig, SettingError> {
        let security = self.security.config()?;
        let is_local = self.server.listen.ip().is_loopback();
        if !is_local && !self.security.is_secured() && !self.security.allow_insecure {
            let bound = "an address of this machine only (127.0.0.1, ::1), unless security.tls_certificate, \
                         security.tls_key and security.tokens_file are set, or security.allow_insecure is true";
            return Err(SettingError::new("server.listen", self.server.listen, bound));
        }
        Ok(security)
    }
}

#[cfg(test)]
mod tests;
