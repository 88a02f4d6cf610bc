//! Logs to standard error; traces, metrics, and the events of breaker and administration to an OpenTelemetry collector.
//!
//! Without `telemetry.otlp_endpoint` no span is made: a disabled call site costs about a nanosecond.

mod commit_span;
mod log_level;
mod metrics;
mod otlp_metrics;
mod propagation;

use std::{io::IsTerminal, time::Duration};

use opentelemetry::trace::TracerProvider;
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_otlp::{LogExporter, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{Resource, logs::SdkLoggerProvider, trace::SdkTracerProvider};
use thiserror::Error;
use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

pub use self::{
    commit_span::{LINKS_MAX, TraceLink, commit_span, trace_link},
    log_level::LogLevel,
    metrics::{Families, MetricSource, PROMETHEUS_TEXT},
    otlp_metrics::exporter as metrics_exporter,
    propagation::rpc_span,
};
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
    /// The endpoint is not an address.
    #[error(
        "telemetry.otlp_endpoint = {endpoint:?}: must be an address such as http://127.0.0.1:4317: {source}"
    )]
    Endpoint {
        /// The endpoint.
        endpoint: String,
        /// What is wrong with it.
        source: tonic::transport::Error,
    },
    /// The log is gone.
    #[error(transparent)]
    Reload(#[from] tracing_subscriber::reload::Error),
    /// Logs were set up before.
    #[error(transparent)]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// The name under which the service is known to collectors.
const SERVICE_NAME: &str = "tally";
/// Events that go to the collector besides the log: what the breaker does, and what administrators do.
const EVENT_TARGETS: [&str; 2] = ["tally::breaker", "tally::audit"];

/// Sends the last spans and events when it is dropped.
#[derive(Debug)]
pub struct Telemetry(Option<Providers>);

#[derive(Debug)]
struct Providers {
    spans: SdkTracerProvider,
    events: SdkLoggerProvider,
}

/// Sets up logs and traces for the process. With an exporter, it must be called within a tokio runtime.
///
/// # Errors
/// [`TelemetryError`].
pub fn init(config: &TelemetrySection) -> Result<(Telemetry, LogLevel), TelemetryError> {
    let (filter, log_level) = LogLevel::new(&config.log)?;
    let json = match config.format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let logs = if json { logs.json().boxed() } else { logs.boxed() };
    let mut layers = vec![logs.with_filter(filter).boxed()];
    let providers = config.otlp_endpoint.as_deref().map(Providers::new).transpose()?;
    if let Some(Providers { spans, events }) = &providers {
        propagation::install();
        commit_span::enable();
        let layer = tracing_opentelemetry::layer().with_tracer(spans.tracer(SERVICE_NAME));
        layers.push(
            layer
                .with_filter(Targets::new().with_target(RPC_TARGET, tracing::Level::TRACE))
                .boxed(),
        );
        let told = EVENT_TARGETS.map(|target| (target, tracing::Level::INFO));
        layers.push(
            OpenTelemetryTracingBridge::new(events)
                .with_filter(Targets::new().with_targets(told))
                .boxed(),
        );
    }
    // A list, not an optional layer: an absent one counts as interested in everything, and every span would be made.
    tracing_subscriber::registry().with(layers).try_init()?;
    Ok((Telemetry(providers), log_level))
}

// ===== impl Providers =====

impl Providers {
    /// The batch exporters have bounded queues and threads of their own: what does not fit is dropped.
    fn new(endpoint: &str) -> Result<Self, TelemetryError> {
        let failed = |source| TelemetryError::Exporter {
            endpoint: endpoint.to_owned(),
            source,
        };
        let spans = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .map_err(failed)?;
        let events = LogExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .map_err(failed)?;
        let resource = Resource::builder()
            .with_service_name(SERVICE_NAME)
            .with_attribute(opentelemetry::KeyValue::new(
                "service.version",
                env!("CARGO_PKG_VERSION"),
            ))
            .build();
        Ok(Providers {
            spans: SdkTracerProvider::builder()
                .with_batch_exporter(spans)
                .with_resource(resource.clone())
                .build(),
            events: SdkLoggerProvider::builder()
                .with_batch_exporter(events)
                .with_resource(resource)
                .build(),
        })
    }
}

// ===== impl Telemetry =====

impl Drop for Telemetry {
    fn drop(&mut self) {
        let Some(Providers { spans, events }) = self.0.take() else {
            return;
        };
        for result in [spans.shutdown(), events.shutdown()] {
            if let Err(error) = result {
                tracing::debug!(%error, "the last spans and events could not be sent");
            }
        }
    }
}
