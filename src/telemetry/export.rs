//! Exports traces and events to an OpenTelemetry collector.

use std::time::Duration;

use opentelemetry_otlp::{LogExporter, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    logs::SdkLoggerProvider,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider},
};

use super::{
    error::TelemetryError,
    spans::{BoundedProcessor, CountedExporter, SPANS_WAITING_MAX},
};

/// The name of the service in the collector.
pub(super) const SERVICE_NAME: &str = "tally";
/// Time limit of an export. Exports run on separate threads, so a slow export delays no call.
pub(super) const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit to send the last spans and events when the process ends. After this time, the remaining spans and events
/// are lost.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// The exporters of traces and events; `None` inside if `telemetry.otlp_endpoint` is not set.
#[derive(Debug)]
pub struct Telemetry(pub(super) Option<Providers>);

/// The exporters, as the OpenTelemetry SDK calls them.
#[derive(Debug)]
pub(super) struct Providers {
    pub(super) spans: SdkTracerProvider,
    pub(super) events: SdkLoggerProvider,
}

// ===== impl Providers =====

impl Providers {
    /// Creates the exporters. Each exporter has a thread and a bounded queue. Items that do not fit into the queue are dropped.
    pub(super) fn new(endpoint: &str) -> Result<Self, TelemetryError> {
        let spans = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .map_err(TelemetryError::Exporter)?;
        let events = LogExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .map_err(TelemetryError::Exporter)?;
        let resource = Resource::builder()
            .with_service_name(SERVICE_NAME)
            .with_attribute(opentelemetry::KeyValue::new(
                "service.version",
                env!("CARGO_PKG_VERSION"),
            ))
            .build();
        // `BoundedProcessor` has the same bound and drops spans before they reach this queue. So every dropped span is
        // counted in a metric.
        let queue = BatchConfigBuilder::default()
            .with_max_queue_size(SPANS_WAITING_MAX)
            .build();
        let spans = BatchSpanProcessor::builder(CountedExporter(spans))
            .with_batch_config(queue)
            .build();
        Ok(Providers {
            spans: SdkTracerProvider::builder()
                .with_span_processor(BoundedProcessor(spans))
                // `SpanGate` decides which calls are traced, before a span is created.
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
    /// Sends the last spans and events. Takes at most 3 s.
    pub async fn shutdown(self) {
        let Some(Providers { spans, events }) = self.0 else {
            return;
        };
        // Shut down on threads for blocking calls, because the exporters wait for tasks of the runtime of this thread.
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
