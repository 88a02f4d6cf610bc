//! Reads the caller's trace context from the W3C header `traceparent`, and creates the span of a call.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderValue};
use opentelemetry::{Context, global, propagation::Extractor, trace::TraceContextExt};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tonic::Code;
use tracing::{Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::{spans::SPANS, targets::RPC_TARGET};

/// The W3C header of a trace context.
const TRACE_PARENT: &str = "traceparent";

/// Lets the OpenTelemetry propagator read the headers of a call.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// Sets W3C Trace Context as the format of trace contexts in this process.
pub(super) fn install() {
    global::set_text_map_propagator(TraceContextPropagator::new());
}

/// Creates the span of a call from `peer` to `path` (`/package.Service/Method`). If the headers name a span of the
/// caller, the new span is a child of that span. Returns [`Span::none`] if traces are not exported or this call is not
/// traced. If traces are not exported, the function costs one load.
#[must_use]
pub fn rpc_span(path: &str, headers: &HeaderMap, peer: SocketAddr) -> Span {
    if !SPANS.is_open() {
        return Span::none();
    }
    let parent = caller(headers);
    let wanted = match &parent {
        Some(parent) => parent.span().span_context().is_sampled(),
        None => SPANS.begins_trace(),
    };
    if !wanted || !SPANS.has_room() {
        return Span::none();
    }
    let name = path.trim_start_matches('/');
    let (service, method) = name.split_once('/').unwrap_or((name, ""));
    let span = tracing::info_span!(
        target: RPC_TARGET,
        "rpc",
        otel.name = name,
        otel.kind = "server",
        otel.status_code = Empty,
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = method,
        rpc.grpc.status_code = Empty,
        network.peer.address = %peer.ip(),
        network.peer.port = peer.port(),
    );
    if let Some(parent) = parent
        && let Err(error) = span.set_parent(parent)
    {
        tracing::debug!(%error, "a trace context could not be used");
    }
    span
}

/// Records the status of a call (the value of `grpc-status`) in its span.
pub fn record_status(span: &Span, status: &HeaderValue) {
    let code = Code::from_bytes(status.as_bytes());
    span.record("rpc.grpc.status_code", i64::from(i32::from(code)));
    // OpenTelemetry's conventions for RPC define these codes as errors of the server. All other codes except OK are
    // errors of the caller.
    if matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    ) {
        span.record("otel.status_code", "ERROR");
    }
}

/// Returns the caller's trace context if the headers have a valid one.
fn caller(headers: &HeaderMap) -> Option<Context> {
    if !headers.contains_key(TRACE_PARENT) {
        return None;
    }
    let context = global::get_text_map_propagator(|propagator| propagator.extract(&Headers(headers)));
    context.span().span_context().is_valid().then_some(context)
}
