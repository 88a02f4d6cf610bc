//! Decides which calls are traced, bounds the number of spans that wait for export, and counts every span that is not sent.
//!
//! The decision is made before the span is created, and no span is created while the queue of the exporter is full or
//! after a failed export. Therefore a collector that is unreachable or slower than the service does not slow down
//! transactions.

use std::{
    cell::Cell,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use opentelemetry::Context;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanExporter, SpanProcessor},
};
use tokio::time::Instant;

use super::metrics::{Families, MetricSource};

/// Maximum number of spans that wait for export. Further spans are dropped.
pub(super) const SPANS_WAITING_MAX: usize = 2048;
/// Time after a failed export during which no spans are created.
const FAILURE_PAUSE: Duration = Duration::from_secs(5);
/// The unit of [`SpanGate::share`].
const MILLION: u32 = 1_000_000;

/// The gate of this process. One gate is enough, because a process has one exporter.
pub(super) static SPANS: SpanGate = SpanGate::new();

thread_local! {
    /// Credit towards the next traced call of this thread, in millionths of a call. Each call adds the traced share to
    /// the credit, and the call that raises the credit to one million is traced. The initial value makes the first call
    /// a traced one.
    static CREDIT: Cell<u32> = const { Cell::new(MILLION - 1) };
}

