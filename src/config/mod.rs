//! The configuration: defaults, then one TOML file, then environment variables (`TALLY__SECTION__KEY`), then flags. Each layer
//! overrides the one before.
//!
//! Values carry their units (`"2ms"`, `"64MiB"`). Unknown keys are errors. An error names the key, the value, and the file or
//! variable that the value came from. Each section is defined by the module that it configures.

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

/// All sections.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The gRPC server.
    pub server: NetConfig,
    /// The data directory.
    pub store: StoreSettings,
    /// The queue.
    pub batch: BatchSettings,
    /// The latency circuit breaker.
    pub breaker: BreakerSettings,
    /// The CPUs of the threads.
    pub affinity: AffinitySettings,
    /// Logs, traces and metrics.
    pub telemetry: TelemetrySettings,
    /// Certificates and tokens.
    pub security: SecuritySettings,
    /// The operators' port.
    pub admin: AdminSettings,
}

/// The prefix of the environment variables.
const ENV_PREFIX: &str = "TALLY__";
/// The separator between the parts of a key in an environment variable.
const ENV_SEPARATOR: &str = "__";

/// Loads the defaults, then `file`, then the environment, then `overrides` (pairs of key and value, from flags). Does not
/// check the bounds of values. The functions of the sections and of [`Config`] check them.
///
/// # Errors
/// [`ConfigError::File`] or [`ConfigError::Form`].
pub fn load(file: Option<&Path>, overrides: &[(&str, String)]) -> Result<Config, ConfigError> {
    let mut figment = Figment::from(Serialized::defaults(Config::default()));
    if let Some(path) = file {
        // figment treats a missing file like an empty one.
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

    /// Returns the files of certificates and tokens. Checks that the address of the gRPC server is allowed with them.
    ///
    /// # Errors
    /// [`SettingError`]: half of a pair is missing, or the address is open to other machines without TLS and tokens.
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
