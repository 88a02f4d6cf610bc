//! Points in time. The caller passes the time to the ledger; the ledger reads no clock.

use std::fmt;

/// Nanoseconds since the Unix epoch. The last representable time is in the year 2554.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

/// Nanoseconds in a second.
const NANOS_PER_SECOND: u64 = 1_000_000_000;

impl Timestamp {
    /// The time `nanos` nanoseconds after the epoch.
    #[inline]
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Timestamp(nanos)
    }

    /// Nanoseconds since the epoch.
    #[inline]
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch, and the remaining nanoseconds (below 10^9).
    #[inline]
    #[must_use]
    pub const fn seconds_and_nanos(self) -> (u64, u32) {
        // The remainder of a division by 10^9 fits 30 bits, so the cast loses no bits.
        let nanos = (self.0 % NANOS_PER_SECOND) as u32;
        (self.0 / NANOS_PER_SECOND, nanos)
    }

    /// The time `nanos` nanoseconds later, or `None` if the result is after the last representable time.
    #[inline]
    #[must_use]
    pub const fn checked_add_nanos(self, nanos: u64) -> Option<Self> {
        match self.0.checked_add(nanos) {
            Some(sum) => Some(Timestamp(sum)),
            None => None,
        }
    }

    /// The time `nanos` nanoseconds later.
    ///
    /// # Panics
    /// If the result is after the last representable time. If the time stopped there instead, later transactions would
    /// not have later times.
    #[inline]
    #[must_use]
    pub const fn plus_nanos(self, nanos: u64) -> Self {
        match self.checked_add_nanos(nanos) {
            Some(time) => time,
            None => panic!("a time after the year 2554: the clock is wrong"),
        }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = self.seconds_and_nanos();
        write!(f, "{seconds}.{nanos:09}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_into_seconds_and_nanos() {
        let time = Timestamp::from_nanos(1_700_000_000_000_000_007);
        assert_eq!(time.seconds_and_nanos(), (1_700_000_000, 7));
        assert_eq!(time.to_string(), "1700000000.000000007");
        assert_eq!(Timestamp::from_nanos(u64::MAX).checked_add_nanos(1), None);
    }

    #[test]
    #[should_panic(expected = "the clock is wrong")]
    fn a_time_after_the_last_representable_time_is_a_panic() {
        let last = Timestamp::from_nanos(u64::MAX);
        assert_eq!(last.plus_nanos(1), last);
    }
}