/// Decides whether a span is created, and counts spans by outcome.
#[derive(Debug)]
pub(super) struct SpanGate {
    /// Whether spans are exported. Written once, before the service takes calls.
    is_open: AtomicBool,
    /// The number of calls that start a trace, of every million calls without a trace context.
    share: AtomicU32,
    /// Spans that have ended and wait for export.
    waiting: AtomicUsize,
    /// No spans are created before this time, in nanoseconds of [`clock_ns`]. 0: no pause.
    paused_until_ns: AtomicU64,
    sent: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

/// A span processor that drops ended spans when [`SPANS_WAITING_MAX`] of them wait for export.
#[derive(Debug)]
pub(super) struct BoundedProcessor<P>(pub(super) P);

/// A span exporter that counts sent and failed spans.
#[derive(Debug)]
pub(super) struct CountedExporter<E>(pub(super) E);

/// Spans by outcome, as a metric. There is no metric if spans are not exported.
#[derive(Debug, Clone, Copy)]
pub struct SpanMetrics;

// ===== impl SpanGate =====

impl SpanGate {
    const fn new() -> Self {
        SpanGate {
            is_open: AtomicBool::new(false),
            share: AtomicU32::new(0),
            waiting: AtomicUsize::new(0),
            paused_until_ns: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// Starts to create spans. A call with a trace context gets a span if the context is sampled. Of the calls without
    /// a trace context, the share `ratio` (0 to 1) gets a span.
    pub(super) fn open(&self, ratio: f64) {
        self.share.store(millionths(ratio), Ordering::Relaxed);
        self.is_open.store(true, Ordering::Relaxed);
    }

    /// Returns whether spans are exported. The check costs one load.
    pub(super) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }

    /// Returns whether a call without a trace context starts a trace. The traced calls are spread evenly over the calls
    /// of each thread.
    pub(super) fn begins_trace(&self) -> bool {
        let share = self.share.load(Ordering::Relaxed);
        CREDIT.with(|credit| {
            let sum = credit.get() + share;
            credit.set(sum % MILLION);
            sum >= MILLION
        })
    }

    /// Returns whether a span may be created now. If not, counts the span as dropped.
    pub(super) fn has_room(&self) -> bool {
        let room = self.waiting.load(Ordering::Relaxed) < SPANS_WAITING_MAX && !self.is_paused();
        if !room {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        room
    }

    fn is_paused(&self) -> bool {
        let until = self.paused_until_ns.load(Ordering::Relaxed);
        // Only a failed export sets `until`, so the clock is read only after a failure.
        until > 0 && clock_ns() < until
    }

    /// Reserves a place for an ended span. If no place is free, counts the span as dropped and returns false.
    fn reserve(&self) -> bool {
        let taken = self
            .waiting
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| {
                (waiting < SPANS_WAITING_MAX).then_some(waiting + 1)
            });
        if taken.is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        taken.is_ok()
    }

    /// Records the result of an export of `spans` spans. A failure pauses the creation of spans.
    fn exported(&self, spans: usize, result: &OTelSdkResult) {
        self.waiting.fetch_sub(spans, Ordering::Relaxed);
        let (count, until) = match result {
            Ok(()) => (&self.sent, 0),
            Err(_) => {
                let pause = u64::try_from(FAILURE_PAUSE.as_nanos()).unwrap_or(u64::MAX);
                (&self.failed, clock_ns().saturating_add(pause))
            }
        };
        count.fetch_add(spans as u64, Ordering::Relaxed);
        self.paused_until_ns.store(until, Ordering::Relaxed);
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the result is 0 to a million, because the ratio is 0 to 1, and the cast saturates"
)]
fn millionths(ratio: f64) -> u32 {
    (ratio * f64::from(MILLION)) as u32
}

/// Returns the nanoseconds since the first call of this function.
fn clock_ns() -> u64 {
    static FIRST_CALL: OnceLock<Instant> = OnceLock::new();
    u64::try_from(FIRST_CALL.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}

// ===== impl BoundedProcessor =====

impl<P: SpanProcessor> SpanProcessor for BoundedProcessor<P> {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.0.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if SPANS.reserve() {
            self.0.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.0.set_resource(resource);
    }
}

// ===== impl CountedExporter =====

impl<E: SpanExporter> SpanExporter for CountedExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.0.export(batch).await;
        SPANS.exported(spans, &result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.0.set_resource(resource);
    }
}

// ===== impl SpanMetrics =====

impl MetricSource for SpanMetrics {
    fn collect(&self, families: &mut Families) {
        if !SPANS.is_open() {
            return;
        }
        let outcomes = [
            ("sent", &SPANS.sent),
            ("failed", &SPANS.failed),
            ("dropped", &SPANS.dropped),
        ];
        families.counters(
            "tally_spans_total",
            "Spans by outcome: sent, failed, or dropped because too many waited or the last export failed.",
            outcomes
                .map(|(outcome, count)| (vec![("outcome", outcome)], count.load(Ordering::Relaxed) as f64)),
        );
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::error::OTelSdkError;

    use super::*;

    #[test]
    fn the_configured_share_of_calls_starts_a_trace() {
        for (ratio, traced) in [(0.0, 0), (0.001, 10), (0.25, 2500), (1.0, 10_000)] {
            let gate = SpanGate::new();
            gate.open(ratio);
            let begun = (0..10_000).filter(|_| gate.begins_trace()).count();
            // The credit of the thread remains from the previous ratio, so the count may differ by one call.
            assert!(begun.abs_diff(traced) <= 1, "{ratio}: {begun}");
        }
    }

    #[test]
    fn waiting_spans_are_bounded_and_dropped_spans_are_counted() {
        let gate = SpanGate::new();
        assert!((0..SPANS_WAITING_MAX).all(|_| gate.reserve()));
        assert!(!gate.has_room(), "a span was allowed although the queue is full");
        assert!(!gate.reserve(), "a span was queued although the queue is full");
        gate.exported(512, &Ok(()));
        assert!(gate.has_room());
        gate.exported(SPANS_WAITING_MAX - 512, &Ok(()));
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        assert_eq!(
            (count(&gate.sent), count(&gate.dropped)),
            (SPANS_WAITING_MAX as u64, 2)
        );
        assert_eq!(gate.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_failed_export_pauses_the_creation_of_spans() {
        let gate = SpanGate::new();
        assert!(gate.reserve());
        gate.exported(1, &Err(OTelSdkError::Timeout(FAILURE_PAUSE)));
        assert!(!gate.has_room());
        assert_eq!(gate.failed.load(Ordering::Relaxed), 1);
        // The pause ends after its time, or earlier when an export succeeds.
        gate.paused_until_ns.store(1, Ordering::Relaxed);
        assert!(gate.has_room());
        gate.paused_until_ns.store(u64::MAX, Ordering::Relaxed);
        assert!(gate.reserve());
        gate.exported(1, &Ok(()));
        assert!(gate.has_room());
    }
}
