//! The span of a commit. A commit serves many calls, so its span has links to the spans of these calls instead of a parent.

use opentelemetry::trace::{SpanContext, TraceContextExt};
use tracing::{Span, span::EnteredSpan};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::{spans::SPANS, targets::RPC_TARGET};

/// The span of a call, to which a commit span links. The type is a box, because most calls have no span.
pub type TraceLink = Box<SpanContext>;

/// Maximum number of links of one commit span. Further calls get no link.
pub const LINKS_MAX: usize = 128;

/// Returns the span of the current call if this span is exported. If no spans are exported, the check costs one load
/// and one branch.
#[must_use]
pub fn trace_link() -> Option<TraceLink> {
    if !SPANS.is_open() {
        return None;
    }
    let context = Span::current().context();
    let span = context.span().span_context().clone();
    (span.is_valid() && span.is_sampled()).then(|| Box::new(span))
}

/// Starts the span of a commit of `records` records. The span links to the spans of calls in `links`, and ends when it
/// is dropped. Returns `None` if there are no links.
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
