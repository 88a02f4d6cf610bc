//! The decisions of the breaker as functions without side effects: when the circuit opens, how long it stays open, and
//! what share of the calls a ramp admits.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::{
    config::CircuitBreakerConfig, gate::CREDIT_BITS, inflight::InFlight, stats::TransitionReason,
    window::WindowCounts,
};

/// The facts on which a decision depends: the completed calls in the window and the calls in flight, both of one
/// generation (the time between two transitions).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Evidence {
    pub(super) counts: WindowCounts,
    pub(super) in_flight: InFlight,
}

/// A reproducible source of random numbers: splitmix64 (Steele, Lea, Flood 2014).
#[derive(Debug)]
pub(super) struct Rng {
    seed: u64,
    state: AtomicU64,
}

/// Splitmix64's increment, 2^64 divided by the golden ratio.
const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
/// The distance between the starts of two streams: 2^64 times the fractional part of the square root of 2.
const STREAM_GAMMA: u64 = 0x6a09_e667_f3bc_c909;
/// Bits of a double's mantissa, which is also the number of random bits in a fraction.
const FRACTION_BITS: u32 = 53;
/// Limit on the number of doublings of the open time. Every valid `open_max` is reached earlier.
const DOUBLINGS_MAX: u32 = 40;
/// The 99th percentile of the latency reaches a threshold if the latency of this share of the calls reaches the
/// threshold.
const P99_TAIL: f64 = 0.01;

// ===== impl Evidence =====

impl Evidence {
    /// Returns `failed / calls`, 0 to 1; 0 without calls.
    pub(super) fn failure_rate(&self) -> f64 {
        rate(self.counts.failed, self.counts.calls)
    }

    /// Returns `(slow + overdue) / (samples + overdue)`, 0 to 1; 0 without calls.
    pub(super) fn slow_rate(&self) -> f64 {
        rate(self.counts.slow + self.in_flight.overdue, self.latency_calls())
    }

    fn latency_calls(&self) -> u64 {
        self.counts.samples + self.in_flight.overdue
    }

    /// Returns whether there are enough calls for any rate to open the circuit.
    pub(super) fn min_calls_met(&self, config: &CircuitBreakerConfig) -> bool {
        self.counts.calls.max(self.latency_calls()) >= u64::from(config.min_calls)
    }

    /// Returns whether there are enough completed batches for a rate to open the circuit.
    pub(super) fn min_batches_met(&self, config: &CircuitBreakerConfig) -> bool {
        self.counts.batches >= u64::from(config.min_batches)
    }

    /// Returns whether enough distinct batches were slow or failed, or the oldest call in flight has hung for enough
    /// slow thresholds. The number of batches and the number of thresholds are not added, because a batch that is
    /// partly answered would count in both.
    fn enough_bad_batches(&self, config: &CircuitBreakerConfig) -> bool {
        self.counts.bad_batches >= u64::from(config.min_batches)
            || self.in_flight.rounds >= config.overdue_rounds
    }

    /// Returns the reason for which the circuit must open, or None. All comparisons are `>=`.
    pub(super) fn judge(&self, config: &CircuitBreakerConfig) -> Option<TransitionReason> {
        let counts = &self.counts;
        let min_calls = u64::from(config.min_calls);
        if !self.enough_bad_batches(config) {
            return None;
        }
        let failing = counts.calls >= min_calls && self.failure_rate() >= config.failure_rate;
        if failing && counts.bad_batches >= u64::from(config.min_batches) {
            return Some(TransitionReason::FailureRate);
        }
        if self.latency_calls() >= min_calls && self.slow_rate() >= config.slow_rate {
            // If the completed calls alone reach the rate, the reason is `SlowRate`, otherwise `Overdue`.
            let completed = Evidence {
                in_flight: InFlight::default(),
                ..*self
            };
            let alone = counts.samples >= min_calls
                && completed.enough_bad_batches(config)
                && completed.slow_rate() >= config.slow_rate;
            return Some(if alone {
                TransitionReason::SlowRate
            } else {
                TransitionReason::Overdue
            });
        }
        if config.p99_threshold.is_some()
            && counts.samples >= min_calls
            && rate(counts.over_p99, counts.samples) >= P99_TAIL
        {
            return Some(TransitionReason::P99);
        }
        let slow = counts.slow + self.in_flight.overdue;
        let violated = config
            .violations
            .is_some_and(|violations| slow >= u64::from(violations));
        violated.then_some(TransitionReason::Violations)
    }
}

