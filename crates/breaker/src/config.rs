//! The settings of a breaker and their bounds.

use std::time::Duration;

use super::{
    error::{ConfigError, ConfigValue},
    inflight::ROUNDS_MAX,
};

/// The settings of a circuit breaker. The defaults suit a service whose calls take a few milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct CircuitBreakerConfig {
    /// A call that takes this long or longer is slow. 8 µs to 60 s; default 50 ms.
    pub slow_threshold: Duration,
    /// The circuit opens when the share of slow calls in the window reaches this value. Above 0, to 1; default 0.5.
    pub slow_rate: f64,
    /// The circuit opens when the share of failed calls in the window reaches this value. Above 0, to 1; default 0.5.
    pub failure_rate: f64,
    /// Minimum number of calls in the window before a rate can open the circuit. 1 to 1,000,000; default 100.
    pub min_calls: u32,
    /// Minimum number of distinct commit batches with a slow or failed call before a rate can open the circuit. So a
    /// single slow batch of thousands of calls does not open the circuit. 1 to 10,000; default 5.
    pub min_batches: u32,
    /// The time for which calls in flight must hang before they open the circuit, as a multiple of the slow threshold.
    /// Calls in flight belong to no batch yet, so this condition replaces `min_batches` for them. 1 to 7; default 2.
    pub overdue_rounds: u32,
    /// A share of calls in flight that can open the circuit. The share is measured among the calls that were admitted
    /// between one and two slow thresholds ago. The circuit opens when the share has been at least this large for
    /// `overdue_rounds − 1` slow thresholds without interruption. Completed calls in the window make no difference.
    /// Above 0, to 1; default 0.5.
    pub stall_rate: f64,
    /// A number of *overdue* calls; a call is overdue when it has been in flight for the slow threshold or longer. With
    /// at least this many overdue calls, the circuit opens after `overdue_rounds` slow thresholds without an answer.
    /// With fewer, it opens after `stall_after` without an answer. 1 to 1,000,000; default 5.
    pub min_overdue: u32,
    /// The circuit opens when at least one call is overdue and no call has been answered for this time. None means
    /// `overdue_rounds` slow thresholds plus 50 ms; otherwise `slow_threshold` to 10 minutes; default None.
    pub stall_after: Option<Duration>,
    /// The circuit opens at this number of failures in a row, independent of the failure rate and the number of calls.
    /// The failures of one batch count once. None turns the rule off; otherwise at least 1; default 20.
    pub consecutive_failures: Option<u32>,
    /// The circuit opens at this number of slow calls in the window, independent of the slow rate. None turns the rule
    /// off; otherwise at least 1; default None. In the original code (see [`CircuitBreakerConfig::seed`]), this setting
    /// was named `latency_violation_threshold`.
    pub violations: Option<u32>,
    /// The circuit opens when the 99th percentile of the latency reaches this time, that is, when 1 % of the calls in
    /// the window took this long or longer. None turns the rule off; otherwise 1 µs to 60 s; default None.
    pub p99_threshold: Option<Duration>,
    /// Number of time slices of the sliding window. 2 to 60; default 10.
    pub window_buckets: u32,
    /// Length of a time slice, in whole milliseconds. 10 ms to 60 s; default 1 s.
    pub bucket: Duration,
    /// The time for which the circuit stays open the first time. The time doubles each time the circuit opens again. 1
    /// ms to 1 day; default 5 s.
    pub open_base: Duration,
    /// The longest time for which the circuit stays open, before jitter. `open_base` to 1 day; default 60 s.
    pub open_max: Duration,
    /// The open time is multiplied by a random number between 1 − `open_jitter` and 1 + `open_jitter`. 0 to 0.9;
    /// default 0.2.
    pub open_jitter: f64,
    /// If true, only the host's own probes ([`LatencyCircuitBreaker::try_acquire_probe`]) are admitted while the
    /// circuit is half-open. Callers are rejected until enough probes were good, so no caller's request is a probe.
    /// Default false.
    ///
    /// [`LatencyCircuitBreaker::try_acquire_probe`]: super::LatencyCircuitBreaker::try_acquire_probe
    pub self_probe: bool,
    /// Number of probes (trial calls) that a half-open circuit admits. 1 to 1024; default 10.
    pub half_open_permits: u32,
    /// Number of good probes that end the half-open state. The circuit opens again as soon as the number of bad probes
    /// exceeds `half_open_permits − half_open_ok_needed`. 1 to `half_open_permits`; default 8.
    pub half_open_ok_needed: u32,
    /// A probe that has been in flight for this time counts as bad. None means twice the slow threshold; otherwise
    /// `slow_threshold` to 10 minutes; default None.
    pub probe_timeout: Option<Duration>,
    /// The longest time for which the circuit stays half-open after it has admitted a probe. When this time has passed,
    /// one good probe without a bad probe ends the half-open state; otherwise the circuit opens again. From the probe
    /// timeout to 1 day; default 30 s.
    pub half_open_max_wait: Duration,
    /// The length of the ramp, in which the share of admitted calls grows from `ramp_min` to 1. Zero: good probes close
    /// the circuit at once. Up to 1 hour; default 10 s.
    pub ramp: Duration,
    /// The share of admitted calls at the beginning of the ramp. Above 0, to 1; default 0.1.
    pub ramp_min: f64,
    /// At the time `t` of a ramp of length `T`, the share of admitted calls is `(t/T)^(1/ramp_aggression)`. With 1 the
    /// share grows linearly, and with a larger value it grows faster at first. 0.1 to 10; default 1.
    pub ramp_aggression: f64,
    /// If the circuit has stayed closed for this time, it opens for `open_base` the next time. Up to 1 day; default 60
    /// s.
    pub stable_for: Duration,
    /// The time after which a caller should retry, while the mode is
    /// [`BreakerMode::ForcedOpen`](super::BreakerMode::ForcedOpen). 1 ms to 1 day; default 30 s.
    pub forced_open_retry_after: Duration,
    /// The interval at which the host calls `tick()`. If a tick is late by half a `bucket` or more, the breaker assumes
    /// that the process did not run in the meantime. 1 ms to 1 s; default 10 ms.
    pub tick_interval: Duration,
    /// Number of shards (sets of counters) that have one writing thread each. All other threads share one more shard. A
    /// shard takes about 2.5 kB for each time slice of the window. 1 to 64; default: the number of CPUs, at most 8.
    pub shards: u32,
    /// Seed of the random numbers for `open_jitter` and for the spread of the retry times. The same seed gives the same
    /// numbers.
    pub rng_seed: u64,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const MINUTE: Duration = Duration::from_secs(60);
