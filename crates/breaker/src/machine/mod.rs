//! [`Core`]: the state machine of one breaker. It combines the gate, the window, the ring of calls in flight and the
//! policy. The file `admit` admits calls, `finish` records the ends of calls, and `transitions` changes the state.

mod admit;
mod finish;
mod transitions;

use std::{fmt, sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::{
    clock::{Clock, Time, nanos},
    config::CircuitBreakerConfig,
    gate::{BreakerMode, Gate, ProbeTicket},
    hang::HangWatch,
    inflight::{InFlightRing, RingPlace},
    policy::Rng,
    signals::{HighWater, PauseDetector, ShardCounters, Streak},
    stats::TransitionObserver,
    sync::{AtomicU64, CachePadded},
    transition_log::TransitionLog,
    window::Window,
};

/// What `finish` needs to know about an admitted call to record the call's end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticket {
    pub(super) admitted_ns: u64,
    generation: u32,
    /// The slot of the ring in which the call was counted; None if it was not counted.
    place: Option<RingPlace>,
    /// None if the call is not a probe.
    probe: Option<ProbeTicket>,
}

/// The state of one breaker. All handles of the breaker share it.
pub(super) struct Core {
    pub(super) key: Box<str>,
    pub(super) config: CircuitBreakerConfig,
    pub(super) clock: Time,
    pub(super) observer: Option<Arc<dyn TransitionObserver>>,
    pub(super) gate: CachePadded<Gate>,
    pub(super) window: Window,
    pub(super) ring: InFlightRing,
    pub(super) counters: Box<[CachePadded<ShardCounters>]>,
    pub(super) pauses: CachePadded<PauseDetector>,
    marks: CachePadded<Marks>,
    /// Detects hangs. Only ticks use this field.
    hang: Mutex<HangWatch>,
    /// The thread that changes the gate's word holds this lock, so the log and the word change together.
    pub(super) transition_log: Mutex<TransitionLog>,
    rng: Rng,
    /// The length of the current or the last open state, in nanoseconds; `open_base` before the first open state. The
    /// retry times of rejected calls are spread over half of this time.
    open_for_ns: AtomicU64,
    slow_ns: u64,
    /// A latency below this value reaches neither the slow threshold nor the p99 threshold.
    ordinary_ns: u64,
}

/// The number of consecutive failures, and marks that ensure that each batch and each time slice is counted or
/// evaluated once.
#[derive(Debug, Default)]
struct Marks {
    streak: Streak,
    /// The last batch that was counted.
    batch: HighWater,
    /// The last batch that was counted as bad. A bad batch has a call that was slow, failed or reached the p99
    /// threshold.
    bad_batch: HighWater,
    /// The last batch that was counted as failed.
    failed_batch: HighWater,
    /// Time is divided into rounds as long as the slow threshold. All slow calls that are given up in one round count
    /// as one bad batch. This field is the last counted round.
    cancelled_round: HighWater,
    /// The last time slice in which the window was evaluated.
    evaluated_epoch: HighWater,
    /// The last time slice that was swept.
    swept_epoch: HighWater,
}

const NANOS_PER_MILLI: u64 = 1_000_000;
const NANOS_PER_MICRO: u64 = 1_000;

// ===== impl Core =====

impl Core {
    pub(super) fn new(
        key: Box<str>,
        config: CircuitBreakerConfig,
        clock: Arc<dyn Clock>,
        observer: Option<Arc<dyn TransitionObserver>>,
    ) -> Self {
        // All threads that have no shard for themselves share the last shard.
        let shards = config.shards as usize + 1;
        let clock = Time::new(clock);
        let slow_ns = nanos(config.slow_threshold);
        Self {
            gate: CachePadded::new(Gate::new(BreakerMode::Auto, config.half_open_permits)),
            window: Window::new(
                shards,
                config.window_buckets as usize,
                nanos(config.bucket) / NANOS_PER_MILLI,
            ),
            ring: InFlightRing::new(shards, slow_ns),
            counters: (0..shards).map(|_| CachePadded::default()).collect(),
            pauses: CachePadded::default(),
            marks: CachePadded::default(),
            hang: Mutex::default(),
            transition_log: Mutex::new(TransitionLog::new(clock.now_ns(), clock.wall_time())),
            rng: Rng::new(config.rng_seed),
            open_for_ns: AtomicU64::new(nanos(config.open_base)),
            slow_ns,
            ordinary_ns: config
                .p99_threshold
                .map_or(slow_ns, |p99| slow_ns.min(nanos(p99))),
            key,
            config,
            clock,
            observer,
        }
    }

    pub(super) fn streak(&self) -> &Streak {
        &self.marks.streak
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("key", &self.key)
            .field("gate", &self.gate)
            .finish_non_exhaustive()
    }
}

/// Returns the end of a period that begins now, in milliseconds of the clock. Rounded up, so the period is never
/// too short.
fn deadline_ms(now_ns: u64, lasts: Duration) -> u64 {
    now_ns.saturating_add(nanos(lasts)).div_ceil(NANOS_PER_MILLI)
}
