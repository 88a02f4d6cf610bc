//! The errors that prevent the start of the service.

use tally_journal::DiskError;
use tally_topology::AffinityError;
use thiserror::Error;

use super::exit;
use crate::{
    admin::AdminError,
    config,
    engine::StartError,
    grpc,
    replica::{PlaceError, PrepareError},
    security::SecurityError,
    settings::SettingError,
    store::replicated::BrokerSettingsError,
    telemetry,
};

/// A file with a certificate, a key or tokens can't be used.
#[derive(Debug, Error)]
#[error("{setting}: {source}")]
pub(super) struct SecurityFileError {
    /// The key and the origin of the setting that names the file.
    pub(super) setting: String,
    pub(super) source: SecurityError,
}

/// Why the service could not be started.
#[derive(Debug, Error)]
pub(super) enum ServeError {
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    #[error(transparent)]
    Setting(#[from] SettingError),
    #[error(transparent)]
    Telemetry(#[from] telemetry::TelemetryError),
    #[error(transparent)]
    Affinity(#[from] AffinityError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Net(#[from] grpc::NetError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Security(Box<SecurityFileError>),
    #[error(transparent)]
    Forwarding(#[from] grpc::ForwardingError),
    #[error("the descriptors of the API can't be served: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("the system clock is before 1970, so HTTP requests can't be answered; set the clock")]
    Clock,
    #[error(transparent)]
    Brokers(#[from] BrokerSettingsError),
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error("the log was not ended: {0}")]
    NoEnd(String),
    #[error("the system has no random numbers: {0}")]
    Random(#[source] DiskError),
    #[error("signal handlers can't be installed: {0}")]
    Signals(#[source] std::io::Error),
}

// ===== impl ServeError =====

impl ServeError {
    /// Returns the exit code of `tally serve` after this error.
    pub(super) const fn exit_code(&self) -> u8 {
        match self {
            ServeError::Config(_)
            | ServeError::Setting(_)
            | ServeError::Telemetry(_)
            | ServeError::Affinity(_)
            | ServeError::Start(StartError::Affinity(_) | StartError::Breaker(_) | StartError::Batch(_))
            | ServeError::Net(grpc::NetError::Affinity(_))
            | ServeError::Forwarding(_)
            | ServeError::Security(_) => exit::CONFIG,
            ServeError::Start(StartError::Open(_)) | ServeError::Place(_) | ServeError::Prepare(_) => {
                exit::IO
            }
            ServeError::Brokers(_) => exit::CONFIG,
            ServeError::Net(_)
            | ServeError::Admin(_)
            | ServeError::Clock
            | ServeError::Start(StartError::Clock(_)) => exit::UNAVAILABLE,
            ServeError::NoEnd(_) => exit::UNAVAILABLE,
            ServeError::Start(_)
            | ServeError::Reflection(_)
            | ServeError::Signals(_)
            | ServeError::Random(_) => exit::SOFTWARE,
        }
    }
}