/// The ring of calls in flight (`inflight.rs`) divides the slow threshold into at least eight time slots of at least 1
/// µs.
const SLOW_THRESHOLD_MIN: Duration = Duration::from_micros(8);
/// A stall of few calls is weaker evidence than a stall of many calls, so it must last longer by this time. A hang must
/// be detected within two thresholds and 100 ms by default; the remaining 50 ms allow for late ticks.
const LONE_GRACE: Duration = Duration::from_millis(50);
const SHARDS_DEFAULT_MAX: usize = 8;

// ===== impl CircuitBreakerConfig =====

impl CircuitBreakerConfig {
    /// Returns the settings of the original code from which this breaker was developed. A call is slow from 1 ms on.
    /// Five consecutive failures or ten slow calls open the circuit for 60 s, and three good probes close it. These
    /// settings suit calls that only use memory, because one disk sync takes longer than 1 ms.
    #[must_use]
    pub fn seed() -> Self {
        Self {
            slow_threshold: Duration::from_millis(1),
            min_batches: 1,
            consecutive_failures: Some(5),
            violations: Some(10),
            open_base: Duration::from_secs(60),
            open_max: Duration::from_secs(60),
            open_jitter: 0.0,
            half_open_permits: 3,
            half_open_ok_needed: 3,
            ramp: Duration::ZERO,
            ..Self::default()
        }
    }

    /// Returns the probe timeout: `probe_timeout`, or its default.
    #[must_use]
    pub fn effective_probe_timeout(&self) -> Duration {
        self.probe_timeout
            .unwrap_or(self.slow_threshold.saturating_mul(2))
    }

    /// Returns the time after which a stall of few calls opens the circuit: `stall_after`, or its default.
    #[must_use]
    pub fn effective_stall_after(&self) -> Duration {
        let rounds = self.slow_threshold.saturating_mul(self.overdue_rounds);
        self.stall_after.unwrap_or(rounds.saturating_add(LONE_GRACE))
    }

