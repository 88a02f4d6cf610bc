//! Writes logs to standard error, and sends traces, metrics, breaker events and audit events to an OpenTelemetry
//! collector.
//!
//! If `telemetry.otlp_endpoint` is not set, no span is created. The check whether to create one costs each call one
//! load and one branch.

mod commit_span;
mod error;
mod export;
mod log_fields;
mod log_filter;
mod log_level;
mod metrics;
mod otlp_metrics;
mod panics;
mod plain;
mod process;
mod propagation;
pub mod settings;
mod spans;
mod targets;

use std::io::IsTerminal;

use opentelemetry::trace::TracerProvider;
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use tracing_subscriber::{
    Layer,
    filter::{FilterExt, LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

pub use self::{
    commit_span::{LINKS_MAX, TraceLink, commit_span, trace_link},
    error::{FilterError, SetFilterError, TelemetryError},
    export::Telemetry,
    log_fields::{LogLimit, millis},
    log_level::LogLevel,
    metrics::{Families, MetricSource, MetricSources, PROMETHEUS_TEXT},
    otlp_metrics::exporter as metrics_exporter,
    panics::PanicMetrics,
    process::{ProcessMetrics, resident_bytes},
    propagation::{record_status, rpc_span},
    spans::SpanMetrics,
    targets::{AUDIT_TARGET, RPC_TARGET},
};
use self::{
    export::{Providers, SERVICE_NAME},
    settings::{LogFormat, TelemetrySettings},
    spans::SPANS,
    targets::EXPORTED_TARGETS,
};

/// Writes warnings to standard error, as one line for people each, until the process ends. For a subcommand that checks
/// what a service would warn of.
///
/// # Errors
/// [`TelemetryError::Twice`] if logs are already set up.
pub fn warnings_to_standard_error() -> Result<(), TelemetryError> {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .with_ansi(false)
        .event_format(plain::WarningLine)
        .with_filter(LevelFilter::WARN);
    Ok(tracing_subscriber::registry().with(lines).try_init()?)
}

/// Sets up logs and traces for the process. If `telemetry.otlp_endpoint` is set, call this function within a tokio
/// runtime.
///
/// # Errors
/// [`TelemetryError`] if the filter or the endpoint is malformed, or if logs are already set up.
pub fn init(config: &TelemetrySettings) -> Result<(Telemetry, LogLevel), TelemetryError> {
    config.check()?;
    let (filter, log_level) = LogLevel::new(&config.log).map_err(|error| config.filter_error(&error))?;
    let json = match config.format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    // The layer reports a failed write with `eprintln!`, which panics if standard error is closed or full.
    let logs = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    let logs = match (json, std::io::stderr().is_terminal()) {
        (true, _) => logs.json().boxed(),
        (false, true) => logs.boxed(),
        // Only a terminal understands the codes for colours.
        (false, false) => logs.with_ansi(false).boxed(),
    };
    // Audit events pass whatever the filter says. The check costs little: `tracing` evaluates a filter by target once
    // for each callsite and caches the result.
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
        let events_wanted = EXPORTED_TARGETS.map(|target| (target, tracing::Level::INFO));
        layers.push(
            OpenTelemetryTracingBridge::new(events)
                .with_filter(Targets::new().with_targets(events_wanted))
                .boxed(),
        );
    }
    // The layers are in a list, and not in an `Option` each: `tracing` treats a layer that is `None` as interested in
    // everything, and would create every span.
    tracing_subscriber::registry().with(layers).try_init()?;
    panics::count();
    Ok((Telemetry(providers), log_level))
}
