//! The span of a commit. It belongs to no call: it is linked to all of those whose transactions are in its block.

use opentelemetry::trace::{SpanContext, TraceContextExt};
use tracing::{Span, span::EnteredSpan};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::{RPC_TARGET, spans::SPANS};

/// The span of a call, to be linked to. Boxed: nearly always there is none.
pub type TraceLink = Box<SpanContext>;

/// Calls that a commit is linked to; more are not told.
pub const LINKS_MAX: usize = 128;

/// The present call, if its span is exported. A load and a branch if none are.
#[must_use]
pub fn trace_link() -> Option<TraceLink> {
    if !SPANS.is_open() {
        return None;
    }
    let context = Span::current().context();
    let span = context.span().span_context().clone();
    (span.is_valid() && span.is_sampled()).then(|| Box::new(span))
}

/// Begins the span of a commit of `records` records for the calls `links`; `None` if there are none. It lasts until it is
/// dropped.
#[must_use]
pub fn commit_span(links: &[TraceLink], records: u32) -> Option<EnteredSpan> {
    if links.is_empty() {
        return None;
    }
    let span = tracing::info_span!(target: RPC_TARGET, "commit", otel.name = "tally.commit", records);
    for link in links {
        span.add_link(SpanContext::clone(link));
    }
    Some(span.entered())
}
