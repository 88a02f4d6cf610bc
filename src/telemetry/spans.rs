//! Which calls are traced, and what becomes of their spans: how many wait to be sent is bounded, and each that is not sent
//! is counted.
//!
//! It is decided before a span is made. A span that would be dropped costs a look, not its making: so a collector that
//! can't be reached, or is slower than the service, takes nothing away from transactions.

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

/// Spans that wait to be sent; one more is dropped.
pub(super) const SPANS_WAITING_MAX: usize = 2048;
/// After an export that failed: how long no spans are made, for nobody takes them.
const FAILURE_PAUSE: Duration = Duration::from_secs(5);
/// The unit of [`SpanGate::share`].
const MILLION: u32 = 1_000_000;

/// The way of spans out of the process: there is one.
pub(super) static SPANS: SpanGate = SpanGate::new();

thread_local! {
    /// What this thread's calls have saved up towards the next one that is traced, in millionths of a call. So much that the
    /// first one is.
    static SAVED: Cell<u32> = const { Cell::new(MILLION - 1) };
}

/// Lets spans be made, and counts them.
#[derive(Debug)]
pub(super) struct SpanGate {
    /// Whether spans are exported. Written once, before anything is served.
    exported: AtomicBool,
    /// Calls that begin a trace, of a million that come without one.
    share: AtomicU32,
    /// Spans that have ended and are not sent.
    waiting: AtomicUsize,
    /// No spans are made until then, in nanoseconds since [`clock_ns`] began.
    paused_until_ns: AtomicU64,
    sent: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

/// Takes spans only as long as there is room for them.
#[derive(Debug)]
pub(super) struct BoundedProcessor<P>(pub(super) P);

/// Counts what is sent, and what could not be.
#[derive(Debug)]
pub(super) struct CountedExporter<E>(pub(super) E);

/// What became of spans, as metrics. Nothing is told if none are exported.
#[derive(Debug, Clone, Copy)]
pub struct SpanMetrics;

// ===== impl SpanGate =====

impl SpanGate {
    const fn new() -> Self {
        SpanGate {
            exported: AtomicBool::new(false),
            share: AtomicU32::new(0),
            waiting: AtomicUsize::new(0),
            paused_until_ns: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// From now on spans are exported: those of callers who trace, and of `ratio` (0 to 1) of all other calls.
    pub(super) fn open(&self, ratio: f64) {
        self.share.store(millionths(ratio), Ordering::Relaxed);
        self.exported.store(true, Ordering::Relaxed);
    }

    /// Whether spans are exported. A load.
    pub(super) fn is_open(&self) -> bool {
        self.exported.load(Ordering::Relaxed)
    }

    /// Whether this call, which comes without a trace, begins one: as many as are wanted, evenly spread over the calls of
    /// each thread.
    pub(super) fn begins_trace(&self) -> bool {
        let share = self.share.load(Ordering::Relaxed);
        SAVED.with(|saved| {
            let together = saved.get() + share;
            saved.set(together % MILLION);
            together >= MILLION
        })
    }

    /// Whether a span that is wanted is made. If not, it is counted as dropped.
    pub(super) fn has_room(&self) -> bool {
        let room = self.waiting.load(Ordering::Relaxed) < SPANS_WAITING_MAX && !self.is_paused();
        if !room {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        room
    }

    fn is_paused(&self) -> bool {
        let until = self.paused_until_ns.load(Ordering::Relaxed);
        // The clock is looked at only after a failure.
        until > 0 && clock_ns() < until
    }

    /// A place for a span that has ended. If there is none, it is counted as dropped.
    fn take_place(&self) -> bool {
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

    /// So many spans were sent, or could not be.
    fn sent(&self, spans: usize, result: &OTelSdkResult) {
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
    reason = "0 to a million, since the ratio is 0 to 1; and the cast saturates"
)]
fn millionths(ratio: f64) -> u32 {
    (ratio * f64::from(MILLION)) as u32
}

/// Nanoseconds since the first look.
fn clock_ns() -> u64 {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    u64::try_from(BEGAN.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}

// ===== impl BoundedProcessor =====

impl<P: SpanProcessor> SpanProcessor for BoundedProcessor<P> {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.0.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if SPANS.take_place() {
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
        SPANS.sent(spans, &result);
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
            "Spans by what became of them: dropped are those for which there was no room, or nobody who took them.",
            outcomes.map(|(outcome, count)| (vec![("outcome", outcome)], count.load(Ordering::Relaxed) as f64)),
        );
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::error::OTelSdkError;

    use super::*;

    #[test]
    fn as_many_calls_begin_a_trace_as_are_wanted() {
        for (ratio, traced) in [(0.0, 0), (0.001, 10), (0.25, 2500), (1.0, 10_000)] {
            let gate = SpanGate::new();
            gate.open(ratio);
            let begun = (0..10_000).filter(|_| gate.begins_trace()).count();
            // What an earlier ratio has saved up may be one call.
            assert!(begun.abs_diff(traced) <= 1, "{ratio}: {begun}");
        }
    }

    #[test]
    fn what_waits_is_bounded_and_what_is_dropped_is_counted() {
        let gate = SpanGate::new();
        assert!((0..SPANS_WAITING_MAX).all(|_| gate.take_place()));
        assert!(!gate.has_room(), "no span is made");
        assert!(!gate.take_place(), "one that was made before is dropped");
        gate.sent(512, &Ok(()));
        assert!(gate.has_room());
        gate.sent(SPANS_WAITING_MAX - 512, &Ok(()));
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        assert_eq!(
            (count(&gate.sent), count(&gate.dropped)),
            (SPANS_WAITING_MAX as u64, 2)
        );
        assert_eq!(gate.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn after_a_failure_no_spans_are_made_for_a_while() {
        let gate = SpanGate::new();
        assert!(gate.take_place());
        gate.sent(1, &Err(OTelSdkError::Timeout(FAILURE_PAUSE)));
        assert!(!gate.has_room());
        assert_eq!(gate.failed.load(Ordering::Relaxed), 1);
        // The pause ends by itself, and one that is sent ends it at once.
        gate.paused_until_ns.store(1, Ordering::Relaxed);
        assert!(gate.has_room());
        gate.paused_until_ns.store(u64::MAX, Ordering::Relaxed);
        assert!(gate.take_place());
        gate.sent(1, &Ok(()));
        assert!(gate.has_room());
    }
}
