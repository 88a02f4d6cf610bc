//! The sections of the configuration, and the checks that concern more than one section.

use serde::{Deserialize, Serialize};
use tally_topology::AffinityConfig;

use crate::{
    admin::settings::AdminSettings,
    engine::{
        CheckpointInterval, EngineConfig, HoldsMax, ScrubRate,
        breaker_settings::{BreakerSettings, Preset},
        settings::{AffinitySettings, BatchSettings},
    },
    grpc::{ForwardingConfig, settings::NetConfig},
    security::settings::{SecurityConfig, SecuritySettings},
    settings::SettingError,
    store::settings::{StoreKind, StoreSettings},
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

/// The settings of the parts of the service, after all checks that need neither files nor the machine.
#[derive(Debug, Clone)]
pub struct CheckedConfig {
    /// The settings of the engine.
    pub engine: EngineConfig,
    /// The settings of the placement of threads on CPUs.
    pub affinity: AffinityConfig,
    /// The paths of the certificates and tokens.
    pub security: SecurityConfig,
}

// ===== impl Config =====

impl Config {
    /// Returns the settings of the engine, from the sections `batch`, `breaker` and `store`.
    ///
    /// # Errors
    /// [`SettingError`] for the first key that is out of bounds.
    pub fn engine(&self) -> Result<EngineConfig, SettingError> {
        let section = self.breaker();
        let breaker = section.config()?;
        Ok(EngineConfig {
            batch: self.batch.config(section.preset)?,
            circuits: section.circuits(&breaker)?,
            breaker,
            store: self.store.config()?,
            checkpoint: CheckpointInterval(self.store.checkpoint_bytes.0),
            scrub: ScrubRate(self.store.scrub_bytes_per_second.0),
            holds_max: HoldsMax(self.store.holds_max),
            // An operator decides about this at each start, so it is an option of `tally serve` and not a setting.
            accept_clock_behind: false,
        })
    }

    /// Returns the section `breaker`. With a replicated store, the default preset is another one.
    fn breaker(&self) -> BreakerSettings {
        let is_replicated = self.store.kind == StoreKind::Replicated;
        BreakerSettings {
            preset: self
                .breaker
                .preset
                .or(is_replicated.then_some(Preset::Replicated)),
            ..self.breaker.clone()
        }
    }

    /// Returns the paths of the certificates and tokens. Without TLS and tokens, the gRPC server may listen only on an
    /// address of this machine, unless the operator allows an insecure server.
    ///
    /// # Errors
    /// [`SettingError`] if only one of two keys that belong together is set, or if the address of the server or the advertised
    /// address of a replica is not allowed.
    pub fn security(&self) -> Result<SecurityConfig, SettingError> {
        let security = self.security.config()?;
        let is_local = self.server.listen.ip().is_loopback();
        if !is_local && !self.security.is_secured() && !self.security.allow_insecure {
            let bound = "an address of this machine only (127.0.0.1, ::1), unless security.tls_certificate, \
                         security.tls_key and security.tokens_file are set, or security.allow_insecure is true";
            return Err(SettingError::new("server.listen", self.server.listen, bound));
        }
        if let Some(replicated) = self.store.replicated()?
            && security.tls.is_some()
            && !replicated.advertise.starts_with("https://")
        {
            let bound = "https://HOST:PORT, because security.tls_certificate is set";
            return Err(SettingError::new(
                "store.replicated.advertise",
                replicated.advertise,
                bound,
            ));
        }
        Ok(security)
    }

    /// Returns how a replica calls the other replicas. It presents the certificate of its own server to them. All replicas have the same
    /// settings, so if a replica asks its clients for certificates, all replicas do.
    ///
    /// # Errors
    /// [`SettingError`] for the first key of `store.replicated` or `security` that is out of bounds.
    pub fn forwarding(&self) -> Result<ForwardingConfig, SettingError> {
        let replicated = self.store.replicated()?;
        let tls = self.security.config()?.tls;
        let identity = tls.filter(|tls| tls.client_ca.is_some());
        Ok(ForwardingConfig {
            ca: replicated.and_then(|replicated| replicated.peer_ca_file),
            identity: identity.map(|tls| (tls.certificate, tls.key)),
        })
    }

    /// Checks the bounds of every key. Does not check whether the server may listen on its address.
    ///
    /// # Errors
    /// [`SettingError`] for the first key that is out of bounds.
    pub fn check_bounds(&self) -> Result<(), SettingError> {
        self.server.check()?;
        self.telemetry.check()?;
        self.engine()?;
        self.affinity.config()?;
        self.security.config()?;
        Ok(())
    }

    /// Checks every section, and returns the checked settings.
    ///
    /// # Errors
    /// [`SettingError`] for the first key that is out of bounds.
    pub fn check(&self) -> Result<CheckedConfig, SettingError> {
        self.check_bounds()?;
        Ok(CheckedConfig {
            engine: self.engine()?,
            affinity: self.affinity.config()?,
            security: self.security()?,
        })
    }

    /// Returns the configuration with the effective values of the keys that are not set, and without secrets.
    #[must_use]
    pub fn effective(&self) -> Self {
        let mut effective = Config {
            breaker: self.breaker().effective(),
            affinity: self.affinity.effective(),
            ..self.clone()
        };
        effective.batch.latency_budget = self.batch.effective_latency_budget(self.breaker.preset);
        effective.telemetry.hide_secrets();
        effective.store.replicated.hide_secrets();
        effective
    }
}