    /// Returns the length of the window.
    #[must_use]
    pub fn window(&self) -> Duration {
        self.bucket.saturating_mul(self.window_buckets)
    }

    /// Checks the bounds of every field.
    ///
    /// # Errors
    /// Returns the first field that is out of the bounds stated in its description.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_trip()?;
        self.validate_window()?;
        self.validate_recovery()
    }

    /// Checks that a healthy call does not count as slow. `floor` is the time that a healthy call may take: the longest
    /// linger of a batch (its wait for further calls) plus the median time of a commit.
    ///
    /// # Errors
    /// If `slow_threshold` is not longer than `floor`.
    pub fn check_latency_floor(&self, floor: Duration) -> Result<(), ConfigError> {
        if self.slow_threshold > floor {
            return Ok(());
        }
        Err(ConfigError {
            field: "slow_threshold",
            value: ConfigValue::Time(self.slow_threshold),
            bound: format!("longer than {floor:?}, the batch's linger plus the median commit time"),
            related: None,
        })
    }

    fn validate_trip(&self) -> Result<(), ConfigError> {
        time(
            "slow_threshold",
            self.slow_threshold,
            SLOW_THRESHOLD_MIN,
            MINUTE,
            "8us to 60s",
        )?;
        share("slow_rate", self.slow_rate)?;
        share("failure_rate", self.failure_rate)?;
        count("min_calls", self.min_calls, 1, 1_000_000, "1 to 1000000")?;
        count("min_batches", self.min_batches, 1, 10_000, "1 to 10000")?;
        count("overdue_rounds", self.overdue_rounds, 1, ROUNDS_MAX, "1 to 7")?;
        share("stall_rate", self.stall_rate)?;
        count("min_overdue", self.min_overdue, 1, 1_000_000, "1 to 1000000")?;
        if let Some(stall_after) = self.stall_after {
            time(
                "stall_after",
                stall_after,
                self.slow_threshold,
                10 * MINUTE,
                &at_least(self.slow_threshold, 10 * MINUTE, "10min"),
            )
            .map_err(of("slow_threshold"))?;
        }
        if let Some(failures) = self.consecutive_failures {
            count(
                "consecutive_failures",
                failures,
                1,
                u32::MAX,
                "1 to 4294967295, or absent",
            )?;
        }
        if let Some(violations) = self.violations {
            count(
                "violations",
                violations,
                1,
                u32::MAX,
                "1 to 4294967295, or absent",
            )?;
        }
        if let Some(p99) = self.p99_threshold {
            time(
                "p99_threshold",
                p99,
                Duration::from_micros(1),
                MINUTE,
                "1us to 60s, or absent",
            )?;
        }
        Ok(())
    }

    fn validate_window(&self) -> Result<(), ConfigError> {
        count("window_buckets", self.window_buckets, 2, 60, "2 to 60")?;
        time(
            "bucket",
            self.bucket,
            Duration::from_millis(10),
            MINUTE,
            "10ms to 60s",
        )?;
        if !self.bucket.subsec_nanos().is_multiple_of(1_000_000) {
            let value = ConfigValue::Time(self.bucket);
            return Err(ConfigError {
                field: "bucket",
                value,
                bound: "a whole number of milliseconds, 10ms to 60s".to_owned(),
                related: None,
            });
        }
        time(
            "tick_interval",
            self.tick_interval,
            Duration::from_millis(1),
            Duration::from_secs(1),
            "1ms to 1s",
        )?;
        count("shards", self.shards, 1, 64, "1 to 64")
    }

    fn validate_recovery(&self) -> Result<(), ConfigError> {
        let (zero, tick) = (Duration::ZERO, Duration::from_millis(1));
        time("open_base", self.open_base, tick, DAY, "1ms to 1 day")?;
        time(
            "open_max",
            self.open_max,
            self.open_base,
            DAY,
            &at_least(self.open_base, DAY, "1 day"),
        )
        .map_err(of("open_base"))?;
        ratio("open_jitter", self.open_jitter, 0.0, 0.9, "0 to 0.9")?;
        count("half_open_permits", self.half_open_permits, 1, 1024, "1 to 1024")?;
        let permits = self.half_open_permits;
        let ok_bound = if permits == 1 {
            "1".to_owned()
        } else {
            format!("1 to {permits}")
        };
        count(
            "half_open_ok_needed",
            self.half_open_ok_needed,
            1,
            permits,
            &ok_bound,
        )
        .map_err(of("half_open_permits"))?;
        let timeout = self.effective_probe_timeout();
        time(
            "probe_timeout",
            timeout,
            self.slow_threshold,
            10 * MINUTE,
            &at_least(self.slow_threshold, 10 * MINUTE, "10min"),
        )
        .map_err(of("slow_threshold"))?;
        time(
            "half_open_max_wait",
            self.half_open_max_wait,
            timeout,
            DAY,
            &at_least(timeout, DAY, "1 day"),
        )
        .map_err(of("probe_timeout"))?;
        time("ramp", self.ramp, zero, 60 * MINUTE, "0s to 1 hour")?;
        share("ramp_min", self.ramp_min)?;
        ratio("ramp_aggression", self.ramp_aggression, 0.1, 10.0, "0.1 to 10")?;
        time("stable_for", self.stable_for, zero, DAY, "0s to 1 day")?;
        time(
            "forced_open_retry_after",
            self.forced_open_retry_after,
            tick,
            DAY,
            "1ms to 1 day",
        )
    }
}

