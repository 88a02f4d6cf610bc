//! The error of the setup of logs and traces.

use thiserror::Error;

/// Why logs or traces could not be set up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The log's filter is malformed.
    #[error("telemetry.log = {value:?}: {source}")]
    Filter {
        /// The filter.
        value: String,
        /// The error in the filter.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The exporter of traces or events could not be created.
    #[error("telemetry.otlp_endpoint = {endpoint:?}: {source}")]
    Exporter {
        /// The endpoint.
        endpoint: String,
        /// The error of the exporter.
        source: opentelemetry_otlp::ExporterBuildError,
    },
    /// The endpoint is not a URL.
    #[error("telemetry.otlp_endpoint = {endpoint:?}: must be a URL such as http://127.0.0.1:4317: {source}")]
    Endpoint {
        /// The endpoint.
        endpoint: String,
        /// The error of the endpoint.
        source: tonic::transport::Error,
    },
    /// The filter could not be replaced, because the subscriber of the log no longer exists.
    #[error(transparent)]
    Reload(#[from] tracing_subscriber::reload::Error),
    /// Logs are already set up in this process.
    #[error(transparent)]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}
