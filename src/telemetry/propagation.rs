//! The caller's trace context, from W3C `traceparent` in the call's metadata.

use http::HeaderMap;
use opentelemetry::{global, propagation::Extractor};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::RPC_TARGET;

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// Makes W3C trace context the way in which traces go on over processes.
pub(super) fn install() {
    global::set_text_map_propagator(TraceContextPropagator::new());
}

/// The span of a call to `path` (`/package.Service/Method`), a child of the caller's span if the headers name one.
/// Disabled, at the cost of a look, unless traces are exported.
#[must_use]
pub fn rpc_span(path: &str, headers: &HeaderMap) -> Span {
    let span = tracing::info_span!(
        target: RPC_TARGET,
        "rpc",
        otel.name = path.trim_start_matches('/'),
        otel.kind = "server",
        rpc.system = "grpc",
    );
    if !span.is_disabled() {
        let parent = global::get_text_map_propagator(|propagator| propagator.extract(&Headers(headers)));
        if let Err(error) = span.set_parent(parent) {
            tracing::debug!(%error, "trace context");
        }
    }
    span
}