impl Default for CircuitBreakerConfig {
    fn default() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            slow_threshold: Duration::from_millis(50),
            slow_rate: 0.5,
            failure_rate: 0.5,
            min_calls: 100,
            min_batches: 5,
            overdue_rounds: 2,
            stall_rate: 0.5,
            min_overdue: 5,
            stall_after: None,
            consecutive_failures: Some(20),
            violations: None,
            p99_threshold: None,
            window_buckets: 10,
            bucket: Duration::from_secs(1),
            open_base: Duration::from_secs(5),
            open_max: MINUTE,
            open_jitter: 0.2,
            self_probe: false,
            half_open_permits: 10,
            half_open_ok_needed: 8,
            probe_timeout: None,
            half_open_max_wait: Duration::from_secs(30),
            ramp: Duration::from_secs(10),
            ramp_min: 0.1,
            ramp_aggression: 1.0,
            stable_for: MINUTE,
            forced_open_retry_after: Duration::from_secs(30),
            tick_interval: Duration::from_millis(10),
            shards: u32::try_from(cpus.min(SHARDS_DEFAULT_MAX)).unwrap_or(1),
            rng_seed: 0,
        }
    }
}

fn count(field: &'static str, value: u32, min: u32, max: u32, bound: &str) -> Result<(), ConfigError> {
    let given = ConfigValue::Count(u64::from(value));
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(ConfigError {
            field,
            value: given,
            bound: bound.to_owned(),
            related: None,
        })
    }
}

fn time(
    field: &'static str,
    value: Duration,
    min: Duration,
    max: Duration,
    bound: &str,
) -> Result<(), ConfigError> {
    let given = ConfigValue::Time(value);
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(ConfigError {
            field,
            value: given,
            bound: bound.to_owned(),
            related: None,
        })
    }
}

fn ratio(field: &'static str, value: f64, min: f64, max: f64, bound: &str) -> Result<(), ConfigError> {
    let given = ConfigValue::Ratio(value);
    // NaN is in no range, so it is rejected, too.
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(ConfigError {
            field,
            value: given,
            bound: bound.to_owned(),
            related: None,
        })
    }
}

fn share(field: &'static str, value: f64) -> Result<(), ConfigError> {
    ratio(field, value, f64::MIN_POSITIVE, 1.0, "above 0 and at most 1")
}

/// Describes the times from `min` to `max`. `max_words` is `max` in words.
fn at_least(min: Duration, max: Duration, max_words: &str) -> String {
    if min < max {
        format!("{min:?} to {max_words}")
    } else {
        max_words.to_owned()
    }
}

/// Returns a function that adds `field` to an error. The value of this field is one of the bounds that the error
/// states.
fn of(field: &'static str) -> impl Fn(ConfigError) -> ConfigError {
    move |error| ConfigError {
        related: Some(field),
        ..error
    }
}
