//! Logs to standard error, traces to an OpenTelemetry collector.
//!
//! Without `telemetry.otlp_endpoint` no span is made: a disabled call site costs about a nanosecond.

mod propagation;

use std::{io::IsTerminal, time::Duration};

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use thiserror::Error;
use tracing_subscriber::{EnvFilter, Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

pub use self::propagation::rpc_span;
use crate::config::{LogFormat, TelemetrySection};

/// The target of the spans of calls. Only the exporter listens to it.
pub const RPC_TARGET: &str = "tally::rpc";
/// How long an export may take before it is given up. It never holds a call up.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why logs or traces could not be set up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The filter is malformed.
    #[error("telemetry.log = {value:?}: {source}")]
    Filter {
        /// The filter.
        value: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The exporter could not be made.
    #[error("telemetry.otlp_endpoint = {endpoint:?}: {source}")]
    Exporter {
        /// The endpoint.
        endpoint: String,
        /// What is wrong with it.
        source: opentelemetry_otlp::ExporterBuildError,
    },
    /// Logs were set up before.
    #[error(transparent)]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Sends the last spans when it is dropped.
#[derive(Debug)]
pub struct Telemetry(Option<SdkTracerProvider>);

/// Sets up logs and traces for the process. With an exporter, it must be called within a tokio runtime.
///
/// # Errors
/// [`TelemetryError`].
pub fn init(config: &TelemetrySection) -> Result<Telemetry, TelemetryError> {
    // The spans of calls are for the exporter; as context of log lines they would cost every call. One filter, not two
    // on top of each other: those would switch on, and pay for, whatever either of them lets through.
    let filter = EnvFilter::try_new(format!("{},{RPC_TARGET}=off", config.log)).map_err(|source| {
        TelemetryError::Filter {
            value: config.log.clone(),
            source,
        }
    })?;
    let json = match config.format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let logs = if json { logs.json().boxed() } else { logs.boxed() };
    let mut layers = vec![logs.with_filter(filter).boxed()];
    let provider = config.otlp_endpoint.as_deref().map(provider).transpose()?;
    if let Some(provider) = &provider {
        propagation::install();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("tally"));
        layers.push(
            layer
                .with_filter(Targets::new().with_target(RPC_TARGET, tracing::Level::TRACE))
                .boxed(),
        );
    }
    // A list, not an optional layer: an absent one counts as interested in everything, and every span would be made.
    tracing_subscriber::registry().with(layers).try_init()?;
    Ok(Telemetry(provider))
}

fn provider(endpoint: &str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|source| TelemetryError::Exporter {
            endpoint: endpoint.to_owned(),
            source,
        })?;
    let resource = Resource::builder()
        .with_service_name("tally")
        .with_attribute(opentelemetry::KeyValue::new(
            "service.version",
            env!("CARGO_PKG_VERSION"),
        ))
        .build();
    // The batch exporter has a bounded queue and a thread of its own: what does not fit is dropped.
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build())
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(provider) = self.0.take()
            && let Err(error) = provider.shutdown()
        {
            tracing::debug!(%error, "the last spans could not be sent");
        }
    }
}
