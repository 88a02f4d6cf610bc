//! Logs to standard error; traces, metrics, and the events of breaker and administration to an OpenTelemetry collector.
//!
//! Without `telemetry.otlp_endpoint` no span is made, and a call costs a look at that.

mod commit_span;
mod log_level;
mod metrics;
mod otlp_metrics;
mod panics;
mod propagation;
mod spans;

use std::{io::IsTerminal, time::Duration};

use opentelemetry::trace::TracerProvider;
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_otlp::{LogExporter, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    logs::SdkLoggerProvider,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider},
};
use thiserror::Error;
use tracing_subscriber::{
    Layer,
    filter::{FilterExt, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use self::spans::{BoundedProcessor, CountedExporter, SPANS, SPANS_WAITING_MAX};
pub use self::{
    commit_span::{LINKS_MAX, TraceLink, commit_span, trace_link},
    log_level::LogLevel,
    metrics::{Families, MetricSource, PROMETHEUS_TEXT},
    otlp_metrics::exporter as metrics_exporter,
    panics::PanicFigures,
    propagation::{record_status, rpc_span},
    spans::SpanFigures,
};
use crate::config::{LogFormat, TelemetrySection};

/// The target of the spans of calls. Only the exporter listens to it.
pub const RPC_TARGET: &str = "tally::rpc";
/// How long an export may take before it is given up. It never holds a call up.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last spans and events may take to be sent. The process ends then.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

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
const EVENT_TARGETS: [&str; 2] = ["tally::breaker", AUDIT_TARGET];
/// What administrators do. It is always logged: whoever may change the filter must not be able to hide what they did.
const AUDIT_TARGET: &str = "tally::audit";

/// What is sent to the collector, besides metrics.
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
    // A filter by target costs nothing elsewhere: it is asked once for each place in the code.
    let audit = Targets::new().with_target(AUDIT_TARGET, tracing::Level::TRACE);
    let mut layers = vec![logs.with_filter(audit.or(filter)).boxed()];
    let providers = config.otlp_endpoint.as_deref().map(Providers::new).transpose()?;
    if let Some(Providers { spans, events }) = &providers {
        propagation::install();
        SPANS.open(config.trace_ratio);
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
    panics::count();
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
        // Our own bound is met before the queue's: what is dropped is counted where it can be read.
        let queue = BatchConfigBuilder::default()
            .with_max_queue_size(SPANS_WAITING_MAX)
            .build();
        let spans = BatchSpanProcessor::builder(CountedExporter(spans))
            .with_batch_config(queue)
            .build();
        Ok(Providers {
            spans: SdkTracerProvider::builder()
                .with_span_processor(BoundedProcessor(spans))
                // Which calls are traced is decided before a span is made.
                .with_sampler(Sampler::AlwaysOn)
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

impl Telemetry {
    /// Sends the last spans and events, for at most 3 s (`SHUTDOWN_TIMEOUT`).
    pub async fn shutdown(self) {
        let Some(Providers { spans, events }) = self.0 else {
            return;
        };
        // On other threads: the exports need this thread's runtime.
        let (spans, events) = tokio::join!(
            tokio::task::spawn_blocking(move || spans.shutdown_with_timeout(SHUTDOWN_TIMEOUT)),
            tokio::task::spawn_blocking(move || events.shutdown_with_timeout(SHUTDOWN_TIMEOUT)),
        );
        let failed = |what: &str, result: Result<OTelSdkResult, tokio::task::JoinError>| match result {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last {what} could not be sent"),
            Err(error) => tracing::error!(%error, "the last {what} could not be sent"),
        };
        failed("spans", spans);
        failed("events", events);
    }
}
