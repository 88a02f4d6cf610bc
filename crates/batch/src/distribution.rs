//! [`Distribution`]: the distribution of a duration or a size. Its percentiles are exact to 1 %.

use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;

/// Largest value: 2^40. In nanoseconds, this is 18 minutes. Larger values count as this value.
const VALUE_MAX: u64 = 1 << 40;
/// Number of significant decimal digits that the histogram keeps of a value.
const SIGNIFICANT_DIGITS: u8 = 2;

/// Counts all values that are recorded. Recording takes a lock, which is hardly ever contended if one thread
/// records and readers are rare.
#[derive(Debug)]
pub struct Distribution(Mutex<Histogram<u64>>);

/// Percentiles, maximum, mean and count of a distribution.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Summary {
    /// The median: 50 % of the values are at most this large.
    pub p50: u64,
    /// 90 % of the values are at most this large.
    pub p90: u64,
    /// 99 % of the values are at most this large.
    pub p99: u64,
    /// 99.9 % of the values are at most this large.
    pub p999: u64,
    /// The largest value.
    pub max: u64,
    /// The arithmetic mean of the values.
    pub mean: f64,
    /// Number of values.
    pub count: u64,
}

/// Cumulative counts, as in a Prometheus histogram.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cumulative {
    /// Pairs of a bound and the number of values up to this bound, within the distribution's precision.
    pub buckets: Vec<(u64, u64)>,
    /// Number of values.
    pub count: u64,
    /// Sum of the values, within the distribution's precision.
    pub sum: f64,
}

// ===== impl Distribution =====

impl Distribution {
    /// Makes an empty distribution.
    ///
    /// # Panics
    /// Never: the bounds are constants that the histogram accepts.
    #[must_use]
    #[expect(clippy::expect_used, reason = "constants")]
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, VALUE_MAX, SIGNIFICANT_DIGITS);
        Distribution(Mutex::new(histogram.expect("bounds are valid")))
    }

    /// Counts one value.
    pub fn record(&self, value: u64) {
        self.0.lock().saturating_record(value);
    }

    /// Counts one duration, in nanoseconds.
    pub fn record_duration(&self, duration: Duration) {
        self.record(nanos(duration));
    }

    /// Counts many durations under one lock.
    pub fn record_durations(&self, durations: impl IntoIterator<Item = Duration>) {
        let mut histogram = self.0.lock();
        for duration in durations {
            histogram.saturating_record(nanos(duration));
        }
    }

    /// Returns the present percentiles, maximum, mean and count.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let histogram = self.0.lock();
        if histogram.is_empty() {
            return Summary::default();
        }
        Summary {
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
            mean: histogram.mean(),
            count: histogram.len(),
        }
    }

    /// Returns the number of values up to each of `bounds`, which must ascend.
    #[must_use]
    pub fn cumulative(&self, bounds: &[u64]) -> Cumulative {
        let histogram = self.0.lock();
        let up_to = |bound: &u64| (*bound, histogram.count_between(0, *bound));
        let count = histogram.len();
        Cumulative {
            buckets: bounds.iter().map(up_to).collect(),
            count,
            sum: if count == 0 {
                0.0
            } else {
                histogram.mean() * count as f64
            },
        }
    }
}

impl Default for Distribution {
    fn default() -> Self {
        Self::new()
    }
}

#[inline]
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_exact_to_one_percent() {
        let distribution = Distribution::new();
        assert_eq!(distribution.summary(), Summary::default());
        distribution.record_durations((1..=1000).map(Duration::from_micros));
        let summary = distribution.summary();
        assert_eq!(summary.count, 1000);
        for (value, expected) in [
            (summary.p50, 500_000),
            (summary.p99, 990_000),
            (summary.max, 1_000_000),
        ] {
            assert!(
                value.abs_diff(expected) <= expected / 100,
                "{value} instead of {expected}"
            );
        }
    }

    #[test]
    fn cumulative_counts_include_all_values_up_to_each_bound() {
        let distribution = Distribution::new();
        assert_eq!(distribution.cumulative(&[1]).count, 0);
        for value in [10, 20, 30, 5000] {
            distribution.record(value);
        }
        let cumulative = distribution.cumulative(&[10, 25, 1000]);
        assert_eq!(cumulative.buckets, [(10, 1), (25, 2), (1000, 3)]);
        assert_eq!(cumulative.count, 4);
        assert!((cumulative.sum - 5060.0).abs() <= 50.6, "{}", cumulative.sum);
    }

    #[test]
    fn values_beyond_the_bound_are_counted_at_the_bound() {
        let distribution = Distribution::new();
        distribution.record_duration(Duration::MAX);
        assert_eq!(distribution.summary().count, 1);
        assert!(distribution.summary().max >= VALUE_MAX);
    }
}