fn rate(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

// ===== impl Rng =====

impl Rng {
    pub(super) const fn new(seed: u64) -> Self {
        Self {
            seed,
            state: AtomicU64::new(seed),
        }
    }

    /// Returns the next number of the sequence, at least 0 and below 1.
    pub(super) fn fraction(&self) -> f64 {
        let state = self
            .state
            .fetch_add(GOLDEN_GAMMA, Ordering::Relaxed)
            .wrapping_add(GOLDEN_GAMMA);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let mixed = mixed ^ (mixed >> 31);
        (mixed >> (u64::BITS - FRACTION_BITS)) as f64 / (1_u64 << FRACTION_BITS) as f64
    }

    /// Returns a number from 0 to below `whole`: `whole` times the fractional part of `number` times the golden ratio.
    /// Such numbers fill the range more evenly than random numbers (Weyl). Each `stream` starts at a different point.
    /// So each shard can use its own stream, and the shards need no common counter.
    #[inline]
    pub(super) fn spread(&self, whole: u64, number: u64, stream: u64) -> u64 {
        let start = self.seed.wrapping_add(STREAM_GAMMA.wrapping_mul(stream));
        let share = start.wrapping_add(GOLDEN_GAMMA.wrapping_mul(number));
        let product = u128::from(share) * u128::from(whole);
        u64::try_from(product >> u64::BITS).unwrap_or(whole)
    }
}

/// Returns how long the circuit stays open if it has opened `attempt` times in a row before this time: `min(open_max,
/// open_base · 2^attempt)`, multiplied by a number between 1 − jitter and 1 + jitter. `fraction` (0 to 1) selects this
/// number. The result is at least 1 ms.
pub(super) fn open_duration(config: &CircuitBreakerConfig, attempt: u32, fraction: f64) -> Duration {
    let doublings = attempt.min(DOUBLINGS_MAX);
    let base_ns = config.open_base.as_nanos() << doublings;
    let capped_ns = u64::try_from(base_ns.min(config.open_max.as_nanos())).unwrap_or(u64::MAX);
    let factor = 1.0 + config.open_jitter * (2.0 * fraction - 1.0);
    Duration::from_nanos(capped_ns)
        .mul_f64(factor)
        .max(Duration::from_millis(1))
}

/// Returns the share of calls, 0 to 1, that a ramp admits when the time `elapsed` has passed since the ramp began. The
/// share is `max(ramp_min, (elapsed/ramp)^(1/ramp_aggression))`, as in Envoy's slow start.
pub(super) fn ramp_weight(config: &CircuitBreakerConfig, elapsed: Duration) -> f64 {
    if elapsed >= config.ramp {
        return 1.0;
    }
    let grown = elapsed
        .div_duration_f64(config.ramp)
        .powf(1.0 / config.ramp_aggression);
    grown.clamp(config.ramp_min, 1.0)
}

/// Converts a weight to the gate's fixed-point number with [`CREDIT_BITS`] binary places, rounded down.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a weight is between 0 and 1, so the product is between 0 and 2^20; truncation is the rounding meant"
)]
pub(super) fn credit_of(weight: f64) -> u32 {
    (weight.clamp(0.0, 1.0) * f64::from(1_u32 << CREDIT_BITS)) as u32
}
